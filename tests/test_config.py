import json
import math

import numpy as np
import pytest

from shallowpaths.theory.depth import blocks_of
from shallowpaths.training.config import RunConfig
from shallowpaths.training.epochs import Timetable
from shallowpaths.training.record import RunRecord


@pytest.mark.parametrize(("depth", "blocks"), [(10, 3), (16, 6), (100, 48), (1000, 498)])
def test_blocks_of_the_papers_depths(depth, blocks):
    assert blocks_of(depth, "wide-resnet") == blocks_of(depth, "residual-mlp") == blocks


@pytest.mark.parametrize("depth", [15, 4, 0, -2, 12, 16.0, True, "16", None])
def test_bad_depths_of_a_wide_resnet(depth):
    with pytest.raises(ValueError, match="6 m \\+ 4"):
        blocks_of(depth)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("recipe", "skipnit"),
        ("network", "resnet"),
        ("data", "mnist"),
        ("precision", "float16"),
        ("schedule", "cosine"),
        ("device", "tpu"),
        ("width", 0),
        ("width", None),
        ("batch_size", None),
        ("l2", [0.1]),
        ("momentum", "0.9"),
        ("dropout", None),
        ("epochs", 1.5),
        ("epochs", 0),
        ("steps", 0),
        ("steps", 2.0),
        ("batch_size", 0),
        ("ghost_batch", 0),
        ("ghost_batch", 1),
        ("ghost_batch", True),
        ("seed", -1),
        ("learning_rate", 0),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", "fast"),
        ("l2", -1e-4),
        ("momentum", 1.0),
        ("dropout", 1.0),
        ("validation", 1.0),
        ("learning_rate", 1e308),
        ("learning_rate", 10**400),
        ("l2", 1e300),
        ("l2_on_scalars", 1),
        ("alpha_rate", -0.1),
        ("augment", 1),
        ("curvature_images", -64),
        ("curvature_images", 256.0),
        ("curvature_images", 192),
        ("curvature_images", 300),
        ("image_size", 224),
        ("bad_images", "ignore"),
        ("warmup_epochs", -1),
        ("warmup_epochs", 0.5),
        ("seed", 2**63),
        ("seed", True),
        ("depth", 6 * 10**5 + 4),
        ("width", 10**6 + 1),
        ("batch_size", 10**6 + 1),
        ("ghost_batch", 10**6 + 1),
        ("epochs", 10**6 + 1),
        ("steps", 10**9 + 1),
    ],
)
def test_bad_settings_are_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=setting if setting != "recipe" else "skipnit"):
        RunConfig(**{setting: value})


def test_a_rate_of_alpha_that_float32_does_not_hold_is_refused():
    assert RunConfig(learning_rate=1e-3, alpha_rate=1e38).alpha_rate == 1e38
    with pytest.raises(ValueError, match=r"learning_rate \* alpha_rate 4e\+38 must be .* below 3e\+38"):
        RunConfig(learning_rate=2e38, alpha_rate=2.0)


@pytest.mark.parametrize("size", [7, 4097, 224.0, True])
def test_a_bad_image_size_is_refused(size):
    assert RunConfig(data="imagefolder").image_size == 224
    assert RunConfig(data="imagefolder").key == RunConfig(data="imagefolder", image_size=224).key
    with pytest.raises(ValueError, match=f"image_size {size} must be a whole number of at least 8"):
        RunConfig(data="imagefolder", image_size=size)


def test_effective_rate_is_the_papers():
    config = RunConfig.at_effective_rate(0.5, momentum=0.9)
    assert config.learning_rate == pytest.approx(0.05)
    assert config.effective_learning_rate == pytest.approx(0.5)
    with pytest.raises(ValueError, match="not both"):
        RunConfig.at_effective_rate(0.5, learning_rate=0.1)


def test_the_budget_is_given_in_epochs_or_in_steps():
    assert (RunConfig().epochs, RunConfig().steps) == (5, None)
    assert (RunConfig(steps=7).epochs, RunConfig(steps=7).steps) == (None, 7)
    with pytest.raises(ValueError, match="both given"):
        RunConfig(epochs=1, steps=7)
    assert RunConfig.from_dict(RunConfig(steps=7).to_dict()) == RunConfig(steps=7)


@pytest.mark.parametrize(
    ("budget", "steps", "epochs"),
    [({"epochs": 3}, 4, 3), ({"steps": 4}, 4, 3), ({"steps": 1}, 1, 1), ({"steps": 3}, 3, 2), ({"steps": 25}, 25, 16)],
)
def test_steps_and_epochs_of_a_budget_by_hand(budget, steps, epochs):
    """100 images in batches of 64: steps end at images 64, 128, 192, 256, ..., epochs at 100, 200, 300, ..."""
    config = RunConfig(batch_size=64, **budget)
    assert (config.total_steps(100), Timetable(config, 100).epochs) == (steps, epochs)


