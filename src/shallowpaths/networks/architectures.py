"""The architectures, one class each: the paper's Wide-ResNet and ResNet-50-V2, and the fully connected network of its theory."""

import torch
from torch import nn

from shallowpaths.networks.residual import Layer, ResidualNetwork
from shallowpaths.recipes import Recipe
from shallowpaths.theory.checks import one_of, whole
from shallowpaths.theory.depth import blocks_of
from shallowpaths.theory.moments import ACTIVATIONS

BOTTLENECKS = ((64, 3), (128, 4), (256, 6), (512, 3))  # of ResNet-50's four stages: channels of the 3x3, and blocks


class WideResNet(ResidualNetwork):
    """The paper's n-k Wide-ResNet (Zagoruyko and Komodakis 2016): three stages of (n - 4) / 6 blocks of two 3x3 convolutions.

    It takes [N, channels, H, W] to [N, classes], for any H and W of at least 4.

    Args:
        depth: n = 6 m + 4.
        width: k, the factor on the stages' 16, 32 and 64 channels.
        recipe: a recipe's name or a Recipe.
        dropout: rate before the classifier, used by recipes that have dropout.
        generator: source of the initial weights; None uses torch's own random state.
        ghost_batch: images over which batch normalization takes its statistics; None takes the whole batch.
    """

    def __init__(
        self, depth: int = 16, width: int = 1, recipe: str | Recipe = "batchnorm", channels: int = 3, classes: int = 10,
        dropout: float = 0.0, generator: torch.Generator | None = None, ghost_batch: int | None = None,
    ):  # fmt: skip
        blocks = blocks_of(depth, "wide-resnet") // 3
        _check(width=width, channels=channels, classes=classes)

        def enter(conv: Layer) -> nn.Module:
            return conv(channels, 16, 3, padding=1)

        def branch(conv: Layer, inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            return [conv(inputs, outputs, 3, stride, padding=1), conv(outputs, outputs, 3, padding=1)]

        stages = [(width * c, blocks) for c in (16, 32, 64)]
        super().__init__(enter, stages, branch, recipe, classes, dropout, generator, ghost_batch)


class ResNetV2(ResidualNetwork):
    """ResNet-50-V2 (He et al. 2016): pre-activation bottlenecks, 1x1, 3x3 and 1x1, in four stages of 3, 4, 6 and 3 blocks.

    Before them a 7x7 convolution and a 3x3 maximum, each of stride 2. A stage strides in its first block's 3x3, whose
    shortcut reads the first preactivation; the first stage keeps the size. It takes [N, channels, H, W] to [N, classes],
    for any H and W, which are 32 times smaller at the end. Arguments as in WideResNet; the depth is 50.
    """

    def __init__(
        self, depth: int = 50, width: int = 1, recipe: str | Recipe = "batchnorm", channels: int = 3, classes: int = 1000,
        dropout: float = 0.0, generator: torch.Generator | None = None, ghost_batch: int | None = None,
    ):  # fmt: skip
        blocks_of(depth, "resnet50-v2")  # refuses another depth
        _check(width=width, channels=channels, classes=classes)

        def enter(conv: Layer) -> nn.Module:
            return nn.Sequential(conv(channels, 64, 7, 2, padding=3), nn.MaxPool2d(3, 2, padding=1))

        def branch(conv: Layer, inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            inner = outputs // 4
            return [conv(inputs, inner, 1), conv(inner, inner, 3, stride, padding=1), conv(inner, outputs, 1)]

        stages = [(width * 4 * inner, blocks) for inner, blocks in BOTTLENECKS]
        super().__init__(enter, stages, branch, recipe, classes, dropout, generator, ghost_batch)


class ResidualMLP(ResidualNetwork):
    """A fully connected residual network: the setting in which the theory is exact as the width grows.

    It takes [N, inputs], or anything that flattens to it, to [N, classes].

    Args:
        depth: n, an even number; there are d = (n - 4) / 2 blocks, as many as in the Wide-ResNet of that depth.
        width: units of every hidden layer.
        layers_per_block: fully connected layers on each branch.
        activation: "relu", or "linear" for none.
        recipe, dropout, generator, ghost_batch: as in WideResNet.
    """

    def __init__(
        self, depth: int = 16, width: int = 64, recipe: str | Recipe = "batchnorm", inputs: int = 64, classes: int = 10,
        layers_per_block: int = 2, activation: str = "relu", dropout: float = 0.0, generator: torch.Generator | None = None,
        ghost_batch: int | None = None,
    ):  # fmt: skip
        stages = [(width, blocks_of(depth, "residual-mlp"))]
        _check(width=width, inputs=inputs, classes=classes, layers_per_block=layers_per_block)
        one_of("activation", activation, ACTIVATIONS)

        def enter(linear: Layer) -> nn.Module:
            return nn.Sequential(nn.Flatten(), linear(inputs, width))

        def branch(linear: Layer, inputs: int, outputs: int, _stride: int) -> list[nn.Module]:
            return [linear(inputs, outputs) for _ in range(layers_per_block)]

        super().__init__(enter, stages, branch, recipe, classes, dropout, generator, ghost_batch, nn.Linear, activation)


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        whole(name, value)
