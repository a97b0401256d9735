"""What a network does at initialization, block by block and by path length; and any quantity against any other."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from shallowpaths.measure import Inspection, SignalStatistics
from shallowpaths.pages.plots import drawing
from shallowpaths.pages.plots.drawing import BookFigure, looks_of, new_axes, predict, recipe_in, style_of, styled
from shallowpaths.theory import Signal
from shallowpaths.theory.checks import one_of

Measured = Mapping[str, SignalStatistics | Sequence[SignalStatistics]]  # by recipe, of one network or of several
Bands = Mapping[str, tuple[np.ndarray, np.ndarray]]
Lines = Mapping[str, np.ndarray]
Rows = Mapping[str, Sequence[np.ndarray]]
Points = Mapping[float, float | Sequence[float]]
MANY = 12  # points of a line; of more than these a text alternative tells the ends and the range

_KINDS = ("variance", "squared_mean", "second_moment")
_QUANTITIES = (*(f"{part}_{kind}" for part in ("skip", "branch", "output") for kind in _KINDS), "branch_share")
_LABELS = {
    "skip_variance": r"skip variance $\mathrm{Var}(x^l)$",
    "branch_variance": r"branch variance $\mathrm{Var}(f_l)$",
    "skip_second_moment": r"second moment of $x^l$",
    "output_second_moment": r"second moment of $x^{l+1}$",
}


def signal_by_block(measured: Measured, predicted: Lines, quantity: str = "skip_variance", **more: Any) -> BookFigure:
    """A quantity of SignalStatistics, one network or several a recipe, against the block's index l, and its prediction.

    predicted, more: as in `values_by_block`. A ValueError lists the quantities.
    """
    values, word = _values(measured, quantity), quantity.replace("_", " ")
    return values_by_block(values, predicted, _LABELS.get(quantity, word), word, **more)


@styled
def values_by_block(
    measured: Rows, predicted: Lines, label: str, words: str = "", *,
    band: Bands | None = None, log: bool = True, title: str = "",
) -> BookFigure:  # fmt: skip
    """Any quantity against the block's index l, measured (one mark a network) and predicted.

    measured: an array of shape [d] for each network, or that of a single one, by recipe; what follows a comma in a name
    tells groups of one recipe apart, as in "batchnorm, ReLU". predicted: for l = 1 .. d, by the same names; band: lower
    and upper edge of what a finite width gives. label: of the axis, logarithmic if `log`; words: the same in words.
    """
    measured = {name: np.atleast_2d(rows) for name, rows in measured.items()}
    figure, (axes,) = new_axes(1)
    said = _draw_by_block(axes, measured, predicted, band or {})
    axes.set(ylabel=label, title=title, yscale="log" if log else "linear")
    if len(measured) > 4:
        drawing.legend_beside(axes)
    else:
        axes.legend()
    return BookFigure(figure, f"{words or label} by block. {said}.")


@styled
def signal_panels(
    measured: Measured, predicted: Mapping[str, Signal], quantities: Sequence[str] = ("skip_variance", "branch_share")
) -> BookFigure:
    """Quantities of both SignalStatistics and Signal against the block's index l, side by side; arguments by recipe."""
    figure, panels = new_axes(len(quantities), (4.2, 3.6), sharey=False)
    said = []
    for axes, quantity in zip(panels, quantities, strict=True):
        values, word = _values(measured, quantity), quantity.replace("_", " ")
        lines = {name: getattr(signal, quantity) for name, signal in predicted.items()}
        said.append(f"{word} by block: {_draw_by_block(axes, values, lines, {})}.")
        axes.set(title=_LABELS.get(quantity, word), yscale="log")
        if quantity.endswith("share"):
            drawing.plain_log_ticks(axes)
    panels[0].legend()
    return BookFigure(figure, " ".join(said))


