"""The book's claims. What is claimed stands once, in `ledger/`: a page of TOML for each chapter, a table for each claim.

    [B1]                       # or ["B1 stages"], where a claim has parts: the id is the first word
    whose = "paper"            # or "ours"
    statement = "With BN on the branch the second moment of the skip path grows as l ({kind})"
    prediction = "l"           # in words or as a formula
    tolerance = "4 standard deviations of the mean of {networks} networks (theory.finite_width)"

A claim of the paper that we do not find has one field more, `found = "differs"`: its verdict is then a "no" that the book stands
by, and a "yes" would stop the chapter. A chapter adds the numbers, and the facts in curly brackets.
"""

import functools
import html
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shallowpaths.pages.tables import Shown
from shallowpaths.theory.checks import one_of

MIME = "application/vnd.shallowpaths.claims+json"
FOLDER = Path(__file__).parent / "ledger"
FIELDS = ("whose", "statement", "prediction", "tolerance")

Numbers = float | Sequence[float] | np.ndarray


class ClaimFailed(AssertionError):
    """A measurement contradicts what the chapter says."""


@functools.cache
def ledger() -> dict[str, dict[str, str]]:
    """Every claim of the book as it is stated, by name, with the page of `ledger/` on which it stands as "page"."""
    return {
        name: {"found": "holds", "page": page.stem} | fields
        for page in sorted(FOLDER.glob("*.toml"))
        for name, fields in tomllib.loads(page.read_text(encoding="utf-8")).items()
    }


def checked(name: str, facts: dict[str, Any], *numbers: Numbers | str | None, holds: bool) -> dict[str, Any]:
    """A claim of the ledger with its facts, and what was predicted, measured and tolerated, as a row of the book's list of claims.

    Its "rule" is the tolerance in words. For a claim whose answer is yes or no, predicted and tolerance are None and measured
    says what was seen. A ValueError for an unknown claim and a missing fact.
    """
    one_of("claim", name, ledger())
    stated = ledger()[name]
    try:
        said = [stated[field].format(**facts) for field in FIELDS]
    except (KeyError, IndexError) as error:
        raise ValueError(f"claim {name}: its sentences need the fact {error}") from error
    row = {"name": name, **dict(zip((*FIELDS[:3], "rule"), said, strict=True))}
    row |= dict(zip(("predicted", "measured", "tolerance"), map(_plain, numbers), strict=True))
    return row | {"holds": holds, "found": stated["found"], "id": name.partition(" ")[0]}


def stands(row: dict[str, Any]) -> bool:
    """Whether the verdict on a claim is the one that the book states."""
    return row["holds"] == (row["found"] == "holds")


def claim_table(rows: list[dict[str, Any]]) -> Shown:
    """Checked claims, one a row, and as data."""
    cells = [_cells(row) for row in rows]
    body = "".join(f"<tr>{''.join(_cell(row, *item) for item in of.items())}</tr>" for row, of in zip(rows, cells, strict=True))
    head = "".join(f"<th>{name}</th>" for of in cells[:1] for name in of)
    page = f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    plain = "\n".join("; ".join((*of.values(), row["rule"])) for row, of in zip(rows, cells, strict=True))
    return Shown(page, plain, {MIME: list(rows)})


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """What the table shows of a claim, by column."""
    return {
        "id": row["id"],
        "statement": row["statement"],
        "predicted": row["prediction"] + ("" if row["predicted"] is None else f": {_text(row['predicted'])}"),
        "measured": _text(row["measured"]),
        "tolerance": "rule" if row["tolerance"] is None else f"± {_text(row['tolerance'])}",
        "verdict": row["found"] if stands(row) else "HOLDS AFTER ALL" if row["holds"] else "DOES NOT HOLD",
    }


def _cell(row: dict[str, Any], column: str, text: str) -> str:
    """A cell of the table; the tolerance unfolds into its rule."""
    shown = html.escape(text)
    if column == "tolerance":
        shown = f"<details><summary>{shown}</summary>{html.escape(row['rule'])}</details>"
    kind = f' class="{row["found"] if stands(row) else "fails"}"' if column == "verdict" else ""
    return f'<td data-label="{column}"{kind}>{shown}</td>'


def _plain(value: Any) -> float | list[float] | str | None:
    if value is None or isinstance(value, str):
        return value
    array = np.asarray(value, dtype=np.float64)
    numbers = [float(v) if math.isfinite(v) else str(v) for v in array.ravel()]  # JSON knows no NaN
    return numbers[0] if array.ndim == 0 else numbers


def _text(value: Any) -> str:
    if isinstance(value, list):
        shown = [_text(v) for v in value]
        return ", ".join(shown if len(shown) <= 5 else [*shown[:2], "…", *shown[-2:]])
    return value if isinstance(value, str) else f"{value:.3g}"
