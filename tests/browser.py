"""A real browser for tests of pages: headless Chromium with the network off, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-port=0",
]  # fmt: skip


def find() -> str | None:
    """The browser's command, None where this machine has none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab. Keeps every address that was asked for and every error that a script raised."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: WebSocketClientConnection):
        self._loop, self._socket, self._number = loop, socket, 0
        self.requests: list[str] = []
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call one method of the DevTools protocol and return its answer."""
        return self._wait(self._call(method, parameters))

    def open(self, page: Path, width: int = 1280, dark: bool = False) -> None:
        """Load a page from the disk at a window width, wait until it is complete and MathJax has set its formulas."""
        self.requests, self.errors = [], []
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=page.as_uri())
        ready = (
            "document.readyState === 'complete' && location.protocol === 'file:'"
            " && (!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true))"
        )
        self.until(ready)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 60) -> None:
        """Wait until a JavaScript expression is true; TimeoutError where it does not become so."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Promise.resolve({script}).then(Boolean)"):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {seconds} s: {script}")
            time.sleep(0.05)

    def _wait(self, what: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        return self._loop.run_until_complete(asyncio.wait_for(what, 60))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.write_message(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (text := await self._socket.read_message()) is not None:
            message = json.loads(text)
            self._note(message)
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
        raise ConnectionError("the browser closed the connection")

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(_describe(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")


def _describe(exception: dict[str, Any]) -> str:
    """What was thrown and where, whatever kind of thing it was."""
    thrown = exception.get("exception", {})
    what = (
        thrown.get("description")
        or thrown.get("value")
        or [p["value"] for p in thrown.get("preview", {}).get("properties", [])]
    )
    return f"{exception['text']} {what} at {exception.get('url', 'an unknown place')}:{exception['lineNumber']}"


@contextmanager
def browser() -> Iterator[Page]:
    """A browser with one tab, closed at the end."""
    command = find()
    if command is None:
        raise FileNotFoundError(f"no browser: tried {', '.join(NAMES)}")
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([command, *OPTIONS, f"--user-data-dir={profile}", "about:blank"], **quiet) as process:
            try:
                socket = loop.run_until_complete(_connect(Path(profile) / "DevToolsActivePort"))
                yield Page(loop, socket)
                socket.close()
                loop.run_until_complete(asyncio.sleep(0))
            finally:
                process.terminate()
                process.wait(timeout=20)
                loop.close()


async def _connect(port_file: Path) -> WebSocketClientConnection:
    """Connect to the browser's first tab, through the port that it wrote down."""
    from tornado.httpclient import AsyncHTTPClient  # makes its loop's client, so only inside a loop

    for _ in range(200):
        if port_file.is_file() and (lines := port_file.read_text().split()):
            answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{lines[0]}/json/list")
            tabs = [tab for tab in json.loads(answer.body) if tab["type"] == "page"]
            return await websocket_connect(tabs[0]["webSocketDebuggerUrl"], max_message_size=2**28)
        await asyncio.sleep(0.1)
    raise TimeoutError("the browser did not start within 20 s")
