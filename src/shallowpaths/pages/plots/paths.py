"""Path lengths: how the signal is spread over them, their mean, and the branch share, by the number of blocks."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from shallowpaths.pages.plots.drawing import (
    check_predicted,
    draw_predictions,
    legend_below,
    legend_beside,
    log_axis_at,
    new_axes,
    plain_log_ticks,
    predict,
    style_of,
)
from shallowpaths.pages.plots.figure import BookFigure


def path_lengths(
    measured: Mapping[str, Sequence[np.ndarray]],
    predicted: Mapping[str, np.ndarray],
    *,
    lengths: tuple[float, float] | None = None,
) -> BookFigure:
    """The share of the signal that paths of each length carry, a panel for each name, with the mean length in its title.

    Args:
        measured: shares of lengths 0, 1, ... (`PathSpectrum.shares`), one array a network, by recipe. What follows a
            comma in a name, as in "batchnorm, linear", tells several groups of one recipe apart.
        predicted: the shares predicted (`theory.path_length_distribution`), by the same names.
        lengths: from where to where the horizontal axis of all panels goes; None shows in each panel where its
            shares are.
    """
    check_predicted(measured, predicted)
    means = {name: (_mean_length([predicted[name]]), _mean_length(rows)) for name, rows in measured.items()}

    def draw() -> Figure:
        figure, panels = new_axes(len(measured), sharey=False)
        for axes, (name, networks) in zip(panels, measured.items(), strict=True):
            marks = style_of(name.partition(",")[0]) | {"linestyle": "none", "markersize": 4}
            for number, shares in enumerate(networks):
                axes.plot(np.arange(len(shares)), shares, **marks, label=None if number else "measured")
            predict(axes, np.arange(len(predicted[name])), predicted[name], label="predicted")
            axes.set(xlim=lengths or _where_it_matters([predicted[name], *networks]), xlabel="branches taken")
            axes.set_title(f"{name}: mean {means[name][1]:.3g}", fontsize=11)
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[0].set_ylabel("share of the signal")
        legend_below(figure, panels, 2)
        return figure

    said = "; ".join(f"{name} measured {seen:.3g}, predicted {wanted:.3g}" for name, (wanted, seen) in means.items())
    return BookFigure(draw, f"Share of the signal by path length. Mean length: {said}.")


def path_length_by_blocks(
    measured: Mapping[str, Mapping[int, Sequence[float]]], predicted: Mapping[str, Mapping[int, float]]
) -> BookFigure:
    """The mean path length against the number of blocks, on logarithmic axes: one mark a network, one line a prediction.

    Args:
        measured: mean lengths, one a network, by number of blocks and by recipe; names as in `path_lengths`.
        predicted: by the same names, the mean length for as many numbers of blocks as the line needs.
    """
    return _by_blocks(measured, predicted, "mean path length")


def share_by_blocks(
    measured: Mapping[str, Mapping[int, float]], predicted: Mapping[str, Mapping[int, float]]
) -> BookFigure:
    """The branch share, averaged over a network's blocks, against the number of blocks.

    Args:
        measured, predicted: by recipe, the mean share by number of blocks d.
    """
    return _by_blocks(measured, predicted, "mean branch share")


def _by_blocks(
    measured: Mapping[str, Mapping[int, float | Sequence[float]]], predicted: Mapping[str, Mapping[int, float]], label: str
) -> BookFigure:
    check_predicted(measured, predicted)

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        before: list[str] = []
        for name, by_blocks in measured.items():
            recipe = name.partition(",")[0]
            others = {"markerfacecolor": "none", "marker": "^v<>"[before.count(recipe) % 4 - 1]}
            style = style_of(recipe) | (others if recipe in before else {})
            before.append(recipe)
            points = [(blocks, value) for blocks, values in by_blocks.items() for value in np.atleast_1d(values)]
            axes.plot(*zip(*points, strict=True), **style | {"linestyle": "none", "markersize": 6}, label=name)
        draw_predictions(axes, predicted.values())
        axes.set_ylabel(label)
        log_axis_at(axes, sorted(set(itertools.chain.from_iterable(measured.values()))), "blocks $d$")
        plain_log_ticks(axes)
        legend_beside(axes)
        return figure

    said = "; ".join(
        f"{name} "
        + ", ".join(f"{np.mean(v):.3g} (predicted {predicted[name][d]:.3g}) at {d} blocks" for d, v in by_blocks.items())
        for name, by_blocks in measured.items()
    )
    return BookFigure(draw, f"{label.capitalize()} by number of blocks: {said}.")


def _mean_length(spectra: Sequence[np.ndarray]) -> float:
    """Mean path length of some spectra's average; shares that were cut off at the end are left out."""
    return float(np.mean([np.arange(len(shares)) @ shares / np.sum(shares) for shares in spectra]))


def _where_it_matters(spectra: Sequence[np.ndarray]) -> tuple[float, float]:
    """The lengths at which a spectrum has more than a hundredth of its largest share, with room beside them."""
    carrying = np.concatenate([np.flatnonzero(shares > 0.01 * np.max(shares)) for shares in spectra])
    return max(carrying.min() - 1.5, -0.5), max(carrying.max() + 1.5, 3.5)
