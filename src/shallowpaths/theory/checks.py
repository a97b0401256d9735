"""What a bad argument meets, in every room: a ValueError that names the argument, its value and what is allowed."""

import difflib
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_TESTS = {"above": np.greater, "at_least": np.greater_equal, "below": np.less, "at_most": np.less_equal}


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse what is not among the names allowed; the error says which of them it resembles."""
    if not isinstance(value, str) or value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name} {value!r} is unknown: choose from {', '.join(allowed)}{hint}")


def flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} {value!r} must be True or False")


def whole(name: str, value: object, at_least: int = 1, at_most: int | None = None) -> None:
    """Refuse what is no whole number, or lies outside."""
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not good or value < at_least or (at_most is not None and value > at_most):
        bounds = f"at least {at_least}" + ("" if at_most is None else f" and at most {at_most}")
        raise ValueError(f"{name} {value!r} must be a whole number of {bounds}")


def seed(value: object) -> None:
    """Refuse what torch's generators cannot be seeded with."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"seed {value!r} must be a whole number of at least 0 and below 2**63")


def number(name: str, value: Any, **bounds: float) -> float:
    """The value as a float; refuses what is not finite, or outside. bounds: above, at_least, below, at_most."""
    return float(_checked(name, value, bounds, "", single=True))


def numbers(name: str, value: Any, **bounds: float) -> Array:
    """A number or an array as floats; refuses it where one entry is not finite, or outside. bounds: as `number`."""
    return _checked(name, value, bounds, ", or an array of them", single=False)


def _checked(name: str, value: Any, bounds: dict[str, float], more: str, single: bool) -> Array:
    try:
        values = np.asarray("none" if value is None else value)  # numpy makes NaN of None
        values = values.astype(float) if values.dtype.kind in "iufO" else None  # text that reads as a number is none
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch has the last for a tensor with a gradient
        values = None
    good = values is not None and not (single and values.ndim) and np.isfinite(values).all()
    if not good or not all(_TESTS[bound](values, limit).all() for bound, limit in bounds.items()):
        words = " and ".join(f"{bound.replace('_', ' ')} {limit:g}" for bound, limit in bounds.items())
        raise ValueError(f"{name} {value!r} must be a finite number {words}".rstrip() + more)
    return values
