"""A figure of the book: drawn for light and for dark pages, with words."""

import base64
import io
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.figure import Figure

from shallowpaths.theory.checks import one_of

_THEMES = {
    "light": {"text": "#1a1a1a", "grid": "#d9d9d9"},
    "dark": {"text": "#e6e6e6", "grid": "#4a4a4a"},
}

WIDE = 7.0  # inches; on a phone a figure wider than this, or of several panels, scrolls sideways in its own frame
_POSITIONS = re.compile(r'\b(?:d|x|y)="[^"]*"|translate\([^)]*\)')  # and no scale(): a hundredth of it is much


class BookFigure:
    """A figure for light and for dark pages, with a text alternative; Jupyter shows it.

    Args:
        draw: makes the figure, in the style that is set when it is called.
        alt: what the figure shows, in words.

    Attributes:
        alt: as given.
        light: the matplotlib figure, in light colours. What is changed in it is shown on dark pages too, and its
            `savefig` writes it to a file.
    """

    def __init__(self, draw: Callable[[], Figure], alt: str):
        self.alt = alt
        self.light = _drawn(draw)

    def svg(self, theme: str = "light") -> bytes:
        """The figure as SVG with a transparent ground. The dark one is the light one with two colours exchanged."""
        one_of("theme", theme, tuple(_THEMES))
        return _recoloured(_rendered(self.light, "svg"), theme)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        alt = self.alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        wide = " wide" if self.light.get_size_inches()[0] > WIDE or len(self.light.axes) > 1 else ""
        svg = _rendered(self.light, "svg")
        png = _rendered(self.light, "png", facecolor="white", transparent=False)
        images = "".join(
            f'<img class="figure-{theme}" alt="{alt}" src="{_address(_recoloured(svg, theme))}">' for theme in _THEMES
        )
        return {
            "text/html": f'{_SWITCH}<div class="book-figure{wide}">{images}</div>',
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


def _rendered(figure: Figure, form: str, **more: Any) -> bytes:
    file = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    with mpl.rc_context({"svg.hashsalt": "shallowpaths"}):
        figure.savefig(file, format=form, bbox_inches="tight", metadata=metadata, **({"transparent": True} | more))
    return file.getvalue()


def _recoloured(svg: bytes, theme: str) -> bytes:
    """A light figure in the colours of a theme. The measured colours are the same on both."""
    for ink, drawn in _THEMES["light"].items():
        svg = svg.replace(drawn.encode(), _THEMES[theme][ink].encode())
    return svg


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
    text, grid = _THEMES["light"].values()
    style = {f"{part}.color": text for part in ("text", "xtick", "ytick")}
    style |= {"axes.labelcolor": text, "axes.edgecolor": text}
    style |= {"grid.color": grid, "grid.linewidth": 0.6, "axes.grid": True, "lines.linewidth": 1.6, "font.size": 11}
    style |= {"figure.labelsize": "medium"}
    style |= {f"{part}.facecolor": "none" for part in ("axes", "figure")}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 9.5}
    with mpl.rc_context(style):
        return draw()
