"""The signal at initialization: variances, shares and whatever else goes block by block."""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallowpaths.measure import SignalStatistics
from shallowpaths.pages.plots.drawing import (
    check_predicted,
    draw_predictions,
    legend_beside,
    new_axes,
    panels_beside,
    plain_log_ticks,
    range_words,
    style_of,
    words,
)
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.theory import Signal
from shallowpaths.theory.checks import one_of

Statistics = SignalStatistics | Sequence[SignalStatistics]
Bands = Mapping[str, tuple[np.ndarray, np.ndarray]]


def signal_by_block(
    measured: Mapping[str, Statistics],
    predicted: Mapping[str, np.ndarray],
    quantity: str = "skip_variance",
    *,
    band: Bands | None = None,
    log: bool = True,
    title: str = "",
) -> BookFigure:
    """A quantity of SignalStatistics against the block's index l, measured (one mark a seed) and predicted.

    Args:
        measured: by recipe, the statistics of one network or of several seeds.
        predicted: by recipe, the prediction for l = 1 .. d.
        quantity: an array of SignalStatistics, as "skip_variance" or "branch_share".
        band: by recipe, lower and upper edge of what a network of finite width is expected to give, for l = 1 .. d.
        log: whether the vertical axis is logarithmic.
    """
    one_of("quantity", quantity, _QUANTITIES)
    values = _values(measured, quantity)
    label = _LABELS.get(quantity, words(quantity))
    return values_by_block(values, predicted, label, words(quantity), band=band, log=log, title=title)


def values_by_block(
    measured: Mapping[str, Sequence[np.ndarray]],
    predicted: Mapping[str, np.ndarray],
    label: str,
    words: str | None = None,
    *,
    band: Bands | None = None,
    log: bool = True,
    title: str = "",
) -> BookFigure:
    """Any quantity against the block's index l, measured (one mark a network) and predicted.

    Args:
        measured: one array of shape [d] for each network, or the array of a single one, by recipe. What follows a comma
            in a name, as in "batchnorm, ReLU", tells several groups of one recipe apart.
        predicted: the prediction for l = 1 .. d, by the same names.
        label: of the vertical axis; words: the same in the text alternative.
        band, log, title: as in `signal_by_block`.
    """
    measured = {name: np.atleast_2d(rows) for name, rows in measured.items()}

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        _draw_by_block(axes, measured, predicted, band or {})
        axes.set(ylabel=label, title=title, yscale="log" if log else "linear")
        if len(measured) > 4:
            legend_beside(axes)
        else:
            axes.legend()
        return figure

    return BookFigure(draw, f"{words or label} by block. {_ends(measured, predicted)}.")


def signal_panels(
    measured: Mapping[str, Statistics],
    predicted: Mapping[str, Signal],
    quantities: Sequence[str] = ("skip_variance", "branch_share"),
) -> BookFigure:
    """Several quantities against the block's index l side by side, on logarithmic axes of their own.

    Args:
        measured: by recipe, the statistics of one network or of several seeds.
        predicted: by recipe, what `theory.signal` says.
        quantities: names that both SignalStatistics and Signal have.
    """
    for quantity in quantities:
        one_of("quantity", quantity, _QUANTITIES)
    values = {quantity: _values(measured, quantity) for quantity in quantities}
    lines = {q: {name: getattr(signal, q) for name, signal in predicted.items()} for q in quantities}

    def draw() -> Figure:
        figure, panels = panels_beside(len(quantities), 4.2 * len(quantities), 3.6)
        for axes, quantity in zip(panels, quantities, strict=True):
            _draw_by_block(axes, values[quantity], lines[quantity], {})
            axes.set(title=_LABELS.get(quantity, words(quantity)), yscale="log")
            if quantity.endswith("share"):
                plain_log_ticks(axes)
        panels[0].legend()
        return figure

    said = " ".join(f"{words(q)} by block: {_ends(values[q], lines[q])}." for q in quantities)
    return BookFigure(draw, said)


