"""The explorer of path lengths: how many branches the paths take that carry the signal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from shallowpaths import theory
from shallowpaths.pages.explorers.explorer import Explorer, menu
from shallowpaths.pages.explorers.pictures import Picture, Series, spoken
from shallowpaths.pages.explorers.signals import (
    ACTIVATION_WORDS,
    ALPHAS,
    BLOCKS,
    forward_signal,
    recipe_controls,
    recipe_of,
    recipe_words,
)

POINTS = 100
VIEWS = {"near": "the lengths that matter", "all": "from 0 to d"}


def path_explorer(
    recipes: Sequence[str] = ("batchnorm", "unnormalized", "skipinit", "skipinit-1/sqrt(d)", "divide-sqrt2"),
    *,
    measured: Mapping[tuple[str, str, int], ArrayLike | Sequence[ArrayLike]] | None = None,
    blocks: Sequence[int] = BLOCKS,
    alphas: Sequence[float] = ALPHAS,
    start: Mapping[str, Any] | None = None,
    title: str = "Path lengths: through how many branches does the signal go?",
) -> Explorer:
    """The share of the signal that paths of each length carry, with the mean length marked.

    Args:
        recipes: for the menu; "skipinit" has a slider for alpha.
        measured: path spectra by (recipe, activation, blocks), the recipe with its alpha as `get_recipe` takes it:
            shares of lengths 0, 1, ..., one array or one for each network; up to d + 1 of them, where the rest was cut.
        blocks, alphas: for the sliders.
        start: values of controls at first, by name: recipe, alpha, blocks, activation, view.
    """
    controls = [
        *recipe_controls(recipes, blocks, alphas),
        menu("activation", "activation", ACTIVATION_WORDS, "relu"),
        menu("view", "lengths", VIEWS),
    ]
    spectra = {key: list(np.atleast_2d(value)) for key, value in (measured or {}).items()}

    def compute(recipe: str, blocks: int, activation: str, view: str, alpha: float | None = None) -> Picture:
        chosen = recipe_of(recipe, alpha)
        probability = forward_signal(chosen, blocks, activation).path_probability[:blocks]
        said = f"{recipe_words(recipe, alpha)}, {ACTIVATION_WORDS[activation]}, {blocks} blocks"
        return _picture(recipe, probability, spectra.get((chosen.name, activation, blocks), []), said, view)

    return Explorer(title, controls, compute, start)


def _picture(recipe: str, probability: np.ndarray, measured: list[np.ndarray], said: str, view: str) -> Picture:
    shares = theory.path_length_distribution(probability)
    mean, blocks = theory.mean_path_length(probability), len(probability)
    lengths = _lengths(shares)
    mean_line = Series("mean", f"mean length {spoken(mean)}", [mean], recipe=recipe)
    series = [mean_line, Series("theory", "predicted", lengths, shares[lengths])]
    words = f"{said}. Mean path length predicted {spoken(mean)} of {blocks}"
    for number, row in enumerate(measured):
        seen = lengths[lengths < len(row)]
        series.append(Series("measured", "" if number else f"measured, {recipe}", seen, row[seen], recipe=recipe))
    if measured:
        means = [float(np.arange(len(row)) @ row / row.sum()) for row in measured]
        words += f", measured {' and '.join(spoken(m) for m in means[:3])}"
    low, high = np.searchsorted(np.cumsum(shares), (0.05, 0.95))
    words += f"; nine tenths of the signal go through {low} to {high} branches." if low < high else "."
    limits = (0.0, float(blocks)) if view == "all" else (max(0.0, lengths[0] - 1.0), max(4.0, lengths[-1] + 1.0))
    return Picture("length of the path, in branches taken", "share of the signal", tuple(series), words, x_limits=limits)


def _lengths(shares: np.ndarray) -> np.ndarray:
    """The lengths that carry more than a thousandth of the largest share, and one more; every n-th where there are many."""
    carrying = np.flatnonzero(shares > 1e-3 * shares.max())
    first, last = max(0, carrying[0] - 1), min(len(shares) - 1, carrying[-1] + 1)
    return np.arange(first, last + 1, max(1, -(-(last - first) // POINTS)))
