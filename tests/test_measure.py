import math

import numpy as np
import pytest
import torch
from torch import nn

from shallowpaths import theory
from shallowpaths.measure import predicted_signal, signal_statistics
from shallowpaths.networks import ResidualMLP, WideResNet

SEEDS = range(5)
BATCH, WIDTH = 128, 128


def generator(seed):
    return torch.Generator().manual_seed(seed)


def measured(recipe, seed, blocks=20, activation="relu"):
    network = ResidualMLP(
        2 * blocks + 4, WIDTH, recipe, inputs=WIDTH, activation=activation, generator=generator(seed)
    ).double()
    inputs = torch.randn(BATCH, WIDTH, dtype=torch.float64, generator=generator(1000 + seed))
    return network, signal_statistics(network, inputs)


RECIPES = [
    "unnormalized",
    "batchnorm",
    "skipinit",
    "skipinit-1/sqrt(d)",
    "skipinit-1",
    "divide-sqrt2",
    "batchnorm-on-skip",
    "batchnorm-at-end",
    "zero-gamma",
    "fixup",
    "fixup-rescaling-only",
    "fixup-multiplier-only",
    "fixup-biases-only",
    "plain",
    "plain-batchnorm",
]


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_he_networks_follow_the_closed_forms_in_float64(recipe, activation):
    """Geometric mean over seeds, within 4 deviations of theory.finite_width and 1 % for the finite batch."""
    runs = [measured(recipe, seed, activation=activation) for seed in SEEDS]
    predicted = predicted_signal(runs[0][0])
    width = theory.finite_width(predicted, WIDTH, BATCH)
    bound = 4 * width.relative_deviation / math.sqrt(len(SEEDS)) + 0.01
    for quantity in ("skip_second_moment", "branch_second_moment", "skip_variance"):  # 0 is met exactly
        expected = getattr(predicted, quantity)
        found = np.stack([getattr(s, quantity) for _, s in runs])
        if not expected.any():
            assert not found.any()
            continue
        error = np.log(found).mean(0) - np.log(expected)
        excess = width.variance_excess * predicted.skip_second_moment / expected if quantity == "skip_variance" else 0
        own_layer = 4 * math.sqrt(5 / WIDTH / len(SEEDS)) if quantity == "branch_second_moment" else 0
        assert (np.abs(error) <= bound + excess + own_layer).all(), (quantity, error, bound)


@pytest.mark.parametrize("seed", SEEDS)
def test_statistics_equal_a_computation_by_hand(seed):
    network, found = measured("skipinit-0.75", seed, blocks=3)
    x = torch.randn(BATCH, WIDTH, dtype=torch.float64, generator=generator(1000 + seed))
    x = network.input_layer(x)
    for index, block in enumerate(network.blocks):
        branch = 0.75 * (torch.relu(torch.relu(x) @ block.layers[0].weight.T) @ block.layers[1].weight.T)
        out = x + branch
        for name, tensor in (("skip", x), ("branch", branch), ("output", out)):
            array = tensor.detach().numpy()
            variance, squared_mean = array.var(0).mean(), (array.mean(0) ** 2).mean()
            assert getattr(found, f"{name}_variance")[index] == pytest.approx(variance, rel=1e-10)
            assert getattr(found, f"{name}_squared_mean")[index] == pytest.approx(squared_mean, rel=1e-10)
            assert getattr(found, f"{name}_second_moment")[index] == pytest.approx((array**2).mean(), rel=1e-10)
        assert found.branch_share[index] == pytest.approx(
            branch.detach().numpy().var(0).mean() / out.detach().numpy().var(0).mean()
        )
        x = out


def test_a_convolutional_network_is_measured_stage_by_stage():
    network = WideResNet(16, 2, "batchnorm")
    found = signal_statistics(network, torch.randn(16, 3, 32, 32))
    assert found.channels.tolist() == [32, 32, 64, 64, 128, 128]
    assert found.skip_variance.shape == (6,)


def test_convolutions_lose_the_predicted_part_at_the_border():
    share = []
    for seed in SEEDS:
        network = WideResNet(16, 4, "unnormalized", generator=generator(seed))
        found = signal_statistics(network, torch.randn(64, 3, 8, 8, generator=generator(seed)))
        share.append(found.branch_second_moment[0] / found.skip_second_moment[0])
    expected = predicted_signal(network, image_size=8)
    expected = expected.branch_second_moment[0] / expected.skip_second_moment[0]
    # the first block is a projection: its skip is one He layer of 64 channels (relative variance 5/16 at 16 inputs)
    assert np.log(np.mean(share)) == pytest.approx(math.log(expected), abs=4 * math.sqrt(2 * 5 / 64 / len(SEEDS)))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was_found(training):
    network = WideResNet(10, 1, "fixup-dropout", dropout=0.5)
    network = nn.Sequential(network, nn.BatchNorm1d(10), nn.Dropout(0.5))
    network[1].eval()  # modules in different modes
    network(torch.randn(4, 3, 8, 8)).sum().backward()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    gradients = [p.grad for p in network.parameters()]
    modes, random = [m.training for m in network.modules()], torch.get_rng_state()
    signal_statistics(network, torch.randn(4, 3, 8, 8, generator=generator(0)), training=training)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert all(p.grad is g for p, g in zip(network.parameters(), gradients, strict=True))
    assert modes == [m.training for m in network.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert not any(m._forward_hooks for m in network.modules())


def test_the_network_is_left_as_it_was_found_when_the_forward_pass_raises():
    network = WideResNet(10, 1, "batchnorm").eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.head[-1] = nn.Linear(3, 3).eval()  # does not fit
    with pytest.raises(RuntimeError, match="shapes"):
        signal_statistics(network, torch.randn(4, 3, 8, 8))
    assert not any(m._forward_hooks for m in network.modules())
    assert not any(m.training for m in network.modules())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items() if not k.startswith("head"))


def test_activations_in_place_do_not_disturb_the_statistics():
    network = WideResNet(10, 1, "batchnorm")
    images = torch.randn(8, 3, 8, 8)
    expected = signal_statistics(network, images)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    found = signal_statistics(network, images)
    np.testing.assert_array_equal(found.branch_variance, expected.branch_variance)
    np.testing.assert_array_equal(found.skip_variance, expected.skip_variance)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(1, 64), "at least two"),
        (torch.full((4, 64), math.nan), "NaN"),
        (torch.ones(4, 64, dtype=torch.int64), "floating-point"),
        ([[1.0]], "floating-point"),
        (torch.full((4, 64), math.inf), "infinity"),
    ],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        signal_statistics(ResidualMLP(), inputs)


def test_measuring_works_in_inference_mode_too():
    network, inputs = ResidualMLP(10, 32), torch.randn(8, 64)
    expected = signal_statistics(network, inputs)
    with torch.inference_mode():
        found = signal_statistics(network, inputs)
    np.testing.assert_array_equal(found.output_variance, expected.output_variance)


def test_an_image_size_needs_convolutions():
    with pytest.raises(ValueError, match="only convolutional"):
        predicted_signal(ResidualMLP(), image_size=8)
