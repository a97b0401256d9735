import itertools
import re
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from shallowpaths import plots
from shallowpaths.measure import path_spectrum, predicted_signal, signal_statistics
from shallowpaths.networks import ResidualMLP
from shallowpaths.recipes import NAMES
from shallowpaths.runs import RunConfig, RunRecord
from shallowpaths.theory import path_length_distribution


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
    brightness = {}
    for theme in ("light", "dark"):
        (line,) = (x for x in getattr(figure, theme).axes[0].get_lines() if x.get_label() == "predicted")
        brightness[theme] = sum(to_rgb(line.get_color()))
    assert brightness["light"] < 0.6
    assert brightness["dark"] > 2.4


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
    page, whole = ET.fromstring(unquote(address)), ET.fromstring(figure.svg())
    for element in [e for e in whole.iter() if e.tag.endswith("metadata")]:
        element.clear()
    page, whole = ([e for e in root.iter() if "metadata" not in e.tag] for root in (page, whole))
    assert [e.tag for e in page] == [e.tag for e in whole]
    for small, large in zip(page, whole, strict=True):
        assert small.keys() == large.keys()
        for name, value in small.items():
            numbers = [[float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", v)] for v in (value, large.get(name))]
            assert numbers[0] == pytest.approx(numbers[1], abs=0.01)
            assert value.partition("scale")[2] == large.get(name).partition("scale")[2]


def test_the_dark_picture_is_what_drawing_in_dark_colours_gives(signals):
    for figure in (plots.signal_by_block(*signals), plots.signal_panels(signals[0], {})):
        drawn = plots.BookFigure(lambda f=figure: f.dark, "").svg()
        dark, drawn, light = (
            re.sub(rb"[mp][0-9a-f]{10}", b"id", svg) for svg in (figure.svg("dark"), drawn, figure.svg())
        )
        assert dark == drawn  # but for the names of its parts, which matplotlib makes from their colours
        assert dark != light


def test_showing_a_figure_leaves_its_layout_to_later_changes(signals):
    figure = plots.signal_by_block(*signals)
    figure._repr_mimebundle_()
    engine = figure.light.get_layout_engine()
    figure.light.axes[0].set_title("two\nlines")
    figure.svg()
    assert engine is figure.light.get_layout_engine()
    assert figure.light.get_tightbbox().ymax * figure.light.dpi <= figure.light.bbox.ymax


def test_a_figure_is_the_same_bytes_twice(signals):
    assert plots.signal_by_block(*signals).svg() == plots.signal_by_block(*signals).svg()


def test_save_writes_what_the_ending_says(signals, tmp_path):
    figure = plots.signal_by_block(*signals)
    figure.save(tmp_path / "a.png")
    figure.save(tmp_path / "a.svg", "dark")
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()


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
    assert figure.svg("dark").startswith(b"<?xml")


@pytest.mark.parametrize("draw", [plots.rate_by_batch_size, plots.loss_by_rate, plots.loss_by_rate_per_example])
def test_rates_at_which_nothing_trains_are_drawn_too(draw):
    diverged = [run for run in runs(depths=(100,)) if run.outcome == "diverged"]
    assert draw(diverged, guessing=2.3).svg().startswith(b"<?xml")


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


def test_mean_path_length_by_blocks_shows_every_network_and_says_the_mean():
    measured = {"batchnorm": {6: [1.5, 1.7], 12: [2.1]}, "batchnorm, linear": {6: [1.4]}}
    predicted = {name: {6: 1.6, 9: 1.9, 12: 2.2} for name in measured}
    figure = plots.path_length_by_blocks(measured, predicted)
    drawn = dict(line_data(figure.light.axes[0]))
    assert drawn["batchnorm"].tolist() == [1.5, 1.7, 2.1]
    assert drawn["predicted"].tolist() == [1.6, 1.9, 2.2]
    markers = {line.get_label(): line.get_marker() for line in figure.light.axes[0].get_lines()}
    assert markers["batchnorm"] != markers["batchnorm, linear"]
    assert "batchnorm 1.6 (predicted 1.6) at 6 blocks, 2.1 (predicted 2.2) at 12 blocks" in figure.alt