def overflow_by_format(measured: Mapping[str, Sequence[int]], predicted: Mapping[str, int]) -> BookFigure:
    """The block after which activations overflow, for each number format: one mark a network, a dark tick predicted."""
    check_predicted(measured, predicted)

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        for row, (name, blocks) in enumerate(measured.items()):
            marks = style_of("unnormalized") | {"markersize": 6, "linestyle": "none"}
            axes.plot(blocks, [row] * len(blocks), **marks, label="unnormalized" if row == 0 else None)
            ink = {"color": mpl.rcParams["text.color"], "linewidth": 1.0}
            axes.vlines(predicted[name], row - 0.3, row + 0.3, **ink, label="predicted" if row == 0 else None)
            place = {"textcoords": "offset points", "xytext": (4, 8), "fontsize": 9.5}
            axes.annotate(str(predicted[name]), (predicted[name], row + 0.1), **place)
        axes.set(
            xscale="log", xlabel="block $l$ after which an activation is infinite", ylim=(len(measured) - 0.5, -0.6)
        )
        axes.set_yticks(range(len(measured)), list(measured))
        axes.legend(loc="lower left")
        return figure

    said = "; ".join(f"{name} predicted {predicted[name]}, seen {min(v)} to {max(v)}" for name, v in measured.items())
    return BookFigure(draw, f"Block after which an activation overflows, by number format: {said}.")


_MOMENTS = ("skip_second_moment", "branch_second_moment", "output_second_moment")
_QUANTITIES = (*(f.name for f in dataclasses.fields(SignalStatistics) if f.name != "channels"), *_MOMENTS)
_LABELS = {
    "skip_variance": r"skip variance $\mathrm{Var}(x^l)$",
    "branch_variance": r"branch variance $\mathrm{Var}(f_l)$",
    "branch_share": "branch share",
    "skip_second_moment": r"second moment of $x^l$",
    "output_second_moment": r"second moment of $x^{l+1}$",
}


def _draw_by_block(
    axes: Axes, measured: Mapping[str, Sequence[np.ndarray]], predicted: Mapping[str, np.ndarray], band: Bands
) -> None:
    seen: set[str] = set()
    for name, rows in measured.items():
        recipe = name.partition(",")[0]
        style = style_of(recipe) | ({"markerfacecolor": "none", "marker": "^"} if recipe in seen else {})
        seen.add(recipe)
        for i, row in enumerate(rows):
            block = np.arange(1, len(row) + 1)
            marks = {"linestyle": "none", "markersize": 4.5, "markevery": max(1, len(row) // 24)}
            axes.plot(block, row, **style, **marks, label=name if i == 0 else None)
    for i, (low, high) in enumerate(band.values()):
        ink, block = mpl.rcParams["text.color"], np.arange(1, len(low) + 1)
        axes.fill_between(block, low, high, color=ink, alpha=0.15, linewidth=0, label=None if i else "finite width")
    draw_predictions(axes, (dict(enumerate(line, start=1)) for line in predicted.values()))
    axes.set(xlabel="block $l$")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _ends(measured: Mapping[str, Sequence[np.ndarray]], predicted: Mapping[str, np.ndarray]) -> str:
    """From first to last block, in words, for a text alternative."""
    said = "; ".join(
        f"{name} measured {range_words(list(rows))}"
        + (f", predicted {range_words([predicted[name]])}" if name in predicted else "")
        for name, rows in measured.items()
    )
    return f"From first block to last: {said}"


def _values(measured: Mapping[str, Statistics], quantity: str) -> dict[str, list[np.ndarray]]:
    """A quantity's arrays, one a network, by recipe."""
    listed = {name: [value] if isinstance(value, SignalStatistics) else value for name, value in measured.items()}
    return {name: [getattr(network, quantity) for network in networks] for name, networks in listed.items()}
