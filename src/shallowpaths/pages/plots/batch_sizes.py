"""Accuracy and learning rates against batch size, each at the rate chosen for it."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from shallowpaths.experiments import records as experiments
from shallowpaths.experiments.records import STABLE_ERROR, BestRate, Point, best_rate, final_train_loss, group_by
from shallowpaths.pages.plots import drawing
from shallowpaths.pages.plots.drawing import CROSS, GUESSED, BookFigure, predict, rate_words, style_of, styled
from shallowpaths.training.record import RunRecord

DASHES = ("-", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))  # "--" is the largest stable rate's
APART = 2**0.07  # the factor by which the marks of two recipes are moved apart, so that bars can be told apart
RING = "ring: on the grid's edge"


@styled
def accuracy_by_batch_size(records: Iterable[RunRecord], *, predicted: Mapping[str, float] | None = None) -> BookFigure:
    """Test accuracy, and beside it the final training loss, against batch size; one colour a recipe.

    Both are those of the runs at the rate that the validation split chose, mean and standard deviation over seeds. A
    ring is around a point whose rate lies on the grid's edge; a cross on the line of guessing, where no rate trained. A
    ValueError where a record has no validation split, or more than recipe, batch size, rate and seed differ.
    predicted: by recipe, the batch size up to which accuracy shall not depend on it: a line at the mean up to there.
    """
    runs = drawing.all_records(records)
    chosen = _chosen_by_size(runs, experiments.validation_error, STABLE_ERROR)
    groups = group_by(runs, "recipe", "batch_size", "effective_learning_rate")
    points = {  # as_good is None where no rate trained
        name: {n: experiments.summarise(groups[name, n, b.effective_rate]) for n, b in by_size.items() if b.as_good}
        for name, by_size in chosen.items()
    }
    figure, (accuracy, loss) = drawing.new_axes(2, (4.7, 4.6), sharey=False)
    for place, (name, at_size) in enumerate(points.items()):
        at, best = _moved(at_size, place, len(points)), [chosen[name][size] for size in at_size]
        drawing.accuracies_with_spread(accuracy, name, at_size, at)
        loss.plot(at, losses := [p.train_loss for p in at_size.values()], **style_of(name))
        _ring(accuracy, name, at, [100 * p.accuracy for p in at_size.values()], best)
        _ring(loss, name, at, losses, best)
        if failed := [size for size in chosen[name] if size not in at_size]:
            look = style_of(name) | CROSS | {"linestyle": "none", "label": f"{name}: no rate trained"}
            accuracy.plot(_moved(failed, place, len(points)), [GUESSED] * len(failed), **look)
            drawing.draw_guessing(accuracy, GUESSED)
    for name, border in (predicted or {}).items():
        mine = points.get(name, {})
        if level := [100 * p.accuracy for size, p in mine.items() if size <= border]:
            line = dict.fromkeys((min(mine), min(border, max(mine))), sum(level) / len(level))
            predict(accuracy, line, label=_once(accuracy, "predicted: the batch size does not matter"))
    for axes, label in ((accuracy, "test accuracy, %"), (loss, "final training loss")):
        axes.set(ylabel=label)
        drawing.log_axis_at(axes, sorted({r.config.batch_size for r in runs}), "batch size", base=2)
    drawing.legend_below(figure, (accuracy, loss), 3)
    said = "; ".join(
        f"{name} " + ", ".join(_accuracy_words(size, points[name].get(size), best) for size, best in by_size.items())
        for name, by_size in chosen.items()
    )
    start = "Test accuracy and final training loss by batch size, at the rate chosen on the validation split."
    return BookFigure(figure, f"{start} {said}.")


@styled
def rate_by_batch_size(
    records: Iterable[RunRecord], *, guessing: float, criterion: Callable[[RunRecord], float] = final_train_loss,
    predicted: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> BookFigure:  # fmt: skip
    """Best and largest stable effective learning rate against batch size, one colour a recipe.

    A bar spans the rates that are as good as the best, a ring is around a best rate that lies on the grid's edge.
    criterion: what chooses, `final_train_loss` or `validation_error`; guessing: what guessing has by it, or less: a run
    that ends above counts as unstable; predicted: batch sizes and their rates, by recipe or by a label of your own.
    """
    runs = drawing.all_records(records)
    best = _chosen_by_size(runs, criterion, guessing)
    trained = {name: {size: b for size, b in by_size.items() if b.as_good} for name, by_size in best.items()}
    figure, (axes,) = drawing.new_axes(1)
    for place, (name, chosen) in enumerate(trained.items()):
        at, rates = _moved(chosen, place, len(best)), [b.between_rates for b in chosen.values()]
        colour = style_of(name)["color"]
        axes.plot(at, rates, **style_of(name), label=f"{name}: best")
        _ring(axes, name, at, rates, chosen.values())
        for x, (low, high) in zip(at, (b.as_good for b in chosen.values()), strict=True):
            if low < high:
                axes.vlines(x, low, high, color=colour, linewidth=4, alpha=0.4, label=_once(axes, "rates as good"))
        dashed = {"color": colour, "marker": "_", "markersize": 12, "linestyle": "--"}
        axes.plot(at, [b.largest_stable for b in chosen.values()], **dashed, label=f"{name}: largest stable")
    for dash, (name, line) in zip(itertools.cycle(DASHES), (predicted or {}).items(), strict=False):
        label = f"{name}: best, predicted" if name in best else name
        predict(axes, dict(zip(*line, strict=True)), label=label, linestyle=dash)
    axes.set(ylabel="effective learning rate")
    if any(trained.values()):
        axes.set_yscale("log", base=2)
    drawing.log_axis_at(axes, sorted({r.config.batch_size for r in runs}), "batch size", base=2)
    drawing.legend_beside(axes)
    said = "; ".join(
        f"{name} at batch {size}: best {_range_words(b)}, largest stable {rate_words(b.largest_stable)}"
        for name, by_size in best.items()
        for size, b in by_size.items()
    )
    return BookFigure(figure, f"Effective learning rate by batch size. {said}.")


def _chosen_by_size(runs: list[RunRecord], *by: Any) -> dict[str, dict[int, BestRate]]:
    """The best rate of each recipe and batch size, from the smallest batch to the largest."""
    groups = group_by(runs, "recipe", "batch_size")
    names = dict.fromkeys(name for name, _ in groups)
    return {name: {n: best_rate(groups[name, n], *by) for r, n in sorted(groups) if r == name} for name in names}


def _once(axes: Axes, label: str) -> str | None:
    """The label, where nothing on these axes has it yet."""
    return None if label in axes.get_legend_handles_labels()[1] else label


def _ring(axes: Axes, name: str, at: Iterable[float], heights: Iterable[float], chosen: Iterable[BestRate]) -> None:
    """A ring around each point whose rate lies on the grid's edge."""
    if rings := {x: y for x, y, best in zip(at, heights, chosen, strict=True) if best.on_edge}:
        look = {"marker": "o", "markersize": 13, "markerfacecolor": "none", "linestyle": "none", "color": style_of(name)["color"]}
        drawing.draw(axes, rings, **look, label=_once(axes, RING))


def _moved(sizes: Iterable[int], place: int, recipes: int) -> list[float]:
    """Where a recipe's marks stand, beside those of the others."""
    return [size * APART ** (place - (recipes - 1) / 2) for size in sizes]


def _accuracy_words(size: int, point: Point | None, best: BestRate) -> str:
    if point is None:
        return f"at no rate at batch {size}"
    rate = f"rate {best.effective_rate:.3g}" + (", on the grid's edge" if best.on_edge else "")
    spread = "" if point.accuracy_std is None else f" ± {100 * point.accuracy_std:.1f}"
    return f"{100 * point.accuracy:.1f}{spread} %, loss {point.train_loss:.3g} at batch {size} ({rate})"


def _range_words(best: BestRate) -> str:
    """The best rate, those that are as good, where they are several, and whether it is on the edge."""
    low, high = best.as_good or (0, 0)
    said = rate_words(best.effective_rate) + (f" (as good {low:.3g} to {high:.3g})" if low < high else "")
    return said + (" on the grid's edge" if best.on_edge else "")
