"""Explorers: their numbers against theory and real networks, as data and as widgets."""

import base64
import functools
import gzip
import itertools
import json
import re

import ipywidgets
import nbformat
import numpy as np
import pytest
import torch

from building import rendering
from shallowpaths import measure
from shallowpaths.networks import ResidualMLP
from shallowpaths.pages import explorers
from shallowpaths.pages.explorers import Control, Explorer, Picture, Series
from shallowpaths.pages.explorers import signals as explorer_of_signals
from shallowpaths.pages.explorers.explorer import MIME_WIDGET
from shallowpaths.pages.explorers.pictures import spoken
from shallowpaths.pages.explorers.signals import BATCH, forward_signal, measured_quantity, predicted_signal
from shallowpaths.recipes import NAMES, get_recipe

RECIPES = ("unnormalized", "batchnorm", "skipinit", "skipinit-1/sqrt(d)", "divide-sqrt2", "batchnorm-on-skip")
BLOCKS = (4, 16, 64, 1000)
FOUR_DIGITS = 6e-4  # relative error of a number rounded to four digits, and a little


@pytest.fixture(scope="module", autouse=True)
def _few_alphas():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explorer_of_signals, "ALPHAS", (0.0, 0.3))
        yield


@pytest.fixture(scope="module")
def signals():
    return explorers.signal_explorer(RECIPES, blocks=BLOCKS, measured_blocks=16)


@pytest.fixture(scope="module")
def paths():
    return explorers.path_explorer(blocks=BLOCKS)


def every_state(explorer):
    return list(explorer.states())


