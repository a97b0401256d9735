"""What training came to: curves, accuracies, learned scalars."""

from collections.abc import Iterable, Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from shallowpaths.experiments.records import group_by, summarise
from shallowpaths.pages.plots.drawing import (
    CHANCE,
    CROSS,
    LINES,
    all_records,
    legend_beside,
    log_axis_at,
    new_axes,
    predict,
    style_of,
)
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.training.record import RunRecord


def training_curves(records: Iterable[RunRecord], *, guessing: float) -> BookFigure:
    """Training loss against the epoch, one line a run; a run that diverged is a cross at its last epoch.

    Args:
        guessing: the loss of guessing, drawn as the prediction for a network that does not train.
    """
    runs = all_records(records)

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        top, crosses = max([p["train_loss"] for r in runs for p in r.curve] + [guessing]), 0
        for (name,), group in group_by(runs, "recipe").items():
            for i, run in enumerate(group):
                style = style_of(name) | {"markersize": 4.5, "linestyle": LINES.get(name, "-")}
                epochs, values = [p["epoch"] for p in run.curve], [p["train_loss"] for p in run.curve]
                label = name if i == 0 else None
                if run.outcome == "diverged":
                    label = f"{name}: diverged at step {run.diverged_step}" if i == 0 else None
                    crosses += 1  # each smaller than the last, so that crosses on one spot can be told apart
                    style |= CROSS | {"markersize": 5 + 8 / crosses, "linestyle": "-" if epochs else "none"}
                    epochs, values = [*epochs, len(epochs) + 1], [*values, top]
                axes.plot(epochs, values, **style, label=label)
        axes.axhline(guessing, color=mpl.rcParams["text.color"], linewidth=1, linestyle=":", label="guessing")
        axes.set(xlabel="epoch", ylabel="training loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend_beside(axes)
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
    groups = group_by(all_records(records), "recipe", "depth")
    points = {
        key: min((summarise(g) for g in group_by(runs, "learning_rate").values()), key=lambda p: p.train_loss)
        for key, runs in groups.items()
    }
    depths = sorted({depth for _, depth in groups})

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        for name in dict.fromkeys(recipe for recipe, _ in points):
            mine = sorted((depth, point) for (recipe, depth), point in points.items() if recipe == name)
            trained = [(d, 100 * p.accuracy, 100 * (p.accuracy_std or 0)) for d, p in mine if p.accuracy is not None]
            if trained:
                x, y, spread = zip(*trained, strict=True)
                axes.errorbar(x, y, spread if any(spread) else None, **style_of(name), label=name, capsize=3)
            failed = [d for d, p in mine if p.accuracy is None]
            label = f"{name}: diverged" if failed else None
            axes.plot(failed, [10] * len(failed), **style_of(name) | CROSS, linestyle="none", label=label)
        axes.axhline(10, **CHANCE)
        axes.set(ylabel="test accuracy, %", ylim=(0, 102))
        log_axis_at(axes, depths, "depth $n$")
        legend_beside(axes)
        return figure

    said = "; ".join(
        f"{r} at depth {d} " + ("diverged" if p.accuracy is None else f"{100 * p.accuracy:.1f} %")
        for (r, d), p in points.items()
    )
    return BookFigure(draw, f"Test accuracy by depth: {said}.")


def alphas_by_block(start: Mapping[str, np.ndarray], end: Mapping[str, np.ndarray]) -> BookFigure:
    """SkipInit's scalars after training against the block, with the line they started on and the border 1/sqrt(d).

    A start on the border has no line of its own.

    Args:
        start, end: by recipe, the scalars before and after training, of shape [d].
    """
    border = {len(alphas) ** -0.5 for alphas in end.values()}

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        for name, alphas in end.items():
            block = np.arange(1, len(alphas) + 1)
            marks = style_of(name) | {"linestyle": "none", "markersize": 4.5}
            axes.plot(block, alphas, **marks, label=f"{name}: after training")
            if not any(np.allclose(start[name], value, rtol=1e-3) for value in border):  # that line would cover it
                axes.plot(block, start[name], color=style_of(name)["color"], linestyle=":", label=f"{name}: start")
        for i, side in enumerate(side * value for value in border for side in (1, -1)):
            predict(axes, block, np.full(len(block), side), label=r"$\pm 1/\sqrt{d}$" if i == 0 else None)
        axes.set(xlabel="block $l$", ylabel=r"$\alpha_l$")
        legend_beside(axes)
        return figure

    said = "; ".join(
        f"{name} from {start[name].min():.3g} to between {a.min():.3g} and {a.max():.3g}, "
        f"root mean square {np.sqrt(np.mean(a**2)):.3g}"
        for name, a in end.items()
    )
    return BookFigure(draw, f"SkipInit's scalars by block, before and after training: {said}.")
