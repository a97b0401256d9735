import math
import re
from pathlib import Path

import numpy as np
import pytest

from shallowpaths.recipes import NAMES, Recipe, get_recipe
from shallowpaths.training.config import RunConfig


def test_every_name_gives_its_recipe():
    assert [get_recipe(name).name for name in NAMES] == list(NAMES)


def test_every_recipe_differs_from_every_other():
    settings = {tuple(v for k, v in vars(get_recipe(name)).items() if k != "name") for name in NAMES}
    assert len(settings) == len(NAMES)


@pytest.mark.parametrize(
    ("name", "alpha"), [("skipinit", 0), ("skipinit-1", 1), ("skipinit-1/sqrt(d)", 1 / 7), ("skipinit-0.25", 0.25)]
)
def test_initial_alpha(name, alpha):
    assert get_recipe(name).initial_alpha(blocks=49) == pytest.approx(alpha, abs=0)


def test_a_recipe_without_scalar_has_no_alpha():
    assert get_recipe("batchnorm").initial_alpha(10) is None


@pytest.mark.parametrize(
    ("name", "formula", "start"),
    [
        ("unnormalized", "x + f(x)", ""),
        ("batchnorm", "x + f(BN(x))", ""),
        ("batchnorm-on-skip", "BN(x + f(BN(x)))", ""),
        ("zero-gamma", "x + γ BN(f(BN(x)))", "γ = 0"),
        ("skipinit", "x + α f(x)", "α = 0"),
        ("skipinit-1/sqrt(d)", "x + α f(x)", "α = 1/√d"),
        ("divide-sqrt2", "(x + f(x)) / √2", ""),
        ("fixup", "x + m f(x + b)", "last layer 0, others / √d, m = 1, b = 0"),
        ("fixup-rescaling-only", "x + f(x)", "others / √d"),
        ("plain", "f(x)", ""),
    ],
)
def test_a_recipe_says_what_its_block_computes(name, formula, start):
    assert (get_recipe(name).block_formula, get_recipe(name).start) == (formula, start)


def test_which_recipes_start_as_the_identity():
    names = {name for name in NAMES if get_recipe(name).starts_as_identity}
    skipinit_at_zero = {"skipinit", "regularized-skipinit", "skipinit-biases"}
    assert names == skipinit_at_zero | {"fixup", "fixup-dropout", "fixup-zero-last-only", "zero-gamma"}


@pytest.mark.parametrize(
    "name", ["", "batch-norm", "skipinit-", "skipinit-nan", "skipinit-inf", "SkipInit", "fixup-1", ["fixup"]]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=r"choose from|not finite|Choose from"):
        get_recipe(name)


def test_a_misspelt_name_gets_a_hint():
    with pytest.raises(ValueError, match="did you mean 'skipinit'"):
        get_recipe("skipnit")


@pytest.mark.parametrize(
    "settings",
    [
        {"normalization": "layer"},
        {"alpha": math.nan},
        {"alpha": math.inf},
        {"alpha": "1/d"},
        {"output_scale": 0.0},
        {"output_scale": math.inf},
        {"zero_gamma": True},
        {"fixup": ("everything",)},
        {"fixup": "zero last layer"},
        {"alpha": np.float32("nan")},
        {"alpha": [1]},
        {"alpha": 1e39},
        {"output_scale": "x"},
    ],
)
def test_bad_recipes_are_refused(settings):
    with pytest.raises(ValueError, match=r".+"):
        Recipe("mine", **settings)


def test_zero_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks 0 must be a whole number of at least 1"):
        get_recipe("skipinit").initial_alpha(0)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("skipinit-0.30", "skipinit-0.3"),
        ("skipinit-3e-1", "skipinit-0.3"),
        ("skipinit-1.0", "skipinit-1"),
        ("skipinit-0", "skipinit"),
    ],
)
def test_a_recipe_has_one_name_and_its_runs_one_key(name, known):
    assert get_recipe(name).name == known
    assert RunConfig(recipe=name).key == RunConfig(recipe=known).key


def test_the_protocol_page_says_what_every_recipe_is_and_whose():
    page = (Path(__file__).parents[1] / "book" / "protocol.md").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` \| .+ \| (paper|derived|ours) \|$", page, flags=re.MULTILINE))
    assert set(rows) == {*NAMES, "skipinit-<number>"}
