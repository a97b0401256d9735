"""What all figures are drawn with: the looks of recipes, light and dark pages, axes, legends and words."""

import base64
import collections
import html
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from shallowpaths.experiments.records import Point
from shallowpaths.recipes import NAMES
from shallowpaths.training.record import RunRecord

THEMES = {"light": ("#1a1a1a", "#d9d9d9"), "dark": ("#e6e6e6", "#4a4a4a")}  # text, grid; all else is the same
_TEXT, _GRID = THEMES["light"]
STYLE = {
    "text.color": _TEXT, "xtick.color": _TEXT, "ytick.color": _TEXT, "axes.labelcolor": _TEXT, "axes.edgecolor": _TEXT,
    "axes.grid": True, "grid.color": _GRID, "grid.linewidth": 0.6, "lines.linewidth": 1.6, "font.size": 11,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "legend.fontsize": 9.5, "figure.labelsize": "medium",
}  # fmt: skip
styled = mpl.rc_context(STYLE)  # decorates what draws a figure
WIDE = 7.0  # inches; on a phone a figure wider than this, or of several panels, scrolls sideways in its own frame

# Okabe and Ito's colours, which colour-blind readers can tell apart; relatives share a hue and differ in marker.
_COLOURS = {
    "unnormalized": "#D55E00", "batchnorm": "#0072B2", "skipinit": "#009E73", "skipinit-1/sqrt(d)": "#56B4E9",
    "skipinit-1": "#E69F00", "divide-sqrt2": "#CC79A7", "fixup": "#8C6D31",
}  # fmt: skip
_RELATIVES = {"plain": "unnormalized", "zero-gamma": "batchnorm"} | {
    name: head for head in ("batchnorm", "skipinit", "fixup") for name in NAMES if head in name and name not in _COLOURS
}
LINES = {"batchnorm-on-skip": "--", "batchnorm-at-end": "-.", "plain-batchnorm": ":", "zero-gamma": (0, (1, 3))}
_SHAPES = "osD^vP*Xph<>d"
_OWN = zip(itertools.cycle(("#777777", "#6A3D9A", "#7A8B00", "#A50F3C")), itertools.cycle(_SHAPES), strict=False)
_LOOKS = collections.defaultdict(lambda: dict(zip(("color", "marker"), next(_OWN), strict=True), markerfacecolor=None))
for _name, _shape in zip(NAMES, itertools.cycle(_SHAPES), strict=False):
    _colour, _face = _COLOURS[_RELATIVES.get(_name, _name)], "none" if _name in _RELATIVES else None
    _LOOKS[_name] = {"color": _colour, "marker": _shape, "markerfacecolor": _face}

CROSS = {"marker": "x", "markersize": 9, "markeredgewidth": 2, "clip_on": False}  # a run that diverged
GUESSED = 10.0  # per cent of ten classes
DASHES = ("-", "--", "-.", ":")  # of several lines in one colour

# Which of the two pictures shows: the book's theme, JupyterLab, VS Code and Colab each mark a dark page in their own way.
_DARK_PAGES = ("html[data-theme=dark]", "[data-jp-theme-light=false]", ".vscode-dark", "html[theme=dark]")
_LIGHT, _DARK = (",".join(f"{page} .figure-{theme}" for page in _DARK_PAGES) for theme in THEMES)
_SWITCH = (
    "<style>.figure-dark{display:none}.book-figure img{max-width:100%}"
    f"{_LIGHT}{{display:none}}{_DARK}{{display:inline}}</style>"
)


class BookFigure:
    """A figure for light and for dark pages that Jupyter shows; alt: what it shows, in words.

    light: the matplotlib figure, in light colours. What is changed in it is shown on dark pages too.
    """

    def __init__(self, light: Figure, alt: str):
        self.light, self.alt = light, alt

    def svg(self) -> dict[str, str]:
        """As SVG with a transparent ground, by theme: the dark one is the light one with two colours exchanged."""
        light, dark_of = self._rendered("svg", transparent=True).decode(), dict(zip(*THEMES.values(), strict=True))
        return {"light": light, "dark": re.sub("|".join(dark_of), lambda found: dark_of[found[0]], light)}

    def html(self) -> str:
        """Both pictures for a page, of which it shows the one for its theme."""
        wide = " wide" if self.light.get_size_inches()[0] > WIDE or len(self.light.axes) > 1 else ""
        alt, svgs = html.escape(self.alt), self.svg().items()
        images = "".join(f'<img class="figure-{theme}" alt="{alt}" src="{_address(svg)}">' for theme, svg in svgs)
        return f'{_SWITCH}<div class="book-figure{wide}">{images}</div>'

    def _rendered(self, form: str, **ground: Any) -> bytes:
        file = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "shallowpaths"}):
            self.light.savefig(file, format=form, bbox_inches="tight", metadata={"Date": None}, **ground)
        return file.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        page, png = self.html(), self._rendered("png", facecolor="white", transparent=False)
        return {"text/html": page, "image/png": base64.b64encode(png).decode(), "text/plain": self.alt}


