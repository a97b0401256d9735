"""What a bad argument meets: a ValueError that names the value and what is allowed."""

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Refuse a name that is not among those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


def whole(name: str, value: int, least: int = 1) -> None:
    """Refuse what is not a whole number, or is below ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}")


def between(name: str, value: ArrayLike, low: float, high: float, closed: str = "neither") -> None:
    """Refuse a number, or an array with an entry, outside low ... high; NaN is always outside."""
    left, right = "[" if closed in ("low", "both") else "(", "]" if closed in ("high", "both") else ")"
    allowed = f"it must be a number in {left}{low}, {high}{right}"
    try:
        values = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}; {allowed}") from error
    above = values >= low if closed in ("low", "both") else values > low
    below = values <= high if closed in ("high", "both") else values < high
    if not np.all(above & below):
        raise ValueError(f"{name} is {value!r}; {allowed}")
