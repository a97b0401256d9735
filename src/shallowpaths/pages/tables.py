"""What Jupyter shows as HTML, and a chapter's tables: one look, numbers aligned, readable on dark and narrow pages."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

from shallowpaths.experiments.tables import PAPER_COLUMNS, paper_rows
from shallowpaths.training.record import RunRecord

_NUMBER = re.compile(r"[-+−]?[\d.]+(e[-+]?\d+)?( ± [\d.]+)?|–|inf|nan")


@dataclass(frozen=True)
class Shown:
    """A part of a page that Jupyter shows, with its plain text, and more data by MIME type."""

    html: str
    plain: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        return {"text/html": self.html, "text/plain": self.plain} | self.data

    def __repr__(self) -> str:
        return self.plain


def table(rows: Iterable[Sequence[Any]], headers: Sequence[str], digits: int = 3) -> Shown:
    """A table; columns of numbers are aligned to the right, None is a dash.

    digits: significant ones of a float; text keeps its own. A ValueError without rows of a cell for each header.
    """
    listed = [["–" if c is None else f"{c:.{digits}g}" if isinstance(c, float) else c for c in row] for row in rows]
    if not listed or any(len(row) != len(headers) for row in listed):
        raise ValueError(f"a table needs rows of {len(headers)} cells each, one for each of {', '.join(headers)}")
    numbers = (all(_NUMBER.fullmatch(str(cell)) for cell in column) for column in zip(*listed, strict=True))
    align = ["right" if number else "left" for number in numbers]
    page, plain = (tabulate(listed, headers, f, disable_numparse=True, colalign=align) for f in ("html", "simple"))
    return Shown(f'<div class="book-table">{page}</div>', plain)


def paper_table(records: Iterable[RunRecord]) -> Shown:
    """The paper's depth table with these records beside it; see `experiments.paper.beside_paper`."""
    return table(paper_rows(records), PAPER_COLUMNS)
