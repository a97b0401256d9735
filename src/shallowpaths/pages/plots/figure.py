"""What all figures share: one visual language, drawn for light and for dark pages, with words.

A recipe has one colour and one marker through the whole book. What was measured is coloured, what was predicted is a
thin dark line.
"""

import base64
import collections
import contextlib
import io
import itertools
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
from matplotlib.artist import getp, setp
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from shallowpaths.recipes import NAMES
from shallowpaths.theory.checks import one_of
from shallowpaths.training.record import RunRecord

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


LINES = {"batchnorm-on-skip": "--", "batchnorm-at-end": "-.", "plain-batchnorm": ":", "zero-gamma": (0, (1, 3))}


_SHAPES = "osD^vP*Xph<>d"
_MARKERS = dict(zip(NAMES, itertools.cycle(_SHAPES), strict=False))
_LOOKS = zip(itertools.cycle(_SHAPES), itertools.cycle(("#777777", "#6A3D9A", "#7A8B00", "#A50F3C")), strict=False)
_OWN = collections.defaultdict(lambda: next(_LOOKS))  # by name, in the order in which they are drawn


_THEMES = {
    "light": {"text": "#1a1a1a", "grid": "#d9d9d9", "ground": "#ffffff"},
    "dark": {"text": "#e6e6e6", "grid": "#4a4a4a", "ground": "#121212"},
}
_INKS = ("text", "grid")  # a theme's colours that figures are drawn in


CROSS = {"marker": "x", "markersize": 9, "markeredgewidth": 2, "clip_on": False}  # a run that diverged


WIDE = 7.0  # inches; on a phone a figure wider than this, or of several panels, scrolls sideways in its own frame
CHANCE = {"color": "0.5", "linestyle": ":", "linewidth": 1}


_POSITIONS = re.compile(r'\b(?:d|x|y)="[^"]*"|translate\([^)]*\)')  # and no scale(): a hundredth of it is much