@styled
def values_against(
    measured: Mapping[str, Points], predicted: Mapping[str, Mapping[float, float]], xlabel: str, ylabel: str, *,
    log: str = "", title: str = "", panels: bool = False,
) -> BookFigure:  # fmt: skip
    """Marks of each recipe's look for what was measured, and a dark line for each prediction.

    measured: by recipe (and more after a comma, as in "batchnorm, seed 1"), {x: y}, in the order in which a line joins
    the marks; or {x: several y}, a mark for each. predicted: by what the legend calls it, {x: y}; with panels, one for
    each recipe, by names as those of `measured`. log: the logarithmic axes, "", "x", "y" or "xy". A ValueError for
    others, and where nothing was measured.
    """
    one_of("log", log, ("", "x", "y", "xy"))
    if not measured:
        raise ValueError("there is nothing measured to draw")
    recipes = list(dict.fromkeys(map(recipe_in, measured))) if panels else [""]
    short = (lambda name: name.partition(", ")[2] or name) if panels else str
    figure, all_axes = new_axes(len(recipes), sharex=True)
    for axes, recipe in zip(all_axes, recipes, strict=True):
        for name, look in looks_of(n for n in measured if recipe in ("", recipe_in(n))).items():
            marks = [(x, y) for x, values in measured[name].items() for y in np.atleast_1d(values)]
            look |= {"linestyle": "none"} if any(map(np.ndim, measured[name].values())) else {}  # they are not joined
            axes.plot(*zip(*marks, strict=True), **look | {"markersize": 5}, label=short(name))
        for number, name in enumerate(n for n in predicted if recipe in ("", recipe_in(n))):
            dash = drawing.DASHES[number % len(drawing.DASHES)]
            predict(axes, predicted[name], label=short(name), linestyle=dash)
        axes.set(xlabel=xlabel, title=recipe or title, **{f"{axis}scale": "log" for axis in log})
    places = sorted({x for points in measured.values() for x in points})
    for axes in all_axes:
        if "y" in log:
            drawing.plain_log_ticks(axes)
        if "x" in log and len(places) <= 8:  # few enough for a tick each
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.xaxis.set_minor_locator(NullLocator())
    all_axes[0].set_ylabel(ylabel)
    if panels:
        drawing.legend_below(figure, all_axes, 3)
    else:
        drawing.legend_beside(all_axes[0])
    groups = {"measured": measured, "predicted": predicted}
    said = ". ".join(f"{word}: {'; '.join(map(_words, lines.items()))}" for word, lines in groups.items() if lines)
    return BookFigure(figure, f"{ylabel} against {xlabel}. {said}.")


@styled
def path_lengths(measured: Rows, predicted: Lines, *, lengths: tuple[float, float] | None = None) -> BookFigure:
    """The share of the signal that paths of each length carry, a panel for each name, with the mean length in its title.

    measured: shares of lengths 0, 1, ... (`PathSpectrum.shares`), an array a network, by names as in `values_by_block`;
    each needs a prediction (`theory.path_length_distribution`), else a ValueError. lengths: from where to where all
    horizontal axes go; None shows in each panel those with more than a hundredth of the largest share.
    """
    if not measured or set(measured) - set(predicted):
        raise ValueError(f"each name needs what was measured and a prediction: not {list(measured)} and {list(predicted)}")
    means = {name: (mean_length([predicted[name]]), mean_length(rows)) for name, rows in measured.items()}
    figure, panels = new_axes(len(measured), sharey=False)
    for axes, (name, networks) in zip(panels, measured.items(), strict=True):
        look = style_of(recipe_in(name)) | {"linestyle": "none", "markersize": 4}
        for number, shares in enumerate(networks):
            axes.plot(np.arange(len(shares)), shares, **look, label=None if number else "measured")
        predict(axes, dict(enumerate(predicted[name])), label="predicted")
        carrying = np.concatenate([np.flatnonzero(line > 0.01 * np.max(line)) for line in (predicted[name], *networks)])
        axes.set(xlim=lengths or (max(carrying.min() - 1.5, -0.5), max(carrying.max() + 1.5, 3.5)))
        drawing.whole_numbers(axes, "branches taken")
        axes.set_title(f"{name}: mean {means[name][1]:.3g}", fontsize=11)
    panels[0].set_ylabel("share of the signal")
    drawing.legend_below(figure, panels, 2)
    said = "; ".join(f"{name} measured {seen:.3g}, predicted {wanted:.3g}" for name, (wanted, seen) in means.items())
    return BookFigure(figure, f"Share of the signal by path length. Mean length: {said}.")


