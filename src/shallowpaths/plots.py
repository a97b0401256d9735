"""Every figure of the book, each with its prediction.

One visual language: a recipe has one colour and one marker through the whole book; what was measured is coloured,
what was predicted is a thin dark line. A figure is drawn twice, for light and for dark pages.
"""

import base64
import io
import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from shallowpaths.measure import SignalStatistics
from shallowpaths.recipes import NAMES
from shallowpaths.records import best_rate, group_by, summarise
from shallowpaths.runs import RunRecord
from shallowpaths.theory import Signal

# Okabe and Ito's colours, which colour-blind readers can tell apart; relatives share a hue and differ in marker.
_COLOURS = {
    "unnormalized": "#D55E00",
    "batchnorm": "#0072B2",
    "skipinit": "#009E73",
    "skipinit-1/sqrt(d)": "#56B4E9",
    "skipinit-1": "#E69F00",
    "divide-sqrt2": "#CC79A7",
    "fixup": "#8C6D31",
}
_RELATIVES = {
    "regularized-skipinit": "skipinit",
    "skipinit-biases": "skipinit",
    "fixup-dropout": "fixup",
    "fixup-zero-last-only": "fixup",
    "fixup-rescaling-only": "fixup",
    "batchnorm-on-skip": "batchnorm",
    "batchnorm-at-end": "batchnorm",
    "zero-gamma": "batchnorm",
    "plain": "unnormalized",
    "plain-batchnorm": "batchnorm",
}
_LINES = {"batchnorm-on-skip": "--", "batchnorm-at-end": "-.", "plain-batchnorm": ":", "zero-gamma": (0, (1, 3))}
_MARKERS = dict(zip(NAMES, itertools.cycle("osD^vP*Xph<>d"), strict=False))
_THEMES = {"light": {"text": "#1a1a1a", "grid": "#d9d9d9"}, "dark": {"text": "#e6e6e6", "grid": "#4a4a4a"}}
_CROSS = {"marker": "x", "markersize": 9, "markeredgewidth": 2, "clip_on": False}  # a run that diverged
CHANCE = {"color": "0.5", "linestyle": ":", "linewidth": 1}


class BookFigure:
    """A figure for light and for dark pages, with a text alternative; Jupyter shows it, `save` writes it.

    Attributes:
        alt: what the figure shows, in words.
        light, dark: the two matplotlib figures.
    """

    def __init__(self, draw: Callable[[], Figure], alt: str):
        self.alt = alt
        self.light, self.dark = (_drawn(draw, theme) for theme in ("light", "dark"))

    def svg(self, theme: str = "light") -> bytes:
        """The figure as SVG with a transparent ground."""
        return self._rendered(getattr(self, theme), "svg")

    def save(self, path: str | Path, theme: str = "light") -> None:
        """Write the figure to a file; its ending says in which format."""
        path = Path(path)
        path.write_bytes(
            self._rendered(
                getattr(self, theme), path.suffix.lstrip("."), facecolor="white" if theme == "light" else "#121212"
            )
        )

    def _rendered(self, figure: Figure, form: str, **more: Any) -> bytes:
        file = io.BytesIO()
        metadata = {"Date": None} if form == "svg" else None
        with mpl.rc_context({"svg.hashsalt": "shallowpaths"}):
            figure.savefig(file, format=form, bbox_inches="tight", metadata=metadata, **({"transparent": True} | more))
        return file.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        alt = self.alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        name = f"figure-{uuid.uuid5(uuid.NAMESPACE_OID, self.alt).hex[:8]}"
        images = "".join(
            f'<img class="figure-{theme}" alt="{alt}" src="data:image/svg+xml;base64,{base64.b64encode(self.svg(theme)).decode()}">'
            for theme in ("light", "dark")
        )
        png = base64.b64encode(self._rendered(self.light, "png", facecolor="white", transparent=False)).decode()
        return {
            "text/html": f'{_SWITCH}<div class="book-figure" id="{name}">{images}</div>',
            "image/png": png,
            "text/plain": self.alt,
        }


