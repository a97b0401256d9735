"""Controls, and the Explorer that turns their values into pictures: as data for the book, as widgets for Jupyter."""

import dataclasses
import functools
import html
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ipywidgets

from shallowpaths.pages.explorers.pictures import Picture

MIME_WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Control:
    """A slider or a menu. Made by `slider` and `menu`.

    Attributes:
        name: of the argument of the explorer's function.
        label: what the reader sees.
        kind: "slider" or "menu".
        values: in order; `labels` says how each is shown.
        start: the value at first.
        only: other controls' values for which this one plays a part; elsewhere it is disabled.
    """

    name: str
    label: str
    kind: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    start: Any
    only: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(f"control {self.name!r} needs values, each once: not {self.values!r}")
        if self.start not in self.values:
            raise ValueError(f"control {self.name!r} cannot start at {self.start!r}: choose from {self.values}")

    def check(self, value: object) -> None:
        """Refuse a value that it does not have."""
        if value not in self.values:
            raise ValueError(f"{self.name} {value!r} is unknown: choose from {', '.join(map(str, self.values))}")

    def plays(self, state: Mapping[str, Any]) -> bool:
        """Whether its value makes a difference in this state."""
        return all(state[name] in values for name, values in self.only.items())


def slider(
    name: str,
    label: str,
    values: Sequence[float],
    start: float | None = None,
    only: Mapping[str, Sequence[Any]] | None = None,
) -> Control:
    """A slider over given numbers; see Control."""
    values = tuple(values)
    labels = tuple(f"{value:g}" for value in values)
    first = next(iter(values), None) if start is None else start
    return Control(name, label, "slider", values, labels, first, only or {})


def menu(name: str, label: str, choices: Mapping[str, str] | Iterable[str], start: str | None = None) -> Control:
    """A menu over words, or over {value: words}; see Control."""
    words = dict(choices) if isinstance(choices, Mapping) else {choice: choice for choice in choices}
    return Control(name, label, "menu", tuple(words), tuple(words.values()), start or next(iter(words), None))


