"""What an explorer shows in one state: curves, axes and the same in words; and its drawing as an SVG."""

import html
import io
import math
import re
import zlib
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from shallowpaths.pages.plots import style_of
from shallowpaths.pages.plots.drawing import STYLE, THEMES
from shallowpaths.theory.checks import one_of

# A thin line in the text's colour; marks in the recipe's, hollow, crosses; an area from y to top; lines up from each x.
KINDS = dict.fromkeys(("theory", "measured", "open", "cross"), ("x", "y")) | {"band": ("x", "y", "top"), "mean": ("x",)}
_INK = "#010203"  # drawn in this, then named currentColor: the page's text colour, whatever its theme


@dataclass(frozen=True)
class Series:
    """One curve of a picture, of a kind in KINDS, with the columns that it says; points not finite are left out.

    name: what the legend calls it, once where several have it; recipe: whose colour and marker it has.
    """

    kind: str
    name: str
    x: ArrayLike
    y: ArrayLike = ()
    top: ArrayLike = ()
    recipe: str | None = None

    def __post_init__(self) -> None:
        one_of("kind", self.kind, KINDS)
        columns = [np.asarray(getattr(self, name), dtype=float) for name in KINDS[self.kind]]
        if len({column.shape for column in columns}) > 1:
            raise ValueError(f"the columns of {self.name!r} have lengths {[column.size for column in columns]}")
        columns = np.array(columns)
        for name, column in zip(KINDS[self.kind], columns[:, np.isfinite(columns).all(axis=0)], strict=True):
            object.__setattr__(self, name, column)

    @property
    def packed(self) -> dict[str, Any]:
        """What the book's script draws it from, in four significant digits."""
        own = style_of(self.recipe) if self.recipe else {}
        look = {"color": own.get("color", "currentColor"), "marker": "x" if self.kind == "cross" else own.get("marker", "o")}
        look["hollow"] = self.kind == "open" or own.get("markerfacecolor") == "none"
        columns = {name: [float(f"{value:.4g}") for value in getattr(self, name)] for name in KINDS[self.kind]}
        return {"name": self.name, "kind": self.kind} | look | columns


@dataclass(frozen=True)
class Picture:
    """One state of an explorer: its axes (limits None fit the curves), curves, and the same in words, with numbers."""

    x_label: str
    y_label: str
    series: tuple[Series, ...]
    words: str
    x_log: bool = False
    y_log: bool = False
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None

    @property
    def axes(self) -> dict[str, dict[str, Any]]:
        """The axes "x" and "y", each with its label, log, limits, ticks and their words."""
        axes, points = {}, [s for s in self.series if s.kind not in ("band", "mean")]
        for name, room in (("x", 0.0), ("y", 0.06)):
            label, log, given = (getattr(self, f"{name}_{what}") for what in ("label", "log", "limits"))
            limits = given or _limits([getattr(s, name) for s in points], log, room)
            ticks = _ticks(*limits, log)
            words = list(map(spoken, ticks))
            axes[name] = {"label": label, "log": log, "limits": limits, "ticks": ticks, "words": words}
        return axes

    @property
    def packed(self) -> dict[str, Any]:
        """What the book's script draws it from."""
        return self.axes | {"series": [s.packed for s in self.series], "words": self.words}

    def svg(self) -> str:
        """An SVG to stand in a page, in the colour of its text; of its ids only those that are used."""
        ink = {key: _INK if value == THEMES["light"][0] else value for key, value in STYLE.items()}
        ink |= {"svg.fonttype": "none", "svg.hashsalt": f"{zlib.crc32(self.words.encode())}"}
        with mpl.rc_context(ink):
            figure = Figure(figsize=(6.4, 3.9))
            axes = figure.add_axes((0.13, 0.15, 0.85, 0.8))
            for series in self.series:
                _draw(axes, series)
            for (name, axis), drawn in zip(self.axes.items(), (axes.xaxis, axes.yaxis), strict=True):
                axes.set(**{f"{name}scale": "log" if axis["log"] else "linear", f"{name}label": axis["label"]})
                drawn.set_ticks(axis["ticks"], axis["words"])
                drawn.set_minor_locator(NullLocator())  # on a logarithmic axis they are many, and slow to draw
                axes.set(**{f"{name}lim": axis["limits"]})
            axes.grid(color=_INK, alpha=0.15, linewidth=0.6)
            named = {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
            axes.legend(named.values(), named.keys(), loc="best" if len(self.series) < 4 else "upper left")
            file = io.StringIO()
            figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        svg = file.getvalue()
        svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if f"#{found[1]}" in svg else "", svg)
        head = f'<svg role="img" aria-label="{html.escape(self.words)}" style="max-width:100%;height:auto"'
        return svg.replace("<svg", head, 1)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """At powers of ten, eight of them at most, or at 1, 2 and 5 times these where they are few; round numbers if linear."""
    if not log:
        return [float(f"{tick:.6g}") for tick in MaxNLocator(7).tick_values(low, high) if low <= tick <= high]
    decades = range(math.floor(math.log10(low)), min(math.ceil(math.log10(high)), 307) + 1)
    powers = [float(f"1e{decade}") for decade in decades if decade % math.ceil(len(decades) / 8) == 0]
    fine = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    few, many = ([tick for tick in ticks if 0.999 * low <= tick <= 1.001 * high] for ticks in (powers, fine))
    return few if len(few) > 2 else many or [low, high]


def spoken(value: float) -> str:
    """A number of three digits for readers: "0.25", "1500", "3.2·10¹⁸"."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{float(f'{value:.3g}'):g}"
    mantissa, power = (f"{float(part):g}" for part in f"{value:.2e}".split("e"))
    raised = power.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"


def _limits(columns: list[np.ndarray], log: bool, room: float) -> tuple[float, float]:
    """From least to largest, with some room; never empty, and only positive on a logarithmic axis."""
    values = np.concatenate([*columns, []])
    values = np.log10(values[values > 0]) if log else values
    if values.size == 0:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    spare = room * (high - low) or (0.0 if high > low else 0.3 if log else 0.5)
    return tuple(float(f"{10 ** min(v, 308.0) if log else v:.4g}") for v in (low - spare, high + spare))


def _draw(axes: Axes, series: Series) -> None:
    style = style_of(series.recipe) if series.recipe else {}
    if series.kind == "theory":
        axes.plot(series.x, series.y, color=_INK, linewidth=1.0, zorder=3, label=series.name)
    elif series.kind == "band":
        axes.fill_between(series.x, series.y, series.top, color=_INK, alpha=0.15, linewidth=0, label=series.name)
    elif series.kind == "mean":
        for x in series.x:
            axes.axvline(x, color=style.get("color", _INK), linestyle="--", linewidth=1.6, label=series.name)
    else:
        look = {"open": {"markerfacecolor": "none"}, "cross": {"marker": "x"}}.get(series.kind, {})
        axes.plot(series.x, series.y, **style | look, linestyle="none", markersize=4.5, clip_on=False, label=series.name)
