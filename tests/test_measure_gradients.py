"""Gradients, correlations and moving statistics: by hand, and against theory for every recipe."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from shallowpaths import theory
from shallowpaths.measure import (
    gradient_correlation,
    gradient_statistics,
    input_correlation,
    moving_statistics,
    predicted_signal,
    signal_statistics,
)
from shallowpaths.networks import ResidualMLP, WideResNet

SEEDS = range(5)
WIDTH, BATCH, BLOCKS = 128, 128, 12
RECIPES = [
    "unnormalized", "batchnorm", "skipinit", "skipinit-1/sqrt(d)", "divide-sqrt2", "batchnorm-on-skip", "zero-gamma",
    "batchnorm-at-end", "fixup", "fixup-rescaling-only", "plain", "plain-batchnorm",
]  # fmt: skip


def generator(seed):
    return torch.Generator().manual_seed(seed)


def made(recipe, seed, activation="relu", blocks=BLOCKS):
    network = ResidualMLP(
        2 * blocks + 4, WIDTH, recipe, inputs=WIDTH, activation=activation, generator=generator(seed)
    ).double()
    return network, torch.randn(BATCH, WIDTH, dtype=torch.float64, generator=generator(100 + seed))


def normalizations_met(predicted):
    """How many normalizations a gradient meets in block l, on the mean over its paths; and the most that each adds.

    A normalization multiplies by the mean of 1 / variance. A channel's variance over a batch of N is made of k numbers
    that count, 1 / k = 1 / N + s, which makes the mean larger by 2 / k. s is the mean squared correlation between
    inputs: 1 / width at first, and each block adds what its random layers make (theory.finite_width).
    """
    p, layers = predicted.path_probability, predicted.layers_per_block
    met = layers * p if predicted.normalization in ("branch", "branch and skip") else 0 * p
    if predicted.normalization == "branch and skip":
        met = met + 1
    fresh = 2 * p * (1 - p) + layers * p**2
    squared = (1 + layers - 1 + np.concatenate([[0], np.cumsum(fresh[:-1])])) / WIDTH
    return met, 2 * (1 / BATCH + squared)


@pytest.mark.parametrize("activation", ["linear", "relu"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_grow_as_predicted(recipe, activation):
    """Geometric mean over seeds, within 4 of theory.finite_width's deviations; the network read backwards is as noisy.

    A normalization over N inputs also takes a part 2 / N of the gradient away.
    """
    logs = []
    for seed in SEEDS:
        network, inputs = made(recipe, seed, activation)
        logs.append(np.log(gradient_statistics(network, inputs, seed=seed).relative))
    predicted = predicted_signal(network)
    error = np.mean(logs, axis=0) - np.log(predicted.gradient_second_moment)
    width = theory.finite_width(predicted, WIDTH, BATCH)
    noise = 4 / math.sqrt(len(SEEDS)) * width.relative_deviation.max() + 0.01
    met, most = normalizations_met(predicted)
    lost, won = (np.cumsum(part[::-1])[::-1] for part in (met * 2 / BATCH, met * most))
    assert (error >= -noise - lost).all(), error
    assert (error <= noise + won).all(), error


@pytest.mark.parametrize("in_place", [False, True])
def test_gradients_equal_a_computation_by_hand(in_place):
    """In place, an activation with no normalization before it changes the skip path; its gradient is taken before."""
    network, inputs = made("skipinit-0.75", 0, blocks=3)
    x = network.input_layer(inputs).detach().requires_grad_()
    points = [x]
    for block in network.blocks:
        points.append(block(torch.relu(points[-1]) if in_place else points[-1]))
    sent_back = torch.randn(points[-1].shape, generator=generator(7), dtype=torch.float64)
    expected = [g.square().sum().item() for g in torch.autograd.grad(points[-1], points, sent_back)]
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = in_place
    found = gradient_statistics(network, inputs, seed=7)
    assert found.relative == pytest.approx(np.array(expected[:-1]) / expected[-1], rel=1e-10)
    assert found.growth.prod() == pytest.approx(found.relative[0])


def test_squared_norms_follow_theory_where_channels_and_sizes_change():
    """He initialization by fan_in: a stage that doubles the channels and halves the image keeps the squared norm.

    Circular padding, because zeros at the border take a part of the gradient too.
    """
    logs = []
    for seed in SEEDS:
        network = WideResNet(16, 4, "skipinit-1/sqrt(d)", generator=generator(seed))
        for block in network.blocks:
            for layer in block.layers:
                layer.padding_mode = "circular"
                layer._reversed_padding_repeated_twice = [1, 1, 1, 1]
        inputs = torch.randn(16, 3, 16, 16, generator=generator(seed))
        logs.append(np.log(gradient_statistics(network, inputs, seed=seed).relative))
    predicted = predicted_signal(network)
    error = np.mean(logs, axis=0) - np.log(predicted.gradient_second_moment)
    # each projection is one He layer of its stage's channels, 5 / channels relative variance
    noise = 4 * math.sqrt(5 * (1 / 64 + 1 / 128 + 1 / 256) / len(SEEDS))
    assert (np.abs(error) <= noise).all(), error


@pytest.mark.parametrize("recipe", RECIPES)
def test_inputs_become_alike_as_predicted(recipe):
    """theory's correlation is a ratio of means and so moves with the deviations of both, by c (1 - c) of them at most."""
    found = []
    for seed in SEEDS:
        network, inputs = made(recipe, seed)
        found.append(input_correlation(network, inputs).cosine)
    predicted = predicted_signal(network)
    width = theory.finite_width(predicted, WIDTH, BATCH)
    c = predicted.skip_correlation
    noise = 4 / math.sqrt(len(SEEDS)) * (2 * (1 - c) * width.relative_deviation + math.sqrt(2 / WIDTH) / BATCH)
    assert (np.abs(np.mean(found, axis=0) - c) <= noise + width.variance_excess + 1.5 / BATCH).all()


