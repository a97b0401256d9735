import itertools
import re
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from shallowpaths.measure import path_spectrum, predicted_signal, signal_statistics
from shallowpaths.networks import ResidualMLP
from shallowpaths.pages import plots
from shallowpaths.pages.plots.drawing import STYLE, THEMES
from shallowpaths.recipes import NAMES
from shallowpaths.theory import path_length_distribution
from shallowpaths.training.config import RunConfig
from shallowpaths.training.record import RunRecord


@pytest.fixture(scope="module")
def signals():
    networks = {name: ResidualMLP(16, 32, name) for name in ("unnormalized", "batchnorm")}
    measured = {name: signal_statistics(n, torch.randn(32, 64)) for name, n in networks.items()}
    return measured, {name: predicted_signal(n).skip_variance for name, n in networks.items()}


def runs(rates=(0.05, 0.1), sizes=(16, 64), depths=(16,)):
    for recipe, rate, size, depth in itertools.product(("batchnorm", "skipinit-1"), rates, sizes, depths):
        config = RunConfig(recipe=recipe, learning_rate=rate, batch_size=size, depth=depth)
        if recipe == "skipinit-1" and depth == 100:
            yield RunRecord(config, "diverged", [], diverged_step=1)
        else:
            curve = [{"epoch": e, "learning_rate": rate, "train_loss": 1 / e, "train_accuracy": 0.9} for e in (1, 2)]
            yield RunRecord(config, "finished", curve, test_accuracy=0.9, test_loss=0.5)


def line_data(axes):
    return [(line.get_label(), np.asarray(line.get_ydata(), dtype=float)) for line in axes.get_lines()]


def test_measured_and_predicted_are_drawn_on_the_same_axes(signals):
    measured, predicted = signals
    figure = plots.signal_by_block(measured, predicted)
    drawn = [y for _, y in line_data(figure.light.axes[0])]
    for name in measured:
        assert any(np.array_equal(y, measured[name].skip_variance) for y in drawn)
        assert any(np.array_equal(y, predicted[name]) for y in drawn)


def test_the_prediction_is_dark_on_light_pages_and_light_on_dark_ones(signals):
    figure = plots.signal_by_block(*signals)
    (line,) = (x for x in figure.light.axes[0].get_lines() if x.get_label() == "predicted")
    ink = line.get_color()
    assert sum(to_rgb(ink)) < 0.6
    assert ink in figure.svg()["light"]
    assert ink not in figure.svg()["dark"]
    assert "#e6e6e6" in figure.svg()["dark"]


def test_a_figure_brings_both_themes_a_picture_and_words(signals):
    bundle = plots.signal_by_block(*signals)._repr_mimebundle_()
    assert bundle["text/html"].count("data:image/svg+xml,") == 2
    assert bundle["text/html"].count('alt="') == 2
    assert bundle["image/png"].startswith("iVBOR")
    assert "batchnorm measured" in bundle["text/plain"]
    assert "http" not in re.sub(r'src="data:[^"]*"', "", bundle["text/html"])


