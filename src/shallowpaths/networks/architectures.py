"""The architectures, one class each: the paper's Wide-ResNet and ResNet-50-V2, and the fully connected network of its theory."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from shallowpaths.networks.ghost import GhostBatchNorm
from shallowpaths.networks.residual import Normalization, Preactivation, ResidualBlock, ResidualNetwork
from shallowpaths.recipes import Recipe, get_recipe
from shallowpaths.theory.checks import number, one_of, whole
from shallowpaths.theory.depth import blocks_of

ACTIVATIONS = ("relu", "linear")
IMAGE_CHANNELS = (16, 32, 64)  # of the Wide-ResNet's three stages, before the width factor
BOTTLENECKS = ((64, 3), (128, 4), (256, 6), (512, 3))  # of ResNet-50's four stages: channels of the 3x3, and blocks
EXPANSION = 4  # a bottleneck puts out so many times the channels of its 3x3


class WideResNet(ResidualNetwork):
    """The paper's n-k Wide-ResNet (Zagoruyko and Komodakis 2016): three stages of (n - 4) / 6 blocks of two 3x3 convolutions.

    Args:
        depth: n = 6 m + 4.
        width: k, the factor on the stages' 16, 32 and 64 channels.
        recipe: a recipe's name or a Recipe.
        channels, classes: of the images, of the labels.
        dropout: rate before the classifier, used by recipes that have dropout.
        generator: source of the initial weights; None uses torch's own random state.
        ghost_batch: images over which batch normalization takes its statistics; None takes the whole batch.

    Shapes:
        [N, channels, H, W] -> [N, classes], for any H and W of at least 4.
    """

    def __init__(
        self,
        depth: int = 16,
        width: int = 1,
        recipe: str | Recipe = "batchnorm",
        channels: int = 3,
        classes: int = 10,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        ghost_batch: int | None = None,
    ):
        super().__init__()
        count = blocks_of(depth, "wide-resnet")
        for name, value in (("width", width), ("channels", channels), ("classes", classes)):
            whole(name, value)
        self.recipe, self.activation = _as_recipe(recipe), "relu"
        conv = functools.partial(nn.Conv2d, bias=self.recipe.biases)
        normalization = _normalization(nn.BatchNorm2d, ghost_batch)

        def branch(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            return [conv(inputs, outputs, 3, stride, padding=1), conv(outputs, outputs, 3, padding=1)]

        with torch.device("meta"):  # where layers draw no weights, which the network draws itself
            self.input_layer = conv(channels, IMAGE_CHANNELS[0], 3, padding=1)
            stages = [(width * c, count // 3) for c in IMAGE_CHANNELS]
            self.blocks = _blocks(self.recipe, normalization, IMAGE_CHANNELS[0], stages, branch)
            self.head = _head(stages[-1][0], classes, self.recipe, normalization, "relu", dropout, pool=True)
        self.to_empty(device="cpu").reset_parameters(generator)


class ResNetV2(ResidualNetwork):
    """ResNet-50-V2 (He et al. 2016): pre-activation bottlenecks, 1x1, 3x3 and 1x1, in four stages of 3, 4, 6 and 3 blocks.

    Before them a 7x7 convolution and a 3x3 maximum, each of stride 2. A stage strides in its first block's 3x3, whose
    shortcut reads the first preactivation; the first stage keeps the size.

    Args:
        depth: 50.
        width: factor on the channels of all stages.
        recipe, channels, classes, dropout, generator, ghost_batch: as in WideResNet.

    Shapes:
        [N, channels, H, W] -> [N, classes], for any H and W; 32 times smaller at the end.
    """

    def __init__(
        self,
        depth: int = 50,
        width: int = 1,
        recipe: str | Recipe = "batchnorm",
        channels: int = 3,
        classes: int = 1000,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        ghost_batch: int | None = None,
    ):
        super().__init__()
        blocks_of(depth, "resnet50-v2")  # refuses another depth
        for name, value in (("width", width), ("channels", channels), ("classes", classes)):
            whole(name, value)
        self.recipe, self.activation = _as_recipe(recipe), "relu"
        conv = functools.partial(nn.Conv2d, bias=self.recipe.biases)
        normalization = _normalization(nn.BatchNorm2d, ghost_batch)

        def branch(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            inner = outputs // EXPANSION
            return [conv(inputs, inner, 1), conv(inner, inner, 3, stride, padding=1), conv(inner, outputs, 1)]

        with torch.device("meta"):  # where layers draw no weights, which the network draws itself
            inputs = BOTTLENECKS[0][0]
            self.input_layer = nn.Sequential(conv(channels, inputs, 7, 2, padding=3), nn.MaxPool2d(3, 2, padding=1))
            stages = [(width * EXPANSION * inner, count) for inner, count in BOTTLENECKS]
            self.blocks = _blocks(self.recipe, normalization, inputs, stages, branch)
            self.head = _head(stages[-1][0], classes, self.recipe, normalization, "relu", dropout, pool=True)
        self.to_empty(device="cpu").reset_parameters(generator)


class ResidualMLP(ResidualNetwork):
    """A fully connected residual network: the setting in which the theory is exact as the width grows.

    Args:
        depth: n, an even number; there are d = (n - 4) / 2 blocks, as many as in the Wide-ResNet of that depth.
        width: units of every hidden layer.
        recipe: a recipe's name or a Recipe.
        inputs, classes: numbers of input features and of labels.
        layers_per_block: fully connected layers on each branch.
        activation: "relu", or "linear" for none.
        dropout, generator, ghost_batch: as in WideResNet.

    Shapes:
        [N, inputs], or anything that flattens to it -> [N, classes].
    """

    def __init__(
        self,
        depth: int = 16,
        width: int = 64,
        recipe: str | Recipe = "batchnorm",
        inputs: int = 64,
        classes: int = 10,
        layers_per_block: int = 2,
        activation: str = "relu",
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        ghost_batch: int | None = None,
    ):
        super().__init__()
        count = blocks_of(depth, "residual-mlp")
        sizes = {"width": width, "inputs": inputs, "classes": classes, "layers_per_block": layers_per_block}
        for name, value in sizes.items():
            whole(name, value)
        one_of("activation", activation, ACTIVATIONS)
        self.recipe, self.activation = _as_recipe(recipe), activation
        if "depth rescaling" in self.recipe.fixup and layers_per_block < 2:
            raise ValueError(
                f"recipe {self.recipe.name!r} rescales all but the last layer of a branch: layers_per_block must be at least 2"
            )
        linear = functools.partial(nn.Linear, bias=self.recipe.biases)
        normalization = _normalization(nn.BatchNorm1d, ghost_batch)
        with torch.device("meta"):  # where layers draw no weights, which the network draws itself
            self.input_layer = nn.Sequential(nn.Flatten(), linear(inputs, width))
            blocks = []
            for _ in range(count):
                layers = [linear(width, width) for _ in range(layers_per_block)]
                blocks.append(ResidualBlock(layers, self.recipe, count, normalization, activation))
            self.blocks = nn.Sequential(*blocks)
            self.head = _head(width, classes, self.recipe, normalization, activation, dropout, pool=False)
        self.to_empty(device="cpu").reset_parameters(generator)


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _blocks(
    recipe: Recipe,
    normalization: Normalization,
    inputs: int,
    stages: Sequence[tuple[int, int]],
    branch: Callable[[int, int, int], list[nn.Module]],
) -> nn.Sequential:
    """Convolutional blocks, in stages of (channels, blocks); every stage but the first begins with a stride of 2.

    branch: the layers of a branch, by its channels before and after, and its stride.
    """
    total, blocks = sum(count for _, count in stages), []
    for stage, (outputs, count) in enumerate(stages):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            projects = recipe.skip_path and (stride > 1 or inputs != outputs)
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=recipe.biases) if projects else None
            layers = branch(inputs, outputs, stride)
            blocks.append(ResidualBlock(layers, recipe, total, normalization, shortcut=shortcut))
            inputs = outputs
    return nn.Sequential(*blocks)


def _head(
    channels: int, classes: int, recipe: Recipe, normalization: Normalization, activation: str, dropout: float, pool: bool
) -> nn.Sequential:
    number("dropout", dropout, at_least=0, below=1)
    parts = [
        Preactivation(channels, recipe, normalization if recipe.normalizes_end else None, activation),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if pool else None,
        nn.Dropout(dropout) if recipe.dropout else None,
        nn.Linear(channels, classes),
    ]
    return nn.Sequential(*(part for part in parts if part is not None))


def _normalization(whole_batch: Normalization, ghost_batch: int | None) -> Normalization:
    return whole_batch if ghost_batch is None else functools.partial(GhostBatchNorm, ghost_batch=ghost_batch)


def _as_recipe(recipe: str | Recipe) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
