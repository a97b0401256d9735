"""The virtual environment of `make book` and `make test`, made whole or not trusted.

Runs on any Python 3.11+ with nothing installed, so it imports the standard library only. The stamp
`.venv/made-from` is written last; it holds a hash of everything that the environment was made from. An environment
whose stamp is missing was left half made and is thrown away; one whose stamp differs is brought up to date.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OLDEST = (3, 11)


class EnvironmentProblem(Exception):
    """Something that the person at the keyboard has to put right; the message says what."""


def fingerprint(root: Path) -> str:
    """Hash of what an environment is made from: both lists of packages and this Python."""
    digest = hashlib.sha256()
    for name in ("requirements.txt", "pyproject.toml"):
        digest.update((root / name).read_bytes() + b"\0")
    digest.update(f"{platform.python_version()} {platform.machine()}".encode())
    return digest.hexdigest()


def is_current(root: Path) -> bool:
    """True where the environment stands, whole, and was made from the files as they are now."""
    stamp = root / ".venv" / "made-from"
    return stamp.is_file() and stamp.read_text() == _stamp(root) and (root / ".venv/bin/python").exists()


def _stamp(root: Path) -> str:
    """What stands in the stamp: the fingerprint, then where the environment lies (it cannot be moved)."""
    return f"{fingerprint(root)}\n{root}\n"


def make(root: Path) -> bool:
    """Make or update `.venv` under `root`; True where there was something to do.

    Raises EnvironmentProblem with one plain sentence where Python is too old, has no venv module, or pip fails.
    """
    if sys.version_info < OLDEST:
        raise EnvironmentProblem(f"Python 3.11 or newer is needed; {sys.executable} is {platform.python_version()}.")
    (root / "_build").mkdir(exist_ok=True)
    with (root / "_build" / "environment.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # `make book` and `make test` may be started side by side
        if is_current(root):
            return False
        started = time.monotonic()
        stamp = root / ".venv" / "made-from"
        if stamp.is_file() and _can_be_updated(root):
            print("requirements.txt or pyproject.toml changed: updating .venv", flush=True)
            stamp.unlink()  # from here to the end this environment is not trusted
        else:
            _create(root)
        _install(root)
        stamp.write_text(_stamp(root))
        print(f"environment: .venv is ready after {time.monotonic() - started:.0f} s", flush=True)
        return True


def _can_be_updated(root: Path) -> bool:
    """True where the environment's Python starts, is of this version, and lies where it was made."""
    if (root / ".venv" / "made-from").read_text().splitlines()[1:] != [str(root)]:
        return False
    command = [root / ".venv" / "bin" / "python", "-c", "import platform; print(platform.python_version())"]
    try:
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return False
    return version == platform.python_version()


def _create(root: Path) -> None:
    folder = root / ".venv"
    if folder.exists():
        print("environment: .venv was left unfinished or belongs to another Python; making it anew", flush=True)
        shutil.rmtree(folder)
    print(f"environment: making .venv with Python {platform.python_version()}", flush=True)
    done = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        reason = (done.stdout + done.stderr).strip().splitlines() or ["it printed nothing"]
        raise EnvironmentProblem(
            f"{sys.executable} cannot make a virtual environment: {reason[-1]}\n"
            "Its venv module is incomplete; on Debian and Ubuntu: apt-get install python3-venv"
        )


def _install(root: Path) -> None:
    """Everything in one pip command, so that torch and torchvision are chosen together; then this checkout."""
    pins = [line for line in (root / "requirements.txt").read_text().splitlines() if re.match(r"\w", line)]
    (root / "_build" / "pip.log").unlink(missing_ok=True)
    print(f"environment: installing {len(pins)} packages (1 to 4 minutes, about 2 GB)", flush=True)
    _pip(root, "install", "--requirement", str(root / "requirements.txt"))
    # Editable: the chapters run the source of this checkout, also when it changes. No network needed any more.
    _pip(root, "install", "--no-deps", "--no-build-isolation", "--no-index", "--editable", str(root))


def _pip(root: Path, *arguments: str) -> None:
    """Run pip, showing a line now and then and keeping everything it says in `_build/pip.log`."""
    command = [str(root / ".venv/bin/python"), "-m", "pip", *arguments]
    options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_REQUIRE_VIRTUALENV": "0"}
    environment.pop("PYTHONPATH", None)
    log = root / "_build" / "pip.log"
    said: list[str] = []
    with subprocess.Popen(
        command + options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as pip:
        collected = 0
        for line in pip.stdout or ():
            said.append(line)
            collected += line.startswith("Collecting ")
            if line.startswith("Collecting ") and collected % 25 == 0:
                print(f"  {collected} packages found", flush=True)
            elif line.startswith("Installing collected packages"):
                print("  all found; unpacking", flush=True)
    with log.open("a") as everything:
        everything.writelines(said)
    if pip.returncode != 0:
        errors = [line.strip() for line in said if line.startswith("ERROR")] or [line.strip() for line in said[-2:]]
        raise EnvironmentProblem(
            "pip could not install the packages. Is there a network, and room on the disk?\n  "
            + "\n  ".join(errors[:4])
            + f"\n  Everything pip said: {log}\nNothing half made is kept in use: run the same command again."
        )


def main() -> int:
    """The command: 0 where the environment stands, 1 with a plain message where it could not be made."""
    try:
        make(ROOT)
    except EnvironmentProblem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"error: cannot write the environment: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
