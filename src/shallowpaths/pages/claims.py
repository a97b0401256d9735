"""The book's claims. What is claimed stands once, in `ledger/`: a page of TOML for each chapter, a table for each claim.

    [B1]                       # or ["B1 stages"], where a claim has parts: the id is the first word
    whose = "paper"            # or "ours"
    statement = "With BN on the branch the second moment of the skip path grows as l ({kind})"
    prediction = "l"           # in words or as a formula
    tolerance = "4 standard deviations of the mean of {networks} networks (theory.finite_width)"

A claim of the paper that we do not find has one field more, `found = "differs"`: its verdict is then a "no" that the book stands
by, and a "yes" would stop the chapter. A chapter adds the numbers and the facts in curly brackets, and shows all of its claims
as one table, whose data the book's ledger of claims is made from.
"""

import functools
import html
import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Claim:
    """One checked claim.

    Attributes:
        name: in the ledger; its first word is the id, for example "B3".
        whose, statement, prediction, rule: as the ledger has them; rule is its tolerance, in words.
        predicted, measured, tolerance: numbers, or several that are compared one by one; for a claim whose answer is yes or
            no, predicted and tolerance are None and measured says what was seen.
        holds, found: the verdict, and what the book says that it is: "holds" or "differs".
    """

    name: str
    whose: str
    statement: str
    prediction: str
    rule: str
    predicted: float | list[float] | None
    measured: float | list[float] | str
    tolerance: float | list[float] | None
    holds: bool
    found: str

    @property
    def stands(self) -> bool:
        """Whether the verdict is the one that the book states."""
        return self.holds == (self.found == "holds")

    @property
    def id(self) -> str:
        """As in the list of claims."""
        return self.name.partition(" ")[0]

    @property
    def cells(self) -> dict[str, str]:
        """What a table shows of it, by column."""
        return {
            "id": self.id,
            "statement": self.statement,
            "predicted": self.prediction + ("" if self.predicted is None else f": {_text(self.predicted)}"),
            "measured": _text(self.measured),
            "tolerance": "rule" if self.tolerance is None else f"± {_text(self.tolerance)}",
            "verdict": self.found if self.stands else "HOLDS AFTER ALL" if self.holds else "DOES NOT HOLD",
        }


@functools.cache
def ledger() -> dict[str, dict[str, str]]:
    """Every claim of the book as it is stated, by name, with the page of `ledger/` on which it stands as "page"."""
    return {
        name: {"found": "holds", "page": page.stem} | fields
        for page in sorted(FOLDER.glob("*.toml"))
        for name, fields in tomllib.loads(page.read_text(encoding="utf-8")).items()
    }


def claim(name: str, facts: dict[str, Any], predicted: Numbers | None, measured: Any, tolerance: Numbers | None, holds: bool) -> Claim:
    """The claim of that name in the ledger, with its facts and numbers; arguments and errors as `Chapter.check`."""
    one_of("claim", name, ledger())
    stated = ledger()[name]
    try:
        said = [stated[field].format(**facts) for field in FIELDS]
    except (KeyError, IndexError) as error:
        raise ValueError(f"claim {name}: its sentences need the fact {error}") from error
    return Claim(name, *said, *map(_plain, (predicted, measured, tolerance)), holds, stated["found"])


def claim_table(claims: Iterable[Claim]) -> Shown:
    """Checked claims, one a row, and as data."""
    claims = list(claims)
    rows = "".join(f"<tr>{''.join(_cell(c, *item) for item in c.cells.items())}</tr>" for c in claims)
    head = "".join(f"<th>{name}</th>" for name in (claims[0].cells if claims else ()))
    page = f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    plain = "\n".join("; ".join((*claim.cells.values(), claim.rule)) for claim in claims)
    return Shown(page, plain, {MIME: [asdict(claim) | {"id": claim.id} for claim in claims]})


def _cell(claim: Claim, column: str, text: str) -> str:
    """A cell of the table; the tolerance unfolds into its rule."""
    shown = html.escape(text)
    if column == "tolerance":
        shown = f"<details><summary>{shown}</summary>{html.escape(claim.rule)}</details>"
    kind = f' class="{claim.found if claim.stands else "fails"}"' if column == "verdict" else ""
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
