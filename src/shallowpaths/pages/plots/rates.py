"""Learning rates: what each comes to, which is best, which is stable."""

import itertools
from collections.abc import Iterable, Mapping

import matplotlib as mpl
from matplotlib.figure import Figure

from shallowpaths.experiments.records import best_rate, by_rate, group_by, summarise
from shallowpaths.pages.plots.drawing import (
    CROSS,
    all_records,
    check_predicted,
    legend_below,
    legend_beside,
    new_axes,
    panels_beside,
    plain_log_ticks,
    predict,
    rate_words,
    style_of,
    words,
)
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.theory.checks import one_of
from shallowpaths.training.record import RunRecord

_BY_DEPTH = ("#009E73", "#D55E00", "#0072B2", "#CC79A7")  # Okabe and Ito's, for depths instead of recipes
LEGEND_COLUMN = 1.8  # inches that a recipe's name takes in a legend below the panels


def loss_by_rate(records: Iterable[RunRecord], *, guessing: float, panels: str = "batch_size") -> BookFigure:
    """Final training loss against the effective learning rate, a panel for each batch size, one line a recipe.

    Args:
        guessing: the loss of guessing; runs above it, or diverged, are drawn as crosses on that line.
        panels: the setting that has a panel for each of its values, "batch_size" or "depth".
    """
    runs = all_records(records)
    one_of("panels", panels, ("batch_size", "depth"))
    sizes = sorted({getattr(r.config, panels) for r in runs})
    word = words(panels).removesuffix(" size")
    first = runs[0].config.recipe

    def draw() -> Figure:
        figure, all_axes = new_axes(len(sizes))
        for axes, size in zip(all_axes, sizes, strict=True):
            here = [r for r in runs if getattr(r.config, panels) == size]
            for (name,), group in group_by(here, "recipe").items():
                losses = _loss_by_rate(group)
                good = {rate: loss for rate, loss in losses.items() if loss < guessing}
                axes.plot(list(good), list(good.values()), **style_of(name), markersize=4, label=name)
                failed = [rate for rate in losses if rate not in good]
                size_now = 9 if name == first else 6  # crosses on one spot can be told apart
                cross = CROSS | {"markersize": size_now, "linestyle": "none", "zorder": 3, "clip_on": True}
                axes.plot(failed, [guessing] * len(failed), **style_of(name) | cross)
            axes.axhline(guessing, color=mpl.rcParams["text.color"], linewidth=1, linestyle=":", label="guessing")
            axes.set(xlabel="effective rate", title=f"{word} {size}")
            axes.set_xscale("log", base=2)
            plain_log_ticks(axes)
        figure.supylabel("final training loss", size=mpl.rcParams["axes.labelsize"])
        legend_below(figure, all_axes, max(2, int(figure.get_figwidth() / LEGEND_COLUMN)))
        return figure

    said = "; ".join(
        f"{recipe} at {word} {size}: best rate {rate_words(best_rate(g, stable_below=guessing).effective_rate)}"
        for (recipe, size), g in group_by(runs, "recipe", panels).items()
    )
    return BookFigure(draw, f"Final training loss by effective learning rate. {said}.")