def test_input_correlation_equals_a_computation_by_hand():
    network, inputs = made("unnormalized", 0, blocks=1)
    x = network.input_layer(inputs).detach().numpy()
    found = input_correlation(network, inputs)
    rows = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = (rows @ rows.T)[~np.eye(BATCH, dtype=bool)].mean()
    assert found.cosine[0] == pytest.approx(expected, rel=1e-10)
    assert found.distance == pytest.approx(1 - found.cosine)


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_of_neighbours_shatter_as_predicted(recipe):
    signals, gradients = [], []
    for seed in SEEDS:
        network, inputs = made(recipe, seed)
        found = gradient_correlation(network, inputs, correlation=0.9, seed=seed)
        signals.append(found.pair_correlation)
        gradients.append(found.gradient_correlation)
    predicted = predicted_signal(network, pair_correlation=0.9)
    width = theory.finite_width(predicted, WIDTH, BATCH)
    # as for inputs' correlation; a pair's cosine is of two vectors of WIDTH numbers, and gates follow its square root
    noise = 4 / math.sqrt(len(SEEDS)) * 2 * width.relative_deviation.max() + 3 / BATCH
    assert (np.abs(np.mean(signals, axis=0) - predicted.pair_correlation) <= noise).all()
    assert (np.abs(np.mean(gradients, axis=0) - predicted.gradient_correlation) <= noise).all()


def test_an_input_is_its_own_neighbour_at_correlation_1():
    network, inputs = made("batchnorm", 0)
    same = gradient_correlation(network, inputs, correlation=1.0)
    assert same.pair_correlation == pytest.approx(1)
    assert same.gradient_correlation == pytest.approx(1)


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_moving_statistics_grow_linearly(activation):
    """Slope 1, or 1 - 1/pi with ReLU; a batch's variance has the factor N / (N - 1), which torch takes out."""
    variances, means = [], []
    for seed in SEEDS:
        network, _ = made("batchnorm", seed, activation, blocks=20)
        batches = [torch.randn(BATCH, WIDTH, dtype=torch.float64, generator=generator(s)) for s in range(2)]
        found = moving_statistics(network, batches)
        variances.append(found.variance)
        means.append(found.squared_mean)
    predicted = predicted_signal(network)
    band = theory.finite_width(predicted, WIDTH, 2 * BATCH)
    error = np.log(np.mean(variances, axis=0)) - np.log(predicted.input_variance)
    bound = 4 * band.relative_deviation / math.sqrt(len(SEEDS)) + 0.01
    assert (np.abs(error) <= bound + band.variance_excess / (1 - predicted.skip_correlation)).all()
    # the mean over 2 N inputs has the variance / (2 N) of its own
    own = predicted.input_variance / (2 * BATCH)
    off = np.abs(np.mean(means, axis=0) - predicted.input_squared_mean - own)
    assert (off <= bound * predicted.input_second_moment + own).all()


def test_moving_statistics_are_plain_means_over_batches():
    network, inputs = made("batchnorm", 0)
    network.blocks[0].preactivations[0][0].running_var.fill_(math.nan)  # what was there plays no part
    gathered = moving_statistics(network, [inputs, inputs])
    entering = signal_statistics(network, inputs)
    assert gathered.variance == pytest.approx(entering.skip_variance * BATCH / (BATCH - 1), rel=1e-10)
    assert gathered.squared_mean == pytest.approx(entering.skip_squared_mean, rel=1e-10)
