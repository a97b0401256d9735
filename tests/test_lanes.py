import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

from shallowpaths.training.config import RunConfig
from shallowpaths.training.lanes import Lanes
from shallowpaths.training.runs import build, in_lanes
from shallowpaths.training.steps import StepOptions, make_optimizer
from shallowpaths.training.train import train, train_lanes

CONNECTED = RunConfig(network="residual-mlp", depth=8, width=16, l2=0.01, device="cpu")
CONVOLUTIONAL = RunConfig(depth=10, l2=0.01, device="cpu")
RATES = (0.01, 0.03, 0.1)
STEPS = 4


def batches(shape, lane):
    generator = torch.Generator().manual_seed(100 + lane)
    images = torch.randn((STEPS, 11, *shape), dtype=torch.float64, generator=generator)
    return images, torch.randint(0, 10, (STEPS, 11), generator=generator)


def alone(config, rate, lane, shape):
    """The run of one lane by torch's own SGD, in float64."""
    network = build(config.replace(seed=lane), shape, 10).double().train()
    optimizer = make_optimizer(network, config.replace(learning_rate=rate))
    losses = []
    for images, labels in zip(*batches(shape, lane), strict=True):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(network(images), labels))
        losses[-1].backward()
        optimizer.step()
    return network, torch.stack(losses).detach()


def lanes_of(networks, config, options=None):
    return Lanes(networks, options or StepOptions(), config)


def together(config, rates, shape, spoiled=None):
    networks = [build(config.replace(seed=lane), shape, 10).double() for lane in range(len(rates))]
    lanes = lanes_of(networks, config)
    parts = [batches(shape, lane) for lane in range(len(rates))]
    losses = []
    for step in range(STEPS):
        images = torch.stack([images[step] for images, _ in parts])
        labels = torch.stack([labels[step] for _, labels in parts])
        if spoiled is not None and step == 1:
            images[spoiled] = torch.nan
        losses.append(lanes.take(images, labels, torch.tensor(rates, dtype=torch.float64))[0])
    lanes.write_back()
    return networks, torch.stack(losses)


def assert_same(lane, separate):
    for (name, a), b in zip(lane.state_dict().items(), separate.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("l2_on_scalars", "alpha_rate"), [(True, 1.0), (False, 3.0)])
@pytest.mark.parametrize("recipe", ["batchnorm", "skipinit-0.5", "fixup", "batchnorm-on-skip"])
@pytest.mark.parametrize("network", [CONNECTED, CONVOLUTIONAL])
def test_lanes_equal_separate_runs(network, recipe, l2_on_scalars, alpha_rate):
    config = network.replace(recipe=recipe, l2_on_scalars=l2_on_scalars, alpha_rate=alpha_rate)
    networks, losses = together(config, RATES, (1, 8, 8))
    for lane, rate in enumerate(RATES):
        separate, expected = alone(config, rate, lane, (1, 8, 8))
        torch.testing.assert_close(losses[:, lane], expected, rtol=1e-12, atol=1e-12)
        assert_same(networks[lane], separate)


@pytest.mark.parametrize("network", [CONNECTED, CONVOLUTIONAL])
def test_lanes_with_ghost_batches_and_a_ragged_one(network):
    config = network.replace(ghost_batch=6)  # 6 + 5 images: of 3, near-equal ones would magnify rounding
    networks, _ = together(config, RATES, (1, 8, 8))
    for lane, rate in enumerate(RATES):
        assert_same(networks[lane], alone(config, rate, lane, (1, 8, 8))[0])


@pytest.mark.parametrize("network", [CONNECTED, CONVOLUTIONAL])
def test_a_lane_of_nan_leaves_the_others_as_they_are(network):
    networks, losses = together(network, RATES, (1, 8, 8), spoiled=1)
    assert torch.isnan(losses[1:, 1]).all()
    for lane in (0, 2):
        assert_same(networks[lane], alone(network, RATES[lane], lane, (1, 8, 8))[0])