class Explorer:
    """A figure with controls.

    Args:
        title: what it shows, in a few words.
        controls: sliders and menus, in order.
        compute: called with one value for each control, by name; returns the Picture.
        start: values at first, by name, instead of the controls' own.

    Raises:
        ValueError: `start` names what is no control, or gives a value that its control does not have.
    """

    def __init__(
        self, title: str, controls: Sequence[Control], compute: Callable[..., Picture], start: Mapping[str, Any] | None = None
    ):
        given = dict(start or {})
        self.title = title
        self.controls = tuple(dataclasses.replace(c, start=given.pop(c.name, c.start)) for c in controls)
        if given:
            raise ValueError(f"start names {sorted(given)}, which are no controls: {[c.name for c in controls]}")
        self._compute = functools.lru_cache(maxsize=4096)(compute)

    @property
    def start(self) -> dict[str, Any]:
        """The state at first."""
        return {control.name: control.start for control in self.controls}

    def picture(self, **state: Any) -> Picture:
        """The picture of a state; controls that are not named keep their first value.

        Raises:
            ValueError: a control that is not there, or a value that its control does not have.
        """
        if unknown := set(state) - set(self.start):
            raise ValueError(f"there is no control {sorted(unknown)}: choose from {', '.join(self.start)}")
        for control in self.controls:
            control.check(state.get(control.name, control.start))
        return self._compute(**self._settled(self.start | state))

    def states(self) -> Iterator[dict[str, Any]]:
        """Every state that differs from the others."""
        for values in itertools.product(*(control.values for control in self.controls)):
            state = dict(zip(self.start, values, strict=True))
            if state == self._settled(state):
                yield state

    def _settled(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state with the controls that play no part at their first value."""
        return {c.name: state[c.name] if c.plays(state) else c.start for c in self.controls}

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """All that the book's script needs to draw every state, ready for JSON. What states share is there once.

        A picture is [x axis, y axis, series, words], a series [style, column, column, ...], a column [number, length]: the
        first `length` entries of that row of "columns".
        """
        pictures = {self._key(state): self.picture(**state) for state in self.states()}
        rows, places = _shared(_short(getattr(s, name)) for p in pictures.values() for s in p.series for name in s.columns)
        axes: dict[str, int] = {}
        styles: dict[str, int] = {}
        packed = {
            key: [
                *(_number(axes, axis.packed) for axis in p.axes.values()),
                [
                    [_number(styles, s.style), *(places[_short(getattr(s, c))] for c in s.columns)]
                    for s in p.series
                ],
                p.words,
            ]
            for key, p in pictures.items()
        }
        controls = [
            {"name": c.name, "label": c.label, "kind": c.kind, "labels": c.labels, "start": c.values.index(c.start)}
            | ({"only": self._only(c)} if c.only else {})
            for c in self.controls
        ]
        tables = {"columns": rows, "axes": list(map(json.loads, axes)), "styles": list(map(json.loads, styles))}
        return {"title": self.title, "controls": controls, "pictures": packed} | tables

    def _key(self, state: Mapping[str, Any]) -> str:
        return ",".join(str(control.values.index(state[control.name])) for control in self.controls)

    def _only(self, control: Control) -> dict[str, list[int]]:
        """`control.only` in positions instead of names and values."""
        by_name = {c.name: (position, c) for position, c in enumerate(self.controls)}
        return {
            str(by_name[name][0]): [by_name[name][1].values.index(v) for v in values if v in by_name[name][1].values]
            for name, values in control.only.items()
        }

    def html(self) -> str:
        """The explorer for a page: its first picture for readers without scripts, and the data of every state."""
        first = self.picture()
        data = json.dumps(self.data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("</", "<\\/")
        return (
            f'<div class="explorer" role="group" aria-label="{html.escape(self.title)}">'
            f'<p class="explorer-title">{html.escape(self.title)}</p><div class="explorer-controls"></div>'
            f'<div class="explorer-picture">{first.svg()}</div>'
            f'<p class="explorer-words" aria-live="polite">{html.escape(first.words)}</p>'
            f'<script type="application/json">{data}</script></div>'
        )

    @functools.cached_property
    def live(self) -> ipywidgets.VBox:
        """The explorer as widgets, which call its function at every change. For ipywidgets 7 and later."""
        widgets = {control.name: _widget(control) for control in self.controls}
        picture, words = ipywidgets.HTML(), ipywidgets.HTML()

        def show(_: Any = None) -> None:
            state = {name: widget.value for name, widget in widgets.items()}
            for control in self.controls:
                widgets[control.name].disabled = not control.plays(state)
            shown = self.picture(**state)
            picture.value, words.value = shown.svg(), html.escape(shown.words)

        for widget in widgets.values():
            widget.observe(show, names="value")
        show()
        title = ipywidgets.HTML(f"<b>{html.escape(self.title)}</b>")
        return ipywidgets.VBox([title, *widgets.values(), picture, words])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        view = {"version_major": 2, "version_minor": 0, "model_id": self.live.model_id}
        plain = f"{self.title}\n{self.picture().words}"
        return {MIME_WIDGET: view, "text/html": self.html(), "text/plain": plain}


def _widget(control: Control) -> ipywidgets.Widget:
    kind = ipywidgets.SelectionSlider if control.kind == "slider" else ipywidgets.Dropdown
    options = list(zip(control.labels, control.values, strict=True))
    look = {"style": {"description_width": "8em"}, "layout": {"width": "min(100%, 32em)"}}
    return kind(options=options, value=control.start, description=control.label, **look)


def _shared(columns: Iterable[tuple[float, ...]]) -> tuple[list[tuple[float, ...]], dict[tuple[float, ...], list[int]]]:
    """Rows of numbers, and for each column its [number of the row, length]: one that begins another is a part of its row."""
    rows: list[tuple[float, ...]] = []
    places = {}
    for column in sorted(set(columns), reverse=True):  # what begins another comes right after it
        if not (rows and rows[-1][: len(column)] == column):
            rows.append(column)
        places[column] = [len(rows) - 1, len(column)]
    return rows, places


def _number(known: dict[str, int], item: Any) -> int:
    """The place of an item, written as JSON, among those known; a new one comes last."""
    return known.setdefault(json.dumps(item), len(known))


def _short(column: Iterable[float]) -> tuple[float, ...]:
    """Four significant digits, which no eye tells from more, and whole numbers without a point."""
    rounded = (float(f"{value:.4g}") for value in column)
    return tuple(int(value) if value.is_integer() and abs(value) < 1e6 else value for value in rounded)
