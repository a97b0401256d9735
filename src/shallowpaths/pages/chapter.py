"""A chapter of the book: its parameters, its answer in one minute, and its claims, each stated once, in `ledger/`:

    [B1]                       # or ["B1 stages"], where a claim has parts: the id is the first word
    whose = "paper"            # or "ours"
    statement = "With BN on the branch the second moment of the skip path grows as l ({kind})"
    prediction = "l"           # in words or as a formula
    tolerance = "4 standard deviations of the mean of {networks} networks (theory.finite_width)"

A claim of the paper that we do not find has `found = "differs"`, too: its verdict is a "no" that the book stands by,
and a "yes" would stop the chapter. A chapter adds the numbers, and the facts in curly brackets.
"""

import functools
import html
import math
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.display import display

from shallowpaths._device import device_name, resolve_device
from shallowpaths.pages.plots import BookFigure
from shallowpaths.pages.tables import Shown
from shallowpaths.theory import checks

PROFILES = ("quick", "gpu", "paper")
MIME = "application/vnd.shallowpaths.claims+json"
FOLDER = Path(__file__).parent / "ledger"
FIELDS = ("whose", "statement", "prediction", "tolerance")
Numbers = float | Sequence[float] | np.ndarray


class ClaimFailed(AssertionError):
    """A measurement contradicts what the chapter says."""


@dataclass(frozen=True)
class Chapter:
    """A chapter's parameters as `start_chapter` has them, and the claims that it has checked so far, in order."""

    profile: str
    seed: int
    device: torch.device
    checked: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def pick(self, *, quick: Any, gpu: Any, paper: Any) -> Any:
        """The value for this chapter's profile."""
        return {"quick": quick, "gpu": gpu, "paper": paper}[self.profile]

    def answer(self, text: str, figure: BookFigure) -> Shown:
        """The chapter's answer in one minute, folded, so that a reader can guess first: three sentences and a figure."""
        said = " ".join(text.split())
        page = f"<summary>The answer in one minute</summary><p>{html.escape(said)}</p>{figure.html()}"
        return Shown(f'<details class="answer">{page}</details>', f"{said}\n{figure.alt}")

    def check(self, name: str, *, predicted: Numbers, measured: Numbers, tolerance: Numbers, **facts: Any) -> None:
        """Note whether every measured number lies within `tolerance` of the predicted one, in absolute terms.

        They are numbers, or arrays that broadcast to one shape; what is not finite does not hold. facts: what the
        claim's sentences have in curly brackets. A ValueError if one is missing, for an unknown name, for a tolerance
        that is negative or not finite, and where nothing was measured.
        """
        wanted, found, allowed = np.broadcast_arrays(*(np.asarray(v, float) for v in (predicted, measured, tolerance)))
        if not np.isfinite(allowed).all() or (allowed < 0).any() or found.size == 0:
            raise ValueError(f"claim {name}: needs something measured, and tolerances that are finite and not negative")
        with np.errstate(invalid="ignore"):
            holds = bool((np.abs(found - wanted) <= allowed).all())  # a NaN compares false
        made = _checked(name, facts, predicted, measured, tolerance, holds=holds)
        if made["found"] == "differs" and not np.isfinite(found).all():
            raise ValueError(f"claim {name}: what is not finite was not measured, and shows no difference")
        self.checked.append(made)

    def check_true(self, name: str, *, holds: bool | np.bool_, measured: str, **facts: Any) -> None:
        """Note whether a claim holds whose answer is yes or no. measured: what was seen, with its numbers, in words."""
        checks.flag(f"holds of claim {name}", holds)
        self.checked.append(_checked(name, facts, None, measured, None, holds=bool(holds)))

    def claims(self, page: str, without: Collection[str] = ()) -> Shown:
        """All claims that the chapter has checked, as a table: its last line.

        page: of the ledger, as "B"; without: names of its claims that the chapter does not make with this profile.
        ClaimFailed, after the table, if one has another verdict than stated, or the page has one that was not checked.
        """
        pages = {name: fields["page"] for name, fields in ledger().items()}
        checks.one_of("page of the ledger", page, dict.fromkeys(pages.values()))
        table, known = _claim_table(self.checked), {row["name"] for row in self.checked} | set(without)
        wrong = [row for row in self.checked if row["holds"] != (row["found"] == "holds")]
        failed = [f"{row['id']} {'holds' if row['holds'] else 'does not hold'}: {row['statement']}" for row in wrong]
        failed += [f"{name} was not checked" for name in pages if pages[name] == page and name not in known]
        if failed:
            display(table)
            raise ClaimFailed("; ".join(failed))
        return table


