"""The signal at initialization: variances, shares and whatever else goes block by block, and over how many branches it goes."""

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallowpaths.measure import SignalStatistics
from shallowpaths.pages.plots import drawing
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
    values, word = _values(measured, quantity), drawing.words(quantity)
    return values_by_block(values, predicted, _LABELS.get(quantity, word), word, band=band, log=log, title=title)


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
        figure, (axes,) = drawing.new_axes(1)
        _draw_by_block(axes, measured, predicted, band or {})
        axes.set(ylabel=label, title=title, yscale="log" if log else "linear")
        if len(measured) > 4:
            drawing.legend_beside(axes)
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
    values = {quantity: _values(measured, quantity) for quantity in quantities}
    lines = {q: {name: getattr(signal, q) for name, signal in predicted.items()} for q in quantities}

    def draw() -> Figure:
        figure, panels = drawing.new_axes(len(quantities), (4.2, 3.6), sharey=False)
        for axes, quantity in zip(panels, quantities, strict=True):
            _draw_by_block(axes, values[quantity], lines[quantity], {})
            axes.set(title=_LABELS.get(quantity, drawing.words(quantity)), yscale="log")
            if quantity.endswith("share"):
                drawing.plain_log_ticks(axes)
        panels[0].legend()
        return figure

    return BookFigure(draw, " ".join(f"{drawing.words(q)} by block: {_ends(values[q], lines[q])}." for q in quantities))


def path_lengths(
    measured: Mapping[str, Sequence[np.ndarray]],
    predicted: Mapping[str, np.ndarray],
    *,
    lengths: tuple[float, float] | None = None,
) -> BookFigure:
    """The share of the signal that paths of each length carry, a panel for each name, with the mean length in its title.

    Args:
        measured: shares of lengths 0, 1, ... (`PathSpectrum.shares`), one array a network; names as in `values_by_block`.
        predicted: the shares predicted (`theory.path_length_distribution`), by the same names.
        lengths: from where to where the horizontal axis of all panels goes; None shows in each panel where its
            shares are.
    """
    if not measured or set(measured) - set(predicted):
        raise ValueError(f"each name needs what was measured and a prediction: not {list(measured)} and {list(predicted)}")
    means = {name: (_mean_length([predicted[name]]), _mean_length(rows)) for name, rows in measured.items()}

    def draw() -> Figure:
        figure, panels = drawing.new_axes(len(measured), sharey=False)
        for axes, (name, networks) in zip(panels, measured.items(), strict=True):
            look = drawing.style_of(drawing.recipe_in(name)) | {"linestyle": "none", "markersize": 4}
            for number, shares in enumerate(networks):
                axes.plot(np.arange(len(shares)), shares, **look, label=None if number else "measured")
            drawing.predict(axes, dict(enumerate(predicted[name])), label="predicted")
            axes.set(xlim=lengths or _where_it_matters([predicted[name], *networks]))
            drawing.whole_numbers(axes, "branches taken")
            axes.set_title(f"{name}: mean {means[name][1]:.3g}", fontsize=11)
        panels[0].set_ylabel("share of the signal")
        drawing.legend_below(figure, panels, 2)
        return figure

    said = "; ".join(f"{name} measured {seen:.3g}, predicted {wanted:.3g}" for name, (wanted, seen) in means.items())
    return BookFigure(draw, f"Share of the signal by path length. Mean length: {said}.")


_QUANTITIES = tuple(f.name for f in dataclasses.fields(SignalStatistics) if f.name != "channels")
_LABELS = {
    "skip_variance": r"skip variance $\mathrm{Var}(x^l)$",
    "branch_variance": r"branch variance $\mathrm{Var}(f_l)$",
    "skip_second_moment": r"second moment of $x^l$",
    "output_second_moment": r"second moment of $x^{l+1}$",
}


def _draw_by_block(
    axes: Axes, measured: Mapping[str, Sequence[np.ndarray]], predicted: Mapping[str, np.ndarray], band: Bands
) -> None:
    for name, look in drawing.looks_of(measured).items():
        for i, row in enumerate(measured[name]):
            marks = {"linestyle": "none", "markersize": 4.5, "markevery": max(1, len(row) // 24)}
            drawing.draw(axes, dict(enumerate(row, start=1)), **look | marks, label=None if i else name)
    for i, (low, high) in enumerate(band.values()):
        ink, block = mpl.rcParams["text.color"], np.arange(1, len(low) + 1)
        axes.fill_between(block, low, high, color=ink, alpha=0.15, linewidth=0, label=None if i else "finite width")
    for i, line in enumerate(predicted.values()):
        drawing.predict(axes, dict(enumerate(line, start=1)), label=None if i else "predicted")
    drawing.whole_numbers(axes, "block $l$")


def _ends(measured: Mapping[str, Sequence[np.ndarray]], predicted: Mapping[str, np.ndarray]) -> str:
    """From first to last block, of up to three networks, in words, for a text alternative."""
    told = {name: " and ".join(f"{row[0]:.3g} to {row[-1]:.3g}" for row in list(rows)[:3]) for name, rows in measured.items()}
    lines = {name: f", predicted {line[0]:.3g} to {line[-1]:.3g}" for name, line in predicted.items()}
    return "From first block to last: " + "; ".join(f"{name} measured {told[name]}" + lines.get(name, "") for name in told)


def _values(measured: Mapping[str, Statistics], quantity: str) -> dict[str, list[np.ndarray]]:
    """A quantity's arrays, one a network, by recipe."""
    one_of("quantity", quantity, _QUANTITIES)
    listed = {name: [value] if isinstance(value, SignalStatistics) else value for name, value in measured.items()}
    return {name: [getattr(network, quantity) for network in networks] for name, networks in listed.items()}


def _mean_length(spectra: Sequence[np.ndarray]) -> float:
    """Mean path length of some spectra's average; shares that were cut off at the end are left out."""
    return float(np.mean([np.arange(len(shares)) @ shares / np.sum(shares) for shares in spectra]))


def _where_it_matters(spectra: Sequence[np.ndarray]) -> tuple[float, float]:
    """The lengths at which a spectrum has more than a hundredth of its largest share, with room beside them."""
    carrying = np.concatenate([np.flatnonzero(shares > 0.01 * np.max(shares)) for shares in spectra])
    return max(carrying.min() - 1.5, -0.5), max(carrying.max() + 1.5, 3.5)
