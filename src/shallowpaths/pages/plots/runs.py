"""What training came to, by epoch, depth and learning rate, beside guessing and what theory or the paper says."""

from collections.abc import Callable, Iterable, Mapping

from shallowpaths.experiments.paper import trains
from shallowpaths.experiments.records import best_rate, by_rate, group_by, summarise
from shallowpaths.pages.plots import drawing
from shallowpaths.pages.plots.drawing import CROSS, BookFigure, style_of, styled
from shallowpaths.theory.checks import one_of
from shallowpaths.training.record import RunRecord

Lines = Mapping[str, Mapping[str, Mapping[int, float]]]


@styled
def training_curves(records: Iterable[RunRecord], *, guessing: float) -> BookFigure:
    """Training loss against the epoch, one line a run, a cross where it diverged; guessing: the loss of guessing."""
    runs = drawing.all_records(records)
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
    ends = {"finished": "ends at {0.train_loss:.3g}", "diverged": "diverged at step {0.diverged_step}"}
    said = "; ".join(f"{r.config.recipe} {ends[r.outcome].format(r)}" for r in runs)
    return BookFigure(figure, f"Training loss by epoch: {said}.")


@styled
def accuracy_by_depth(records: Iterable[RunRecord]) -> BookFigure:
    """Test accuracy against depth, one line a recipe; runs that diverged are crosses at chance.

    Of several learning rates, the one with the smallest training loss is shown: the test set chooses nothing.
    """
    points = {
        key: min((summarise(g) for g in group_by(runs, "learning_rate").values()), key=lambda p: p.train_loss)
        for key, runs in group_by(drawing.all_records(records), "recipe", "depth").items()
    }
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
    said = "; ".join(f"{recipe} at depth {depth} {_percent(p.accuracy)}" for (recipe, depth), p in points.items())
    return BookFigure(figure, f"Test accuracy by depth: {said}.")


@styled
def loss_by_rate(records: Iterable[RunRecord], *, guessing: float, panels: str = "batch_size") -> BookFigure:
    """Final training loss against the effective learning rate, one line a recipe; panels: by "batch_size" or "depth".

    guessing: the loss of guessing; runs above it, or diverged, are drawn as crosses on that line.
    """
    one_of("panels", panels, ("batch_size", "depth"))
    groups = group_by(drawing.all_records(records), panels, "recipe")
    sizes, word = sorted({size for size, _ in groups}), panels.removesuffix("_size")
    figure, all_axes = drawing.new_axes(len(sizes))
    for axes, size in zip(all_axes, sizes, strict=True):
        for place, name in enumerate(name for here, name in groups if here == size):
            losses = {rate: summarise(group).train_loss for rate, group in by_rate(groups[size, name]).items()}
            good = {rate: loss for rate, loss in losses.items() if loss < guessing}
            drawing.draw(axes, good, **style_of(name), markersize=4, label=name)
            failed = {rate: guessing for rate in losses if rate not in good}
            cross = CROSS | {"markersize": 6 if place else 9, "zorder": 3, "clip_on": True}  # told apart on one spot
            drawing.draw(axes, failed, **style_of(name) | cross, linestyle="none")
        drawing.draw_guessing(axes, guessing)
        axes.set(xlabel="effective rate", title=f"{word} {size}")
        axes.set_xscale("log", base=2)
        drawing.plain_log_ticks(axes)
    figure.supylabel("final training loss")
    drawing.legend_below(figure, all_axes, max(2, int(figure.get_figwidth() / 1.8)))  # inches for a recipe's name
    said = "; ".join(
        f"{recipe} at {word} {size}: best rate {drawing.rate_words(best_rate(runs, stable_below=guessing).effective_rate)}"
        for (size, recipe), runs in groups.items()
    )
    return BookFigure(figure, f"Final training loss by effective learning rate. {said}.")


