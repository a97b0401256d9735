"""A figure of an executed chapter as files, for the README."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup

from building.problems import BookProblem


def save_picture(executed: Path, stem: Path) -> list[Path]:
    """Write the notebook's first book figure to STEM_light.svg and STEM_dark.svg; the paths.

    Raises BookProblem where the notebook shows no figure.
    """
    for cell in nbformat.read(executed, as_version=4).cells:
        for output in cell.get("outputs", []):
            images = BeautifulSoup(output.get("data", {}).get("text/html", ""), "html.parser").select(
                ".book-figure img"
            )
            if images:
                return [
                    _save(image["src"], stem, theme) for image, theme in zip(images, ("light", "dark"), strict=True)
                ]
    raise BookProblem(f"{executed.name} shows no figure")


def _save(source: str, stem: Path, theme: str) -> Path:
    path = stem.with_name(f"{stem.name}_{theme}.svg")
    path.write_text(unquote(source.partition(",")[2]) + "\n")
    return path
