"""Any quantity against any other, where no figure of its own is worth its lines."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from shallowpaths.pages.plots import drawing
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.theory.checks import one_of


def values_against(
    measured: Mapping[str, Mapping[float, float | Sequence[float]]],
    predicted: Mapping[str, Mapping[float, float]],
    xlabel: str,
    ylabel: str,
    *,
    log: str = "",
    title: str = "",
) -> BookFigure:
    """Marks of each recipe's look for what was measured, and a dark line for each prediction.

    Args:
        measured: by recipe, {x: y}, in the order in which a line joins the marks; or {x: several y}, a mark for each. What
            follows a comma in a name, as in "batchnorm, seed 1", tells several of one recipe apart.
        predicted: by what the legend calls it, {x: y}.
        log: the logarithmic axes, "", "x", "y" or "xy".

    Raises:
        ValueError: nothing was measured; other axes.
    """
    one_of("log", log, ("", "x", "y", "xy"))
    if not measured:
        raise ValueError("there is nothing measured to draw")
    listed = {name: {x: np.atleast_1d(y) for x, y in points.items()} for name, points in measured.items()}

    def draw() -> Figure:
        figure, (axes,) = drawing.new_axes(1)
        for name, look in drawing.looks_of(listed).items():
            marks = [(x, y) for x, values in listed[name].items() for y in values]
            unjoined = {"linestyle": "none"} if any(map(np.ndim, measured[name].values())) else {}
            axes.plot(*zip(*marks, strict=True), **look | {"markersize": 5} | unjoined, label=name)
        for number, (label, line) in enumerate(predicted.items()):
            drawing.predict(axes, line, label=label, linestyle=drawing.DASHES[number % len(drawing.DASHES)])
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        axes.set(**{f"{axis}scale": "log" for axis in log})
        ticks = sorted({x for points in measured.values() for x in points})
        if "x" in log and len(ticks) < 9:
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
        drawing.legend_beside(axes)
        return figure

    means = {name: {x: np.mean(y) for x, y in points.items()} for name, points in listed.items()}
    groups = {"measured": means, "predicted": predicted}
    said = ". ".join(f"{word}: {_words(lines)}" for word, lines in groups.items() if lines)
    return BookFigure(draw, f"{ylabel} against {xlabel}. {said}.")


def _words(lines: Mapping[str, Mapping[float, float]]) -> str:
    return "; ".join(f"{name} " + ", ".join(f"{y:.3g} at {x:g}" for x, y in points.items()) for name, points in lines.items())
