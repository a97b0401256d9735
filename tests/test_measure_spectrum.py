"""The path spectrum against brute force, against torch's own derivative and against theory."""

import copy
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from shallowpaths import recipes, theory
from shallowpaths.measure import path_spectrum, predicted_signal
from shallowpaths.measure.gradients import through_block
from shallowpaths.networks import ResidualMLP, WideResNet

SEEDS = range(5)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def linear_parts(network, x):
    """Each block's skip and branch as explicit matrices, with normalizations as diagonal ones: rows times matrix."""
    for block in network.blocks:
        matrix, z = torch.eye(x.shape[1], dtype=x.dtype), x
        for preactivation, layer in zip(block.preactivations, block.layers, strict=True):
            if len(preactivation):
                factor = (z.var(0, correction=0) + preactivation[0].eps).rsqrt()
                z, matrix = (z - z.mean(0)) * factor, matrix * factor
            z, matrix = z @ layer.weight.T, matrix @ layer.weight.T
        alpha = block.scale.alpha if hasattr(block.scale, "alpha") else 1.0
        scale = block.addition.scale
        after, x = torch.ones(x.shape[1], dtype=x.dtype), (x + alpha * z) * scale
        if isinstance(block.norm_after, nn.BatchNorm1d):
            after = (x.var(0, correction=0) + block.norm_after.eps).rsqrt()
            x = (x - x.mean(0)) * after
        yield torch.eye(x.shape[1], dtype=x.dtype) * scale * after, alpha * matrix * scale * after


@torch.no_grad()
@pytest.mark.parametrize(
    "recipe", ["unnormalized", "batchnorm", "skipinit-1/sqrt(d)", "skipinit", "divide-sqrt2", "batchnorm-on-skip"]
)
@pytest.mark.parametrize("seed", SEEDS)
def test_linear_networks_equal_brute_force_over_all_paths(recipe, seed):
    network = ResidualMLP(20, 12, recipe, inputs=12, activation="linear", generator=generator(seed)).double()
    inputs = torch.randn(16, 12, dtype=torch.float64, generator=generator(100 + seed))
    x = network.input_layer(inputs)
    tangent = torch.randn(x.shape, generator=generator(seed), dtype=torch.float64)
    by_length = torch.zeros(9, *x.shape, dtype=torch.float64)
    matrices = list(linear_parts(network, x))
    for path in itertools.product((0, 1), repeat=8):
        product = torch.eye(12, dtype=torch.float64)
        for taken, pair in zip(path, matrices, strict=True):
            product = product @ pair[taken]
        by_length[sum(path)] += tangent @ product
    masses = by_length.square().sum((1, 2)).numpy()
    found = path_spectrum(network, inputs, seed=seed)
    np.testing.assert_allclose(found.shares, masses / masses.sum(), rtol=0, atol=1e-10)
    assert found.shares.sum() + found.truncated == pytest.approx(1, abs=1e-12)
    assert found.truncated == 0


def frozen(network, inputs):
    """A copy in evaluation mode whose normalizations hold this batch's statistics."""
    network = copy.deepcopy(network)
    norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]

    def hold(norm, arguments):
        dims = [0, *range(2, arguments[0].ndim)]
        norm.running_mean = arguments[0].mean(dims).detach()
        norm.running_var = arguments[0].var(dims, correction=0).detach()
        norm.eval()

    handles = [norm.register_forward_pre_hook(hold) for norm in norms]
    with torch.no_grad():
        network(inputs)
    for handle in handles:
        handle.remove()
    return network.eval()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch.func's own
