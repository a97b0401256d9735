import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from shallowpaths import data
from shallowpaths.experiments.sweep import sweep
from shallowpaths.training import train as train_module
from shallowpaths.training.config import RunConfig
from shallowpaths.training.epochs import evaluate
from shallowpaths.training.record import RunRecord
from shallowpaths.training.runs import LaneRuns, Run
from shallowpaths.training.steps import StepOptions
from shallowpaths.training.train import train, train_lanes

SMALL = RunConfig(network="residual-mlp", depth=10, width=32, epochs=3, batch_size=64, device="cpu")


@pytest.mark.parametrize("recipe", ["batchnorm", "regularized-skipinit"])
def test_the_same_config_gives_the_same_record_twice(recipe):
    config = SMALL.replace(recipe=recipe, validation=0.2)
    assert train(config, progress=False).result() == train(config, progress=False).result()


def test_records_repeat_in_a_process_of_its_own():
    """Whatever a process begins with, its own order of hashes included."""
    program = """
import shallowpaths as sp
for recipe in ("batchnorm", "regularized-skipinit"):
    config = sp.RunConfig(recipe=recipe, depth=10, steps=4, batch_size=128, validation=0.1, device="cpu")
    print(sp.train(config, progress=False).to_json())
"""
    found = []
    for hashes in "12":
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": hashes}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        found.append([RunRecord.from_json(line).result() for line in done.stdout.splitlines()])
    assert [result["outcome"] for result in found[0]] == ["finished", "finished"]
    assert found[0] == found[1]


def test_another_seed_gives_another_record():
    first, second = (train(SMALL.replace(seed=seed), progress=False) for seed in (0, 1))
    assert first.curve != second.curve


def test_a_convolutional_run_repeats_too():
    config = RunConfig(depth=10, epochs=1, batch_size=256, device="cpu")
    assert train(config, progress=False).result() == train(config, progress=False).result()


def test_a_finished_run_learns_and_says_where():
    record = train(SMALL.replace(epochs=5, batch_size=16, validation=0.1), progress=False)
    assert record.outcome == "finished"
    assert len(record.curve) == 5
    assert record.test_accuracy > 0.8
    assert record.validation_accuracy > 0.8
    assert record.train_images == 1437 - 144
    assert record.parameters == 64 * 32 + 6 * 32 * 32 + 330 + 2 * 32 * 7
    assert record.seconds > 0
    assert record.versions["torch"] == torch.__version__


def test_without_validation_split_the_test_set_is_read_once():
    assert all("validation_accuracy" not in point for point in train(SMALL, progress=False).curve)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_the_test_set_is_not_touched_before_the_last_epoch_is_over(monkeypatch, lanes, validation):
    """Every operation on a test tensor is noted, whoever asks for it, among the epochs and the looks at the validation split."""
    events = []

    class Noted(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            events.append("test")
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **(kwargs or {}))

    def noting(event, function):
        def noted(*args, **kwargs):
            result = function(*args, **kwargs)
            events.append(event(*args))
            return result

        return noted

    digits = data.load("digits")
    watched = {name: getattr(digits, name).as_subclass(Noted) for name in ("test_images", "test_labels")}
    monkeypatch.setattr(data, "load", lambda *_, **__: dataclasses.replace(digits, **watched))
    looked = noting(lambda network, split, part, *_: "evaluated" if part == "test" else "validated", evaluate)  # noqa: ARG005
    monkeypatch.setattr(train_module, "evaluate", looked)
    for runs in (Run, LaneRuns):
        monkeypatch.setattr(runs, "epoch", noting(lambda *_: "epoch", runs.epoch))
    records = train_lanes([SMALL.replace(validation=validation, seed=s) for s in range(lanes)], progress=False)
    first = events.index("test")
    assert events[:first] == ["epoch", *["validated"] * (lanes if validation else 0)] * 3
    assert set(events[first:]) == {"test", "evaluated"}
    assert events.count("evaluated") == lanes, "read once"
    assert all(len(r.curve) == 3 and ("validation_accuracy" in r.curve[-1]) == (validation > 0) for r in records)


def test_a_diverged_run_is_recorded_as_diverged():
    record = train(SMALL.replace(recipe="unnormalized", depth=300), progress=False)
    assert (record.outcome, record.test_accuracy, record.curve) == ("diverged", None, [])
    assert record.diverged_step == 0 or record.diverged_step < 22


