"""What a larger batch saves: steps, and with many devices time."""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from shallowpaths.experiments.records import BestRate, fewest_steps, group_by, seconds_per_step
from shallowpaths.pages.plots.batch_sizes import DASHES, chosen_by_size, ring, size_axis
from shallowpaths.pages.plots.drawing import (
    all_records,
    check_predicted,
    legend_below,
    legend_beside,
    new_axes,
    plain_log_ticks,
    predict,
    style_of,
)
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.theory import parallel_seconds
from shallowpaths.training.record import RunRecord


def steps_by_batch_size(records: Iterable[RunRecord], loss: float) -> BookFigure:
    """The fewest steps over all rates that bring the training loss down to `loss`, against batch size; one colour a recipe.

    Beside it what perfect scaling would be: from the smallest batch on, half the steps for twice the batch. A ring is around a
    point whose rate lies on the grid's edge; a batch size at which no rate gets there has no point.
    """
    runs = all_records(records)
    fewest = chosen_by_size(runs, lambda group: fewest_steps(group, loss))
    reached = {name: _reached(by_size) for name, by_size in fewest.items()}

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        label = "perfect scaling"
        for name, steps in reached.items():
            sizes = list(steps)
            axes.plot(sizes, list(steps.values()), **style_of(name), label=name)
            ring(axes, sizes, steps.values(), [fewest[name][size] for size in sizes], style_of(name)["color"])
            if steps:
                predict(axes, sizes, steps[sizes[0]] * sizes[0] / np.array(sizes), label=label)
                label = None
        axes.set(ylabel=f"steps to a training loss of {loss:g}")
        if any(reached.values()):
            plain_log_ticks(axes)
        size_axis(axes, sorted({r.config.batch_size for r in runs}))
        legend_beside(axes)
        return figure

    said = "; ".join(
        f"{name} " + ", ".join(f"{steps:.3g} at batch {size}" for size, steps in by_size.items()) if by_size else f"{name} never"
        for name, by_size in reached.items()
    )
    return BookFigure(draw, f"Steps to a training loss of {loss:g} by batch size. {said}.")


def time_by_devices(
    records: Iterable[RunRecord], loss: float, *, devices: Sequence[int], costs: Mapping[str, tuple[float, float]]
) -> BookFigure:
    """Wall time to a training loss of `loss` against batch size, a panel a recipe: marks as measured on one device, lines modelled.

    Each is at the rate that takes the fewest steps.

    Args:
        devices: how many devices the lines are for; see `theory.parallel_seconds` for what is assumed of them.
        costs: by recipe, seconds per image and seconds per step, as `step_costs` finds them.

    Raises:
        ValueError: no record, or a recipe without costs.
    """
    runs = all_records(records)
    fewest = chosen_by_size(runs, lambda group: fewest_steps(group, loss))
    reached = {name: _reached(by_size) for name, by_size in fewest.items()}
    check_predicted(reached, costs)
    measured = {name: _seconds(runs, name, by_size) for name, by_size in fewest.items()}

    def draw() -> Figure:
        figure, panels = new_axes(len(reached))
        for axes, (name, steps) in zip(panels, reached.items(), strict=True):
            for dash, count in zip(itertools.cycle(DASHES), devices, strict=False):
                seconds = parallel_seconds(list(steps.values()), list(steps), count, *costs[name])
                predict(axes, list(steps), seconds, label=f"{count} device{'s' * (count > 1)}, modelled", linestyle=dash)
            marks = style_of(name) | {"linestyle": "none", "label": f"{name}: measured"}
            axes.plot(list(measured[name]), list(measured[name].values()), **marks)
            axes.set_title(name)
            if steps:
                plain_log_ticks(axes)
            size_axis(axes, sorted({r.config.batch_size for r in runs}))
        figure.supylabel(f"seconds to a training loss of {loss:g}", size=mpl.rcParams["axes.labelsize"])
        legend_below(figure, panels, 3)
        return figure

    said = "; ".join(
        f"{name} at batch {size}: {measured[name][size]:.3g} measured, modelled "
        + ", ".join(f"{parallel_seconds(count, size, n, *costs[name]):.3g} on {n}" for n in devices)
        for name, steps in reached.items()
        for size, count in steps.items()
    )
    return BookFigure(draw, f"Seconds to a training loss of {loss:g} by batch size and number of devices. {said or 'never reached'}.")


def _reached(by_size: dict[int, BestRate]) -> dict[int, float]:
    """The steps at each batch size at which some rate gets there."""
    return {size: b.loss for size, b in by_size.items() if b.effective_rate is not None}


def _seconds(runs: list[RunRecord], name: str, fewest: dict[int, BestRate]) -> dict[int, float]:
    """The wall time that the fewest steps took on the one device of the records."""
    groups = group_by(runs, "recipe", "batch_size", "effective_learning_rate")
    return {
        size: steps * statistics.fmean(map(seconds_per_step, groups[name, size, fewest[size].effective_rate]))
        for size, steps in _reached(fewest).items()
    }