def _address(svg: str) -> str:
    """Short: no remarks, positions to a hundredth of a point, the style of a line's marks once, for their group."""
    text = re.sub(r"<\?xml.*?\?>|<!.*?>|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    positions = r'\b(?:d|x|y)="[^"]*"|translate\([^)]*\)'  # and no scale(): a hundredth of it is much
    text = re.sub(positions, lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found.group()), text)
    marks = r'<g((?:(?! style=)[^>])*)>\s*(<use [^>]*?( style="[^"]*")/>\s*(?:<use [^>]*?\3/>\s*)*)</g>'
    text = re.sub(marks, lambda group: f"<g{group[1]}{group[3]}>{group[2].replace(group[3], '')}</g>", text)
    return "data:image/svg+xml," + quote(" ".join(text.split()).replace('"', "'"), safe=" '<>=/:;,.()*+-")


def style_of(recipe: str) -> dict[str, Any]:
    """A recipe's colour and marker in every figure, arguments of matplotlib's `plot`; another name keeps its first."""
    return dict(_LOOKS[recipe])


def recipe_in(name: str) -> str:
    """The recipe in the name of something measured: what stands before a comma, as in "batchnorm, seed 1"."""
    return name.partition(",")[0]


def looks_of(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A look for each name, that of the recipe before its comma; further names of a recipe have other marks and dashes."""
    looks, before = {}, collections.Counter()
    for name in names:
        recipe, nth = recipe_in(name), before[recipe_in(name)]
        further = {"markerfacecolor": "none", "marker": "^v<>"[nth % 4 - 1]} if nth else {}
        looks[name] = style_of(recipe) | further | {"linestyle": DASHES[nth % len(DASHES)]}
        before[recipe] += 1
    return looks


def new_axes(panels: int, panel: tuple[float, float] | None = None, **shared: bool) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, each of that width and height in inches; shared: sharex; sharey, True unless given."""
    columns = 2 if panels == 4 else min(panels, 3)
    rows = -(-panels // columns)
    width, height = panel or ((6.4, 4.0) if panels == 1 else (3.0 + 1.2 * (rows > 1) / columns, 3.2))
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **{"sharey": True} | shared).ravel()
    for unused in grid[panels:]:
        unused.remove()
    return figure, list(grid[:panels])


def draw(axes: Axes, points: Mapping[float, float], **look: Any) -> None:
    """Draw {x: y} in a look of matplotlib's `plot`."""
    axes.plot(list(points), list(points.values()), **look)


def predict(axes: Axes, line: Mapping[float, float], label: str | None = None, linestyle: Any = "-") -> None:
    """Draw what theory says, {x: y}, as the thin dark line that a prediction is in every figure."""
    draw(axes, line, color=mpl.rcParams["text.color"], linewidth=1.0, zorder=3, label=label, linestyle=linestyle)
    axes.get_lines()[-1].set_in_layout(False)  # it may lead far out of the frame, where it is cut


def draw_guessing(axes: Axes, level: float) -> None:
    """Draw what guessing comes to, as a dotted line."""
    axes.axhline(level, color=mpl.rcParams["text.color"], linewidth=1, linestyle=":", label="guessing")


def accuracies_with_spread(axes: Axes, name: str, points: Mapping[float, Point], at: Sequence[float] | None = None) -> None:
    """Draw a recipe's test accuracies, each with its standard deviation over seeds; at: where, instead of the keys."""
    if points:
        heights, spread = zip(*((100 * p.accuracy, 100 * (p.accuracy_std or 0)) for p in points.values()), strict=True)
        look = style_of(name) | {"label": name, "capsize": 3}
        axes.errorbar(at or list(points), heights, spread if any(spread) else None, **look)


def whole_numbers(axes: Axes, label: str) -> None:
    """A horizontal axis of whole numbers."""
    axes.set_xlabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)


def plain_log_ticks(axes: Axes) -> None:
    """A logarithmic vertical axis; over less than three decades with plain numbers at 1, 2 and 5."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 1e3 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def legend_beside(axes: Axes) -> None:
    """A legend on the right of the axes, where it covers no data."""
    axes.figure.set_size_inches(8.0, 4.0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def legend_below(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """One legend for all panels, below them; a name that several panels have stands there once."""
    handles = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


def log_axis_at(axes: Axes, values: Iterable[int], label: str, base: int = 10) -> None:
    """A logarithmic horizontal axis, with a tick at each of the values."""
    axes.set_xlabel(label)
    axes.set_xscale("log", base=base)
    axes.set_xticks(values, [str(value) for value in values])
    axes.minorticks_off()


def all_records(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The records as a list; a ValueError if there is none to draw."""
    if not (listed := list(records)):
        raise ValueError("there is no record to draw")
    return listed


def rate_words(rate: float | None) -> str:
    """A learning rate in three digits; None, where no rate trained, is "none"."""
    return "none" if rate is None else f"{rate:.3g}"