@styled
def accuracy_by_rate(records: Iterable[RunRecord], working: Mapping[tuple[str, int], tuple[float, float]]) -> BookFigure:
    """Test accuracy against the effective learning rate, a panel for each depth, one line a recipe; crosses diverged.

    Of several seeds, the mean is drawn; a recipe without L2 penalty has a dashed line. working: lowest and highest rate
    that are as good as the best according to the paper, by (recipe, depth), a dark bar under the floor.
    """
    groups = group_by(drawing.all_records(records), "depth", "recipe", "l2")
    accuracies = {key: {rate: summarise(r).accuracy for rate, r in by_rate(g).items()} for key, g in groups.items()}
    depths = sorted({depth for depth, *_ in groups})
    figure, panels = drawing.new_axes(len(depths))
    for axes, depth in zip(panels, depths, strict=True):
        mine = {(name, l2): points for (n, name, l2), points in accuracies.items() if n == depth}
        for (name, l2), points in mine.items():
            trained = {rate: 100 * accuracy for rate, accuracy in points.items() if accuracy is not None}
            look = style_of(name) | {"markersize": 5, "label": name if l2 else f"{name}, no L2"}
            drawing.draw(axes, trained, **look | ({} if l2 else {"linestyle": "--", "markerfacecolor": "none"}))
            if failed := {rate: 0 for rate, accuracy in points.items() if accuracy is None}:  # empty, no layout
                drawing.draw(axes, failed, **style_of(name) | CROSS | {"markersize": 7}, linestyle="none")
        for row, name in enumerate(dict.fromkeys(name for name, _ in mine if (name, depth) in working)):
            bar = dict.fromkeys(working[name, depth], -6 - 5 * row)
            drawing.predict(axes, bar, label=None if row else "as good in the paper")
            drawing.draw(axes, bar, **style_of(name) | {"markersize": 4, "linestyle": "none"})
        drawing.draw_guessing(axes, drawing.GUESSED)
        axes.set(title=f"{depth} layers", xlabel="effective learning rate")
        axes.set_xscale("log", base=2)
    panels[0].set(ylabel="test accuracy, %", yticks=range(0, 101, 20))
    drawing.legend_below(figure, panels, 3)
    figure.set_size_inches(9.4, 5.4)
    said = "; ".join(
        f"{name}{'' if l2 else ' without L2'} at {depth} layers "
        + ", ".join(f"{_percent(accuracy)} at {rate:.3g}" for rate, accuracy in points.items())
        for (depth, name, l2), points in accuracies.items()
    )
    return BookFigure(figure, f"Test accuracy by effective learning rate. {said}.")


@styled
def trainability_map(records: Iterable[RunRecord], predicted: Lines) -> BookFigure:
    """Depth against effective learning rate, a panel a recipe: filled marks train, hollow ones do not, crosses diverged.

    predicted: by recipe and by what it says, the rate by depth up to which theory expects a network to train.
    """
    runs = drawing.all_records(records)
    groups = group_by(runs, "recipe")
    rates = [r.config.effective_learning_rate for r in runs]
    figure, panels = drawing.new_axes(len(groups))
    said = []
    for axes, ((name,), group) in zip(panels, groups.items(), strict=True):
        style, found = style_of(name) | {"markersize": 6, "linestyle": "none"}, points_by(group, _outcome)
        looks = {"trains": {"markerfacecolor": style["color"]}, "does not train": {"markerfacecolor": "none"}}
        looks["diverged"] = CROSS | {"markersize": 5, "markeredgewidth": 1.2}
        for outcome in filter(found.get, looks):
            axes.plot(*zip(*found[outcome], strict=True), **style | looks[outcome], label=outcome)
        for dash, (label, line) in zip(drawing.DASHES, predicted.get(name, {}).items(), strict=False):
            drawing.predict(axes, line, label=label, linestyle=dash)
        axes.set(title=name, ylim=(min(rates) / 1.5, max(rates) * 1.5))
        axes.set_yscale("log", base=2)
        drawing.log_axis_at(axes, sorted({r.config.depth for r in runs}), "depth $n$")
        said.append(f"{name} trains {edge_words(group, found.get('trains', []), lambda at: f'up to {max(at):.3g}')}")
    drawing.legend_below(figure, panels, 5)
    figure.supylabel("effective learning rate")
    return BookFigure(figure, f"What trains, by depth and learning rate. {'; '.join(said)}.")


def points_by(runs: Iterable[RunRecord], kind_of: Callable[[RunRecord], str]) -> dict[str, list[tuple[int, float]]]:
    """Depth and effective rate of each run, by its kind."""
    points = {}
    for run in runs:
        points.setdefault(kind_of(run), []).append((run.config.depth, run.config.effective_learning_rate))
    return points


def edge_words(runs: Iterable[RunRecord], good: Iterable[tuple[int, float]], told: Callable[[list[float]], str]) -> str:
    """At which rates the points are good, depth by depth; told: some rates in words."""
    at = {depth: [rate for n, rate in good if n == depth] for depth in sorted({r.config.depth for r in runs})}
    return ", ".join(f"at depth {depth} {told(rates) if rates else 'at no rate'}" for depth, rates in at.items())


def _outcome(run: RunRecord) -> str:
    return "diverged" if run.outcome == "diverged" else "trains" if trains(run) else "does not train"


def _percent(accuracy: float | None) -> str:
    return "diverged" if accuracy is None else f"{100 * accuracy:.1f} %"
