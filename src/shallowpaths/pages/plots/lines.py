"""Any quantity against any other, where no figure of its own is worth its lines."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import NullLocator

from shallowpaths.pages.plots import drawing
from shallowpaths.pages.plots.figure import BookFigure, styled
from shallowpaths.theory.checks import one_of

Points = Mapping[float, float | Sequence[float]]
MANY = 12  # points of a line; of more than these a text alternative tells the ends and the range
TICKS = 8  # on a logarithmic axis of as many places at most each has its own
DECADES = 1e3  # of a vertical axis with plain numbers


@styled
def values_against(
    measured: Mapping[str, Points], predicted: Mapping[str, Mapping[float, float]], xlabel: str, ylabel: str, *,
    log: str = "", title: str = "", panels: bool = False,
) -> BookFigure:  # fmt: skip
    """Marks of each recipe's look for what was measured, and a dark line for each prediction.

    Args:
        measured: by recipe, {x: y}, in the order in which a line joins the marks; or {x: several y}, a mark for each. What
            follows a comma in a name, as in "batchnorm, seed 1", tells several of one recipe apart.
        predicted: by what the legend calls it, {x: y}; with panels by names as those of `measured`.
        log: the logarithmic axes, "", "x", "y" or "xy".
        panels: whether each recipe has a panel of its own, with its name as the title.

    Raises:
        ValueError: nothing was measured; other axes.
    """
    one_of("log", log, ("", "x", "y", "xy"))
    if not measured:
        raise ValueError("there is nothing measured to draw")
    recipes = list(dict.fromkeys(map(drawing.recipe_in, measured))) if panels else [""]
    figure, all_axes = drawing.new_axes(len(recipes), sharex=True)
    for axes, recipe in zip(all_axes, recipes, strict=True):
        for name, look in drawing.looks_of(n for n in measured if recipe in ("", drawing.recipe_in(n))).items():
            marks = [(x, y) for x, values in measured[name].items() for y in np.atleast_1d(values)]
            look |= {"markersize": 5, "label": _label(name, panels)}
            look |= {"linestyle": "none"} if any(map(np.ndim, measured[name].values())) else {}  # they are not joined
            axes.plot(*zip(*marks, strict=True), **look)
        for number, name in enumerate(n for n in predicted if recipe in ("", drawing.recipe_in(n))):
            dash = drawing.DASHES[number % len(drawing.DASHES)]
            drawing.predict(axes, predicted[name], label=_label(name, panels), linestyle=dash)
        axes.set(xlabel=xlabel, title=recipe or title, **{f"{axis}scale": "log" for axis in log})
    places = sorted({x for points in measured.values() for x in points})
    for axes in all_axes:
        low, high = axes.get_ylim()
        if "y" in log and high < DECADES * low:
            drawing.plain_log_ticks(axes)
        if "x" in log and len(places) <= TICKS:
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


def _label(name: str, short: bool) -> str:
    return name.partition(", ")[2] or name if short else name


def _words(item: tuple[str, Points]) -> str:
    """A line in words; of several values at one place, their mean."""
    name, means = item[0], {x: np.mean(y) for x, y in item[1].items()}
    told = list(means) if len(means) <= MANY else [min(means), max(means)]
    said = f"{name} " + ", ".join(f"{means[x]:.3g} at " + (f"{x:.4g}" if x % 1 else f"{x:g}") for x in told)
    return said if told == list(means) else f"{said}, all between {min(means.values()):.3g} and {max(means.values()):.3g}"