class BookFigure:
    """A figure for light and for dark pages, with a text alternative; Jupyter shows it, `save` writes it.

    Args:
        draw: makes the figure, in the style that is set when it is called.
        alt: what the figure shows, in words.

    Attributes:
        alt: as given.
        light: the matplotlib figure, in light colours. What is changed in it is shown on dark pages too.
    """

    def __init__(self, draw: Callable[[], Figure], alt: str):
        self.alt = alt
        self.light = _drawn(draw)

    def svg(self, theme: str = "light") -> bytes:
        """The figure as SVG with a transparent ground. The dark one is the light one with two colours exchanged."""
        one_of("theme", theme, tuple(_THEMES))
        with _laid_out(self.light) as bounds:
            return _recoloured(_rendered(self.light, "svg", bounds), theme)

    def save(self, path: str | Path, theme: str = "light") -> None:
        """Write the figure to a file; its ending says in which format. The ground is the page's.

        Raises:
            ValueError: an unknown theme, or a format that matplotlib does not write.
        """
        one_of("theme", theme, tuple(_THEMES))
        path = Path(path)
        form = path.suffix.lstrip(".").lower()
        one_of("file format", form, tuple(self.light.canvas.get_supported_filetypes()))
        colours = contextlib.nullcontext() if theme == "light" else _in_theme(self.light, theme)
        with colours, _laid_out(self.light) as bounds:
            ground = {"transparent": False, "facecolor": _THEMES[theme]["ground"]}
            path.write_bytes(_rendered(self.light, form, bounds, **ground))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        alt = self.alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        name = f"figure-{uuid.uuid5(uuid.NAMESPACE_OID, self.alt).hex[:8]}"
        wide = " wide" if self.light.get_size_inches()[0] > WIDE or len(self.light.axes) > 1 else ""
        with _laid_out(self.light) as bounds:
            svg = _rendered(self.light, "svg", bounds)
            png = _rendered(self.light, "png", bounds, facecolor="white", transparent=False)
        images = "".join(
            f'<img class="figure-{theme}" alt="{alt}" src="{_address(_recoloured(svg, theme))}">' for theme in _THEMES
        )
        return {
            "text/html": f'{_SWITCH}<div class="book-figure{wide}" id="{name}">{images}</div>',
            "image/png": base64.b64encode(png).decode(),
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
    """The colour and marker that a recipe has in every figure, as arguments of matplotlib's `plot`.

    A name that the book does not have gets a look of its own when it is first drawn, and keeps it.
    """
    if recipe not in _MARKERS:
        marker, colour = _OWN[recipe]
        return {"color": colour, "marker": marker, "markerfacecolor": None}
    return {
        "color": _COLOURS[_RELATIVES.get(recipe, recipe)],
        "marker": _MARKERS[recipe],
        "markerfacecolor": "none" if recipe in _RELATIVES else None,
    }


def new_axes(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure that pyplot does not keep, and its panels: up to three side by side, more of them two by two."""
    columns = panels if panels <= 3 else 2
    rows = -(-panels // columns)
    figure = Figure(
        figsize=(6.4, 4.0) if panels == 1 else (3.0 * columns + 1.2 * (rows > 1), 3.2 * rows), layout="constrained"
    )
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for unused in grid[panels:]:
        unused.remove()
    return figure, list(grid[:panels])


def predict(axes: Axes, x: np.ndarray, y: np.ndarray, label: str | None = None, linestyle: str = "-") -> None:
    """Draw what theory says, y over x, as the thin dark line that a prediction is in every figure."""
    axes.plot(x, y, color=mpl.rcParams["text.color"], linewidth=1.0, zorder=3, label=label, linestyle=linestyle)


def plain_log_ticks(axes: Axes) -> None:
    """A logarithmic vertical axis with plain numbers at 1, 2 and 5."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend_beside(axes: Axes) -> None:
    """A legend on the right of the axes, where it covers no data."""
    axes.figure.set_size_inches(8.0, 4.0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def blocks_on_log_axes(axes: Axes, by_blocks: Iterable[Iterable[int]], ylabel: str) -> None:
    """Logarithmic axes over the number of blocks, with a tick at each number that one of the curves has."""
    blocks = sorted(set(itertools.chain.from_iterable(by_blocks)))
    axes.set(xscale="log", yscale="log", xlabel="blocks $d$", ylabel=ylabel)
    axes.set_xticks(blocks, [str(d) for d in blocks])
    axes.minorticks_off()
    legend_beside(axes)


def all_records(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The records as a list; a ValueError if there is none to draw."""
    listed = list(records)
    if not listed:
        raise ValueError("there is no record to draw")
    return listed


def check_predicted(measured: Mapping[str, Any], predicted: Mapping[str, Any]) -> None:
    """Raise a ValueError if nothing was measured, or something without a prediction."""
    if not measured:
        raise ValueError("there is nothing measured to draw")
    for name in measured:
        if name not in predicted:
            raise ValueError(f"there is no prediction for {name!r}, only for {', '.join(predicted) or 'nothing'}")


def words(quantity: str) -> str:
    """A field's name as an axis or a text alternative calls it: "train_loss" is "training loss"."""
    return quantity.replace("_", " ").replace("train ", "training ")


def range_words(rows: list[np.ndarray]) -> str:
    """The first and the last value of up to three rows, for a text alternative."""
    return " and ".join(f"{row[0]:.3g} to {row[-1]:.3g}" for row in rows[:3])


def rate_words(rate: float | None) -> str:
    """A learning rate in three digits; None, where no rate trained, is "none"."""
    return "none" if rate is None else f"{rate:.3g}"


@contextlib.contextmanager
def _laid_out(figure: Figure) -> Iterator[Bbox]:
    """The figure's bounds in inches. Within, its layout stands: matplotlib would make it anew for every format."""
    engine = figure.get_layout_engine()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    try:
        yield figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
    finally:
        figure.set_layout_engine(engine)


def _rendered(figure: Figure, form: str, bounds: Bbox, **more: Any) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    with mpl.rc_context({"svg.hashsalt": "shallowpaths"}):
        figure.savefig(file, format=form, bbox_inches=bounds, metadata=metadata, **({"transparent": True} | more))
    return file.getvalue()


def _recoloured(svg: bytes, theme: str) -> bytes:
    """A light figure in the colours of a theme. The measured colours are the same on both."""
    for ink in _INKS:
        svg = svg.replace(_THEMES["light"][ink].encode(), _THEMES[theme][ink].encode())
    return svg


@contextlib.contextmanager
def _in_theme(figure: Figure, theme: str) -> Iterator[None]:
    """Within, whatever a light figure has in the light theme's inks has a theme's."""
    exchange = {_THEMES["light"][ink]: _THEMES[theme][ink] for ink in _INKS}
    changed = []
    figure.draw_without_rendering()  # it makes the ticks
    for artist in figure.findobj():
        for name in ("color", "edgecolor", "facecolor", "markeredgecolor", "markerfacecolor"):
            if not (hasattr(artist, f"get_{name}") and hasattr(artist, f"set_{name}")):
                continue
            value = getp(artist, name)
            colours = to_rgba_array(value)
            inks = [to_hex(colour) for colour in colours]
            if set(inks) & set(exchange):
                changed.append((artist, name, value))
                pairs = zip(inks, colours, strict=True)
                new = [to_rgba(exchange[i], c[3]) if i in exchange else tuple(c) for i, c in pairs]
                setp(artist, **{name: new[0] if len(new) == 1 else new})
    try:
        yield
    finally:
        for artist, name, value in reversed(changed):
            setp(artist, **{name: value})


def _address(svg: bytes) -> str:
    """An SVG as an image's address, half as long as in base64: no remarks, positions to a hundredth of a point."""
    text = re.sub(r"<\?xml.*?\?>|<!.*?>|<metadata>.*?</metadata>", "", svg.decode(), flags=re.DOTALL)
    text = _POSITIONS.sub(lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found.group()), text)
    return "data:image/svg+xml," + quote(" ".join(text.split()).replace('"', "'"), safe=" '<>=/:;,.()*+-")


def _drawn(draw: Callable[[], Figure]) -> Figure:
    text, grid = (_THEMES["light"][ink] for ink in _INKS)
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
