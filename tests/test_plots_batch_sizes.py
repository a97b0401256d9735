"""The batch-size study, drawn: accuracy and rates, and the explorer of rates."""

import numpy as np
import pytest

from made_records import record, validated
from shallowpaths.experiments.records import STABLE_ERROR, validation_error
from shallowpaths.pages import explorers, plots
from shallowpaths.pages.plots.batch_sizes import RING

RATES = (0.125, 0.25, 0.5, 1.0)
ACCURACIES = {  # by recipe and batch size, at each of the rates
    ("batchnorm", 16): (0.595, 0.6, 0.5, 0.4),
    ("batchnorm", 256): (0.5, 0.56, 0.6, 0.55),
    ("skipinit", 16): (0.5, 0.6, 0.4, None),
    ("skipinit", 256): (0.5, None, None, None),
    ("fixup", 256): (None, None, None, None),
}


def study(seeds=(0,)):
    for (recipe, size), accuracies in ACCURACIES.items():
        for rate, accuracy in zip(RATES, accuracies, strict=True):
            for seed in seeds:
                better = accuracy and accuracy + 0.02 * seed
                yield validated(rate, better, loss=2 * (1 - (better or 0)), recipe=recipe, batch_size=size, seed=seed)


def lines(axes):
    """What is drawn, by label; lines without one have none."""
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def heights(axes, label):
    return np.asarray(lines(axes)[label].get_ydata(), dtype=float)


def test_test_accuracy_and_loss_stand_at_the_rate_that_validation_chose():
    figure = plots.accuracy_by_batch_size(study(), predicted={"batchnorm": 1e4, "skipinit": 16})
    accuracy, loss = figure.light.axes
    drawn = [container.lines[0] for container in accuracy.containers]
    assert [list(line.get_ydata()) for line in drawn[:2]] == [pytest.approx([59, 59]), pytest.approx([59, 49])]
    assert [list(line.get_ydata()) for line in loss.get_lines()[:1]] == [pytest.approx([0.8, 0.8])]
    assert heights(accuracy, "fixup: no rate trained") == pytest.approx([10])
    flat = lines(accuracy)["predicted: the batch size does not matter"]
    assert (list(flat.get_xdata()), list(flat.get_ydata())) == ([16, 256], pytest.approx([59, 59]))
    assert "skipinit 59.0 %, loss 0.8 at batch 16 (rate 0.25), 49.0 %, loss 1 at batch 256 (rate 0.125, on the grid's edge)" in figure.alt
    assert "fixup at no rate at batch 256" in figure.alt
    assert heights(accuracy, RING) == pytest.approx([49])
    assert heights(loss, RING) == pytest.approx([1.0])
    assert figure.svg()["dark"]


def test_accuracies_of_several_seeds_have_bars_of_their_standard_deviation():
    figure = plots.accuracy_by_batch_size(study(seeds=(0, 1)))
    bars = figure.light.axes[0].containers[0].lines[2][0].get_segments()
    low, high = (60 - 100 * 0.02 / 2**0.5, 60 + 100 * 0.02 / 2**0.5)
    assert bars[0][:, 1] == pytest.approx([low, high])
    assert "batchnorm 60.0 ± 1.4 %" in figure.alt


def test_what_has_no_validation_split_is_not_chosen_on_the_test_set():
    with pytest.raises(ValueError, match="no validation split"):
        plots.accuracy_by_batch_size([record()])