def assert_records_agree(ours, theirs):
    assert (ours.config, ours.outcome, ours.diverged_step) == (theirs.config, theirs.outcome, theirs.diverged_step)
    for a, b in zip(ours.curve, theirs.curve, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert ours.data_checksum == theirs.data_checksum


@pytest.mark.parametrize("changes", [{"validation": 0.1}, {"augment": False, "epochs": None, "steps": 30}])
def test_records_of_lanes_are_those_of_runs_alone(changes):
    base = CONNECTED.replace(epochs=2, recipe="batchnorm").replace(**changes)
    configs = [base.replace(learning_rate=rate, seed=seed) for rate, seed in ((1e-3, 0), (2e-3, 0), (1e-3, 3))]
    for ours, config in zip(train_lanes(configs), configs, strict=True):
        theirs = train(config, progress=False)
        assert_records_agree(ours, theirs)
        assert ours.test_accuracy == pytest.approx(theirs.test_accuracy, rel=1e-4)


def test_a_diverged_lane_is_recorded_as_the_run_alone():
    base = CONNECTED.replace(recipe="unnormalized", epochs=2, depth=30)
    configs = [base.replace(learning_rate=rate) for rate in (1e-9, 1e9)]
    kept, diverged = train_lanes(configs)
    assert kept.outcome == "finished"
    assert_records_agree(diverged, train(configs[1], progress=False))
    assert diverged.outcome == "diverged"


def test_what_no_lane_can_do_is_refused():
    with pytest.raises(ValueError, match="these differ in batch_size, depth"):
        train_lanes([CONNECTED, CONNECTED.replace(depth=10, batch_size=8)])
    with pytest.raises(ValueError, match="has dropout"):
        train_lanes([CONNECTED.replace(recipe="regularized-skipinit", seed=s) for s in range(2)])
    with pytest.raises(ValueError, match="has batch normalization, which torch does not stack in bfloat16"):
        train_lanes([CONNECTED.replace(precision="bfloat16", seed=s) for s in range(2)])
    with pytest.raises(ValueError, match="no config"):
        train_lanes([])
    with pytest.raises(ValueError, match="batch_size 2000"):
        train_lanes([CONNECTED.replace(batch_size=2000)])


def test_runs_are_put_together_that_may_be_lanes():
    some = [CONNECTED.replace(learning_rate=rate, batch_size=b) for rate in (0.1, 0.2, 0.3) for b in (8, 16)]
    noisy = [CONNECTED.replace(recipe="regularized-skipinit", dropout=0.5, seed=s) for s in (0, 1)]
    small, large = some[::2], some[1::2]
    assert in_lanes([*some, *noisy], 2) == [small[:2], large[:2], small[2:], large[2:], noisy[:1], noisy[1:]]
    assert in_lanes(some, 8) == [small, large]
    assert in_lanes(some, 1) == [[c] for c in some]
    for group in in_lanes([*some, *noisy], 8)[:2]:
        train_lanes([c.replace(steps=1, epochs=None) for c in group])  # which refuses what cannot be lanes


def test_lanes_that_do_not_fit_in_memory_are_named():
    """Each one's second convolution alone has more weights than a process has addresses."""
    configs = [RunConfig(width=10**6, device="cpu", seed=seed) for seed in range(2)]
    with pytest.raises(ValueError, match=r"2 runs as lanes do not fit in memory: .* depth 16 and width 1000000"):
        train_lanes(configs)


def test_lanes_that_nobody_holds_are_freed_at_once():
    """Without the garbage collector: on a GPU, whole sweeps of them would fill the memory before it comes by."""
    networks = [build(CONNECTED.replace(seed=seed), (1, 8, 8), 10) for seed in range(2)]
    lanes = lanes_of(networks, CONNECTED)
    freed, data = [], (torch.randn(2, 5, 1, 8, 8), torch.randint(0, 10, (2, 5)))
    lanes.take(*data, torch.tensor([0.1, 0.1]))  # torch's first use of vmap in a process holds on to what it saw
    for _ in range(2):
        lanes = lanes_of(networks, CONNECTED)
        weakref.finalize(lanes, freed.append, True)
        lanes.take(*data, torch.tensor([0.1, 0.1]))
        gc.disable()
        try:
            del lanes
            assert freed.pop()
        finally:
            gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA")
@pytest.mark.parametrize("recipe", ["batchnorm", "skipinit-0.5"])
def test_on_a_gpu_recorded_lanes_change_rounding_only(recipe):
    config = RunConfig(depth=10, batch_size=16, recipe=recipe, device="cuda")
    images, labels = torch.randn(3, 2, 16, 1, 8, 8, device="cuda"), torch.randint(0, 10, (3, 2, 16), device="cuda")
    rates, found = torch.tensor([0.01, 0.02], device="cuda"), []
    for graph in (False, True):
        networks = [build(config.replace(seed=seed), (1, 8, 8), 10).to("cuda") for seed in range(2)]
        lanes = lanes_of(networks, config, StepOptions(graph=graph))
        losses = torch.stack([lanes.take(*batch, rates)[0] for batch in zip(images, labels, strict=True)])
        lanes.write_back()
        assert (lanes.recorded is not None) == graph
        found.append((losses, [value for network in networks for value in network.state_dict().values()]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-4)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
