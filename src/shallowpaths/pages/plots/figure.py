"""A figure of the book: drawn for light and for dark pages, with words."""

import base64
import html
import io
import re
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.figure import Figure

from shallowpaths.theory.checks import one_of

THEMES = {"light": {"text": "#1a1a1a", "grid": "#d9d9d9"}, "dark": {"text": "#e6e6e6", "grid": "#4a4a4a"}}
_TEXT, _GRID = THEMES["light"].values()
STYLE = {
    "text.color": _TEXT, "xtick.color": _TEXT, "ytick.color": _TEXT, "axes.labelcolor": _TEXT, "axes.edgecolor": _TEXT,
    "axes.grid": True, "grid.color": _GRID, "grid.linewidth": 0.6, "lines.linewidth": 1.6, "font.size": 11,
    "axes.facecolor": "none", "figure.facecolor": "none", "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "legend.fontsize": 9.5, "figure.labelsize": "medium",
}  # fmt: skip
styled = mpl.rc_context(STYLE)  # decorates what draws a figure
WIDE = 7.0  # inches; on a phone a figure wider than this, or of several panels, scrolls sideways in its own frame
_POSITIONS = re.compile(r'\b(?:d|x|y)="[^"]*"|translate\([^)]*\)')  # and no scale(): a hundredth of it is much

# Which of the two pictures shows: the book's theme, JupyterLab, VS Code and Colab each mark a dark page in their own way.
_DARK_PAGES = ("html[data-theme=dark]", "[data-jp-theme-light=false]", ".vscode-dark", "html[theme=dark]")
_LIGHT, _DARK = (",".join(f"{page} .figure-{theme}" for page in _DARK_PAGES) for theme in THEMES)
_SWITCH = (
    "<style>.figure-dark{display:none}.book-figure img{max-width:100%}"
    f"{_LIGHT}{{display:none}}{_DARK}{{display:inline}}</style>"
)


class BookFigure:
    """A figure for light and for dark pages, with a text alternative; Jupyter shows it.

    Attributes:
        light: the matplotlib figure, in light colours. What is changed in it is shown on dark pages too, and its
            `savefig` writes it to a file.
        alt: what the figure shows, in words.
    """

    def __init__(self, light: Figure, alt: str):
        self.light, self.alt = light, alt

    def svg(self, theme: str = "light") -> bytes:
        """The figure as SVG with a transparent ground. The dark one is the light one with two colours exchanged."""
        one_of("theme", theme, THEMES)
        return _recoloured(self._rendered("svg"), theme)

    def _rendered(self, form: str, **more: Any) -> bytes:
        file = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "shallowpaths"}):
            self.light.savefig(file, format=form, bbox_inches="tight", metadata={"Date": None}, **{"transparent": True} | more)
        return file.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        wide = " wide" if self.light.get_size_inches()[0] > WIDE or len(self.light.axes) > 1 else ""
        svg, png = self._rendered("svg"), self._rendered("png", facecolor="white", transparent=False)
        images = "".join(
            f'<img class="figure-{theme}" alt="{html.escape(self.alt)}" src="{_address(_recoloured(svg, theme))}">' for theme in THEMES
        )
        return {
            "text/html": f'{_SWITCH}<div class="book-figure{wide}">{images}</div>',
            "image/png": base64.b64encode(png).decode(),
            "text/plain": self.alt,
        }


def _recoloured(svg: bytes, theme: str) -> bytes:
    """A light figure in the colours of a theme. The measured colours are the same on both."""
    for ink, drawn in THEMES["light"].items():
        svg = svg.replace(drawn.encode(), THEMES[theme][ink].encode())
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