def test_rates_are_chosen_on_validation_with_the_range_that_is_as_good_and_edges():
    curve = np.array([16, 256]), np.array([0.1, 1.6])
    predicted = {"skipinit": curve, "from noise and curvature": curve}
    figure = plots.rate_by_batch_size(study(), guessing=STABLE_ERROR, criterion=validation_error, predicted=predicted)
    (axes,) = figure.light.axes
    assert heights(axes, "batchnorm: largest stable") == pytest.approx([1.0, 1.0])
    assert heights(axes, "skipinit: largest stable") == pytest.approx([0.5, 0.125])
    (bars,) = axes.collections
    assert [list(bar[:, 1]) for bar in bars.get_segments()] == [pytest.approx([0.125, 0.25])]
    assert "batchnorm at batch 16: best 0.25 (as good 0.125 to 0.25), largest stable 1" in figure.alt
    assert heights(axes, RING) == pytest.approx([0.125])
    assert {"skipinit: best, predicted", "from noise and curvature"} <= set(lines(axes))
    assert "skipinit at batch 256: best 0.125 on the grid's edge, largest stable 0.125" in figure.alt
    assert "fixup at batch 256: best none, largest stable none" in figure.alt
    assert list(lines(axes)).count(RING) == 1
    assert figure.svg()["dark"]


def by_kind(picture, kind):
    return [s for s in picture.series if s.kind == kind]


PREDICTED = {"batchnorm": {16: 0.2, 256: 0.6}, "skipinit": {16: 0.2}}


def test_the_explorer_moves_best_and_largest_stable_rate_with_the_batch_size():
    explorer = explorers.batch_size_explorer(study(), PREDICTED, start=256)
    assert [state["batch_size"] for state in explorer.states()] == [16, 256]
    assert explorer.picture() == explorer.picture(batch_size=256)
    small = explorer.picture(batch_size=16)
    assert [s.name for s in by_kind(small, "measured")] == ["batchnorm", "skipinit"]
    marks = by_kind(small, "measured")[0]
    assert list(zip(marks.x, marks.y, strict=True))[:4] == [pytest.approx(p) for p in zip(RATES, (59.5, 60, 50, 40), strict=True)]
    assert (marks.x[4], marks.y[4] > 100) == (pytest.approx(0.25), True)
    assert [list(s.x) for s in by_kind(small, "band")] == [pytest.approx([0.25, 1.0]), pytest.approx([0.25, 0.5])]
    assert [list(s.x) for s in by_kind(small, "theory")] == [[0.2, 0.2], [0.2, 0.2]]
    assert [list(s.x) for s in by_kind(small, "cross")] == [pytest.approx([1.0])]
    assert "batchnorm best at 0.25 (predicted 0.2) with 60.0 %, stable up to 1" in small.words
    large = explorer.picture(batch_size=256).words
    assert "skipinit best at 0.125 on the grid's edge with 50.0 %, stable up to 0.125; fixup trains at no rate" in large


def test_the_explorers_axes_stay_and_it_has_one_legend_entry_each():
    explorer = explorers.batch_size_explorer(study(), PREDICTED)
    pictures = [explorer.picture(**state) for state in explorer.states()]
    assert len({str(p.axes) for p in pictures}) == 1
    assert max(pictures[0].axes["y"]["ticks"]) == 100, "the rows above are no accuracies"
    assert all(pictures[0].svg().count(f">{name}<") == 1 for name in ("best to largest stable", "diverged", "best, predicted"))
    styles = {series["kind"] for packed in explorer.data["pictures"].values() for series in packed["series"]}
    assert styles == {"measured", "band", "theory", "cross"}
    assert all("<svg" in p.svg() for p in pictures)


def test_the_explorer_reads_no_test_accuracy():
    runs = list(study())
    other = [validated(r.config.effective_learning_rate, r.validation_accuracy, recipe=r.config.recipe,
                       batch_size=r.config.batch_size) for r in runs]  # fmt: skip
    for r in other:
        object.__setattr__(r, "test_accuracy", None if r.test_accuracy is None else 0.123)
    one, two = (explorers.batch_size_explorer(made, PREDICTED).data for made in (runs, other))
    assert one == two


def test_what_cannot_be_explored_is_refused():
    with pytest.raises(ValueError, match="no record to draw"):
        explorers.batch_size_explorer([])
    with pytest.raises(ValueError, match="cannot start at 32"):
        explorers.batch_size_explorer(study(), start=32)
    with pytest.raises(ValueError, match="no validation split"):
        explorers.batch_size_explorer([record()])
