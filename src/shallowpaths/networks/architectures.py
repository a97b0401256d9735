"""The architectures, one class each: the paper's Wide-ResNet and ResNet-50-V2, and the fully connected network of its theory."""

from torch import Generator, nn

from shallowpaths.networks.residual import Layer, ResidualNetwork
from shallowpaths.recipes import Recipe
from shallowpaths.theory.checks import one_of
from shallowpaths.theory.depth import blocks_of
from shallowpaths.theory.moments import ACTIVATIONS


class WideResNet(ResidualNetwork):
    """The paper's n-k Wide-ResNet (Zagoruyko and Komodakis 2016): three stages of (n - 4) / 6 blocks of two 3x3 convolutions.

    [N, channels, H, W] -> [N, classes], H and W at least 4. depth: n = 6 m + 4. width: k, the factor on the stages' 16,
    32 and 64 channels. recipe: its name, or a Recipe. dropout: rate before the classifier, in recipes that have it.
    generator: source of the initial weights; None is torch's own. ghost_batch: images over which batch normalization
    takes its statistics; None is the whole batch.
    """

    def __init__(
        self, depth: int = 16, width: int = 1, recipe: str | Recipe = "batchnorm", channels: int = 3, classes: int = 10,
        dropout: float = 0.0, generator: Generator | None = None, ghost_batch: int | None = None,
    ):  # fmt: skip
        stages = [(c, blocks_of(depth, "wide-resnet") // 3) for c in (16, 32, 64)]

        def branch(conv: Layer, inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            return [conv(inputs, outputs, 3, stride, padding=1), conv(outputs, outputs, 3, padding=1)]

        run = (width, recipe, classes, dropout, generator, ghost_batch)
        super().__init__(lambda conv: conv(channels, 16, 3, padding=1), stages, branch, *run, channels=channels)


class ResNetV2(ResidualNetwork):
    """ResNet-50-V2 (He et al. 2016): pre-activation bottlenecks, 1x1, 3x3 and 1x1, in four stages of 3, 4, 6 and 3 blocks.

    Before them a 7x7 convolution and a 3x3 maximum, each of stride 2. A stage strides in its first block's 3x3, whose
    shortcut reads the first preactivation; the first keeps the size. [N, channels, H, W] -> [N, classes], for any H and
    W, which are 32 times smaller at the end. Arguments as in WideResNet; the depth is 50.
    """

    def __init__(
        self, depth: int = 50, width: int = 1, recipe: str | Recipe = "batchnorm", channels: int = 3,
        classes: int = 1000, dropout: float = 0.0, generator: Generator | None = None, ghost_batch: int | None = None,
    ):  # fmt: skip
        blocks_of(depth, "resnet50-v2")  # refuses another depth
        stages = [(256, 3), (512, 4), (1024, 6), (2048, 3)]

        def enter(conv: Layer) -> nn.Module:
            return nn.Sequential(conv(channels, 64, 7, 2, padding=3), nn.MaxPool2d(3, 2, padding=1))

        def branch(conv: Layer, inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            inner = outputs // 4  # a bottleneck puts out four times the channels of its 3x3
            return [conv(inputs, inner, 1), conv(inner, inner, 3, stride, padding=1), conv(inner, outputs, 1)]

        run = (width, recipe, classes, dropout, generator, ghost_batch)
        super().__init__(enter, stages, branch, *run, channels=channels)


class ResidualMLP(ResidualNetwork):
    """A fully connected residual network: the setting in which the theory is exact as the width grows.

    [N, inputs], or anything that flattens to it -> [N, classes]. depth: an even n, for d = (n - 4) / 2 blocks, as many
    as in the Wide-ResNet of that depth. width: units of every hidden layer. activation: "relu", or "linear" for none.
    Other arguments as in WideResNet.
    """

    def __init__(
        self, depth: int = 16, width: int = 64, recipe: str | Recipe = "batchnorm", inputs: int = 64, classes: int = 10,
        layers_per_block: int = 2, activation: str = "relu", dropout: float = 0.0,
        generator: Generator | None = None, ghost_batch: int | None = None,
    ):  # fmt: skip
        stages = [(1, blocks_of(depth, "residual-mlp"))]
        one_of("activation", activation, ACTIVATIONS)

        def branch(linear: Layer, inputs: int, outputs: int, _stride: int) -> list[nn.Module]:
            return [linear(inputs, outputs) for _ in range(layers_per_block)]

        run = (width, recipe, classes, dropout, generator, ghost_batch, nn.Linear, activation)
        sizes = {"inputs": inputs, "layers_per_block": layers_per_block}
        super().__init__(lambda make: nn.Sequential(nn.Flatten(), make(inputs, width)), stages, branch, *run, **sizes)


def count_parameters(network: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
