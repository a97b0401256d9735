"""What training came to: curves and accuracies."""

from collections.abc import Iterable

from matplotlib.figure import Figure

from shallowpaths.experiments.records import group_by, summarise
from shallowpaths.pages.plots import drawing
from shallowpaths.pages.plots.drawing import CROSS, style_of
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.training.record import RunRecord


def training_curves(records: Iterable[RunRecord], *, guessing: float) -> BookFigure:
    """Training loss against the epoch, one line a run; a run that diverged is a cross at its last epoch.

    Args:
        guessing: the loss of guessing, drawn as the prediction for a network that does not train.
    """
    runs = drawing.all_records(records)

    def draw() -> Figure:
        figure, (axes,) = drawing.new_axes(1)
        top, crosses = max([p["train_loss"] for r in runs for p in r.curve] + [guessing]), 0
        for (name,), group in group_by(runs, "recipe").items():
            for i, run in enumerate(group):
                style = style_of(name) | {"markersize": 4.5, "linestyle": drawing.LINES.get(name, "-")}
                losses, label = {p["epoch"]: p["train_loss"] for p in run.curve}, name
                if run.outcome == "diverged":
                    label = f"{name}: diverged at step {run.diverged_step}"
                    crosses += 1  # each smaller than the last, so that crosses on one spot can be told apart
                    style |= CROSS | {"markersize": 5 + 8 / crosses, "linestyle": "-" if losses else "none"}
                    losses[len(losses) + 1] = top
                drawing.draw(axes, losses, **style, label=None if i else label)
        drawing.draw_guessing(axes, guessing)
        axes.set(ylabel="training loss")
        drawing.whole_numbers(axes, "epoch")
        drawing.legend_beside(axes)
        return figure

    ends = "; ".join(
        f"{r.config.recipe} "
        + (f"ends at {r.train_loss:.3g}" if r.outcome == "finished" else f"diverged at step {r.diverged_step}")
        for r in runs
    )
    return BookFigure(draw, f"Training loss by epoch: {ends}.")


def accuracy_by_depth(records: Iterable[RunRecord]) -> BookFigure:
    """Test accuracy against depth, one line a recipe; runs that diverged are crosses at chance.

    Where a recipe was run at several learning rates, the one with the smallest training loss is shown: the test
    set chooses nothing.
    """
    groups = group_by(drawing.all_records(records), "recipe", "depth")
    points = {
        key: min((summarise(g) for g in group_by(runs, "learning_rate").values()), key=lambda p: p.train_loss)
        for key, runs in groups.items()
    }

    def draw() -> Figure:
        figure, (axes,) = drawing.new_axes(1)
        for name in dict.fromkeys(recipe for recipe, _ in points):
            mine = sorted((depth, point) for (recipe, depth), point in points.items() if recipe == name)
            drawing.accuracies_with_spread(axes, name, {d: p for d, p in mine if p.accuracy is not None})
            failed = {d: drawing.GUESSED for d, p in mine if p.accuracy is None}
            label = f"{name}: diverged" if failed else None
            drawing.draw(axes, failed, **style_of(name) | CROSS, linestyle="none", label=label)
        drawing.draw_guessing(axes, drawing.GUESSED)
        axes.set(ylabel="test accuracy, %", ylim=(0, 102))
        drawing.log_axis_at(axes, sorted({depth for _, depth in points}), "depth $n$")
        drawing.legend_beside(axes)
        return figure

    said = "; ".join(
        f"{r} at depth {d} " + ("diverged" if p.accuracy is None else f"{100 * p.accuracy:.1f} %")
        for (r, d), p in points.items()
    )
    return BookFigure(draw, f"Test accuracy by depth: {said}.")