# Which of the two pictures shows: the book's theme, JupyterLab, VS Code and Colab each mark a dark page in their own way.
_DARK_PAGES = ("html[data-theme=dark]", "[data-jp-theme-light=false]", ".vscode-dark", "html[theme=dark]")
_SWITCH = (
    "<style>.figure-dark{display:none}.book-figure img{max-width:100%}"
    + ",".join(f"{page} .figure-light" for page in _DARK_PAGES)
    + "{display:none}"
    + ",".join(f"{page} .figure-dark" for page in _DARK_PAGES)
    + "{display:inline}</style>"
)


def style_of(recipe: str) -> dict[str, Any]:
    """The colour and marker that a recipe has in every figure, as arguments of matplotlib's `plot`."""
    return {
        "color": _COLOURS.get(_RELATIVES.get(recipe, recipe), "#777777"),
        "marker": _MARKERS.get(recipe, "."),
        "markerfacecolor": "none" if recipe in _RELATIVES else None,
    }


def signal_by_block(
    measured: Mapping[str, SignalStatistics | Sequence[SignalStatistics]],
    predicted: Mapping[str, np.ndarray],
    quantity: str = "skip_variance",
    *,
    band: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    log: bool = True,
    title: str = "",
) -> BookFigure:
    """A quantity of SignalStatistics against the block's index l, measured (one mark a seed) and predicted.

    Args:
        measured: by recipe, the statistics of one network or of several seeds.
        predicted: by recipe, the prediction for l = 1 .. d.
        quantity: an array of SignalStatistics, as "skip_variance" or "branch_share".
        band: by recipe, lower and upper edge of what a network of finite width is expected to give, for l = 1 .. d.
        log: whether the vertical axis is logarithmic.
    """
    values = {name: [getattr(n, quantity) for n in _as_list(value)] for name, value in measured.items()}
    label = _LABELS.get(quantity, _words(quantity))
    return values_by_block(values, predicted, label, _words(quantity), band=band, log=log, title=title)


def values_by_block(
    measured: Mapping[str, Sequence[np.ndarray]],
    predicted: Mapping[str, np.ndarray],
    label: str,
    words: str | None = None,
    *,
    band: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    log: bool = True,
    title: str = "",
) -> BookFigure:
    """Any quantity against the block's index l, measured (one mark a network) and predicted.

    Args:
        measured: one array of shape [d] for each network, by recipe. What follows a comma in a name, as in
            "batchnorm, ReLU", tells several groups of one recipe apart.
        predicted: the prediction for l = 1 .. d, by the same names.
        label: of the vertical axis; words: the same in the text alternative.
        band, log, title: as in `signal_by_block`.
    """

    def draw() -> Figure:
        figure, axes = _axes(1)
        _draw_by_block(axes, measured, predicted, band or {})
        axes.set(ylabel=label, title=title, yscale="log" if log else "linear")
        if len(measured) > 4:
            _legend_beside(axes)
        else:
            axes.legend()
        return figure

    return BookFigure(draw, f"{words or label} by block. {_ends(measured, predicted)}.")


def signal_panels(
    measured: Mapping[str, SignalStatistics | Sequence[SignalStatistics]],
    predicted: Mapping[str, Signal],
    quantities: Sequence[str] = ("skip_variance", "branch_share"),
) -> BookFigure:
    """Several quantities against the block's index l side by side, on logarithmic axes of their own.

    Args:
        measured: by recipe, the statistics of one network or of several seeds.
        predicted: by recipe, what `theory.signal` says.
        quantities: names that both SignalStatistics and Signal have.
    """
    values = {q: {name: [getattr(n, q) for n in _as_list(v)] for name, v in measured.items()} for q in quantities}
    lines = {q: {name: getattr(signal, q) for name, signal in predicted.items()} for q in quantities}

    def draw() -> Figure:
        figure = Figure(figsize=(4.2 * len(quantities), 3.6), layout="constrained")
        panels = figure.subplots(1, len(quantities), squeeze=False)[0]
        for axes, quantity in zip(panels, quantities, strict=True):
            _draw_by_block(axes, values[quantity], lines[quantity], {})
            axes.set(title=_LABELS.get(quantity, _words(quantity)), yscale="log")
        panels[0].legend()
        return figure

    said = " ".join(f"{_words(q)} by block: {_ends(values[q], lines[q])}." for q in quantities)
    return BookFigure(draw, said)


