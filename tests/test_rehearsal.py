"""The way through the package on a GPU, walked without one: see pretended_cuda for what that shows and what it cannot.

What stays unseen until a GPU is there: the compiler, CUDA's own numbers, its autocast, and the recording of a graph. Here a
graph is a function that is called on copies of its inputs, which is what a replay amounts to.
"""

import contextlib
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from pretended_cuda import GPU, pretended_cuda
from shallowpaths import data, measure
from shallowpaths.training import checkpoints, steps
from shallowpaths.training.config import RunConfig
from shallowpaths.training.epochs import LOOK_EVERY
from shallowpaths.training.runs import LaneRuns, Run, build
from shallowpaths.training.steps import WARM_UP, StepOptions
from shallowpaths.training.train import train, train_lanes

CONVOLUTIONAL = RunConfig(depth=10, batch_size=256, epochs=None, steps=3, validation=0.1, device="cuda")
CONNECTED = CONVOLUTIONAL.replace(network="residual-mlp", width=16, steps=6, alpha_rate=0.5, l2_on_scalars=False)
RECIPES = ("batchnorm", "zero-gamma", "skipinit", "fixup", "regularized-skipinit", "batchnorm-on-skip")
EAGER, GRAPH = StepOptions(), StepOptions(graph=True)


class Replay:
    """In the place of steps.Recorded."""

    def __init__(self, function, inputs):
        self.function, self.inputs = function, [value.clone() for value in inputs]
        for _ in range(WARM_UP):
            function(*self.inputs)

    def __call__(self, *inputs):
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        return self.function(*self.inputs)


@pytest.fixture
def gpu(monkeypatch):
    """A context in which a GPU is there."""
    monkeypatch.setattr(steps, "Recorded", Replay)
    return lambda: pretended_cuda(monkeypatch)


def result(record):
    """What came of a run, bit for bit, wherever it was."""
    return record.result() | {"config": record.config.replace(device="cpu")}


def on_cpu(config):
    return result(train(config.replace(device="cpu"), progress=False))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("base", [CONVOLUTIONAL, CONNECTED])
def test_a_run_on_a_gpu_is_the_run_on_a_cpu(gpu, base, recipe, precision):
    config = base.replace(recipe=recipe, precision=precision)
    with gpu():
        record = train(config, progress=False, options=EAGER)
    assert record.device_name == "a pretended GPU"
    assert result(record) == on_cpu(config)


