"""Explorers of the signal: variance, branch share, BN's downscaling by block; and how many branches its paths take."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from shallowpaths import theory
from shallowpaths.measure import SignalStatistics, signal_statistics
from shallowpaths.measure.prediction import signal_of_recipe
from shallowpaths.networks import ResidualMLP
from shallowpaths.pages.explorers.explorer import Control, Explorer
from shallowpaths.pages.explorers.pictures import Picture, Series, spoken
from shallowpaths.pages.plots.values import mean_length
from shallowpaths.recipes import ONE_OVER_SQRT_BLOCKS, Recipe, get_recipe
from shallowpaths.theory.checks import one_of

BLOCKS = (4, 8, 16, 32, 64, 128, 256, 512, 1000)
ALPHAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
ACTIVATION_WORDS = {"linear": "linear", "relu": "ReLU"}
POINTS = 100  # of a curve, at most
BATCH = 64  # Gaussian inputs, independent of each other
QUANTITIES = {
    "skip_variance": "skip variance Var(xˡ)", "branch_share": "branch share", "branch_variance": "branch variance",
    "skip_second_moment": "second moment of xˡ", "downscaling": "√Var(xˡ), by which BN divides",
}  # fmt: skip
_BAND = {"skip_variance": 1.0, "skip_second_moment": 1.0, "downscaling": 0.5}  # power of the second moment


def signal_explorer(
    recipes: Sequence[str] = ("unnormalized", "batchnorm", "skipinit", "skipinit-1/sqrt(d)", "divide-sqrt2"),
    quantities: Sequence[str] = ("skip_variance", "branch_share"), *,
    blocks: Sequence[int] = BLOCKS, measured_blocks: int = 128, seed: int = 0, start: Mapping[str, Any] | None = None,
    title: str = "The signal, block by block",
) -> Explorer:  # fmt: skip
    """A quantity of the signal in fully connected networks of any recipe, predicted and measured.

    recipes, quantities, blocks: to choose from; "skipinit" has a slider for alpha, quantities are those of QUANTITIES.
    measured_blocks: real networks are built up to this depth; seed: of their weights and of the inputs.
    start: values at first, by name: recipe, quantity, blocks, alpha, activation, width. A ValueError for any other.
    """
    for quantity in quantities:
        one_of("quantity", quantity, QUANTITIES)
    controls = [
        Control("quantity", "quantity", {name: QUANTITIES[name] for name in quantities}),
        *_controls(recipes, blocks),
        Control("width", "width", (16, 64), 64),
    ]

    def compute(quantity: str, recipe: str, blocks: int, activation: str, width: int, alpha: float = 0.0) -> Picture:
        (chosen, said), series = _chosen(recipe, alpha, activation, blocks), []
        signal = forward_signal(chosen, blocks, activation)
        line = getattr(signal, quantity)[:blocks]
        seen = measured_quantity(chosen, quantity, blocks, activation, width, measured_blocks, seed)
        words = f"{said} of width {width}. {_words(quantity, line, seen)}"
        shown = np.unique(np.geomspace(1, blocks, POINTS).round().astype(int))  # all at first
        if quantity in _BAND:
            edges = _spread(chosen, len(signal.block), activation, width)
            with np.errstate(over="ignore"):
                low, high = (edge[shown - 1] ** _BAND[quantity] * line[shown - 1] for edge in edges)
            series.append(Series("band", "expected at this width", shown, low, high))
        series.append(Series("theory", "predicted", shown, line[shown - 1]))
        if seen is not None and len(seen):
            marks = shown[shown <= len(seen)]
            series.append(Series("measured", f"measured, {recipe}", marks, seen[marks - 1], recipe=recipe))
        log_x = chosen.normalizes_branch or quantity == "branch_share"
        return Picture("block l", QUANTITIES[quantity], tuple(series), words, log_x, bool(np.all(line > 0)))

    return Explorer(title, controls, compute, start)


def path_explorer(
    recipes: Sequence[str] = ("batchnorm", "unnormalized", "skipinit", "skipinit-1/sqrt(d)", "divide-sqrt2"), *,
    measured: Mapping[tuple[str, str, int], ArrayLike | Sequence[ArrayLike]] | None = None,
    blocks: Sequence[int] = BLOCKS, start: Mapping[str, Any] | None = None,
) -> Explorer:  # fmt: skip
    """The share of the signal that paths of each length carry, with the mean length marked.

    measured: path spectra by (recipe, activation, blocks), the recipe with its alpha as `get_recipe` takes it: shares
    of lengths 0, 1, ..., one array or one for each network; up to d + 1 of them, where the rest was cut. Other
    arguments: as in `signal_explorer`; a control is "view".
    """
    spectra = {key: np.atleast_2d(rows) for key, rows in (measured or {}).items()}
    views = {"near": "the lengths that matter", "all": "from 0 to d"}

    def compute(recipe: str, blocks: int, activation: str, view: str, alpha: float = 0.0) -> Picture:
        chosen, said = _chosen(recipe, alpha, activation, blocks)
        shares = theory.path_length_distribution(forward_signal(chosen, blocks, activation).path_probability[:blocks])
        mean, carrying = mean_length([shares]), np.flatnonzero(shares > 1e-3 * shares.max())
        first, last = max(0, carrying[0] - 1), min(len(shares) - 1, carrying[-1] + 1)
        lengths = np.arange(first, last + 1, max(1, -(-(last - first) // POINTS)))
        series = [Series("mean", f"mean length {spoken(mean)}", [mean], recipe=recipe)]
        series += [Series("theory", "predicted", lengths, shares[lengths])]
        words = f"{said}. Mean path length predicted {spoken(mean)} of {blocks}"
        if (key := (chosen.name, activation, blocks)) in spectra:
            for row in spectra[key]:
                seen = lengths[lengths < len(row)]
                series.append(Series("measured", f"measured, {recipe}", seen, row[seen], recipe=recipe))
            words += f", measured {' and '.join(spoken(mean_length([row])) for row in spectra[key][:3])}"
        low, high = np.searchsorted(np.cumsum(shares), (0.05, 0.95))
        words += f"; nine tenths of the signal go through {low} to {high} branches." if low < high else "."
        limits = (0.0, float(blocks)) if view == "all" else (max(0.0, lengths[0] - 1.0), max(4.0, lengths[-1] + 1.0))
        return Picture("length of the path, in branches taken", "share of the signal", tuple(series), words, x_limits=limits)

    controls = [*_controls(recipes, blocks), Control("view", "lengths", views)]
    return Explorer("Path lengths: through how many branches does the signal go?", controls, compute, start)


def _controls(recipes: Sequence[str], blocks: Sequence[int]) -> list[Control]:
    """The recipe, alpha where SkipInit is among them, the number of blocks, and the activation."""
    alpha = [Control("alpha", "alpha", ALPHAS, only=("recipe", "skipinit"))] if "skipinit" in recipes else []
    depth = Control("blocks", "blocks d", blocks, 64 if 64 in blocks else blocks[-1])
    activation = Control("activation", "activation", ACTIVATION_WORDS, "relu")
    return [Control("recipe", "recipe", [get_recipe(name).name for name in recipes]), *alpha, depth, activation]


def _chosen(recipe: str, alpha: float, activation: str, blocks: int) -> tuple[Recipe, str]:
    """The recipe of a menu's entry, alpha counting for "skipinit" alone, and the network as a reader would say it."""
    name = f"skipinit with alpha {alpha:g}" if recipe == "skipinit" else recipe
    said = f"{name}, {ACTIVATION_WORDS[activation]}, {blocks} blocks"
    return get_recipe(f"skipinit-{alpha}" if recipe == "skipinit" and alpha else recipe), said