def loss_by_rate_per_example(records: Iterable[RunRecord], *, guessing: float) -> BookFigure:
    """Final training loss against effective learning rate over batch size, a panel a recipe, one line a batch size.

    Where SGD depends on that ratio alone, the lines lie on each other: that is the prediction.

    Args:
        guessing: the loss of guessing; runs above it, or diverged, are not drawn.
    """
    groups = group_by(all_records(records), "recipe", "batch_size")
    names = list(dict.fromkeys(recipe for recipe, _ in groups))
    losses = {
        (name, size): {rate / size: loss for rate, loss in _loss_by_rate(runs).items()}
        for (name, size), runs in sorted(groups.items(), key=lambda item: item[0][1])
    }
    dashes = dict(zip(sorted({size for _, size in groups}), itertools.cycle(("-", "--", "-.", ":")), strict=False))

    def draw() -> Figure:
        figure, panels = panels_beside(len(names), 1.4 + 4.0 * len(names), 3.6, sharex=True, sharey=True)
        for axes, name in zip(panels, names, strict=True):
            for size in (size for recipe, size in losses if recipe == name):
                good = {rate: loss for rate, loss in losses[name, size].items() if loss < guessing}
                style = style_of(name) | {"linestyle": dashes[size], "markersize": 3.5, "label": f"batch {size}"}
                axes.plot(list(good), list(good.values()), **style)
            axes.set(xlabel="effective rate / batch size", title=name)
            axes.set_xscale("log", base=2)
            if any(loss < guessing for at_size in losses.values() for loss in at_size.values()):
                plain_log_ticks(axes)
        panels[0].set_ylabel("final training loss")
        panels[-1].legend(handlelength=3.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
        return figure

    said = "; ".join(
        f"{name} at batch {size}: "
        + ", ".join(f"{loss:.2g} at {rate:.2g}" for rate, loss in at_size.items() if loss < guessing)
        for (name, size), at_size in losses.items()
    )
    return BookFigure(draw, f"Final training loss by effective learning rate over batch size. {said}.")


def rate_by_alpha_rate(
    records: Iterable[RunRecord], *, guessing: float, predicted: Mapping[int, Mapping[float, float]]
) -> BookFigure:
    """The largest stable effective learning rate against `alpha_rate`, marks of one colour for each depth, and the prediction.

    Args:
        guessing: a run that ends with a training loss above it counts as unstable.
        predicted: by depth, for each alpha_rate the rate beyond which the scalars are too large.

    Raises:
        ValueError: no record, one with alpha_rate 0, or a depth without a prediction.
    """
    groups = group_by(all_records(records), "depth", "alpha_rate")
    stable = {key: best_rate(runs, stable_below=guessing).largest_stable for key, runs in sorted(groups.items())}
    depths = sorted({depth for depth, _ in stable})
    if any(factor == 0 for _, factor in stable):
        raise ValueError("alpha_rate 0 has no place on a logarithmic axis: leave runs with frozen scalars out")
    check_predicted(dict.fromkeys(depths), predicted)

    def draw() -> Figure:
        figure, (axes,) = new_axes(1)
        looks = zip(depths, itertools.cycle(_BY_DEPTH), itertools.cycle("os^D"), itertools.count(10, -2), strict=False)
        for depth, colour, marker, size in looks:  # smaller ones in front: marks on one spot can be told apart
            mine = {factor: rate for (n, factor), rate in stable.items() if n == depth and rate is not None}
            marks = {"color": colour, "marker": marker, "linestyle": "none", "markersize": max(size, 4)}
            axes.plot(list(mine), list(mine.values()), **marks, label=f"{depth} layers: largest that trains")
        for depth, dash in zip(depths, itertools.cycle(("-", "--", "-.", ":")), strict=False):
            line = dict(sorted(predicted[depth].items()))
            predict(axes, list(line), list(line.values()), label=f"{depth} layers: predicted", linestyle=dash)
        axes.set(xlabel="factor on the rate of α", ylabel="effective learning rate")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        legend_beside(axes)
        return figure

    said = "; ".join(
        f"{depth} layers, factor {factor:g}: {rate_words(rate)}" + _predicted_words(predicted[depth], factor)
        for (depth, factor), rate in stable.items()
    )
    return BookFigure(draw, f"Largest stable effective learning rate by the factor on alpha's rate. {said}.")


def _predicted_words(line: Mapping[float, float], factor: float) -> str:
    return f" (predicted {line[factor]:.3g})" if factor in line else ""


def _loss_by_rate(runs: Iterable[RunRecord]) -> dict[float, float]:
    """The final training loss at each effective learning rate, from the smallest rate to the largest."""
    return {rate: summarise(group).train_loss for rate, group in by_rate(runs).items()}