@torch.no_grad()
@pytest.mark.parametrize("recipe", recipes.NAMES)
@pytest.mark.parametrize("make", [partial(WideResNet, 16, 1), partial(ResidualMLP, 16, 12, inputs=192)])
def test_the_parts_add_up_to_the_derivative_of_the_frozen_network(recipe, make):
    network = make(recipe, generator=generator(0)).double()
    for parameter in network.parameters():  # away from initialization: zeroed layers, scales and biases
        parameter += 0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator(1))
    inputs = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=generator(2))
    x = network.input_layer(inputs)
    tangent = torch.randn(x.shape, dtype=torch.float64, generator=generator(3))
    network = frozen(network, inputs)
    _, expected = torch.func.jvp(network.blocks, (x,), (tangent,))
    for room in (3, 8):
        signal, parts = x, tangent[None]
        for block in network.blocks:
            parts = through_block(block, signal, parts, room)
            signal = block(signal)
        torch.testing.assert_close(parts.sum(0), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@torch.no_grad()
def test_an_activation_in_place_on_the_skip_path_stops_its_tangent_too():
    network = WideResNet(16, 1, "skipinit-0.5", generator=generator(0)).double()
    inputs = torch.randn(5, 3, 8, 8, dtype=torch.float64, generator=generator(2))
    x = network.input_layer(inputs)
    tangent = torch.randn(x.shape, dtype=torch.float64, generator=generator(0))

    def without_in_place(signal):
        for block in network.blocks:
            signal = block(torch.relu(signal))
        return signal

    _, expected = torch.func.jvp(without_in_place, (x,), (tangent,))
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    signal, parts = x.clone(), tangent.clone()[None]
    for block in network.blocks:
        parts = through_block(block, signal, parts, 8)
        signal = block(signal)
    torch.testing.assert_close(parts.sum(0), expected, rtol=1e-10, atol=1e-10)
    masses = parts.square().flatten(1).sum(1)
    np.testing.assert_allclose(path_spectrum(network, inputs).shares, masses / masses.sum(), rtol=1e-10)


@pytest.mark.parametrize("recipe", ["batchnorm", "divide-sqrt2"])
def test_truncation_moves_mass_and_loses_none(recipe):
    network = ResidualMLP(64, 32, recipe, generator=generator(0)).double()
    inputs = torch.randn(16, 64, dtype=torch.float64, generator=generator(1))
    whole, cut = path_spectrum(network, inputs), path_spectrum(network, inputs, longest=40)
    np.testing.assert_allclose(whole.shares, cut.shares, rtol=1e-12)
    assert (whole.shares.size, cut.shares.size, cut.truncated) == (31, 31, 0)
    cut = path_spectrum(network, inputs, longest=6)
    assert cut.shares.sum() + cut.truncated == pytest.approx(1, abs=1e-12)
    ratio = whole.shares[:7] / cut.shares
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-10)  # short paths do not notice what happens to long ones
    assert cut.mean_length == pytest.approx(np.arange(7) @ cut.shares + 7 * cut.truncated)
    assert 0 < cut.mean_length < whole.mean_length


def test_evaluation_mode_uses_the_gathered_statistics():
    network = ResidualMLP(16, 16, "batchnorm", generator=generator(0))
    inputs = torch.randn(16, 64)
    for module in network.blocks.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.fill_(1e6)
    assert path_spectrum(network, inputs, training=False).shares[0] == pytest.approx(1, abs=1e-4)
    assert path_spectrum(network, inputs).shares[0] < 0.9


def test_without_skip_connections_every_path_takes_every_branch():
    network = ResidualMLP(24, 32, "plain-batchnorm")
    found = path_spectrum(network, torch.randn(16, 64))
    assert found.shares.tolist() == [0.0] * 10 + [1.0]
    assert found.mean_length == 10
    assert path_spectrum(network, torch.randn(16, 64), longest=3).truncated == 1


@pytest.mark.parametrize("recipe", ["skipinit", "zero-gamma", "fixup"])
def test_a_network_that_starts_as_the_identity_has_only_the_empty_path(recipe):
    found = path_spectrum(ResidualMLP(204, 16, recipe), torch.randn(8, 64), longest=3)
    assert found.shares.tolist() == [1, 0, 0, 0]
    assert found.mean_length == 0


BATCH = 64


def lengths(recipe, layers, activation, width, blocks=100):
    runs = []
    for seed in SEEDS:
        network = ResidualMLP(
            2 * blocks + 4, width, recipe, inputs=width, layers_per_block=layers, activation=activation,
            generator=generator(seed),
        )  # fmt: skip
        inputs = torch.randn(BATCH, width, generator=generator(100 + seed))
        runs.append(path_spectrum(network, inputs, longest=12 if layers == 1 else 16, seed=seed))
    return predicted_signal(network), runs