@functools.cache
def embedded(explorer: Explorer) -> dict:
    """The data in the explorer's HTML, as the page's script reads it."""
    packed = re.search(r'<script type="application/gzip">(.*?)</script>', explorer.html())[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def unpacked(explorer: Explorer, **state) -> dict[str, dict[str, np.ndarray]]:
    """What the page's script draws in a state: the curves by kind, read from the page's own data."""
    state = explorer.start | state
    picture = embedded(explorer)["pictures"][",".join(str(list(c.choices).index(state[c.name])) for c in explorer.controls)]
    columns = ("x", "y", "top")
    return {s["kind"]: {c: np.array(s[c], dtype=float) for c in columns if c in s} for s in picture["series"]}


def closed_form(recipe: str, alpha: float, blocks: int) -> np.ndarray:
    """Var(x^l) of a linear network, from paper.md's table and not from theory's recursion."""
    index = np.arange(1, blocks + 1, dtype=float)
    return {
        "unnormalized": lambda: 2 ** (index - 1),
        "batchnorm": lambda: index,
        "skipinit": lambda: (1 + alpha**2) ** (index - 1),
        "skipinit-1/sqrt(d)": lambda: (1 + 1 / blocks) ** (index - 1),
        "divide-sqrt2": lambda: np.ones(blocks),
        "batchnorm-on-skip": lambda: np.ones(blocks),
    }[recipe]()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_pages_numbers_are_the_papers_formulas(signals, recipe, blocks):
    for alpha in (0.0, 0.3) if recipe == "skipinit" else (0.0,):
        chosen = {"recipe": recipe, "alpha": alpha, "blocks": blocks, "activation": "linear"}
        expected = closed_form(recipe, alpha, blocks)
        line = unpacked(signals, quantity="skip_variance", **chosen)["theory"]
        np.testing.assert_allclose(line["y"], expected[line["x"].astype(int) - 1], rtol=FOUR_DIGITS)
        assert (line["x"][0], line["x"][-1]) == (1, blocks)
        share = {"unnormalized": 1 / 2, "batchnorm": 1 / (line["x"] + 1), "skipinit-1/sqrt(d)": 1 / (blocks + 1)}
        share |= {"skipinit": alpha**2 / (1 + alpha**2), "divide-sqrt2": 1 / 2, "batchnorm-on-skip": 1 / 2}
        line = unpacked(signals, quantity="branch_share", **chosen)["theory"]
        np.testing.assert_allclose(line["y"], np.broadcast_to(share[recipe], line["y"].shape), rtol=FOUR_DIGITS)


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("name", NAMES)
def test_the_prediction_without_a_network_is_the_networks_own(name, activation):
    network = ResidualMLP(20, 8, name, inputs=8, activation=activation)
    own, ours = measure.predicted_signal(network), predicted_signal(get_recipe(name), 8, activation=activation)
    cut = forward_signal(get_recipe(name), 8, activation)
    for quantity in ("skip_variance", "branch_variance", "branch_share", "downscaling", "path_probability"):
        np.testing.assert_array_equal(getattr(ours, quantity), getattr(own, quantity))
        np.testing.assert_array_equal(getattr(cut, quantity)[:8], getattr(own, quantity))


MEASURED = ("unnormalized", "batchnorm", "zero-gamma", "skipinit-0.3", "skipinit-1/sqrt(d)", "fixup-rescaling-only")


@pytest.mark.parametrize("name", MEASURED)
def test_a_cut_network_measures_as_one_of_that_depth(name):
    """Bitwise: the deep network's first blocks are those of a network built so."""
    measured = functools.partial(measured_quantity, get_recipe(name), activation="relu", width=32, deepest=16, seed=5)
    for blocks in (3, 16):
        built = ResidualMLP(2 * blocks + 4, 32, name, inputs=32, generator=torch.Generator().manual_seed(6))
        inputs = torch.randn(BATCH, 32, generator=torch.Generator().manual_seed(5))
        expected = measure.signal_statistics(built, inputs)
        for quantity in ("skip_variance", "branch_share"):
            seen = measured(quantity=quantity, blocks=blocks)
            np.testing.assert_array_equal(seen, getattr(expected, quantity)[:blocks])
    deeper = measured(quantity="skip_variance", blocks=17)
    assert deeper is None if "sqrt" in name or "fixup" in name else len(deeper) == 16


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("recipe", ["unnormalized", "batchnorm", "skipinit-1/sqrt(d)", "divide-sqrt2"])
def test_measured_marks_lie_in_the_band_of_their_width(recipe, seed):
    """The band is two standard deviations wide to each side; all 32 blocks of a network lie within four."""
    explorer = explorers.signal_explorer([recipe], ["skip_second_moment"], blocks=[32], measured_blocks=32, seed=seed)
    for width, activation in itertools.product((16, 64), ("linear", "relu")):
        curves = {s.kind: s for s in explorer.picture(width=width, activation=activation).series}
        low, high = np.log(curves["theory"].y / curves["band"].y), np.log(curves["band"].top / curves["theory"].y)
        away = np.log(curves["measured"].y / curves["theory"].y)
        assert np.all(away < 2 * high), f"width {width}, {activation}: {away / high}"
        assert np.all(away > -2 * low), f"width {width}, {activation}: {away / low}"


def test_where_float32_overflows_the_marks_end_and_the_words_say_so():
    explorer = explorers.signal_explorer(["unnormalized"], blocks=[200], measured_blocks=200)
    picture = explorer.picture(activation="linear")
    marks = next(s for s in picture.series if s.kind == "measured")
    assert 110 < marks.x[-1] < 135  # 2^128 is float32's largest
    assert re.search(r"at block 1\d\d, the last one measured", picture.words)


@pytest.mark.parametrize("name", ["signals", "paths"])
def test_every_state_is_told_in_words_with_its_numbers(name, request):
    explorer = request.getfixturevalue(name)
    data, states = explorer.data, every_state(explorer)
    assert len(states) == len(data["pictures"]) > 50
    for state, words in zip(states, (p["words"] for p in data["pictures"].values()), strict=True):
        assert words == explorer.picture(**state).words
        assert f"{state['blocks']} blocks" in words
        assert words.startswith(state["recipe"])
        line = next(s for s in explorer.picture(**state).series if s.kind == "theory")
        if name == "signals":
            ends = f"{spoken(line.y[0])} at block 1 to {spoken(line.y[-1])} at block {state['blocks']}"
            assert f"predicted {ends}" in words
        else:
            recipe = get_recipe(f"skipinit-{state['alpha']}" if state["recipe"] == "skipinit" else state["recipe"])
            mean = predicted_signal(recipe, state["blocks"], activation=state["activation"]).path_probability.sum()
            assert f"predicted {spoken(mean)} of {state['blocks']}" in words


@pytest.mark.parametrize("recipe", ["batchnorm", "unnormalized", "skipinit-1/sqrt(d)"])
@pytest.mark.parametrize("blocks", [16, 1000])
def test_path_lengths_are_poisson_binomial_and_the_mean_is_marked(paths, recipe, blocks):
    curves = unpacked(paths, recipe=recipe, blocks=blocks, activation="linear")
    index = np.arange(1, blocks + 1)
    constant_shares = {"unnormalized": 1 / 2, "skipinit-1/sqrt(d)": 1 / (blocks + 1)}
    p = 1 / (index + 1) if recipe == "batchnorm" else np.full(blocks, constant_shares[recipe])
    shares = np.array([1.0])
    for taken in p:
        shares = np.convolve(shares, [1 - taken, taken])
    lengths = curves["theory"]["x"].astype(int)
    np.testing.assert_allclose(curves["theory"]["y"], shares[lengths], rtol=FOUR_DIGITS)
    np.testing.assert_allclose(curves["mean"]["x"], p.sum(), rtol=FOUR_DIGITS)
    step = lengths[1] - lengths[0]
    assert curves["theory"]["y"].sum() * step == pytest.approx(1, abs=0.01), "what is left out matters"


def test_a_measured_path_spectrum_is_drawn_over_the_prediction():
    weights = torch.Generator().manual_seed(0)
    network = ResidualMLP(36, 64, "batchnorm", inputs=64, activation="linear", generator=weights)
    inputs = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
    spectrum = measure.path_spectrum(network, inputs).shares
    assert len(spectrum) == 17
    explorer = explorers.path_explorer(["batchnorm"], measured={("batchnorm", "linear", 16): spectrum}, blocks=BLOCKS)
    curves = unpacked(explorer, blocks=16, activation="linear")
    np.testing.assert_allclose(curves["measured"]["y"], spectrum[curves["measured"]["x"].astype(int)], rtol=FOUR_DIGITS)
    np.testing.assert_allclose(curves["measured"]["y"], curves["theory"]["y"], atol=0.05)  # width 64
    words = explorer.picture(blocks=16, activation="linear").words
    assert f"measured {spoken(np.arange(17) @ spectrum)}" in words
    assert "measured" not in unpacked(explorer, blocks=16, activation="relu")


def test_a_picture_shows_the_first_and_the_last_block_and_no_more_than_a_hundred():
    sizes = (1, 7, 16, 100, 1000)
    explorer = explorers.signal_explorer(["batchnorm"], blocks=sizes, measured_blocks=1)
    for blocks in sizes:
        shown = next(s.x for s in explorer.picture(blocks=blocks).series if s.kind == "theory")
        assert set(shown) >= {1, blocks}
        assert len(shown) == len(set(shown)) == min(blocks, len(shown)) <= 100


def test_the_live_figure_follows_its_controls(signals):
    box = signals.live
    assert isinstance(box, ipywidgets.VBox)
    _, quantity, recipe, alpha, blocks, activation, width, picture, words = box.children
    before = picture.value, words.value
    assert alpha.disabled
    blocks.value = 16
    assert (picture.value, words.value) != before
    assert "16 blocks" in words.value
    recipe.value = "skipinit"
    assert not alpha.disabled
    alpha.value = 0.3
    assert signals.picture(recipe="skipinit", alpha=0.3, blocks=16).words == words.value
    assert "skipinit with alpha 0.3" in words.value
    quantity.value, activation.value, width.value = "branch_share", "linear", 16
    state = {"quantity": "branch_share", "recipe": "skipinit", "alpha": 0.3, "blocks": 16}
    expected = signals.picture(**state, activation="linear", width=16)
    assert words.value == expected.words
    assert picture.value == expected.svg()


def test_one_output_serves_jupyter_and_the_book(signals):
    bundle = signals._repr_mimebundle_()
    assert bundle[MIME_WIDGET]["model_id"] == signals.live.model_id
    assert bundle["text/plain"] == f"The signal, block by block\n{signals.picture().words}"
    html = bundle["text/html"]
    assert html.count("<script") == html.count("</script>") == 1
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', html)) <= set(ids)
    assert "currentColor" in html
    again = explorers.signal_explorer(RECIPES, blocks=BLOCKS, measured_blocks=16)
    assert html == again.html(), "the same explorer twice is not the same page twice"


def test_the_pages_take_the_html_and_leave_the_widgets_behind(paths):
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", paths._repr_mimebundle_())])
    plain = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", {MIME_WIDGET: {}})])
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": 1}})
    shown = rendering.without_live_views(notebook)
    assert set(shown.cells[0].outputs[0].data) == {"text/html", "text/plain"}
    assert "widgets" not in shown.metadata
    other = rendering.without_live_views(nbformat.v4.new_notebook(cells=[plain], metadata={"widgets": {"state": 1}}))
    assert MIME_WIDGET in other.cells[0].outputs[0].data
    assert "widgets" in other.metadata


def constant(**_):
    return Picture("x", "y", (Series("theory", "line", [1.0, 2.0], [1.0, 1.0]),), "A line.")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Explorer("t", [Control("d", "d", [1, 2], start=3)], constant), "cannot start at 3"),
        (lambda: Explorer("t", [Control("m", "m", [])], constant), "cannot start at None"),
        (lambda: Explorer("t", [Control("d", "d", [1])], constant, start={"d": 3}), "cannot start at 3"),
        (lambda: Explorer("t", [Control("d", "d", [1])], constant).picture(e=1), "no control ['e']"),
        (lambda: Series("line", "line", [1], [1]), "kind 'line' is unknown"),
        (lambda: Series("theory", "line", [1], [1, 2]), "columns of 'line' have lengths [1, 2]"),
        (lambda: explorers.signal_explorer(["batchnrom"]), "did you mean 'batchnorm'?"),
        (lambda: explorers.signal_explorer(["batchnorm"], ["skip"]), "quantity 'skip' is unknown"),
        (lambda: explorers.signal_explorer(start={"depth": 3}), "start names ['depth']"),
        (lambda: explorers.path_explorer(start={"depth": 3}), "start names ['depth']"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        wrong()


def test_points_that_are_not_finite_and_axes_without_room_are_drawn():
    series = Series("theory", "line", [1, 2, 3], [1, np.inf, 1])
    assert series.x.tolist() == [1, 3]
    for log in (False, True):
        picture = Picture("x", "y", (series,), "A line.", x_log=log, y_log=log)
        low, high = picture.axes["y"]["limits"]
        assert low < 1 < high
        assert picture.svg().startswith('<svg role="img" aria-label="A line."')


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (0.25, "0.25"), (1000, "1000"), (84_112_345_678, "8.41·10¹⁰"), (1e18, "10¹⁸"), (2.5e-7, "2.5·10⁻⁷")],
)
def test_numbers_are_told_as_readers_write_them(value, words):
    assert spoken(value) == words
