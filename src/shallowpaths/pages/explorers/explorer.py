"""The Explorer turns controls' values into pictures: data for `book/_assets/explorer.js`, widgets for Jupyter."""

import base64
import functools
import gzip
import html
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets

from shallowpaths.pages.explorers.pictures import Picture

MIME_WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Control:
    """A slider over numbers, or a menu over words, for the argument `name` of an explorer's function.

    choices: its values in order, or {value: how it is shown}; start: the value at first, None takes the first.
    only: another control and its value for which this one plays a part; elsewhere it is disabled.
    """

    name: str
    label: str
    choices: Mapping[Any, str] | Sequence[Any]
    start: Any = None
    only: tuple[str, Any] | None = None

    @property
    def labels(self) -> list[str]:
        """How they are shown."""
        shown = self.choices.values() if isinstance(self.choices, Mapping) else self.choices
        return [value if isinstance(value, str) else f"{value:g}" for value in shown]

    @property
    def kind(self) -> str:
        """What it is, "menu" or "slider"."""
        return "menu" if isinstance(next(iter(self.choices)), str) else "slider"

    def plays(self, state: Mapping[str, Any]) -> bool:
        """Whether its value makes a difference in this state."""
        return self.only is None or state[self.only[0]] == self.only[1]


class Explorer:
    """A figure with controls. compute: called with one value for each of them, by name.

    start: values at first, by name, before the controls' own; a ValueError for other names and values.
    """

    def __init__(
        self, title: str, controls: Sequence[Control], compute: Callable[..., Picture], start: Mapping[str, Any] | None = None
    ):
        self.title, self.controls = title, controls
        self.start = {c.name: next(iter(c.choices), None) if c.start is None else c.start for c in controls}
        if unknown := set(start or {}) - set(self.start):
            raise ValueError(f"start names {sorted(unknown)}, which are no controls: {list(self.start)}")
        self.start |= start or {}
        for c in controls:
            if (first := self.start[c.name]) not in c.choices:
                raise ValueError(f"control {c.name!r} cannot start at {first!r}: choose from {[*c.choices]}")
        self._compute = functools.lru_cache(maxsize=4096)(compute)

    def picture(self, **state: Any) -> Picture:
        """The picture of a state; controls that are not named keep their first value. A ValueError for other names."""
        if unknown := set(state) - set(self.start):
            raise ValueError(f"there is no control {sorted(unknown)}: choose from {', '.join(self.start)}")
        return self._compute(**self._settled(self.start | state))

    def states(self) -> Iterator[dict[str, Any]]:
        """Every state that differs from the others."""
        product = itertools.product(*(control.choices for control in self.controls))
        states = (dict(zip(self.start, values, strict=True)) for values in product)
        return (state for state in states if state == self._settled(state))

    def _settled(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state with the controls that play no part at their first value."""
        return {c.name: state[c.name] if c.plays(state) else self.start[c.name] for c in self.controls}

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """All that the book's script needs to draw every state, ready for JSON; pictures by their controls' positions."""
        names, places = list(self.start), {c.name: list(c.choices).index for c in self.controls}
        controls = [
            {"label": c.label, "kind": c.kind, "labels": c.labels, "start": places[c.name](self.start[c.name])}
            | ({"only": [names.index(c.only[0]), places[c.only[0]](c.only[1])]} if c.only else {})
            for c in self.controls
        ]
        pictures = {
            ",".join(str(places[name](value)) for name, value in state.items()): self.picture(**state).packed
            for state in self.states()
        }
        return {"controls": controls, "pictures": pictures}

    def html(self) -> str:
        """For a page: the first picture, for readers without scripts, and the data of every state, compressed."""
        first, title = self.picture(), html.escape(self.title)
        data = json.dumps(self.data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        packed = base64.b64encode(gzip.compress(data.encode(), mtime=0)).decode()
        return (
            f'<div class="explorer" role="group" aria-label="{title}">'
            f'<p class="explorer-title">{title}</p><div class="explorer-controls"></div>'
            f'<div class="explorer-picture">{first.svg()}</div>'
            f'<p class="explorer-words" aria-live="polite">{html.escape(first.words)}</p>'
            f'<script type="application/gzip">{packed}</script></div>'
        )

    @functools.cached_property
    def live(self) -> ipywidgets.VBox:
        """The explorer as widgets, which call its function at every change. For ipywidgets 7 and later."""
        kinds = {"slider": ipywidgets.SelectionSlider, "menu": ipywidgets.Dropdown}
        look = {"style": {"description_width": "8em"}, "layout": {"width": "min(100%, 32em)"}}
        widgets, picture, words = {}, ipywidgets.HTML(), ipywidgets.HTML()

        def show(_: Any = None) -> None:
            state = {name: widget.value for name, widget in widgets.items()}
            for control in self.controls:
                widgets[control.name].disabled = not control.plays(state)
            shown = self.picture(**state)
            picture.value, words.value = shown.svg(), html.escape(shown.words)

        for c in self.controls:
            options = list(zip(c.labels, c.choices, strict=True))
            widgets[c.name] = kinds[c.kind](options=options, value=self.start[c.name], description=c.label, **look)
            widgets[c.name].observe(show, names="value")
        show()
        title = ipywidgets.HTML(f"<b>{html.escape(self.title)}</b>")
        return ipywidgets.VBox([title, *widgets.values(), picture, words])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        view = {"version_major": 2, "version_minor": 0, "model_id": self.live.model_id}
        return {MIME_WIDGET: view, "text/html": self.html(), "text/plain": f"{self.title}\n{self.picture().words}"}