@styled
def inspection(found: Inspection) -> BookFigure:
    """Variances on the skip path and at the end of the branch, and the branch share beside 1/(l+1) and 1/2, by block."""
    blocks, at = found.blocks, range(1, len(found.blocks) + 1)
    figure, (signal, share) = new_axes(2, (4.2, 3.6), sharey=False)
    marks = {"linestyle": "none", "markersize": 4.5}
    signal.plot(at, [b.skip_variance for b in blocks], **style_of("skip path") | marks, label="skip path")
    signal.plot(at, [b.branch_variance for b in blocks], **style_of("branch") | marks, label="branch")
    share.plot(at, [b.branch_share for b in blocks], **style_of("branch") | marks, label="measured")
    predict(share, dict(zip(at, (b.predicted_share for b in blocks), strict=True)), label="$1/(l+1)$")
    predict(share, dict.fromkeys(at, 0.5), label="1/2", linestyle=":")
    signal.set(title="variance")
    share.set(title="branch share")
    for axes in (signal, share):
        drawing.plain_log_ticks(axes)
        drawing.whole_numbers(axes, "residual addition")
        axes.legend()
    first, last = blocks[0], blocks[-1]
    said = (
        f"Variances and branch shares at the {len(blocks)} residual additions of {found.network} in {found.mode} mode,"
        f" weights {found.weights}. From first to last, skip variance {first.skip_variance:.3g} to"
        f" {last.skip_variance:.3g}, branch share {first.branch_share:.3g} to {last.branch_share:.3g}, predicted"
        f" {first.predicted_share:.3g} to {last.predicted_share:.3g}. Verdict: {found.verdict}."
    )
    return BookFigure(figure, said)


def _draw_by_block(axes: Axes, measured: Rows, predicted: Lines, band: Bands) -> str:
    """Draw it, and say its first and last block, of up to three networks, for a text alternative."""
    for name, look in looks_of(measured).items():
        for i, row in enumerate(measured[name]):
            marks = {"linestyle": "none", "markersize": 4.5, "markevery": max(1, len(row) // 24)}
            drawing.draw(axes, dict(enumerate(row, start=1)), **look | marks, label=None if i else name)
    for i, (low, high) in enumerate(band.values()):
        ink, block = mpl.rcParams["text.color"], np.arange(1, len(low) + 1)
        axes.fill_between(block, low, high, color=ink, alpha=0.15, linewidth=0, label=None if i else "finite width")
    for i, line in enumerate(predicted.values()):
        predict(axes, dict(enumerate(line, start=1)), label=None if i else "predicted")
    drawing.whole_numbers(axes, "block $l$")
    told = {name: " and ".join(f"{row[0]:.3g} to {row[-1]:.3g}" for row in list(rows)[:3]) for name, rows in measured.items()}
    lines = {name: f", predicted {line[0]:.3g} to {line[-1]:.3g}" for name, line in predicted.items()}
    return "From first block to last: " + "; ".join(f"{name} measured {told[name]}" + lines.get(name, "") for name in told)


def _values(measured: Measured, quantity: str) -> dict[str, list[np.ndarray]]:
    """A quantity's arrays, one a network, by recipe."""
    one_of("quantity", quantity, _QUANTITIES)
    listed = {name: [value] if isinstance(value, SignalStatistics) else value for name, value in measured.items()}
    return {name: [getattr(network, quantity) for network in networks] for name, networks in listed.items()}


def mean_length(spectra: Sequence[np.ndarray]) -> float:
    """Mean path length of some spectra's average; shares that were cut off at the end are left out."""
    return float(np.mean([np.arange(len(shares)) @ shares / np.sum(shares) for shares in spectra]))


def _words(item: tuple[str, Points]) -> str:
    """A line in words; of several values at one place, their mean."""
    name, means = item[0], {x: np.mean(y) for x, y in item[1].items()}
    told = list(means) if len(means) <= MANY else [min(means), max(means)]
    said = f"{name} " + ", ".join(f"{means[x]:.3g} at " + (f"{x:.4g}" if x % 1 else f"{x:g}") for x in told)
    return said if told == list(means) else f"{said}, all between {min(means.values()):.3g} and {max(means.values()):.3g}"