def length_noise(predicted, width):
    """One standard deviation of the mean length, over the mean of all seeds.

    A branch's gain on the squared norm varies by 5 / width a layer (theory.finite_width), and moves p_l by p_l (1 - p_l) of it.
    """
    p = predicted.path_probability
    return math.sqrt(5 * predicted.layers_per_block / width / len(SEEDS) * ((p * (1 - p)) ** 2).sum())


@pytest.mark.parametrize(("layers", "activation", "mean"), [(1, "linear", 4.2), (1, "relu", 5.5), (2, "relu", 7.5)])
def test_batch_normalization_makes_100_blocks_a_handful(layers, activation, mean):
    """A normalization multiplies by the mean of 1 / variance, which is more than 1 / the mean variance.

    By how much: a channel's variance over a batch of N is made of k numbers that count, 1 / k = 1 / N + s, s the mean
    squared correlation between inputs, and the mean of 1 / chi^2_k is k / (k - 2) times larger. s is 1 / width to begin
    with, and each block adds at most 2 p / width: an upper edge.
    """
    width = 128
    predicted, runs = lengths("batchnorm", layers, activation, width)
    p = predicted.path_probability
    assert p.sum() == pytest.approx(mean, abs=0.05)
    unlike = 1 - predicted.skip_correlation
    squared = (1 + np.concatenate([[0], np.cumsum(2 * p[:-1])])) / width / unlike
    inverse = 1 / (1 - 2 * (1 / BATCH + squared)) ** layers
    upper = (p * inverse / (1 - p + p * inverse)).sum()
    noise = 4 * length_noise(predicted, width)
    found = np.mean([run.mean_length for run in runs])
    assert p.sum() - noise <= found <= upper + noise
    assert max(run.truncated for run in runs) < 0.02


@pytest.mark.parametrize(("layers", "activation"), [(1, "linear"), (2, "relu")])
def test_one_over_sqrt_d_takes_one_branch_and_its_lengths_are_poisson_binomial(layers, activation):
    predicted, runs = lengths("skipinit-1/sqrt(d)", layers, activation, 64)
    noise = 4 * length_noise(predicted, 64)
    assert np.mean([run.mean_length for run in runs]) == pytest.approx(100 / 101, abs=noise)
    expected = theory.path_length_distribution(predicted.path_probability)
    found = np.mean([run.shares for run in runs], axis=0)
    # a mean length off by m moves the Poisson shares by less than m in all
    assert np.abs(found - expected[: found.size]).sum() <= noise


@pytest.mark.parametrize("recipe", ["unnormalized", "divide-sqrt2"])
def test_without_normalization_half_of_all_branches_are_taken(recipe):
    runs = []
    for seed in SEEDS:
        network = ResidualMLP(44, 128, recipe, inputs=128, generator=generator(seed))
        runs.append(path_spectrum(network, torch.randn(32, 128, generator=generator(seed)), seed=seed).mean_length)
    assert np.mean(runs) == pytest.approx(10, abs=4 * length_noise(predicted_signal(network), 128))


@torch.no_grad()
def test_modules_between_blocks_are_on_every_path():
    first, second = ResidualMLP(8, 12, "unnormalized", inputs=12, activation="linear").double().blocks
    between = nn.Linear(12, 12).double()
    network, x = nn.Sequential(first, nn.Sequential(between, nn.ReLU()), second), torch.randn(16, 12, dtype=torch.float64)
    gates = (between(first(x)) > 0).double()
    tangent = torch.randn(x.shape, generator=generator(3), dtype=torch.float64)
    by_length = torch.zeros(3, *x.shape, dtype=torch.float64)
    for path in itertools.product((0, 1), repeat=2):
        t = tangent @ first.layers[0].weight.T @ first.layers[1].weight.T if path[0] else tangent
        t = t @ between.weight.T * gates
        by_length[sum(path)] += t @ second.layers[0].weight.T @ second.layers[1].weight.T if path[1] else t
    masses = by_length.square().sum((1, 2)).numpy()
    np.testing.assert_allclose(path_spectrum(network, x, seed=3).shares, masses / masses.sum(), atol=1e-12)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            return self.second(2 * self.first(x))

    with pytest.raises(ValueError, match=r"after first comes .*mul.*: only modules, one by one, may stand between blocks"):
        path_spectrum(Twice(), x)
