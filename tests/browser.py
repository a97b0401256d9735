"""A real browser for tests of pages: the installed Chromium, headless and with the network off, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
]  # fmt: skip

# The page is complete: formulas are set, and every explorer that has a width is drawn.
DRAWN = """() => document.readyState === 'complete'
  && (!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true))
  && [...document.querySelectorAll('.explorer')].every(
    e => e.querySelector('.explorer-legend') && (e.clientWidth === 0 || e.querySelector('.explorer-picture svg[role=img]')))"""


def find() -> str | None:
    """The browser's command, None where this machine has none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab. Keeps every address that was asked for, and whatever went wrong: in scripts, on the console, in loading."""

    def __init__(self, tab: Tab):
        self.tab = tab
        self.requests: list[str] = []
        self.errors: list[str] = []
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("requestfailed", lambda request: self.errors.append(f"{request.url}: {request.failure}"))
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def open(self, page: Path, width: int = 1280, dark: bool = False, drawn: str = DRAWN) -> None:
        """Load a page from the disk at a window width, and wait until it is drawn."""
        self.tab.goto("about:blank")  # what the page before still wanted to say is not the next one's
        self.requests.clear()
        self.errors.clear()
        self.tab.set_viewport_size({"width": width, "height": 900})
        self.tab.emulate_media(color_scheme="dark" if dark else "light")
        self.tab.goto(page.as_uri())
        self.until(drawn)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise."""
        return self.tab.evaluate(script)

    def until(self, script: str) -> None:
        """Wait until a JavaScript expression, or a function's value, is true."""
        self.tab.wait_for_function(script, timeout=60_000)


@contextmanager
def browser() -> Iterator[Page]:
    """A browser with one tab, closed at the end."""
    command = find()
    if command is None:
        raise FileNotFoundError(f"no browser: tried {', '.join(NAMES)}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=command, args=OPTIONS)
        try:
            yield Page(chromium.new_page())
        finally:
            chromium.close()