def test_the_picture_on_a_page_is_the_figures_to_a_hundredth_of_a_point(signals):
    shown, figure = (plots.signal_by_block(*signals) for _ in range(2))  # two, as laying out again moves a figure a bit
    (address, _) = re.findall(r'src="data:image/svg\+xml,([^"]*)"', shown._repr_mimebundle_()["text/html"])
    page, whole = ET.fromstring(unquote(address)), ET.fromstring(figure.svg()["light"])
    for element in [e for e in whole.iter() if e.tag.endswith("metadata")]:
        element.clear()
    for group in (*page.iter(), *whole.iter()):  # whether it is the group that has a style, or each of its marks
        marks = [mark for mark in group if mark.tag.endswith("use")]
        for mark in marks:
            mark.set("style", mark.get("style") or group.get("style") or "")
        if marks:
            group.attrib.pop("style", None)
    page, whole = ([e for e in root.iter() if "metadata" not in e.tag] for root in (page, whole))
    assert [e.tag for e in page] == [e.tag for e in whole]
    for small, large in zip(page, whole, strict=True):
        assert small.keys() == large.keys()
        for name, value in small.items():
            numbers = [[float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", v)] for v in (value, large.get(name))]
            assert numbers[0] == pytest.approx(numbers[1], abs=0.01)
            assert value.partition("scale")[2] == large.get(name).partition("scale")[2]


DRAWINGS = [
    lambda signals: plots.signal_by_block(*signals),
    lambda signals: plots.signal_panels(signals[0], {}),
    lambda signals: plots.signal_by_block(*signals, band={n: (0.5 * v, 2 * v) for n, v in signals[1].items()}),
    lambda signals: plots.values_against({"float16": {16: [9, 11]}}, {"float16": {16: 10}}, "x", "y"),  # noqa: ARG005
    lambda signals: plots.rate_by_batch_size(runs(), guessing=2.3),  # noqa: ARG005
]


@pytest.mark.parametrize("draw", DRAWINGS)
def test_the_dark_picture_is_what_drawing_in_dark_colours_gives(signals, draw, monkeypatch):
    figure = draw(signals)
    dark_of = dict(zip(*THEMES.values(), strict=True))
    for key in [key for key, value in STYLE.items() if value in dark_of]:
        monkeypatch.setitem(STYLE, key, dark_of[STYLE[key]])
    drawn = draw(signals)
    monkeypatch.undo()
    dark, wanted, light = (
        re.sub(r"[mp][0-9a-f]{10}", "id", svg)
        for svg in (figure.svg()["dark"], drawn.svg()["light"], figure.svg()["light"])
    )
    assert dark == wanted  # but for the names of its parts, which matplotlib makes from their colours
    assert dark != light


def test_what_is_changed_in_a_figure_is_shown_in_both_themes(signals):
    figure = plots.signal_by_block(*signals)
    assert not any("changed" in figure.svg()[theme] for theme in THEMES)
    figure.light.axes[0].set_title("changed")
    assert all("<!-- changed -->" in figure.svg()[theme] for theme in THEMES)


def test_names_of_a_readers_own_can_be_told_apart():
    names = [f"skipinit-{alpha}" for alpha in (0.3, 0.31, 0.32)] + ["mine", "another"]
    looks = [tuple(plots.style_of(name).values()) for name in names]
    assert len(set(looks)) == len(names)
    assert looks == [tuple(plots.style_of(name).values()) for name in names]


def test_a_legend_below_many_recipes_is_no_wider_than_the_panels():
    curve = [{"epoch": 1, "learning_rate": 0.1, "train_loss": 1.0, "train_accuracy": 0.9}]
    many = [RunRecord(RunConfig(recipe=n), "finished", curve, test_accuracy=0.9, test_loss=0.5) for n in NAMES]
    figure = plots.loss_by_rate(many, guessing=2.3).light
    figure.draw_without_rendering()
    assert figure.legends[0].get_window_extent().width <= figure.bbox.width


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: plots.signal_by_block(*s, "skip_varance"), "quantity 'skip_varance' is unknown: choose from skip_v"),
        (lambda s: plots.signal_panels(s[0], {}, ("share",)), "quantity 'share' is unknown"),
        (lambda s: plots.training_curves([], guessing=2.3), "no record to draw"),  # noqa: ARG005
        (lambda s: plots.accuracy_by_depth([]), "no record to draw"),  # noqa: ARG005
        (lambda s: plots.loss_by_rate([], guessing=2.3), "no record to draw"),  # noqa: ARG005
        (lambda s: plots.loss_by_rate(runs(), guessing=2.3, panels="width"), "panels 'width' is unknown"),  # noqa: ARG005
        (lambda s: plots.path_lengths({}, {}), "needs what was measured"),  # noqa: ARG005
        (lambda s: plots.path_lengths({"a": [np.ones(2)]}, {"b": None}), "prediction: not \\['a'\\] and \\['b'\\]"),  # noqa: ARG005
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(signals, wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(signals)


def test_the_array_of_a_single_network_is_drawn_too():
    flat, row = (plots.values_by_block({"mine": value}, {}, "x") for value in (np.arange(1.0, 5), [np.arange(1.0, 5)]))
    assert flat.alt == row.alt
    assert np.array_equal(flat.light.axes[0].get_lines()[0].get_ydata(), np.arange(1.0, 5))


def test_a_figure_is_the_same_bytes_twice(signals):
    assert plots.signal_by_block(*signals).svg() == plots.signal_by_block(*signals).svg()


def test_every_recipe_has_a_style_of_its_own():
    styles = [tuple(sorted((k, str(v)) for k, v in plots.style_of(name).items())) for name in NAMES]
    assert len(set(styles)) == len(NAMES)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.training_curves(runs(rates=(0.05,), sizes=(16,), depths=(16, 100)), guessing=2.3),
        lambda: plots.accuracy_by_depth(runs(depths=(16, 100))),
        lambda: plots.loss_by_rate(runs(), guessing=2.3),
        lambda: plots.rate_by_batch_size(
            runs(), guessing=2.3, predicted={"x": (np.array([16, 64]), np.array([0.5, 1.0]))}
        ),
    ],
)
def test_figures_of_runs_are_drawn_with_words(draw):
    figure = draw()
    assert figure.light.axes[0].get_lines()
    assert "batchnorm" in figure.alt
    assert figure.svg()["dark"].startswith("<?xml")


