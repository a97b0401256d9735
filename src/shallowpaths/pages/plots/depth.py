"""How deep, at which rate: what trains, beside what theory or the paper says."""

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallowpaths.experiments.paper import trains
from shallowpaths.experiments.records import by_rate, group_by, summarise
from shallowpaths.pages.plots.drawing import CROSS, all_records, legend_below, log_axis_at, new_axes, predict, style_of
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.training.record import RunRecord

Lines = Mapping[str, Mapping[str, Mapping[int, float]]]


def trainability_map(records: Iterable[RunRecord], predicted: Lines) -> BookFigure:
    """Depth against effective learning rate, a panel a recipe: filled marks train, hollow ones do not, crosses diverged.

    Args:
        predicted: by recipe and by what it says, the rate by depth up to which theory expects a network to train. A recipe
            without a line is one of which theory says no such rate.
    """
    runs = all_records(records)
    groups = {name: group for (name,), group in group_by(runs, "recipe").items()}
    depths = sorted({r.config.depth for r in runs})
    rates = sorted({r.config.effective_learning_rate for r in runs})

    def draw() -> Figure:
        figure, panels = new_axes(len(groups))
        for axes, (name, group) in zip(panels, groups.items(), strict=True):
            for kind, look in marks_of_outcomes(name).items():
                if at := [(r.config.depth, r.config.effective_learning_rate) for r in group if outcome_of(r) == kind]:
                    axes.plot(*zip(*at, strict=True), **look, linestyle="none", label=kind)
            for dash, (label, line) in zip(("-", "--"), predicted.get(name, {}).items(), strict=False):
                predict(axes, list(line), list(line.values()), label=label, linestyle=dash)
            axes.set(title=name, ylim=(rates[0] / 1.5, rates[-1] * 1.5))
            axes.set_yscale("log", base=2)
            log_axis_at(axes, depths, "depth $n$")
        legend_below(figure, panels, 5)
        figure.supylabel("effective learning rate", size=mpl.rcParams["axes.labelsize"])
        return figure

    return BookFigure(draw, f"What trains, by depth and learning rate. {'; '.join(map(_edges, groups, groups.values()))}.")


def accuracy_by_rate(records: Iterable[RunRecord], working: Mapping[tuple[str, int], tuple[float, float]]) -> BookFigure:
    """Test accuracy against the effective learning rate, a panel for each depth, one line a recipe; crosses on the floor diverged.

    Args:
        records: of several seeds, their mean is drawn. A recipe without L2 penalty has a line of its own, dashed.
        working: the rates from lowest to highest that are as good as the best according to the paper, by (recipe, depth), drawn
            as a thin dark bar under the floor beside the recipe's mark.
    """
    groups = group_by(all_records(records), "depth", "recipe", "l2")
    depths = sorted({depth for depth, *_ in groups})

    def draw() -> Figure:
        figure, panels = new_axes(len(depths))
        for axes, depth in zip(panels, depths, strict=True):
            mine = {(name, l2): group for (n, name, l2), group in groups.items() if n == depth}
            for (name, l2), group in mine.items():
                _accuracies(axes, name, l2, group)
            rows = [name for name in dict.fromkeys(name for name, _ in mine) if (name, depth) in working]
            for row, name in enumerate(rows):
                ends, height = working[name, depth], (-6 - 5 * row,) * 2
                predict(axes, ends, height, label="as good in the paper" if row == 0 else None)
                axes.plot(ends, height, **style_of(name) | {"markersize": 4, "linestyle": "none"})
            axes.axhline(10, color=mpl.rcParams["text.color"], linewidth=1, linestyle=":", label="guessing")
            axes.set(title=f"{depth} layers", xlabel="effective learning rate")
            axes.set_xscale("log", base=2)
        panels[0].set(ylabel="test accuracy, %", yticks=range(0, 101, 20))
        legend_below(figure, panels, 3)
        figure.set_size_inches(9.4, 5.4)
        return figure

    said = "; ".join(
        f"{name}{'' if l2 else ' without L2'} at {depth} layers "
        + ", ".join(f"{_percent(runs)} at {rate:.3g}" for rate, runs in by_rate(group).items())
        for (depth, name, l2), group in groups.items()
    )
    return BookFigure(draw, f"Test accuracy by effective learning rate. {said}.")


def outcome_of(record: RunRecord) -> str:
    """"trains", "does not train" or "diverged"."""
    return "diverged" if record.outcome == "diverged" else "trains" if trains(record) else "does not train"


def marks_of_outcomes(recipe: str) -> dict[str, dict[str, Any]]:
    """How each outcome is drawn, as arguments of matplotlib's `plot`."""
    style = style_of(recipe) | {"markersize": 6}
    return {
        "trains": style | {"markerfacecolor": style["color"]},
        "does not train": style | {"markerfacecolor": "none"},
        "diverged": style | CROSS | {"markersize": 5, "markeredgewidth": 1.2},
    }


def _accuracies(axes: Axes, name: str, l2: float, group: list[RunRecord]) -> None:
    """One line, and its crosses."""
    points = {rate: summarise(runs).accuracy for rate, runs in by_rate(group).items()}
    trained = {rate: 100 * accuracy for rate, accuracy in points.items() if accuracy is not None}
    dash = {} if l2 else {"linestyle": "--", "markerfacecolor": "none"}
    label = name if l2 else f"{name}, no L2"
    axes.plot(list(trained), list(trained.values()), **style_of(name) | {"markersize": 5} | dash, label=label)
    failed = [rate for rate, accuracy in points.items() if accuracy is None]
    if failed:
        axes.plot(failed, [0] * len(failed), **style_of(name) | CROSS | {"markersize": 7}, linestyle="none")


def _percent(runs: list[RunRecord]) -> str:
    accuracy = summarise(runs).accuracy
    return "diverged" if accuracy is None else f"{100 * accuracy:.1f} %"


def _edges(name: str, group: list[RunRecord]) -> str:
    """Up to which rate a recipe trains at each depth, in words."""
    said = []
    for (depth,), runs in sorted(group_by(group, "depth").items()):
        rates = [r.config.effective_learning_rate for r in runs if trains(r)]
        said.append(f"at depth {depth} " + (f"up to {max(rates):.3g}" if rates else "at no rate"))
    return f"{name} trains {', '.join(said)}"
