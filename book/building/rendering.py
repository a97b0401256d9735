"""Executed chapters into pages: lay everything out in one folder, run Jupyter Book on it, check what came out."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from bs4 import BeautifulSoup

from building import vendoring
from building.execution import CLAIM
from building.problems import BookProblem
from building.stamping import address, launch_settings

JUPYTER_BOOK = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
STRICT = ["-W", "-n", "--keep-going", "--all"]  # warnings and broken references are errors
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Renderer:
    """Renders the book of the repository at `root` into `destination`, by default `_build/html`."""

    root: Path
    destination: Path

    @property
    def index(self) -> Path:
        """The book's first page."""
        return self.destination / "index.html"

    @property
    def _work(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.work")

    @property
    def _made_from(self) -> Path:
        return self.destination.with_name(f"{self.destination.name}.made-from")

    def render(self, executed: Iterable[Path]) -> bool:
        """Render from executed chapters; True where there was something to do.

        Raises BookProblem with Jupyter Book's own warnings, or where a page shows an error or asks another host for
        something. What was rendered before stays in place until the new book is whole.
        """
        staging = self._stage(executed)
        key = self._key(staging)
        if self.index.is_file() and self._made_from.is_file() and self._made_from.read_text() == key:
            shutil.rmtree(self._work)
            return False
        print("pages: rendering", flush=True)
        html = self._jupyter_book(staging)
        if problems := [*error_outputs(html), *foreign_requests(html)]:
            raise BookProblem("the pages are not fit to be shown:\n  " + "\n  ".join(problems[:10]))
        self._made_from.unlink(missing_ok=True)
        shutil.rmtree(self.destination, ignore_errors=True)
        html.rename(self.destination)
        self._made_from.write_text(key)
        shutil.rmtree(self._work)
        return True

    def settings(self) -> dict[str, Any]:
        """`_config.yml`, with what the repository's address adds."""
        settings = yaml.safe_load((self.root / "_config.yml").read_text())
        for name, value in launch_settings(address(self.root)).items():
            settings[name] = {**settings.get(name, {}), **value}
        return settings

    def _stage(self, executed: Iterable[Path]) -> Path:
        """A fresh folder with the book's pages as Sphinx is to see them; document names stay `book/...`."""
        staging = self._work / "source"
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self.root / "book" / "_assets", staging / "book" / "_assets")
        vendoring.unpack(self.root / "_build" / "vendor", staging / "book" / "_assets" / "vendor")
        for page in [*(self.root / "book").glob("*.md"), *(self.root / "book").glob("*.bib")]:
            shutil.copyfile(page, staging / "book" / page.name)
        for page in executed:
            notebook = without_live_views(without_claim_data(nbformat.read(page, as_version=4)))
            nbformat.write(notebook, staging / "book" / page.name)
        shutil.copyfile(self.root / "_toc.yml", staging / "_toc.yml")
        (staging / "_config.yml").write_text(yaml.safe_dump(self.settings(), sort_keys=False))
        return staging

    def _key(self, staging: Path) -> str:
        """Hash of everything that the pages are made from."""
        digest = hashlib.sha256((self.root / "requirements.txt").read_bytes() + Path(__file__).read_bytes())
        for path in sorted(path for path in staging.rglob("*") if path.is_file()):
            digest.update(f"\0{path.relative_to(staging)}\0".encode() + path.read_bytes())
        return digest.hexdigest()

    def _jupyter_book(self, staging: Path) -> Path:
        """Run Jupyter Book with warnings as errors; the folder with its pages."""
        command = [*JUPYTER_BOOK, "build", str(staging), *STRICT, "--path-output", str(self._work)]
        command += ["--config", str(staging / "_config.yml"), "--toc", str(staging / "_toc.yml")]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.root)
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        log = self.root / "_build" / "jupyter-book.log"
        log.write_text(said)
        html = self._work / "_build" / "html"
        if done.returncode != 0 or not (html / "index.html").is_file():
            lines = said.replace(f"{staging}/", "").splitlines()
            told = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL|Error)\b", line)] or lines[-5:]
            raise BookProblem("Jupyter Book refused the pages:\n  " + "\n  ".join(told[:15]) + f"\n  All of it: {log}")
        return html


def without_claim_data(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without the machine-readable half of its claims, a kind of output that no page can show."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(CLAIM, None)
    return notebook


def without_live_views(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without the widgets of outputs that bring HTML of their own, as explorers do.

    Where no widget is left their saved state goes too, and with it the 2 MB of script that a page with widgets loads.
    """
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    for data in outputs:
        if "text/html" in data:
            data.pop(WIDGET, None)
    if not any(WIDGET in data for data in outputs):
        notebook.metadata.pop("widgets", None)
    return notebook


def error_outputs(html: Path) -> list[str]:
    """One line for each page that shows a cell's error or what it printed to stderr."""
    return [
        f"{page.relative_to(html)} shows an error output"
        for page in html.rglob("*.html")
        if BeautifulSoup(page.read_text(), "html.parser").select(".output.traceback, .output.stderr")
    ]


def foreign_requests(html: Path) -> list[str]:
    """One line for each script, style sheet, picture, frame or font that a page would ask another host for."""
    found = []
    for page in html.rglob("*.html"):
        soup = BeautifulSoup(page.read_text(), "html.parser")
        links = soup.select("link[rel~=stylesheet], link[rel~=icon], link[rel*=pre]")
        asked = [tag.get("href", "") for tag in links] + [tag["src"] for tag in soup.select("[src]")]
        asked += [part.strip().split(" ")[0] for tag in soup.select("[srcset]") for part in tag["srcset"].split(",")]
        asked += [tag["data"] for tag in soup.select("object[data]")]
        asked += [tag["href"] for tag in soup.select("image[href], use[href]")]
        styles = [tag.get_text() for tag in soup.select("style")] + [tag["style"] for tag in soup.select("[style]")]
        asked += [address for style in styles for address in style_requests(style)]
        found += [f"{page.relative_to(html)} asks for {what}" for what in asked if re.match(r"(https?:)?//", what)]
    for sheet in html.rglob("*.css"):
        asked = [what for what in style_requests(sheet.read_text()) if re.match(r"(https?:)?//", what)]
        found += [f"{sheet.relative_to(html)} asks for {what}" for what in asked]
    return found


def style_requests(style: str) -> list[str]:
    """Every address that a style sheet would load: url(...) and @import."""
    style = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    return re.findall(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""", style)