def overflow_by_format(measured: Mapping[str, Sequence[int]], predicted: Mapping[str, int]) -> BookFigure:
    """The block after which activations overflow, for each number format: one mark a network, a dark tick predicted."""

    def draw() -> Figure:
        figure, axes = _axes(1)
        for row, (name, blocks) in enumerate(measured.items()):
            marks = style_of("unnormalized") | {"markersize": 6, "linestyle": "none"}
            axes.plot(blocks, [row] * len(blocks), **marks, label="unnormalized" if row == 0 else None)
            ink = {"color": mpl.rcParams["text.color"], "linewidth": 1.0}
            axes.vlines(predicted[name], row - 0.3, row + 0.3, **ink, label="predicted" if row == 0 else None)
            place = {"textcoords": "offset points", "xytext": (4, 8), "fontsize": 9.5}
            axes.annotate(str(predicted[name]), (predicted[name], row + 0.1), **place)
        axes.set(
            xscale="log", xlabel="block $l$ after which an activation is infinite", ylim=(len(measured) - 0.5, -0.6)
        )
        axes.set_yticks(range(len(measured)), list(measured))
        axes.legend(loc="lower left")
        return figure

    said = "; ".join(f"{name} predicted {predicted[name]}, seen {min(v)} to {max(v)}" for name, v in measured.items())
    return BookFigure(draw, f"Block after which an activation overflows, by number format: {said}.")


def training_curves(
    records: Iterable[RunRecord], *, guessing: float | None = None, quantity: str = "train_loss"
) -> BookFigure:
    """A quantity of the per-epoch curve against the epoch, one line a run; a run that diverged is a cross at its last epoch.

    Args:
        guessing: the value that guessing gives, drawn as the prediction for a network that does not train.
        quantity: a key of RunRecord.curve.
    """
    runs = list(records)

    def draw() -> Figure:
        figure, axes = _axes(1)
        top, crosses = max([p[quantity] for r in runs for p in r.curve] + [guessing or 0]), 0
        for (name,), group in group_by(runs, "recipe").items():
            for i, run in enumerate(group):
                style = style_of(name) | {"markersize": 4.5, "linestyle": _LINES.get(name, "-")}
                epochs, values = [p["epoch"] for p in run.curve], [p[quantity] for p in run.curve]
                label = name if i == 0 else None
                if run.outcome == "diverged":
                    label = f"{name}: diverged at step {run.diverged_step}" if i == 0 else None
                    crosses += 1  # each smaller than the last, so that crosses on one spot can be told apart
                    style |= _CROSS | {"markersize": 5 + 8 / crosses, "linestyle": "-" if epochs else "none"}
                    epochs, values = [*epochs, len(epochs) + 1], [*values, top]
                axes.plot(epochs, values, **style, label=label)
        if guessing is not None:
            axes.axhline(guessing, color=mpl.rcParams["text.color"], linewidth=1, linestyle=":", label="guessing")
        axes.set(xlabel="epoch", ylabel=_words(quantity))
        axes.xaxis.get_major_locator().set_params(integer=True)
        _legend_beside(axes)
        return figure

    ends = "; ".join(
        f"{r.config.recipe} "
        + (f"ends at {r.curve[-1][quantity]:.3g}" if r.outcome == "finished" else f"diverged at step {r.diverged_step}")
        for r in runs
    )
    return BookFigure(draw, f"{_words(quantity)} by epoch: {ends}.")


