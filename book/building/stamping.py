"""The repository's address, from its one place (pyproject.toml) into the chapters and the book's settings."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat

from building.problems import BookProblem

INSTALL_CELL = "install-package"  # the id by which the stamp knows its own cell
BRANCH = "main"


def address(root: Path) -> str | None:
    """`[project.urls] Repository` of pyproject.toml, or None while it is not known.

    Raises BookProblem where it is not of the form https://HOST/OWNER/NAME.
    """
    urls = tomllib.loads((root / "pyproject.toml").read_text()).get("project", {}).get("urls", {})
    found = urls.get("Repository")
    if found is not None and not re.fullmatch(r"https://[\w.-]+/[\w./-]+/[\w.-]+", found):
        raise BookProblem(f"[project.urls] Repository in pyproject.toml is {found!r}, not https://HOST/OWNER/NAME")
    return found.removesuffix(".git") if found else None


def install_source(repository: str | None) -> str:
    """The first code cell of every chapter: installs the package where it is missing, or says how to."""
    lines = [
        "# Written by `make stamp`. Where the package is installed, this cell does nothing.",
        "import importlib.util",
        "",
        'if importlib.util.find_spec("shallowpaths") is None:',
    ]
    if repository is None:
        lines += [
            "    raise RuntimeError(",
            '        "The package shallowpaths is not installed. Run `pip install .` in the repository\'s folder, "',
            '        "then restart the kernel."',
            "    )",
        ]
    else:
        lines += [f'    %pip install --quiet "shallowpaths @ git+{repository}"']
    return "\n".join(lines)


def is_stamped(chapter: Path, repository: str | None) -> bool:
    """True where the chapter's install cell is its first code cell, and is as the address asks."""
    code = [cell for cell in nbformat.read(chapter, as_version=4).cells if cell.cell_type == "code"]
    return bool(code) and _is_install_cell(code[0], repository)


def stamp(chapter: Path, repository: str | None) -> bool:
    """Insert or refresh the chapter's install cell, after its title; True where the file changed."""
    if is_stamped(chapter, repository):
        return False
    notebook = nbformat.read(chapter, as_version=4)
    others = [cell for cell in notebook.cells if cell.id != INSTALL_CELL]
    first_code = next((number for number, cell in enumerate(others) if cell.cell_type == "code"), len(others))
    titled = bool(others) and others[0].cell_type == "markdown"
    cell = nbformat.v4.new_code_cell(install_source(repository), id=INSTALL_CELL, metadata={"tags": ["remove-cell"]})
    others.insert(min(1 if titled else 0, first_code), cell)
    notebook.cells = others
    nbformat.write(notebook, chapter)
    return True


def launch_settings(repository: str | None) -> dict[str, Any]:
    """What the address adds to `_config.yml`: links to the source, and a Colab button where the host allows one."""
    if repository is None:
        return {}
    settings: dict[str, Any] = {
        "repository": {"url": repository, "path_to_book": "", "branch": BRANCH},
        "html": {"use_repository_button": True, "use_issues_button": True},
    }
    if urlsplit(repository).hostname == "github.com":
        settings["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
    return settings


def _is_install_cell(cell: nbformat.NotebookNode, repository: str | None) -> bool:
    return (
        cell.id == INSTALL_CELL
        and cell.source == install_source(repository)
        and cell.metadata.get("tags") == ["remove-cell"]
        and not cell.outputs
    )
