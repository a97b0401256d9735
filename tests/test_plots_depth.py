"""What trains, drawn: the map, the explorer of it, and accuracy beside the paper's rates."""

import math

import numpy as np
import pytest

from made_records import record
from shallowpaths.pages import explorers, plots

RATES = (0.01, 0.02, 0.04)


def study(recipe="skipinit"):
    """At 16 layers all rates train, at 100 one does not and one diverges."""
    for depth, losses in ((16, (0.5, 0.4, 0.3)), (100, (0.5, 2.2, math.inf))):
        for rate, loss in zip(RATES, losses, strict=True):
            yield record(rate, loss=loss, accuracy=1 - loss / 2.5, depth=depth, recipe=recipe)


LINES = {"skipinit": {"curvature": {16: 1.0, 100: 1e-40}}}


def marks(figure, label):
    (line,) = (line for line in figure.light.axes[0].get_lines() if line.get_label() == label)
    return {(x, round(y, 6)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}


def test_the_map_sorts_runs_by_outcome_and_draws_theory_over_them():
    figure = plots.trainability_map([*study(), *study("batchnorm")], LINES)
    assert marks(figure, "trains") == {(16, 0.1), (16, 0.2), (16, 0.4), (100, 0.1)}
    assert marks(figure, "does not train") == {(100, 0.2)}
    assert marks(figure, "diverged") == {(100, 0.4)}
    assert marks(figure, "curvature") == {(16, 1.0), (100, 0.0)}
    assert "skipinit trains at depth 16 up to 0.4, at depth 100 up to 0.1" in figure.alt
    low, high = figure.light.axes[0].get_ylim()
    assert 0.05 < low < 0.1 < 0.4 < high < 1.0, "a line that leads far out does not set the frame"
    assert figure.svg()


def test_accuracy_beside_the_rates_that_the_paper_calls_as_good():
    runs = [*study(), *(record(rate, 1, 0.5, 0.6, recipe="skipinit", depth=16, l2=0.0) for rate in RATES)]
    figure = plots.accuracy_by_rate(runs, {("skipinit", 16): (0.125, 0.5)})
    first, second = figure.light.axes
    drawn = {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in first.get_lines()}
    assert drawn["skipinit"] == pytest.approx([80.0, 84.0, 88.0])
    assert drawn["skipinit, no L2"] == pytest.approx([60.0] * 3)
    (bar,) = (line for line in first.get_lines() if line.get_label() == "as good in the paper")
    assert list(bar.get_xdata()) == [0.125, 0.5]
    assert any(list(line.get_ydata()) == [0] for line in second.get_lines()), "a cross on the floor for what diverged"
    assert "skipinit at 100 layers 80.0 % at 0.1, 12.0 % at 0.2, diverged at 0.4" in figure.alt


def test_the_explorer_asks_for_more_or_less():
    explorer = explorers.trainability_explorer([*study(), *study("batchnorm")], LINES)
    assert len(list(explorer.states())) == 2 * 8
    kinds = {s.kind: set(zip(s.x, np.round(s.y, 6), strict=True)) for s in explorer.picture(enough=80).series}
    assert kinds["measured"] == {(16, 0.1), (16, 0.2), (16, 0.4), (100, 0.1)}
    assert kinds["open"] == {(100, 0.2)}
    assert kinds["cross"] == {(100, 0.4)}
    more = {s.kind: s for s in explorer.picture(enough=90).series}
    assert "measured" not in more
    assert "at depth 16 at no rate" in explorer.picture(enough=90).words
    assert [s.kind for s in explorer.picture(recipe="batchnorm").series] == ["measured", "open", "cross"]
    styles = {s["kind"]: s for packed in explorer.data["pictures"].values() for s in packed["series"]}
    assert (styles["open"]["hollow"], styles["cross"]["marker"]) == (True, "x")
    assert all("svg" in explorer.picture(**state).svg() for state in list(explorer.states())[:3])


def test_the_explorer_starts_where_it_is_told():
    runs = [*study(), *study("batchnorm")]
    assert explorers.trainability_explorer(runs, {}, "batchnorm").picture().words.startswith("batchnorm")
    with pytest.raises(ValueError, match="cannot start at 'fixup'"):
        explorers.trainability_explorer(runs, {}, "fixup")


def test_nothing_to_explore_is_refused():
    with pytest.raises(ValueError, match="no record"):
        explorers.trainability_explorer([], {})
    with pytest.raises(ValueError, match="no record"):
        plots.trainability_map([], {})
