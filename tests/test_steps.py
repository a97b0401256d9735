import os
import subprocess
import sys

import pytest
import torch

from pretended_cuda import pretended_cuda
from shallowpaths import data
from shallowpaths._device import arithmetic
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import Run
from shallowpaths.training.steps import StepOptions, default_options

CONVOLUTIONAL = RunConfig(depth=10, batch_size=32, steps=4, learning_rate=0.02, recipe="skipinit-0.5", device="cpu")
CONNECTED = RunConfig(network="residual-mlp", depth=8, width=16, batch_size=32, steps=4, device="cpu")
PLAIN = StepOptions(channels_last=False)


def after(config, options, fused=False):
    """The network after the run's first epoch, with its losses."""
    digits = data.load("digits")
    torch.manual_seed(0)
    run = Run(config, digits, options=options)
    for group in run.step.optimizer.param_groups:
        group["fused"] = fused
    return run.network, run.epoch(0)[0]


def assert_agree(config, options, rtol, fused=False):
    (plain, expected), (network, found) = after(config, PLAIN), after(config, options, fused)
    assert found.loss == pytest.approx(expected.loss, rel=rtol)
    for a, b in zip(network.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("recipe", ["batchnorm", "skipinit-0.5"])
def test_channels_last_changes_rounding_only(recipe):
    assert_agree(CONVOLUTIONAL.replace(recipe=recipe), StepOptions(channels_last=True), rtol=1e-4)


@pytest.mark.parametrize("config", [CONVOLUTIONAL, CONNECTED])
def test_the_fused_optimizer_changes_rounding_only(config):
    assert_agree(config, PLAIN, rtol=1e-5, fused=True)


def test_bfloat16_stays_near_float32():
    full, half = (after(CONNECTED.replace(precision=p), PLAIN)[1].loss for p in ("float32", "bfloat16"))
    assert half == pytest.approx(full, rel=0.02)
    assert half != full


def test_what_only_a_gpu_can_do_is_left_out_on_a_cpu():
    assert_agree(CONNECTED, StepOptions(channels_last=False, graph=True, tf32=True), rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own, when its compiler is imported
@pytest.mark.parametrize("config", [CONVOLUTIONAL.replace(recipe="batchnorm"), CONNECTED.replace(ghost_batch=12)])
def test_compiled_blocks_change_rounding_only(config):
    """Trying the compiled step first leaves nothing behind: neither in weights nor in the moving averages."""
    assert_agree(config, StepOptions(channels_last=False, compiled=True), rtol=1e-4)


@pytest.mark.slow
def test_without_a_compiler_the_step_runs_and_says_so_once(tmp_path):
    program = """
import logging, torch
from shallowpaths import data
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import Run
from shallowpaths.training.steps import StepOptions
logging.basicConfig()
config = RunConfig(network="residual-mlp", depth=8, width=16, batch_size=32, steps=4, device="cpu")
digits = data.load("digits")
for _ in range(2):
    (result,) = Run(config, digits, options=StepOptions(compiled=True)).epoch(0)
print(result.first_bad_step)
"""
    environment = os.environ | {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert done.stderr.count("torch.compile does not work here") == 1


def test_resident_images_are_used_only_where_there_is_augmentation():
    digits = data.load("digits")
    config = CONNECTED.replace(augment=False)
    run = Run(config, digits)
    order, offsets, flips = (part[0] for part in run.timetables[0].batches(0, digits))
    images, labels = run.step.batch(order, offsets, flips)
    assert torch.equal(images, digits.standardize(digits.train_images[order]))
    assert torch.equal(labels, digits.train_labels[order])


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("native", [True, False])
def test_for_a_gpu_without_bfloat16_of_its_own_nothing_is_compiled(native, monkeypatch):
    with pretended_cuda(monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: native)
        run = Run(CONNECTED.replace(precision="bfloat16"), data.load("digits", "cuda"), options=StepOptions(compiled=True))
        assert (run.step.forward is run.network) == (not native)


def test_a_cpu_does_not_compile_by_itself():
    assert not default_options(torch.device("cpu")).compiled


@pytest.mark.parametrize("wanted", [True, False])
def test_arithmetic_on_a_gpu_is_as_the_options_say_and_then_as_before(wanted):
    def settings():
        cudnn = torch.backends.cudnn
        return torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark

    before = settings()
    with arithmetic(torch.device("cuda"), wanted, wanted):
        assert settings() == (wanted, wanted, wanted, False)
        assert torch.backends.cudnn.enabled
    assert settings() == before
    with arithmetic(torch.device("cpu"), wanted, wanted):
        assert settings() == before


def test_arithmetic_and_torchs_newer_settings_do_not_meet():
    """In a process of its own: once they were used, torch refuses to read the older settings."""
    program = """
import torch
from shallowpaths._device import arithmetic
cuda = torch.device("cuda")
torch.set_float32_matmul_precision("medium")
with arithmetic(cuda, tf32=True):
    assert torch.get_float32_matmul_precision() == "high"
assert torch.get_float32_matmul_precision() == "medium"
torch.set_float32_matmul_precision("highest")
torch.backends.cuda.matmul.fp32_precision = "tf32"
torch.backends.cudnn.conv.fp32_precision = "ieee"
places = torch.backends.cuda.matmul, torch.backends.cudnn.conv
for wanted in (True, False):
    with arithmetic(cuda, tf32=wanted):
        assert [place.fp32_precision for place in places] == ["tf32" if wanted else "ieee"] * 2
assert [place.fp32_precision for place in places] == ["tf32", "ieee"]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA")
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("options", [StepOptions(compiled=True), StepOptions(graph=True)])
@pytest.mark.parametrize("recipe", ["batchnorm", "regularized-skipinit"])
def test_on_a_gpu_compiled_and_recorded_steps_change_rounding_only(options, recipe):
    digits = data.load("digits", "cuda")
    config, found = CONVOLUTIONAL.replace(recipe=recipe, device="cuda", learning_rate=0.01), []
    for chosen in (StepOptions(), options):
        torch.manual_seed(0)
        run = Run(config, digits, options=chosen)
        found.append((run.epoch(0)[0], run.network))
        assert (run.step.recorded is not None) == chosen.graph
        assert (run.step.forward is not run.network) == chosen.compiled
    assert found[0][0].loss == pytest.approx(found[1][0].loss, rel=1e-3)
    for a, b in zip(found[0][1].parameters(), found[1][1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
