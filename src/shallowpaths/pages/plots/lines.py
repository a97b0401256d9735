"""Any quantity against any other, where no figure of its own is worth its lines."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from shallowpaths.pages.plots.drawing import legend_beside, new_axes, predict, style_of
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.theory.checks import one_of

DASHES = ("-", "--", "-.", ":")


def values_against(
    measured: Mapping[str, Mapping[float, float]],
    predicted: Mapping[str, Mapping[float, float]],
    xlabel: str,
    ylabel: str,
    *,
    log: str = "",
    title: str = "",
) -> BookFigure:
    """Marks of each recipe's look for what was measured, joined by its line, and a dark line for each prediction.

    Args:
        measured: by recipe, {x: y}, in the order in which the marks are joined. What follows a comma in a name, as in
            "batchnorm, seed 1", tells several of one recipe apart.
        predicted: by what the legend calls it, {x: y}.
        log: the logarithmic axes, "", "x", "y" or "xy".

    Raises:
        ValueError: nothing was measured; other axes.
    """
    one_of("log", log, ("", "x", "y", "xy"))
    if not measured:
        raise ValueError("there is nothing measured to draw")

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        seen: dict[str, int] = {}
        for name, points in measured.items():
            recipe = name.partition(",")[0]
            dash = DASHES[seen.setdefault(recipe, 0) % len(DASHES)]
            seen[recipe] += 1
            axes.plot(list(points), list(points.values()), **style_of(recipe) | {"markersize": 5, "linestyle": dash}, label=name)
        for number, (label, line) in enumerate(predicted.items()):
            predict(axes, list(line), list(line.values()), label=label, linestyle=DASHES[number % len(DASHES)])
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        axes.set(**{f"{axis}scale": "log" for axis in log})
        ticks = sorted({x for points in measured.values() for x in points})
        if "x" in log and len(ticks) < 9:
            axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
            axes.minorticks_off()
        legend_beside(axes)
        return figure

    groups = {"measured": measured, "predicted": predicted}
    said = ". ".join(f"{word}: {_words(lines)}" for word, lines in groups.items() if lines)
    return BookFigure(draw, f"{ylabel} against {xlabel}. {said}.")


def _words(lines: Mapping[str, Mapping[float, float]]) -> str:
    return "; ".join(f"{name} " + ", ".join(f"{y:.3g} at {x:g}" for x, y in points.items()) for name, points in lines.items())
