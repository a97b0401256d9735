"""Plans: what a file means, what is refused, and that the shipped ones are what they say."""

import types

import pytest

from shallowpaths.experiments import costs, plans
from shallowpaths.experiments.costs import operations_per_image, predicted_seconds, steps_of
from shallowpaths.experiments.plans import read_plan
from shallowpaths.recipes import get_recipe
from shallowpaths.training.config import RunConfig

DEPTH_TABLE = {
    ("batchnorm", 5e-4),
    ("skipinit-1/sqrt(d)", 5e-4),
    ("skipinit", 5e-4),
    ("skipinit-1", 5e-4),
    ("divide-sqrt2", 5e-4),
    ("skipinit", 0.0),
}


@pytest.fixture
def plan(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return read_plan(path)

    return write


def test_a_grid_is_every_combination(plan):
    made = plan("""
        description = "two lines\\nof text"
        [common]
        epochs = 2
        learning_rate = 0.1
        [[grid]]
        recipe = ["batchnorm", "skipinit"]
        seed = [0, 1]
        [[grid]]
        depth = 100
        effective_learning_rate = 0.5
        steps = 7
    """)
    common = RunConfig(epochs=2, learning_rate=0.1)
    grid = [common.replace(recipe=r, seed=s) for r in ("batchnorm", "skipinit") for s in (0, 1)]
    assert made.configs == (*grid, RunConfig.at_effective_rate(0.5, depth=100, steps=7))
    assert made.description == "two lines of text"


def test_rates_may_be_powers_of_two(plan):
    made = plan('[[grid]]\neffective_learning_rate = ["2^-3 .. 2^-1", 0.75, "2^1"]')
    rates = [c.effective_learning_rate for c in made.configs]
    assert rates == pytest.approx([0.125, 0.25, 0.5, 0.75, 2.0])


BAD = [
    (
        "[common]\nlearnig_rate = 0.1\n[[grid]]\nseed = 1",
        r"\[common\]: key 'learnig_rate' is unknown: .* did you mean 'learning_rate'",
    ),
    ("[[grid]]\ndepht = 16", r"\[\[grid\]\] number 1: key 'depht' is unknown: .* did you mean 'depth'"),
    ("[[grids]]\ndepth = 16", "the plan: key 'grids' is unknown: .* did you mean 'grid'"),
    ("[grid]\ndepth = 16", "two brackets"),
    ("grid = [1]", "no table of settings"),
    ("common = 3\n[[grid]]\nseed = 1", "common. is no table"),
    ("[[grid]]\nseed = []", "seed is an empty list"),
    ("[common]\nseed = 1", "holds no run"),
    ("", "holds no run"),
    ("[[grid]]\nlearning_rate = 0.1\neffective_learning_rate = 1.0", "not both"),
    ('[[grid]]\nlearning_rate = "fast"', "rate 'fast'"),
    ('[[grid]]\nlearning_rate = "2^0..2^-3"', "the range is empty"),
    ('[[grid]]\nlearning_rate = "2^0..2^99999"', "out of range"),
    ("[[grid]]\nepochs = 1\nsteps = 1", "both given"),
    ("[[grid]]\ndepth = 15", r"6 m \+ 4"),
    ("[[grid]]\nlearning_rate = -1", "learning_rate -1"),
    ('[[grid]]\nrecipe = "skipnit"', "did you mean 'skipinit'"),
    ("[[grid]\n", "is no TOML"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_wrong_with_a_plan_is_said(plan, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        plan(text)
    assert "mine.toml" in str(caught.value)


def test_a_plan_that_is_not_there_is_refused_with_the_shipped_ones(tmp_path):
    for name in ("quick-dept", str(tmp_path)):
        with pytest.raises(ValueError, match="quick-depth"):
            read_plan(name)


def test_the_shipped_plans():
    sized = {f"{s}-{what}" for s in ("quick", "gpu", "paper") for what in ("depth", "batch-size")}
    assert set(plans.NAMES) == sized | {"cpu-batch-size", "cpu-depth", "paper-imagenet"}
    assert all(read_plan(name).description for name in plans.NAMES)


@pytest.mark.parametrize("size", ["quick", "gpu", "paper"])
def test_depth_plans_hold_every_row_of_the_papers_table_with_two_rates_or_more(size):
    configs = read_plan(f"{size}-depth").configs
    for depth in (16, 100, 1000):
        at_depth = [c for c in configs if c.depth == depth]
        rows = {(c.recipe, c.l2) for c in at_depth}
        assert rows == DEPTH_TABLE
        for row in rows:
            assert len({c.learning_rate for c in at_depth if (c.recipe, c.l2) == row}) >= 2
    assert all(c.validation > 0 for c in configs), "rates are chosen on a validation split"


def test_the_paper_plans_are_the_protocol():
    for name in ("paper-depth", "paper-batch-size"):
        configs = read_plan(name).configs
        assert {(c.data, c.epochs, c.momentum, c.schedule, c.augment) for c in configs} == {
            ("cifar10", 200, 0.9, "paper", True)
        }
        assert {c.seed for c in configs} == set(range(7))
        assert {(c.effective_learning_rate * 1024) % 1 for c in configs} == {0.0}
    sizes = read_plan("paper-batch-size").configs
    assert {(c.depth, c.width) for c in sizes} == {(16, 4)}
    assert all((c.ghost_batch == 64) == (c.batch_size > 64) for c in sizes)
    assert {c.width for c in read_plan("paper-depth").configs} == {2}


def test_the_imagenet_plan_has_the_papers_rows_and_batches():
    configs = read_plan("paper-imagenet").configs
    rows = {"batchnorm", "fixup", "skipinit-biases", "fixup-dropout", "regularized-skipinit"}
    assert {(c.recipe, c.batch_size) for c in configs} == {(row, size) for row in rows for size in (256, 1024, 4096)}
    assert {(c.network, c.depth, c.data, c.image_size, c.dropout) for c in configs} == {("resnet50-v2", 50, "imagefolder", 224, 0.2)}
    images = 1_281_167 - round(0.01 * 1_281_167)
    assert steps_of(configs[0]) == 90 * images // configs[0].batch_size, "counted as ImageNet's"


@pytest.mark.parametrize("size", ["quick", "gpu", "paper"])
def test_batch_size_plans_compare_the_same_recipes_and_budgets_at_every_size(size):
    configs = read_plan(f"{size}-batch-size").configs
    by_size = {c.batch_size: {(d.recipe, d.epochs) for d in configs if d.batch_size == c.batch_size} for c in configs}
    assert len(by_size) >= 4
    assert all(what == by_size[min(by_size)] for what in by_size.values())
    assert any(get_recipe(recipe).normalizes_branch for recipe, _ in by_size[min(by_size)])


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(depth=16, width=2, data="cifar10"),
        RunConfig(depth=40, width=1),
        RunConfig(network="residual-mlp", depth=16, width=64),
        RunConfig(network="resnet50-v2", depth=50, data="imagefolder", image_size=96),
    ],
)
def test_operations_agree_with_torchs_own_count(config):
    """To 15 %: the formula leaves out shortcuts and classifier, and takes a stage's first layer as wide as the others."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from shallowpaths.training.runs import build

    shape = costs.image_shape(config)
    network = build(config, shape, 10)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(2, *shape))
    assert operations_per_image(config) == pytest.approx(counter.get_total_flops() / 2, rel=0.15)


def test_the_cost_model_knows_the_data_sets():
    from shallowpaths import data

    digits = data.load("digits")
    assert costs.TRAINING_IMAGES["digits"] == len(digits.train_images)
    assert costs.IMAGE_SHAPES["digits"] == digits.image_shape
    held = digits.hold_out(0.1)
    config = RunConfig(validation=0.1)
    assert steps_of(config) == config.total_steps(len(held.train_images))


def test_a_prediction_for_what_does_not_fit_in_memory_is_refused_by_name():
    """Its second convolution alone has more weights than a process has addresses."""
    with pytest.raises(ValueError, match=r"does not fit in memory: .* width 1000000"):
        predicted_seconds(RunConfig(width=10**6, device="cpu"))


def test_a_predictions_seconds_are_steps_times_what_a_step_takes(monkeypatch):
    """On a clock by which a step takes 1 second and 1/8 for each image, at any depth."""
    clock, taking, epoch = [0.0], [0.0], costs.Run.epoch

    def timed(run, *rest):
        taking[0] = 1 + run.timetables[0].batch_size / 8
        return epoch(run, *rest)

    def now():
        clock[0] += taking[0]
        return clock[0]

    monkeypatch.setattr(costs, "time", types.SimpleNamespace(perf_counter=now))
    monkeypatch.setattr(costs.Run, "epoch", timed)
    monkeypatch.setattr(costs, "_step_seconds", costs._step_seconds.__wrapped__)  # not one that was measured before
    config = RunConfig(depth=28, epochs=2, batch_size=32, device="cpu")
    seconds = predicted_seconds(config)
    assert seconds == pytest.approx(config.total_steps(1437) * 5 * 2), "28 layers are twice 16 layers' blocks"
