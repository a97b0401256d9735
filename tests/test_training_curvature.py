"""Curvature along training: in the record, and without a trace in the training."""

import pytest
import torch

from shallowpaths import data
from shallowpaths.measure import gradient_noise, hessian_eigenvalues
from shallowpaths.training import checkpoints
from shallowpaths.training import train as training
from shallowpaths.training.config import RunConfig
from shallowpaths.training.epochs import KEPT, TOLERANCE, curvature
from shallowpaths.training.runs import build, in_lanes
from shallowpaths.training.train import train, train_lanes

RUN = RunConfig(
    network="residual-mlp", depth=8, width=16, epochs=3, batch_size=64, validation=0.1, curvature_images=256, device="cpu"
)
KEYS = {"largest_eigenvalue", *KEPT}


def without_curvature(curve):
    return [{key: value for key, value in point.items() if key not in KEYS} for point in curve]


@pytest.mark.parametrize(
    "change", [{}, {"recipe": "regularized-skipinit"}, {"network": "wide-resnet", "depth": 10, "width": 1, "epochs": 1}]
)
def test_training_is_the_same_to_the_bit(change):
    config = RUN.replace(**change)
    measured, plain = train(config, progress=False), train(config.replace(curvature_images=0), progress=False)
    assert all(point.keys() >= KEYS for point in measured.curve)
    assert without_curvature(measured.curve) == plain.curve
    assert (measured.test_loss, measured.test_accuracy) == (plain.test_loss, plain.test_accuracy)


def test_the_first_point_is_the_networks_at_initialization():
    """On the first images of the training split, as they are, in training mode and in the run's batches."""
    config = RUN.replace(epochs=1, batch_size=32)
    (point,) = train(config, progress=False).curve
    split = data.load("digits").hold_out(0.1)
    network = build(config, split.image_shape, split.classes)
    examples = split.standardize(split.train_images[:256]), split.train_labels[:256]
    largest = hessian_eigenvalues(network, *examples, batch_size=32).values[0]
    assert point["largest_eigenvalue"] == pytest.approx(largest, rel=TOLERANCE)
    noise = gradient_noise(network, *examples, 32)
    assert {name: point[name] for name in KEPT} == pytest.approx({name: getattr(noise, name) for name in KEPT}, rel=1e-5)


class Killed(BaseException):
    """What ends the first process."""


@pytest.mark.parametrize("after", [1, 20, 45])  # of 60 steps, 20 an epoch
def test_a_resumed_run_keeps_what_it_measured_and_measures_nothing_twice(tmp_path, monkeypatch, after):
    measured, saved, save = [], [], checkpoints.save

    def save_and_stop(*arguments):
        save(*arguments)
        saved.append(arguments)
        if len(saved) == after:
            raise Killed

    monkeypatch.setattr(training, "curvature", lambda *a: measured.append(a) or curvature(*a))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_stop)
        with pytest.raises(Killed):
            train(RUN, progress=False, checkpoint_folder=tmp_path, checkpoint_every=0)
    resumed = train(RUN, progress=False, checkpoint_folder=tmp_path)
    assert len(measured) == 3
    assert resumed.result() == train(RUN, progress=False).result()


def test_what_is_not_finite_is_left_out():
    split = data.load("digits")
    network = build(RUN, split.image_shape, split.classes)
    torch.nn.init.constant_(network.input_layer[-1].weight, torch.inf)
    assert curvature(network, split, 256, 64) == {}
    config = RUN.replace(recipe="skipinit", learning_rate=0.4, epochs=10, depth=20, width=32, seed=1, validation=0.0)
    record = train(config, progress=False)
    assert record.outcome == "diverged"
    assert record.curve
    assert record.curve[0].keys() >= KEYS


def test_such_runs_are_trained_alone():
    configs = [RUN.replace(seed=seed) for seed in range(2)]
    assert in_lanes(configs, 2) == [configs[:1], configs[1:]]
    with pytest.raises(ValueError, match=r"curvature_images is 256, .* cannot be trained as lanes"):
        train_lanes(configs)


def test_images_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="curvature_images 1344 are more than the training split, 1293 images of digits"):
        train(RUN.replace(curvature_images=1344), progress=False)


def test_images_must_fill_four_batches():
    assert RUN.replace(batch_size=32, curvature_images=128).curvature_images == 128
    with pytest.raises(ValueError, match="curvature_images 192 must be 0, or 4 or more whole batches of 64"):
        RUN.replace(curvature_images=192)


def test_older_records_measured_nothing():
    settings = RUN.to_dict()
    del settings["curvature_images"]
    assert RunConfig.from_dict(settings) == RUN.replace(curvature_images=0)