def test_key_tells_configs_apart_and_nothing_else():
    assert RunConfig(seed=1).key == RunConfig(seed=1).key != RunConfig(seed=2).key


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="learning_speed"):
        RunConfig.from_dict({"learning_speed": 1})


def test_record_survives_json():
    point = {"epoch": 1, "train_loss": 0.1 + 0.2, "train_accuracy": 0.5, "learning_rate": 0.05}
    record = RunRecord(RunConfig(), "finished", [point], test_accuracy=1 / 3, test_loss=2.5, versions={"torch": "2"})
    assert RunRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "3", '{"config": {}}', '{"config": {"depth": 15}, "outcome": "diverged"}']
)
def test_what_is_no_record_is_a_value_error(line):
    with pytest.raises(ValueError, match=r".+"):
        RunRecord.from_json(line)


def test_a_record_is_finished_or_diverged():
    with pytest.raises(ValueError, match="diverged_step"):
        RunRecord(RunConfig(), "diverged", [])
    with pytest.raises(ValueError, match="test accuracy"):
        RunRecord(RunConfig(), "finished", [])
    assert RunRecord(RunConfig(), "diverged", [], diverged_step=0).train_loss == math.inf


def test_equal_configs_have_one_key():
    whole, real = (RunConfig(learning_rate=kind(1), l2=kind(0), validation=kind(0)) for kind in (int, float))
    assert whole == real == RunConfig(learning_rate=1.0, l2=-0.0)
    assert whole.key == real.key == RunConfig(learning_rate=1.0, l2=-0.0).key
    numpys = RunConfig(learning_rate=np.float64(0.05), depth=np.int64(16), seed=np.int32(0), augment=np.bool_(True))
    assert numpys.key == RunConfig().key


@pytest.mark.parametrize("momentum", [1, 1.0, "x", None, -0.5])
def test_an_effective_rate_needs_a_momentum(momentum):
    with pytest.raises(ValueError, match="momentum"):
        RunConfig.at_effective_rate(0.5, momentum=momentum)


POINT = {"epoch": 1, "train_loss": 0.5}
FINISHED = {"config": {}, "outcome": "finished", "curve": [POINT], "test_accuracy": 0.5}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("curve", [3]),
        ("curve", "text"),
        ("curve", {"train_loss": 1}),
        ("curve", [{}]),
        ("curve", [{"epoch": 1}]),
        ("curve", [{"train_loss": "low"}]),
        ("curve", [{"train_loss": None}, POINT]),
        ("curve", [{"train_loss": math.nan}]),
        ("curve", [{"train_loss": 10**400}]),
        ("curve", [POINT | {"validation_accuracy": "high"}]),
        ("test_accuracy", "0.5"),
        ("test_accuracy", True),
        ("test_loss", []),
        ("parameters", None),
        ("train_images", "many"),
        ("seconds", {}),
        ("device_name", 3),
        ("versions", []),
    ],
)
def test_a_record_with_a_value_of_another_kind_is_a_value_error(field, value):
    assert RunRecord.from_json(json.dumps(FINISHED)).train_loss == 0.5
    with pytest.raises(ValueError, match=field):
        RunRecord.from_json(json.dumps(FINISHED | {field: value}))


def test_a_line_nested_too_deeply_is_a_value_error():
    with pytest.raises(ValueError, match="not a run record"):
        RunRecord.from_json("[" * 100_000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 101}, "batch_size 101 is larger than the training split, 100 images of digits"),
        ({"batch_size": 60, "validation": 0.5}, "batch_size 60 is larger than the training split, 50 images"),
        (
            {"batch_size": 8, "validation": 0.001},
            "validation 0.001: of 100 training images that leaves 0 to validate on",
        ),
        ({"batch_size": 8, "validation": 0.999}, "that leaves 100 to validate on"),
        ({"batch_size": 1, "network": "residual-mlp"}, "batch_size 1: .* no variance"),
        (
            {"batch_size": 9, "ghost_batch": 4, "network": "residual-mlp"},
            "batch_size 9 in ghost batches of 4: .* no variance",
        ),
    ],
)
def test_what_cannot_be_trained_on_so_many_images_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**settings).split(100)


def test_the_split_is_what_is_left_of_the_images():
    assert RunConfig(batch_size=8).split(100) == 100
    assert RunConfig(batch_size=8, validation=0.1).split(1437) == 1437 - 144
    assert RunConfig(batch_size=1, network="residual-mlp", recipe="skipinit").split(100) == 100
    assert RunConfig(batch_size=9, ghost_batch=4).split(100) == 100, "an image has many values a channel"