def accuracy_by_depth(records: Iterable[RunRecord]) -> BookFigure:
    """Test accuracy against depth, one line a recipe; runs that diverged are crosses at chance.

    Where a recipe was run at several learning rates, the one with the smallest training loss is shown: the test
    set chooses nothing.
    """
    groups = group_by(records, "recipe", "depth")
    points = {
        key: min((summarise(g) for g in group_by(runs, "learning_rate").values()), key=lambda p: p.train_loss)
        for key, runs in groups.items()
    }
    depths = sorted({depth for _, depth in groups})

    def draw() -> Figure:
        figure, axes = _axes(1)
        for name in dict.fromkeys(recipe for recipe, _ in points):
            mine = sorted((depth, point) for (recipe, depth), point in points.items() if recipe == name)
            trained = [(d, 100 * p.accuracy, 100 * (p.accuracy_std or 0)) for d, p in mine if p.accuracy is not None]
            if trained:
                x, y, spread = zip(*trained, strict=True)
                axes.errorbar(x, y, spread if any(spread) else None, **style_of(name), label=name, capsize=3)
            failed = [d for d, p in mine if p.accuracy is None]
            label = f"{name}: diverged" if failed else None
            axes.plot(failed, [10] * len(failed), **style_of(name) | _CROSS, linestyle="none", label=label)
        axes.axhline(10, **CHANCE)
        axes.set(xscale="log", xlabel="depth $n$", ylabel="test accuracy, %", ylim=(0, 102))
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.minorticks_off()
        _legend_beside(axes)
        return figure

    said = "; ".join(
        f"{r} at depth {d} " + ("diverged" if p.accuracy is None else f"{100 * p.accuracy:.1f} %")
        for (r, d), p in points.items()
    )
    return BookFigure(draw, f"Test accuracy by depth: {said}.")


def loss_by_rate(records: Iterable[RunRecord], *, guessing: float, panels: str = "batch_size") -> BookFigure:
    """Final training loss against the effective learning rate, a panel for each batch size, one line a recipe.

    Args:
        guessing: the loss of guessing; runs above it, or diverged, are drawn as crosses on that line.
        panels: the setting that has a panel for each of its values, "batch_size" or "depth".
    """
    runs = list(records)
    sizes = sorted({getattr(r.config, panels) for r in runs})
    word = _words(panels).removesuffix(" size")
    first = runs[0].config.recipe

    def draw() -> Figure:
        figure, side_by_side = _axes(len(sizes))
        for axes, size in zip(np.atleast_1d(side_by_side), sizes, strict=True):
            here = [r for r in runs if getattr(r.config, panels) == size]
            for (name,), group in group_by(here, "recipe").items():
                by_rate = {
                    rate: summarise(g).train_loss
                    for (rate,), g in sorted(group_by(group, "effective_learning_rate").items())
                }
                good = {rate: loss for rate, loss in by_rate.items() if loss < guessing}
                axes.plot(list(good), list(good.values()), **style_of(name), markersize=4, label=name)
                failed = [rate for rate in by_rate if rate not in good]
                size_now = 9 if name == first else 6  # crosses on one spot can be told apart
                cross = _CROSS | {"markersize": size_now, "linestyle": "none", "zorder": 3, "clip_on": True}
                axes.plot(failed, [guessing] * len(failed), **style_of(name) | cross)
            axes.axhline(guessing, color=mpl.rcParams["text.color"], linewidth=1, linestyle=":")
            axes.set(xlabel="effective rate", title=f"{word} {size}")
            axes.set_xscale("log", base=2)
            _plain_log_ticks(axes)
        np.atleast_1d(side_by_side)[0].set_ylabel("final training loss")
        np.atleast_1d(side_by_side)[0].legend()
        return figure

    said = "; ".join(
        f"{recipe} at {word} {size}: best rate {_rate(best_rate(g, stable_below=guessing).effective_rate)}"
        for (recipe, size), g in group_by(runs, "recipe", panels).items()
    )
    return BookFigure(draw, f"Final training loss by effective learning rate. {said}.")


