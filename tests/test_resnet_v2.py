import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shallowpaths import theory
from shallowpaths.measure import predicted_signal, signal_statistics
from shallowpaths.networks import ResNetV2, Shift, count_parameters
from shallowpaths.theory.depth import blocks_of
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import build

STAGES = [(64, 64, 3), (256, 128, 4), (512, 256, 6), (1024, 512, 3)]  # channels in, of the 3x3, blocks
WEIGHTS_OF_RESNET50 = 25_557_032 - 2 * 26_560  # as published for 1000 classes, less its scales and biases of normalization


def resnet(recipe, classes=10):
    return ResNetV2(recipe=recipe, classes=classes, generator=torch.Generator().manual_seed(0))


def test_parameters_counted_by_hand():
    weights = 7 * 7 * 3 * 64 + 2048 * 10 + 10
    normalized, biases = 2048, 64  # before the classifier; of the first convolution
    for inputs, c, blocks in STAGES:
        weights += inputs * c + 9 * c * c + c * 4 * c + inputs * 4 * c + (blocks - 1) * (4 * c * c + 9 * c * c + c * 4 * c)
        normalized += inputs + 2 * c + (blocks - 1) * (4 * c + 2 * c)
        biases += blocks * (c + c + 4 * c) + 4 * c
    assert weights == 23_475_402
    assert count_parameters(resnet("skipinit-biases")) == weights + 16 + biases
    assert count_parameters(resnet("regularized-skipinit")) == weights + 16 + biases, "dropout has no parameters"
    assert count_parameters(resnet("batchnorm")) == weights + 2 * normalized
    fixup = 16 * (1 + 2 * 3) + 2  # a multiplier and six shifts a block, two shifts before the classifier
    assert count_parameters(resnet("fixup")) == count_parameters(resnet("fixup-dropout")) == weights + fixup
    assert count_parameters(resnet("unnormalized", classes=1000)) == WEIGHTS_OF_RESNET50


def test_it_computes_what_its_formula_says():
    """Against the network written out by hand in float64, with torch's functions only."""
    network = resnet("skipinit-0.25").double()
    images = torch.randn(2, 3, 45, 33, dtype=torch.float64)
    x = F.max_pool2d(F.conv2d(images, network.input_layer[0].weight, stride=2, padding=3), 3, 2, padding=1)
    assert x.shape == (2, 64, 12, 9)
    blocks = iter(network.blocks)
    for stage, (_, _, count) in enumerate(STAGES):
        for index in range(count):
            block, stride = next(blocks), 2 if stage > 0 and index == 0 else 1
            activation = F.relu(x)
            branch = F.conv2d(activation, block.layers[0].weight)
            branch = F.conv2d(F.relu(branch), block.layers[1].weight, stride=stride, padding=1)
            branch = F.conv2d(F.relu(branch), block.layers[2].weight)
            x = (F.conv2d(activation, block.shortcut.weight, stride=stride) if index == 0 else x) + 0.25 * branch
    assert x.shape == (2, 2048, 2, 2)
    logits = F.relu(x).mean((2, 3)) @ network.head[-1].weight.T + network.head[-1].bias
    torch.testing.assert_close(network(images), logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("image_size", [None, 16])
def test_with_batch_normalization_each_stage_starts_the_count_anew(image_size):
    """A shortcut's projection reads a normalized signal: block l of a stage has l on the skip path, and 1 on its branch."""
    network = resnet("batchnorm")
    found = signal_statistics(network, torch.randn(32, 3, 64, 64))
    counted = np.concatenate([np.arange(1, blocks + 1) for _, _, blocks in STAGES])
    np.testing.assert_allclose(found.branch_second_moment, 1, atol=0.1)
    np.testing.assert_allclose(found.skip_second_moment, counted, rtol=0.2)
    np.testing.assert_allclose(found.branch_share, 1 / (counted + 1), atol=0.06)
    predicted = predicted_signal(network, image_size=image_size)
    np.testing.assert_allclose(predicted.branch_second_moment, 1, rtol=1e-12)
    np.testing.assert_allclose(predicted.branch_second_moment_share, 1 / (counted + 1), rtol=1e-12)


@pytest.mark.parametrize("recipe", ["fixup", "skipinit-biases"])
def test_without_normalization_the_blocks_start_as_their_shortcuts(recipe):
    """What leaves the maximum has m = E[relu(x)^2], and a He layer behind the ReLU makes 2 m of it, up to its draw."""
    network, images = resnet(recipe), torch.randn(16, 3, 64, 64)
    found = signal_statistics(network, images)
    assert not found.branch_second_moment.any()
    with torch.no_grad():
        expected = 2 * F.relu(network.input_layer(images)).square().mean().item()
    starts = np.cumsum([0] + [blocks for _, _, blocks in STAGES])
    for first, after in itertools.pairwise(starts):
        np.testing.assert_allclose(found.skip_second_moment[first:after], found.skip_second_moment[first], rtol=1e-5)
    # 256 channels and more, each with a mean of its own: chi-squared, 5 deviations, which add up from stage to stage
    np.testing.assert_allclose(found.skip_second_moment[starts[:-1]] / expected, 1, atol=5 * np.sqrt(2 / 256 + 2 / 512))
    assert not found.skip_squared_mean[0] < found.skip_variance[0], "a maximum of nine has a mean, which the weights pass on"


def test_fixup_takes_a_bottleneck_for_three_layers():
    """Zhang et al. 2019: He times 16^(-1/4) on the first two of a branch's layers, 0 on the last; shifts before each."""
    network = resnet("fixup")
    for block in network.blocks:
        assert not block.layers[-1].weight.any()
        assert sum(isinstance(part, Shift) for part in block.modules()) == 6
        for layer in block.layers[:-1]:
            ratio = layer.weight.double().square().mean().item() * layer.weight[0].numel() / 2
            assert ratio == pytest.approx(16**-0.5, abs=5 * np.sqrt(2 / layer.weight.numel()))
    assert not network.head[-1].weight.any()


def test_one_bottleneck_is_one_block_of_three_layers_in_theory():
    predicted = predicted_signal(resnet("skipinit-1/sqrt(d)"))
    expected = theory.signal(16, alpha=0.25, activation="relu", layers_per_block=3, projections=[1, 4, 8, 14])
    np.testing.assert_allclose(predicted.skip_second_moment, expected.skip_second_moment, rtol=1e-12)


def test_a_config_builds_it():
    config = RunConfig(recipe="fixup-dropout", network="resnet50-v2", depth=50, dropout=0.2)
    network = build(config, (1, 8, 8), 7)
    assert (len(network.blocks), config.blocks, blocks_of(50, "resnet50-v2")) == (16, 16, 16)
    assert [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)] == [0.2]
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize("depth", [16, 101, 50.0, True, None])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match="depth of 50"):
        RunConfig(network="resnet50-v2", depth=depth)


def test_one_value_a_channel_has_no_variance():
    config = RunConfig(network="resnet50-v2", depth=50, batch_size=1)
    with pytest.raises(ValueError, match="take at least 2 images together"):
        config.split(1437)
    assert config.replace(recipe="skipinit").split(1437) == 1437
    assert config.replace(data="imagefolder").split(1437) == 1437, "224 pixels are 7 x 7 at the end"