@pytest.mark.parametrize("base", [CONVOLUTIONAL, CONNECTED])
def test_ghost_batches_go_by_the_formula(gpu, base):
    config = base.replace(ghost_batch=48, augment=False)
    with gpu():
        found = train(config, progress=False, options=EAGER)
    assert found.train_loss == pytest.approx(on_cpu(config)["curve"][-1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize("recipe", ["batchnorm", "regularized-skipinit", "fixup"])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_a_recorded_step_has_the_rates_and_leaves_nothing_behind(gpu, recipe, momentum):
    config = CONNECTED.replace(recipe=recipe, momentum=momentum)
    with gpu():
        record = train(config, progress=False, options=GRAPH)
    assert result(record) == on_cpu(config)


@pytest.mark.parametrize("options", [EAGER, GRAPH])
@pytest.mark.parametrize("augment", [True, False])
def test_lanes_on_a_gpu_are_lanes_on_a_cpu(gpu, augment, options):
    configs = [CONNECTED.replace(recipe="skipinit", augment=augment, learning_rate=rate) for rate in (0.01, 0.1)]
    with gpu():
        found = train_lanes(configs, progress=False, options=options)
    expected = train_lanes([config.replace(device="cpu") for config in configs], progress=False)
    assert [result(record) for record in found] == [result(record) for record in expected]


@pytest.mark.parametrize("options", [EAGER, GRAPH])
def test_a_run_on_a_gpu_resumes(gpu, tmp_path, monkeypatch, options):
    config, save = CONNECTED.replace(recipe="regularized-skipinit"), checkpoints.save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with gpu():
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(checkpoints, "save", save_and_stop)
            train(config, None, False, tmp_path, 0, options)
        assert len(list(tmp_path.iterdir())) == 1
        record = train(config, None, False, tmp_path, options=options)
    assert result(record) == on_cpu(config)


def test_a_diverged_run_is_seen_from_afar(gpu):
    config = CONNECTED.replace(recipe="unnormalized", learning_rate=1e9, steps=10 * LOOK_EVERY, batch_size=1)
    taken = []
    with gpu():
        run = Run(config, data.load("digits", "cuda"), options=EAGER)
        (found,) = run.epoch(0, taken=taken)
    assert len(taken) == LOOK_EVERY
    assert found.first_bad_step < LOOK_EVERY


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("recipe", ["batchnorm", "regularized-skipinit"])
@pytest.mark.parametrize("options", [EAGER, GRAPH])
def test_a_step_does_not_make_the_host_wait(gpu, options, recipe, augment):
    config = CONNECTED.replace(recipe=recipe, augment=augment, ghost_batch=48)
    with gpu() as machine:
        digits = data.load("digits", "cuda").hold_out(0.1)
        run = Run(config, digits, options=options)
        batches = list(zip(*run.timetables[0].batches(0, digits), run.timetables[0].rates(0), strict=True))
        run.step.take(*batches[0])  # the first one tries things out, and may wait
        machine.waits.clear()
        for batch in batches[1:]:
            run.step.take(*batch)
        assert machine.waits == []
        float(run.step.take(*batches[0])[0])
        assert machine.waits == ["__float__"]


def test_a_step_of_lanes_does_not_make_the_host_wait(gpu):
    with gpu() as machine:
        runs = LaneRuns([CONNECTED.replace(seed=seed) for seed in range(2)], data.load("digits", "cuda"), EAGER)
        runs.epoch(0, on_step=lambda: machine.waits.append("step"))
    taken = [place for place, what in enumerate(machine.waits) if what == "step"]
    assert taken == list(range(taken[0], taken[0] + 5))  # of one epoch, with nothing between them


@pytest.mark.parametrize("recipe", ["batchnorm", "skipinit-0.5", "fixup-rescaling-only"])
@pytest.mark.parametrize("config", [CONVOLUTIONAL, CONNECTED])
def test_measurements_on_a_gpu_are_those_on_a_cpu(gpu, config, recipe):
    def measured(device):
        network = build(config.replace(recipe=recipe), (1, 8, 8), 10).to(device)
        digits = data.load("digits", device)
        inputs = digits.standardize(digits.train_images[:16])
        return (
            measure.signal_statistics(network, inputs),
            measure.input_correlation(network, inputs),
            measure.gradient_statistics(network, inputs),
            measure.gradient_correlation(network, inputs),
            measure.path_spectrum(network, inputs),
        )

    with gpu():
        found = measured("cuda")
    for ours, theirs in zip(found, measured("cpu"), strict=True):
        for name, value in vars(ours).items():
            assert value == pytest.approx(vars(theirs)[name], rel=1e-5), name


@pytest.mark.parametrize("part", ["mean", "train_labels", "train_images"])
@pytest.mark.parametrize("augment", [True, False])
def test_one_tensor_that_stayed_on_the_cpu_is_found(gpu, part, augment):
    with gpu():
        digits = data.load("digits", "cuda")
        left = dataclasses.replace(digits, **{part: getattr(data.load("digits"), part)})
        config = CONNECTED.replace(augment=augment)
        with pytest.raises(RuntimeError, match="all tensors to be on the same device"):
            Run(config, left, network=build(config, (1, 8, 8), 10).to(GPU), options=EAGER).epoch(0)


MIXES = {
    "numbers": lambda here, there: here + there,
    "one number from the CPU": lambda here, there: here * there.sum(),
    "labels": lambda here, there: F.cross_entropy(here, there[:, 0].long()),
    "weights": lambda here, there: F.linear(here, there),
    "joined": lambda here, there: torch.cat([here, there]),
    "in place": lambda here, there: here.clone().sub_(there),
    "chosen": lambda here, there: here.index_select(0, there[:, 0].long()),
    "moved": lambda here, there: here + there.to(here),
    "like": lambda here, there: here + torch.zeros_like(there),
    "new": lambda here, there: here + there.new_zeros(3, 3, device=here.device),
}


@pytest.mark.parametrize("mix", MIXES)
def test_the_pretended_gpu_refuses_what_torchs_fake_tensors_refuse(gpu, mix):
    def refused():
        try:
            MIXES[mix](torch.zeros(3, 3, device=GPU), torch.zeros(3, 3))
        except RuntimeError as error:
            return "same device" in str(error)
        return False

    with FakeTensorMode():
        expected = refused()
    with gpu():
        assert refused() == expected


def test_the_pretended_gpu_refuses_a_generator_of_the_cpu(gpu):
    with gpu():
        torch.rand(3, generator=torch.Generator())
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
            torch.rand(3, generator=torch.Generator(), device=GPU)
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
            torch.nn.init.normal_(torch.empty(3, device=GPU), generator=torch.Generator())