def rate_by_batch_size(
    records: Iterable[RunRecord],
    *,
    guessing: float,
    predicted: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> BookFigure:
    """Best and largest stable effective learning rate against batch size, one colour a recipe.

    Args:
        guessing: the loss of guessing; a run that ends above it counts as unstable.
        predicted: by recipe, batch sizes and the rates predicted for them.
    """
    groups = group_by(records, "recipe", "batch_size")
    best = {key: best_rate(g, stable_below=guessing) for key, g in sorted(groups.items(), key=lambda item: item[0][1])}
    sizes_run = sorted({size for _, size in groups})

    def draw() -> Figure:
        figure, axes = _axes(1)
        for name in dict.fromkeys(recipe for recipe, _ in groups):
            mine = {size: b for (recipe, size), b in best.items() if recipe == name}
            style = style_of(name)
            chosen = {size: b for size, b in mine.items() if b.effective_rate is not None}
            axes.plot(list(chosen), [b.between_rates for b in chosen.values()], **style, label=f"{name}: best")
            stable = {size: b.largest_stable for size, b in mine.items() if b.largest_stable is not None}
            axes.plot(
                list(stable),
                list(stable.values()),
                color=style["color"],
                marker="_",
                markersize=12,
                linestyle="--",
                label=f"{name}: largest stable",
            )
        for dash, (name, (sizes, rates)) in zip(
            itertools.cycle(("-", "-.", ":")), (predicted or {}).items(), strict=False
        ):
            _predict(axes, sizes, rates, label=f"{name}: best, predicted", linestyle=dash)
        axes.set(xlabel="batch size", ylabel="effective learning rate")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(sizes_run, [str(size) for size in sizes_run])
        _legend_beside(axes)
        return figure

    said = "; ".join(
        f"{recipe} at batch {size}: best {_rate(b.effective_rate)}, largest stable {_rate(b.largest_stable)}"
        for (recipe, size), b in best.items()
    )
    return BookFigure(draw, f"Effective learning rate by batch size. {said}.")


def share_by_blocks(
    measured: Mapping[str, Mapping[int, float]], predicted: Mapping[str, Mapping[int, float]]
) -> BookFigure:
    """The branch share, averaged over a network's blocks, against the number of blocks.

    Args:
        measured, predicted: by recipe, the mean share by number of blocks d.
    """

    def draw() -> Figure:
        figure, axes = _axes(1)
        for name, shares in measured.items():
            axes.plot(list(shares), list(shares.values()), **style_of(name), linestyle="none", markersize=7, label=name)
        for i, shares in enumerate(predicted.values()):
            _predict(axes, list(shares), list(shares.values()), label="predicted" if i == 0 else None)
        blocks = sorted({d for shares in measured.values() for d in shares})
        axes.set(xscale="log", yscale="log", xlabel="blocks $d$", ylabel="branch share, mean over blocks")
        axes.set_xticks(blocks, [str(d) for d in blocks])
        axes.minorticks_off()
        _legend_beside(axes)
        return figure

    said = "; ".join(
        f"{name} "
        + ", ".join(f"{share:.3g} (predicted {predicted[name][d]:.3g}) at {d} blocks" for d, share in s.items())
        for name, s in measured.items()
    )
    return BookFigure(draw, f"Branch share by number of blocks: {said}.")


def alphas_by_block(start: Mapping[str, np.ndarray], end: Mapping[str, np.ndarray]) -> BookFigure:
    """SkipInit's scalars after training against the block, with the line they started on and the border 1/sqrt(d).

    Args:
        start, end: by recipe, the scalars before and after training, of shape [d].
    """
    border = {len(alphas) ** -0.5 for alphas in end.values()}

    def draw() -> Figure:
        figure, axes = _axes(1)
        for name, alphas in end.items():
            block = np.arange(1, len(alphas) + 1)
            axes.plot(
                block, alphas, **style_of(name), linestyle="none", markersize=4.5, label=f"{name}: after training"
            )
            axes.plot(block, start[name], color=style_of(name)["color"], linestyle=":", label=f"{name}: start")
        for i, side in enumerate(side * value for value in border for side in (1, -1)):
            _predict(axes, block, np.full(len(block), side), label=r"$\pm 1/\sqrt{d}$" if i == 0 else None)
        axes.set(xlabel="block $l$", ylabel=r"$\alpha_l$")
        _legend_beside(axes)
        return figure

    said = "; ".join(
        f"{name} from {start[name].min():.3g} to between {a.min():.3g} and {a.max():.3g}, "
        f"root mean square {np.sqrt(np.mean(a**2)):.3g}"
        for name, a in end.items()
    )
    return BookFigure(draw, f"SkipInit's scalars by block, before and after training: {said}.")


def loss_by_rate_per_example(records: Iterable[RunRecord], *, guessing: float) -> BookFigure:
    """Final training loss against effective learning rate over batch size, a panel a recipe, one line a batch size.

    Where SGD depends on that ratio alone, the lines lie on each other: that is the prediction.

    Args:
        guessing: the loss of guessing; runs above it, or diverged, are not drawn.
    """
    groups = group_by(records, "recipe", "batch_size")
    names = list(dict.fromkeys(recipe for recipe, _ in groups))
    losses = {
        (name, size): {
            rate / size: summarise(g).train_loss
            for (rate,), g in sorted(group_by(runs, "effective_learning_rate").items())
        }
        for (name, size), runs in sorted(groups.items(), key=lambda item: item[0][1])
    }
    dashes = dict(zip(sorted({size for _, size in groups}), itertools.cycle(("-", "--", "-.", ":")), strict=False))

    def draw() -> Figure:
        figure = Figure(figsize=(1.4 + 4.0 * len(names), 3.6), layout="constrained")
        panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            for (_, size), by_rate in ((key, value) for key, value in losses.items() if key[0] == name):
                good = {rate: loss for rate, loss in by_rate.items() if loss < guessing}
                style = style_of(name) | {"linestyle": dashes[size], "markersize": 3.5, "label": f"batch {size}"}
                axes.plot(list(good), list(good.values()), **style)
            axes.set(xlabel="effective rate / batch size", title=name)
            axes.set_xscale("log", base=2)
            _plain_log_ticks(axes)
        panels[0].set_ylabel("final training loss")
        panels[-1].legend(handlelength=3.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
        return figure

    said = "; ".join(
        f"{name} at batch {size}: "
        + ", ".join(f"{loss:.2g} at {rate:.2g}" for rate, loss in by_rate.items() if loss < guessing)
        for (name, size), by_rate in losses.items()
    )
    return BookFigure(draw, f"Final training loss by effective learning rate over batch size. {said}.")


def path_lengths(
    measured: Mapping[str, Sequence[np.ndarray]], predicted: Mapping[str, np.ndarray], *, columns: int = 3
) -> BookFigure:
    """The share of the signal that paths of each length carry, a panel for each name, with the mean length in its title.

    Args:
        measured: shares of lengths 0, 1, ... (`PathSpectrum.shares`), one array a network, by recipe. What follows a
            comma in a name, as in "batchnorm, linear", tells several groups of one recipe apart.
        predicted: the shares predicted (`theory.path_length_distribution`), by the same names.
        columns: panels side by side.
    """
    means = {name: (_mean_length([predicted[name]]), _mean_length(rows)) for name, rows in measured.items()}

    def draw() -> Figure:
        rows = -(-len(measured) // columns)
        figure = Figure(figsize=(3.0 * min(columns, len(measured)), 2.9 * rows), layout="constrained")
        panels = figure.subplots(rows, min(columns, len(measured)), squeeze=False).ravel()
        for axes, (name, networks) in zip(panels, measured.items(), strict=False):
            marks = style_of(name.partition(",")[0]) | {"linestyle": "none", "markersize": 4}
            for number, shares in enumerate(networks):
                axes.plot(np.arange(len(shares)), shares, **marks, label=None if number else "measured")
            _predict(axes, np.arange(len(predicted[name])), predicted[name], label="predicted")
            axes.set(xlim=_where_it_matters([predicted[name], *networks]), xlabel="branches taken")
            axes.set_title(f"{name}: mean {means[name][1]:.3g}", fontsize=11)
            axes.xaxis.get_major_locator().set_params(integer=True)
        for axes in panels[len(measured) :]:
            axes.set_axis_off()
        panels[0].set_ylabel("share of the signal")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return figure

    said = "; ".join(f"{name} measured {seen:.3g}, predicted {wanted:.3g}" for name, (wanted, seen) in means.items())
    return BookFigure(draw, f"Share of the signal by path length. Mean length: {said}.")


def path_length_by_blocks(
    measured: Mapping[str, Mapping[int, Sequence[float]]], predicted: Mapping[str, Mapping[int, float]]
) -> BookFigure:
    """The mean path length against the number of blocks, on logarithmic axes: one mark a network, one line a prediction.

    Args:
        measured: mean lengths, one a network, by number of blocks and by recipe; names as in `path_lengths`.
        predicted: by the same names, the mean length for as many numbers of blocks as the line needs.
    """

    def draw() -> Figure:
        figure, axes = _axes(1)
        before: list[str] = []
        for name, by_blocks in measured.items():
            recipe = name.partition(",")[0]
            others = {"markerfacecolor": "none", "marker": "^v<>"[before.count(recipe) % 4 - 1]}
            style = style_of(recipe) | (others if recipe in before else {})
            before.append(recipe)
            points = [(blocks, value) for blocks, values in by_blocks.items() for value in values]
            axes.plot(*zip(*points, strict=True), **style | {"linestyle": "none", "markersize": 6}, label=name)
        for i, line in enumerate(predicted.values()):
            _predict(axes, list(line), list(line.values()), label="predicted" if i == 0 else None)
        blocks = sorted({d for by_blocks in measured.values() for d in by_blocks})
        axes.set(xscale="log", yscale="log", xlabel="blocks $d$", ylabel="mean path length")
        axes.set_xticks(blocks, [str(d) for d in blocks])
        axes.minorticks_off()
        _plain_log_ticks(axes)
        _legend_beside(axes)
        return figure

    said = "; ".join(
        f"{name} "
        + ", ".join(
            f"{np.mean(v):.3g} (predicted {predicted[name][d]:.3g}) at {d} blocks" for d, v in by_blocks.items()
        )
        for name, by_blocks in measured.items()
    )
    return BookFigure(draw, f"Mean path length by number of blocks: {said}.")


_LABELS = {
    "skip_variance": r"skip variance $\mathrm{Var}(x^l)$",
    "branch_variance": r"branch variance $\mathrm{Var}(f_l)$",
    "branch_share": "branch share",
    "skip_second_moment": r"second moment of $x^l$",
    "output_second_moment": r"second moment of $x^{l+1}$",
}


def _drawn(draw: Callable[[], Figure], theme: str) -> Figure:
    text, grid = _THEMES[theme]["text"], _THEMES[theme]["grid"]
    style = {f"{part}.color": text for part in ("text", "xtick", "ytick")} | {
        "axes.labelcolor": text,
        "axes.edgecolor": text,
        "grid.color": grid,
    }
    style |= {
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.grid": True,
        "grid.linewidth": 0.6,
        "axes.spines.top": False,
    }
    style |= {
        "axes.spines.right": False,
        "font.size": 11,
        "legend.frameon": False,
        "legend.fontsize": 9.5,
        "lines.linewidth": 1.6,
    }
    with mpl.rc_context(style):
        return draw()


def _axes(columns: int) -> tuple[Figure, Any]:
    """A figure that pyplot does not keep, and its axes: one, or an array of panels side by side."""
    figure = Figure(figsize=(6.4, 4.0) if columns == 1 else (3.0 * columns, 3.2), layout="constrained")
    return figure, figure.subplots(1, columns, sharey=True)


def _predict(axes: Axes, x: np.ndarray, y: np.ndarray, label: str | None = None, linestyle: str = "-") -> None:
    axes.plot(x, y, color=mpl.rcParams["text.color"], linewidth=1.0, zorder=3, label=label, linestyle=linestyle)


def _plain_log_ticks(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers at 1, 2 and 5."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend_beside(axes: Axes) -> None:
    """A legend on the right of the axes, where it covers no data."""
    axes.figure.set_size_inches(8.0, 4.0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def _draw_by_block(
    axes: Axes,
    measured: Mapping[str, Sequence[np.ndarray]],
    predicted: Mapping[str, np.ndarray],
    band: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    seen: set[str] = set()
    for name, rows in measured.items():
        recipe = name.partition(",")[0]
        style = style_of(recipe) | ({"markerfacecolor": "none", "marker": "^"} if recipe in seen else {})
        seen.add(recipe)
        for i, row in enumerate(rows):
            block = np.arange(1, len(row) + 1)
            marks = {"linestyle": "none", "markersize": 4.5, "markevery": max(1, len(row) // 24)}
            axes.plot(block, row, **style, **marks, label=name if i == 0 else None)
    for i, (low, high) in enumerate(band.values()):
        ink, block = mpl.rcParams["text.color"], np.arange(1, len(low) + 1)
        axes.fill_between(block, low, high, color=ink, alpha=0.15, linewidth=0, label=None if i else "finite width")
    for i, line in enumerate(predicted.values()):
        _predict(axes, np.arange(1, len(line) + 1), line, label="predicted" if i == 0 else None)
    axes.set(xlabel="block $l$")
    axes.xaxis.get_major_locator().set_params(integer=True)


def _ends(measured: Mapping[str, Sequence[np.ndarray]], predicted: Mapping[str, np.ndarray]) -> str:
    """From first to last block, in words, for a text alternative."""
    said = "; ".join(
        f"{name} measured {_range(list(rows))}"
        + (f", predicted {_range([predicted[name]])}" if name in predicted else "")
        for name, rows in measured.items()
    )
    return f"From first block to last: {said}"


def _mean_length(spectra: Sequence[np.ndarray]) -> float:
    """Mean path length of some spectra's average; shares that were cut off at the end are left out."""
    return float(np.mean([np.arange(len(shares)) @ shares / np.sum(shares) for shares in spectra]))


def _where_it_matters(spectra: Sequence[np.ndarray]) -> tuple[float, float]:
    """The lengths at which a spectrum has more than a hundredth of its largest share, with room beside them."""
    carrying = np.concatenate([np.flatnonzero(shares > 0.01 * np.max(shares)) for shares in spectra])
    return max(carrying.min() - 1.5, -0.5), max(carrying.max() + 1.5, 3.5)


def _as_list(value: SignalStatistics | Sequence[SignalStatistics]) -> list[SignalStatistics]:
    return [value] if isinstance(value, SignalStatistics) else list(value)


def _words(quantity: str) -> str:
    return quantity.replace("_", " ").replace("train ", "training ")


def _range(rows: list[np.ndarray]) -> str:
    return " and ".join(f"{row[0]:.3g} to {row[-1]:.3g}" for row in rows[:3])


def _rate(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:.3g}"
