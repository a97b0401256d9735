"""The environment that `make` makes: its pins, and that none is trusted which was not finished."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
MACHINE_SPECIFIC = re.compile(r"nvidia-|cuda-|triton|appnope|colorama|pywin")

# A package that installs without anything from outside: its build system is a file in its own folder.
TINY_PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "tiny"
version = "1.0"
"""
TINY_BACKEND = """
import zipfile


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    info = "tiny-1.0.dist-info"
    files = {
        "tiny.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nGenerator: tiny\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(f"{wheel_directory}/tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "tiny-1.0-py3-none-any.whl"
"""


def pins() -> dict[str, Requirement]:
    """requirements.txt, by package name, of this Python."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    found = [Requirement(line) for line in lines]
    assert len({(r.name, str(r.marker)) for r in found}) == len(found), "a package is pinned twice"
    return {canonicalize_name(r.name): r for r in found if r.marker is None or r.marker.evaluate()}


def test_every_pin_is_exact_and_installed():
    for name, requirement in pins().items():
        assert [s.operator for s in requirement.specifier] == ["=="], f"{requirement} is no exact version"
        assert requirement.specifier.contains(version(name), prereleases=True), (
            f"{name} {version(name)} is installed, not {requirement}"
        )


def test_nothing_unpinned_is_pulled_in():
    pinned = pins()
    for name in pinned:
        needed = [Requirement(line) for line in requires(name) or []]
        for requirement in needed:
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and not MACHINE_SPECIFIC.match(canonicalize_name(requirement.name)):
                assert canonicalize_name(requirement.name) in pinned, f"{name} pulls in {requirement}, which has no pin"


def test_pins_satisfy_the_loose_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for line in [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]:
        loose = Requirement(line)
        exact = next(iter(pins()[canonicalize_name(loose.name)].specifier)).version
        assert loose.specifier.contains(exact), f"{line} in pyproject.toml excludes the pinned {exact}"


def test_no_pin_is_for_one_kind_of_machine():
    assert [name for name in pins() if MACHINE_SPECIFIC.match(name)] == []


def test_help_names_every_command():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("book", "test", "stamp", "environment", "clean"):
        assert f"make {target}" in shown


def test_without_a_new_enough_python_make_says_so(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python3").write_text("#!/bin/sh\nexit 1\n")  # an old one: refuses what it is asked
    (programs / "python3").chmod(0o755)
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    make = shutil.which("make")
    done = subprocess.run([make, "book"], cwd=tmp_path, env={"PATH": str(programs)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: no Python 3.11 or newer found" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.fixture
def tiny(tmp_path):
    """A repository of which an environment is made in seconds, without a network."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.txt").write_text("# nothing\n")
    (folder / "pyproject.toml").write_text(TINY_PROJECT)
    (folder / "backend.py").write_text(TINY_BACKEND)
    return folder


def start_make(folder: Path) -> subprocess.Popen[str]:
    """`make environment`, by a pip that has no index to ask."""
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    command = ["make", "--silent", "environment", f"PYTHON={sys.executable}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **nowhere, "MAKEFLAGS": ""}, **pipes)


def make_environment(folder: Path, succeeds: bool = True) -> str:
    """What it printed."""
    process = start_make(folder)
    said = "".join(process.communicate())
    assert (process.returncode == 0) == succeeds, said
    assert "Traceback" not in said
    return said


def imports_tiny(folder: Path) -> bool:
    return subprocess.run([folder / ".venv/bin/python", "-c", "import tiny"], capture_output=True).returncode == 0


@pytest.mark.slow
def test_an_environment_is_made_once_updated_and_never_trusted_when_unfinished(tiny, tmp_path):
    assert "making .venv with Python" in make_environment(tiny)
    assert imports_tiny(tiny)
    assert make_environment(tiny) == "", "nothing to do"

    (tiny / "requirements.txt").write_text("# still nothing, differently\n")
    assert "changed, updating .venv" in make_environment(tiny)
    assert make_environment(tiny) == ""

    (tiny / "requirements.txt").write_text("surely-not-to-be-found==1.0\n")
    failed = make_environment(tiny, succeeds=False)
    assert "error: pip could not install the packages. Is there a network" in failed
    assert "surely-not-to-be-found" in failed

    (tiny / "requirements.txt").write_text("# still nothing, differently\n")  # as it was when the environment was whole
    (tiny / ".venv" / "leftover").touch()
    assert "making .venv" in make_environment(tiny)
    assert not (tiny / ".venv" / "leftover").exists()
    assert imports_tiny(tiny)

    moved = tiny.rename(tmp_path / "moved, with a space")
    assert "making .venv" in make_environment(moved)
    assert imports_tiny(moved)
    (moved / ".venv/bin/python").unlink()
    assert "making .venv" in make_environment(moved)
    assert imports_tiny(moved)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("flock") is None, reason="this system has no flock")
def test_two_makes_side_by_side_make_one_environment(tiny):
    processes = [start_make(tiny) for _ in range(2)]
    said = ["".join(process.communicate()) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "".join(said).count("making .venv") == 1, said
    assert imports_tiny(tiny)


def test_the_package_is_this_checkout():
    import shallowpaths

    assert Path(shallowpaths.__file__).is_relative_to(ROOT / "src")
    try:
        version("shallowpaths")
    except PackageNotFoundError:
        pytest.fail("the package is not installed in this environment")