def test_a_network_that_blows_up_later_keeps_its_curve():
    record = train(SMALL.replace(recipe="skipinit", learning_rate=0.4, epochs=10, depth=20, seed=1), progress=False)
    assert record.outcome == "diverged"
    assert record.diverged_step // 22 - 1 <= len(record.curve) <= record.diverged_step // 22 + 1


@pytest.mark.parametrize("steps", [1, 22, 30])
def test_a_budget_in_steps_ends_after_that_many(steps):
    """1437 images in batches of 64: an epoch has 22 steps, and the last one of the run may be shorter."""
    record = train(SMALL.replace(epochs=None, steps=steps, schedule="constant"), progress=False)
    assert len(record.curve) == (1 if steps <= 22 else 2)
    if steps == 22:
        assert record.curve == train(SMALL.replace(epochs=1, schedule="constant"), progress=False).curve
    else:
        assert record.curve[0]["train_accuracy"] * 64 * min(steps, 22) == pytest.approx(
            round(record.curve[0]["train_accuracy"] * 64 * min(steps, 22))
        )


def test_the_schedule_spans_a_budget_in_steps():
    record = train(SMALL.replace(epochs=None, steps=30), progress=False)
    assert record.curve[-1]["learning_rate"] == pytest.approx(SMALL.learning_rate * 0.5**10)


def test_bfloat16_runs_and_differs_a_little():
    full, half = (train(SMALL.replace(precision=p, epochs=1), progress=False) for p in ("float32", "bfloat16"))
    assert half.curve != full.curve
    assert half.train_loss == pytest.approx(full.train_loss, rel=0.1)


def test_the_random_state_is_left_alone():
    before = torch.get_rng_state()
    train(SMALL.replace(recipe="fixup-dropout", epochs=1), progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size 1438 is larger than the training split, 1437"):
        train(SMALL.replace(batch_size=1438), progress=False)
    with pytest.raises(ValueError, match="719 images"):
        train(SMALL.replace(batch_size=1437, validation=0.5), progress=False)


def test_a_run_of_its_own_refuses_a_batch_larger_than_the_data_too():
    with pytest.raises(ValueError, match="batch_size 1438 is larger than the training split, 1437"):
        Run(SMALL.replace(batch_size=1438), data.load("digits"))


def test_what_is_no_config_is_named():
    with pytest.raises(TypeError, match="'skipinit' is no RunConfig"):
        train("skipinit")
    with pytest.raises(TypeError, match="'s' is no RunConfig"):
        sweep("skipinit")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"'cuda'.*has none"):
        train(SMALL.replace(device="cuda"), progress=False)


def test_a_run_that_does_not_fit_in_memory_is_named():
    """Its second convolution alone has more weights than a process has addresses."""
    with pytest.raises(ValueError, match=r"does not fit in memory: .* depth 16 and width 1000000, batch_size 64"):
        train(RunConfig(width=10**6, device="cpu"), progress=False)


@pytest.mark.parametrize("recipe", ["batchnorm", "batchnorm-at-end"])
def test_batch_normalization_of_a_single_image_is_refused(recipe):
    with pytest.raises(ValueError, match=r"batch_size 1: .* has no variance"):
        train(SMALL.replace(recipe=recipe, batch_size=1, epochs=None, steps=1), progress=False)


@pytest.mark.parametrize("settings", [{"network": "wide-resnet", "width": 1}, {"recipe": "skipinit"}])
def test_a_single_image_is_a_batch_where_it_has_a_variance_or_needs_none(settings):
    record = train(SMALL.replace(**settings, batch_size=1, epochs=None, steps=1), progress=False)
    assert len(record.curve) == 1


def test_without_stderr_no_bar_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert train(SMALL.replace(epochs=1)).outcome == "finished"


def test_the_steps_options_can_be_chosen_and_change_rounding_only():
    config = RunConfig(depth=10, epochs=1, batch_size=256, device="cpu")
    plain = train(config, progress=False, options=StepOptions(channels_last=False))
    assert plain.train_loss == pytest.approx(train(config, progress=False).train_loss, rel=1e-3)
