"""The book's claims, checked where they are made.

A chapter states what theory predicts, what it measured, and how far apart the two may lie and why. A claim that
does not hold stops the chapter. Each check leaves a machine-readable trace in the notebook's output, from which the
ledger of claims is made.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MIME = "application/vnd.shallowpaths.claim+json"


class ClaimFailed(AssertionError):
    """A measurement contradicts what the chapter says."""


@dataclass(frozen=True, repr=False)
class Claim:
    """One checked claim.

    Attributes:
        id: as in the ledger, for example "B3".
        statement: what is claimed, in a sentence.
        predicted, measured: a number, or several to be compared one by one; for a yes-or-no claim, words and a truth.
        tolerance: how far measured may lie from predicted, in absolute terms; None for a yes-or-no claim.
        because: why the tolerance is what it is, or what the yes rests on.
        holds: the verdict.
    """

    id: str
    statement: str
    predicted: float | list[float] | str
    measured: float | list[float] | str
    tolerance: float | list[float] | None
    because: str
    holds: bool

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in (self.statement, self._facts, self.because))
        table = (
            f'<table class="claim"><tr><th scope="row">{html.escape(self.id)}: {self._verdict}</th>{cells}</tr></table>'
        )
        return {"text/html": table, "text/plain": repr(self), MIME: asdict(self)}

    def __repr__(self) -> str:
        return f"{self.id} {self._verdict}: {self.statement} ({self._facts}; {self.because})"

    @property
    def _verdict(self) -> str:
        return "holds" if self.holds else "DOES NOT HOLD"

    @property
    def _facts(self) -> str:
        tolerance = "" if self.tolerance is None else f" ± {_text(self.tolerance)}"
        return f"predicted {_text(self.predicted)}{tolerance}, measured {_text(self.measured)}"


def check(
    id: str,  # noqa: A002 - the ledger's word
    statement: str,
    predicted: float | Sequence[float] | np.ndarray,
    measured: float | Sequence[float] | np.ndarray,
    tolerance: float | Sequence[float] | np.ndarray,
    because: str,
) -> Claim:
    """Check that every measured number lies within `tolerance` of the predicted one, show the verdict and return it.

    Args:
        predicted, measured, tolerance: numbers, or arrays that broadcast to one shape.
        because: the reason for the tolerance.

    Raises:
        ClaimFailed: a number lies outside, or is not finite.
        ValueError: no reason given, a tolerance that is negative or not finite, or nothing measured.
    """
    wanted, found, allowed = np.broadcast_arrays(
        *(np.asarray(v, dtype=np.float64) for v in (predicted, measured, tolerance))
    )
    if not np.isfinite(allowed).all() or (allowed < 0).any() or found.size == 0:
        raise ValueError(f"claim {id}: needs something measured, and tolerances that are finite and not negative")
    with np.errstate(invalid="ignore"):
        holds = bool((np.abs(found - wanted) <= allowed).all())  # a NaN compares false
    return _show(Claim(id, statement, _plain(predicted), _plain(measured), _plain(tolerance), because, holds))


def check_true(id: str, statement: str, evidence: str, holds: bool, because: str) -> Claim:  # noqa: A002
    """Check a claim whose answer is yes or no.

    Args:
        evidence: what was seen, with its numbers, in words.
        holds: whether it bears the statement out.
        because: what the verdict rests on.
    """
    return _show(Claim(id, statement, "yes", evidence, None, because, bool(holds)))


def _show(claim: Claim) -> Claim:
    if not claim.because.strip():
        raise ValueError(f"claim {claim.id}: say why the tolerance is what it is")
    from IPython.display import display  # only a notebook needs it

    display(claim)
    if not claim.holds:
        raise ClaimFailed(
            f"{claim.id} does not hold: {claim.statement}; predicted {_text(claim.predicted)}, measured {_text(claim.measured)}"
        )
    return claim


def _plain(value: Any) -> float | list[float]:
    array = np.asarray(value, dtype=np.float64)
    numbers = [float(v) if math.isfinite(v) else str(v) for v in array.ravel()]  # JSON knows no NaN
    return numbers[0] if array.ndim == 0 else numbers


def _text(value: Any) -> str:
    if isinstance(value, list):
        shown = [_text(v) for v in value]
        return ", ".join(shown if len(shown) <= 5 else [*shown[:2], "…", *shown[-2:]])
    return value if isinstance(value, str) else f"{value:.3g}"