@pytest.mark.parametrize("draw", [plots.rate_by_batch_size, plots.loss_by_rate])
def test_rates_at_which_nothing_trains_are_drawn_too(draw):
    diverged = [run for run in runs(depths=(100,)) if run.outcome == "diverged"]
    assert draw(diverged, guessing=2.3).svg()["light"].startswith("<?xml")


def test_a_diverged_run_is_said_and_drawn():
    figure = plots.training_curves(runs(rates=(0.05,), sizes=(16,), depths=(100,)), guessing=2.3)
    assert "diverged at step 1" in figure.alt
    assert any("diverged" in label for label, _ in line_data(figure.light.axes[0]))


@pytest.fixture(scope="module")
def spectra():
    network = ResidualMLP(16, 32, "batchnorm", inputs=32)
    measured = [
        path_spectrum(network, torch.randn(32, 32, generator=torch.Generator().manual_seed(s))) for s in range(2)
    ]
    return measured, path_length_distribution(predicted_signal(network).path_probability)


def test_path_lengths_are_drawn_measured_and_predicted_one_panel_a_name(spectra):
    measured, predicted = spectra
    names = ("batchnorm", "batchnorm, again")
    figure = plots.path_lengths({n: [s.shares for s in measured] for n in names}, dict.fromkeys(names, predicted))
    assert [axes.get_title().partition(":")[0] for axes in figure.light.axes] == list(names)
    for axes in figure.light.axes:
        drawn = [y for _, y in line_data(axes)]
        for shares in (*(s.shares for s in measured), predicted):
            assert any(np.array_equal(y, shares) for y in drawn)
    mean = np.mean([s.mean_length for s in measured])
    assert f"batchnorm measured {mean:.3g}, predicted {np.arange(len(predicted)) @ predicted:.3g}" in figure.alt


def test_the_panel_of_path_lengths_shows_the_lengths_that_carry_the_signal():
    shares = np.zeros(101)
    shares[40:61] = 1 / 21
    figure = plots.path_lengths({"unnormalized": [shares]}, {"unnormalized": shares})
    assert figure.light.axes[0].get_xlim() == (38.5, 61.5)
