"""A figure of the book: drawn for light and for dark pages, with words."""

import base64
import contextlib
import io
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.artist import getp, setp
from matplotlib.colors import to_hex, to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from shallowpaths.theory.checks import one_of

_THEMES = {
    "light": {"text": "#1a1a1a", "grid": "#d9d9d9", "ground": "#ffffff"},
    "dark": {"text": "#e6e6e6", "grid": "#4a4a4a", "ground": "#121212"},
}
_INKS = ("text", "grid")  # a theme's colours that figures are drawn in

WIDE = 7.0  # inches; on a phone a figure wider than this, or of several panels, scrolls sideways in its own frame
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
    """An SVG as an image's address, half as long as in base64: no remarks, positions to a hundredth of a point.

    The marks of a line all have one style: it is given once, to their group.
    """
    text = re.sub(r"<\?xml.*?\?>|<!.*?>|<metadata>.*?</metadata>", "", svg.decode(), flags=re.DOTALL)
    text = _POSITIONS.sub(lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found.group()), text)
    text = re.sub(r"<g([^>]*)>\s*((?:<use [^>]*/>\s*)+)</g>", _with_one_style, text)
    return "data:image/svg+xml," + quote(" ".join(text.split()).replace('"', "'"), safe=" '<>=/:;,.()*+-")


def _with_one_style(group: re.Match[str]) -> str:
    styles = set(re.findall(r' style="[^"]*"', group[2]))
    if len(styles) != 1 or " style=" in group[1]:
        return group[0]
    (style,) = styles
    return f"<g{group[1]}{style}>{group[2].replace(style, '')}</g>"


def _drawn(draw: Callable[[], Figure]) -> Figure:
    text, grid = (_THEMES["light"][ink] for ink in _INKS)
    style = {f"{part}.color": text for part in ("text", "xtick", "ytick")} | {
        f"axes.{p}color": text for p in ("label", "edge")
    }
    style |= {"grid.color": grid, "grid.linewidth": 0.6, "axes.grid": True, "lines.linewidth": 1.6, "font.size": 11}
    style |= {f"{part}.facecolor": "none" for part in ("axes", "figure")}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 9.5}
    with mpl.rc_context(style):
        return draw()