def _built(recipe: Recipe, blocks: int, deepest: int) -> int:
    """How many blocks stand for these: as many, where their initialization depends on it; else the deepest, cut."""
    depends = recipe.alpha == ONE_OVER_SQRT_BLOCKS or "depth rescaling" in recipe.fixup
    return blocks if depends else deepest


predicted_signal = functools.lru_cache(maxsize=512)(signal_of_recipe)


def forward_signal(recipe: Recipe, blocks: int, activation: str) -> theory.Signal:
    """A prediction whose first `blocks` entries hold for that many blocks, forward."""
    return predicted_signal(recipe, _built(recipe, blocks, max(blocks, BLOCKS[-1])), activation=activation)


@functools.lru_cache(maxsize=512)
def _spread(recipe: Recipe, blocks: int, activation: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors on the second moment, down and up, that two standard deviations over networks of this width make."""
    signal = predicted_signal(recipe, blocks, activation=activation)
    with np.errstate(over="ignore"):
        return theory.finite_width(signal, width, BATCH).band(np.ones_like(signal.block), deviations=2)


@functools.cache
def _statistics(recipe: Recipe, blocks: int, activation: str, width: int, seed: int) -> SignalStatistics:
    """Those of a real network at initialization."""
    weights = torch.Generator().manual_seed(seed + 1)
    network = ResidualMLP(2 * blocks + 4, width, recipe.name, inputs=width, activation=activation, generator=weights)
    return signal_statistics(network, torch.randn(BATCH, width, generator=torch.Generator().manual_seed(seed)))


def measured_quantity(
    recipe: Recipe, quantity: str, blocks: int, activation: str, width: int, deepest: int, seed: int
) -> np.ndarray | None:
    """A quantity for l = 1 ... d of a real network, or up to the deepest block there is, or where float32 overflows.

    A block at initialization knows nothing of those after it: one deep network, cut, stands for every depth. None where
    the recipe depends on the depth and no network is that deep.
    """
    if (built := _built(recipe, blocks, deepest)) > deepest:
        return None
    statistics = _statistics(recipe, built, activation, width, seed)
    values = np.sqrt(statistics.skip_variance) if quantity == "downscaling" else getattr(statistics, quantity)
    return values[:blocks][np.logical_and.accumulate(np.isfinite(values[:blocks]))]


def _words(quantity: str, line: np.ndarray, seen: np.ndarray | None) -> str:
    """The numbers of a picture: both ends of prediction and measurement."""
    ends = [f"{spoken(values[0])} at block 1 to {spoken(values[-1])}" for values in (line, seen) if values is not None]
    words = f"{quantity.replace('_', ' ').capitalize()}: predicted {ends[0]} at block {len(line)}"
    if quantity == "downscaling":
        middle, root = line[(len(line) - 1) // 2], math.sqrt(len(line))
        words += f", {spoken(middle)} in the middle, where √d is {spoken(root)}"
    if seen is None:
        return f"{words}; not measured at this depth."
    last = "" if len(seen) == len(line) else ", the last one measured"
    return f"{words}; measured {ends[1]} at block {len(seen)}{last}."