def start_chapter(profile: str | None = None, seed: int = 0, device: str | None = None) -> Chapter:
    """Check a chapter's parameters and say what they come to; a ValueError lists the good ones.

    profile: "quick" (real data that a package ships, on a CPU, in seconds), "gpu" (CIFAR-10, minutes) or "paper" (the
    whole protocol, hours); None is "gpu" where CUDA is, else "quick". device: "cpu", "cuda", "mps"; None or "auto" is
    the best there is. seed: of every random number of the chapter, a whole number of at least 0 and below 2**63.
    """
    chosen = resolve_device(device)
    profile = profile or ("gpu" if chosen.type == "cuda" else "quick")
    checks.one_of("profile", profile, PROFILES)
    checks.seed(seed)
    print(f"profile {profile}, seed {seed}, on {device_name(chosen)}")  # noqa: T201 - a chapter's first output
    return Chapter(profile, seed, chosen)


@functools.cache
def ledger() -> dict[str, dict[str, str]]:
    """Every claim of the book as it is stated, by name, with the page of `ledger/` on which it stands as "page"."""
    return {
        name: {"found": "holds", "page": page.stem} | fields
        for page in sorted(FOLDER.glob("*.toml"))
        for name, fields in tomllib.loads(page.read_text(encoding="utf-8")).items()
    }


def _checked(name: str, facts: dict[str, Any], *numbers: Numbers | str | None, holds: bool) -> dict[str, Any]:
    """A claim, its facts, predicted, measured, tolerance, as in the book's list; "rule" is the last in words."""
    checks.one_of("claim", name, ledger())
    stated, names = ledger()[name], {"tolerance": "rule"}
    try:
        said = {names.get(part, part): stated[part].format(**facts) for part in FIELDS}
    except (KeyError, IndexError) as error:
        raise ValueError(f"claim {name}: its sentences need the fact {error}") from error
    given = dict(zip(("predicted", "measured", "tolerance"), map(_plain, numbers), strict=True))
    return {"name": name, **said, **given, "holds": holds, "found": stated["found"], "id": name.partition(" ")[0]}


def _claim_table(rows: list[dict[str, Any]]) -> Shown:
    """Checked claims, one a row, and as data; a tolerance unfolds into its rule."""
    pages, plain = [], []
    for row in rows:
        stands = row["holds"] == (row["found"] == "holds")  # the verdict is the one that the book states
        cells = {
            "id": row["id"],
            "statement": row["statement"],
            "predicted": row["prediction"] + ("" if row["predicted"] is None else f": {_text(row['predicted'])}"),
            "measured": _text(row["measured"]),
            "tolerance": "rule" if row["tolerance"] is None else f"± {_text(row['tolerance'])}",
            "verdict": row["found"] if stands else "HOLDS AFTER ALL" if row["holds"] else "DOES NOT HOLD",
        }
        shown = {column: html.escape(text) for column, text in cells.items()}
        shown["tolerance"] = f"<details><summary>{shown['tolerance']}</summary>{html.escape(row['rule'])}</details>"
        look = {"verdict": f' class="{row["found"] if stands else "fails"}"'}
        tds = "".join(f'<td data-label="{name}"{look.get(name, "")}>{text}</td>' for name, text in shown.items())
        pages.append(f"<tr>{tds}</tr>")
        plain.append("; ".join((*cells.values(), row["rule"])))
    head = "".join(f"<th>{name}</th>" for name in ("id", "statement", "predicted", "measured", "tolerance", "verdict"))
    page = f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{"".join(pages)}</tbody></table>'
    return Shown(page, "\n".join(plain), {MIME: list(rows)})


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
