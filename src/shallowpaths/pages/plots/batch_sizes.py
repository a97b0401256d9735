"""Accuracy and learning rates against batch size, each at the rate chosen for it."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shallowpaths.experiments.records import (
    STABLE_ERROR,
    BestRate,
    Point,
    best_rate,
    final_train_loss,
    group_by,
    summarise,
    validation_error,
)
from shallowpaths.pages.plots.drawing import (
    CHANCE,
    CROSS,
    all_records,
    legend_below,
    legend_beside,
    log_axis_at,
    new_axes,
    panels_beside,
    predict,
    rate_words,
    style_of,
)
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.training.record import RunRecord

DASHES = ("-", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))  # "--" is the largest stable rate's
APART = 2**0.07  # the factor by which the marks of two recipes are moved apart, so that bars can be told apart
GUESSED = 10.0  # per cent of ten classes
RING = "ring: on the grid's edge"
Chosen = dict[str, dict[int, BestRate]]


def accuracy_by_batch_size(
    records: Iterable[RunRecord], *, predicted: Mapping[str, float] | None = None, stable_below: float = STABLE_ERROR
) -> BookFigure:
    """Test accuracy, and beside it the final training loss, against batch size; one colour a recipe.

    Both are those of the runs at the rate that the validation split chose, mean and standard deviation over their seeds. A ring
    is around a point whose rate lies on the grid's edge; a cross on the line of guessing is a batch size at which no rate trained.

    Args:
        predicted: by recipe, the batch size up to which accuracy shall not depend on it: a line at the mean of what was measured
            up to there.
        stable_below: as for `best_rate`, by validation error.

    Raises:
        ValueError: no record, one without a validation split, or settings other than recipe, batch size, rate and seed that differ.
    """
    runs = all_records(records)
    chosen = chosen_by_size(runs, lambda group: best_rate(group, validation_error, stable_below))
    points = _points(runs, chosen)
    sizes = sorted({r.config.batch_size for r in runs})

    def draw() -> Figure:
        figure, (accuracy, loss) = panels_beside(2, 9.4, 4.6)
        for place, (name, by_size) in enumerate(points.items()):
            spread = [100 * (p.accuracy_std or 0.0) for p in by_size.values()]
            values = [100 * p.accuracy for p in by_size.values()], [p.train_loss for p in by_size.values()]
            at = _moved(by_size, place, len(points))
            accuracy.errorbar(at, values[0], spread if any(spread) else None, **style_of(name), label=name, capsize=3)
            loss.plot(at, values[1], **style_of(name))
            for axes, heights in zip((accuracy, loss), values, strict=True):
                ring(axes, at, heights, [chosen[name][size] for size in by_size], style_of(name)["color"])
            if failed := [size for size in chosen[name] if size not in by_size]:
                look = style_of(name) | CROSS | {"linestyle": "none", "label": f"{name}: no rate trained"}
                accuracy.plot(_moved(failed, place, len(points)), [GUESSED] * len(failed), **look)
                accuracy.axhline(GUESSED, **CHANCE)
        for number, line in enumerate(_flat_lines(points, predicted or {})):
            predict(accuracy, *line, label=None if number else "predicted: the batch size does not matter")
        accuracy.set(ylabel="test accuracy, %")
        loss.set(ylabel="final training loss")
        for axes in (accuracy, loss):
            size_axis(axes, sizes)
        legend_below(figure, (accuracy, loss), 3)
        return figure

    said = "; ".join(
        f"{name} " + ", ".join(_accuracy_words(size, points[name].get(size), best) for size, best in by_size.items())
        for name, by_size in chosen.items()
    )
    return BookFigure(draw, f"Test accuracy and final training loss by batch size, at the rate chosen on the validation split. {said}.")


def rate_by_batch_size(
    records: Iterable[RunRecord],
    *,
    guessing: float,
    predicted: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    criterion: Callable[[RunRecord], float] = final_train_loss,
) -> BookFigure:
    """Best and largest stable effective learning rate against batch size, one colour a recipe.

    A bar spans the rates that are as good as the best, a ring is around a best rate that lies on the grid's edge.

    Args:
        guessing: what guessing has by the criterion, or less; a run that ends above it counts as unstable.
        predicted: batch sizes and the rates predicted for them, by recipe or by a label of your own.
        criterion: what chooses: `final_train_loss` or `validation_error`.
    """
    runs = all_records(records)
    best = chosen_by_size(runs, lambda group: best_rate(group, criterion, guessing))

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        bars = "rates as good"
        for place, (name, by_size) in enumerate(best.items()):
            chosen = {size: b for size, b in by_size.items() if b.effective_rate is not None}
            at, rates = _moved(chosen, place, len(best)), [b.between_rates for b in chosen.values()]
            axes.plot(at, rates, **style_of(name), label=f"{name}: best")
            ring(axes, at, rates, chosen.values(), style_of(name)["color"])
            if wide := [(x, *b.as_good) for x, b in zip(at, chosen.values(), strict=True) if b.as_good[0] < b.as_good[1]]:
                colour = style_of(name)["color"]
                axes.vlines(*zip(*wide, strict=True), color=colour, linewidth=4, alpha=0.4, label=bars)
                bars = None
            dashed = {"color": style_of(name)["color"], "marker": "_", "markersize": 12, "linestyle": "--"}
            axes.plot(at, [b.largest_stable for b in chosen.values()], **dashed, label=f"{name}: largest stable")
        for dash, (name, (sizes, rates)) in zip(itertools.cycle(DASHES), (predicted or {}).items(), strict=False):
            predict(axes, sizes, rates, label=f"{name}: best, predicted" if name in best else name, linestyle=dash)
        axes.set(ylabel="effective learning rate")
        if any(b.effective_rate is not None for by_size in best.values() for b in by_size.values()):
            axes.set_yscale("log", base=2)
        size_axis(axes, sorted({r.config.batch_size for r in runs}))
        legend_beside(axes)
        return figure

    said = "; ".join(
        f"{name} at batch {size}: best {rate_words(b.effective_rate)}{_range_words(b)}, largest stable {rate_words(b.largest_stable)}"
        for name, by_size in best.items()
        for size, b in by_size.items()
    )
    return BookFigure(draw, f"Effective learning rate by batch size. {said}.")


def chosen_by_size(runs: list[RunRecord], choose: Callable[[list[RunRecord]], BestRate]) -> Chosen:
    """What `choose` says of each recipe and batch size, from the smallest batch to the largest."""
    found: Chosen = {r.config.recipe: {} for r in runs}
    for (name, size), group in sorted(group_by(runs, "recipe", "batch_size").items(), key=lambda item: item[0][1]):
        found[name][size] = choose(group)
    return found


def _points(runs: list[RunRecord], chosen: Chosen) -> dict[str, dict[int, Point]]:
    """What the runs at each chosen rate say together; a batch size at which no rate trained has none."""
    groups = group_by(runs, "recipe", "batch_size", "effective_learning_rate")
    return {
        name: {size: summarise(groups[name, size, b.effective_rate]) for size, b in by_size.items() if b.effective_rate is not None}
        for name, by_size in chosen.items()
    }


def ring(axes: Axes, x: Iterable[float], y: Iterable[float], chosen: Iterable[BestRate], colour: str) -> None:
    """A ring around each point whose rate lies on the grid's edge: many recipes' own marks are hollow."""
    at = [(left, up) for left, up, best in zip(x, y, chosen, strict=True) if best.on_edge]
    if at:
        look = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "linestyle": "none", "color": colour}
        said = any(line.get_label() == RING for line in axes.get_lines())
        axes.plot(*zip(*at, strict=True), **look, label=None if said else RING)


def size_axis(axes: Axes, sizes: Iterable[int]) -> None:
    """A logarithmic axis of batch sizes, with a tick at each."""
    log_axis_at(axes, sizes, "batch size", base=2)


def _moved(sizes: Iterable[int], place: int, recipes: int) -> list[float]:
    """Where a recipe's marks stand, beside those of the others."""
    return [size * APART ** (place - (recipes - 1) / 2) for size in sizes]


def _flat_lines(points: dict[str, dict[int, Point]], predicted: Mapping[str, float]) -> Iterator[tuple[list[float], list[float]]]:
    """From the smallest batch to the predicted one, at the mean accuracy in between."""
    for name, border in predicted.items():
        level = [100 * p.accuracy for size, p in points.get(name, {}).items() if size <= border]
        if level:
            yield [min(points[name]), min(border, max(points[name]))], [sum(level) / len(level)] * 2


def _accuracy_words(size: int, point: Point | None, best: BestRate) -> str:
    if point is None:
        return f"at no rate at batch {size}"
    edge = ", on the grid's edge" if best.on_edge else ""
    spread = "" if point.accuracy_std is None else f" ± {100 * point.accuracy_std:.1f}"
    return f"{100 * point.accuracy:.1f}{spread} %, loss {point.train_loss:.3g} at batch {size} (rate {best.effective_rate:.3g}{edge})"


def _range_words(best: BestRate) -> str:
    """The rates that are as good, where they are several, and whether the best is on the edge."""
    if best.effective_rate is None:
        return ""
    low, high = best.as_good
    return (f" (as good {low:.3g} to {high:.3g})" if low < high else "") + (" on the grid's edge" if best.on_edge else "")
