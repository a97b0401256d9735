"""The residual block of every network, and what it is made of."""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths.networks.ghost import GhostBatchNorm
from shallowpaths.recipes import Recipe, get_recipe
from shallowpaths.theory.checks import number, whole
from shallowpaths.theory.moments import fixup_layer_scale

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
Layer = Normalization = Callable[..., nn.Module]


class Scale(nn.Module):
    """Multiply by one number: SkipInit's alpha, or Fixup's multiplier."""

    def __init__(self, initial: float):
        super().__init__()
        self.initial = initial
        self.alpha = nn.Parameter(torch.empty(()))

    def reset_parameters(self) -> None:
        nn.init.constant_(self.alpha, self.initial)

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x

    def after(self, layer: nn.Module, x: Tensor) -> Tensor:
        """alpha * layer(x) of a Linear or zero-padded Conv2d, by alpha on its weights: no pass over activations."""
        weight = self.alpha * layer.weight
        bias = None if layer.bias is None else self.alpha * layer.bias
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


class Shift(nn.Module):
    """Add one number, 0 at first: Fixup's scalar bias."""

    def __init__(self, *shape: int):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(shape))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Bias(Shift):
    """Add one number per channel, 0 at first."""

    def forward(self, x: Tensor) -> Tensor:  # [N, C, ...] -> the same
        return (x.movedim(1, -1) + self.bias).movedim(-1, 1)


def _preactivation(channels: int, recipe: Recipe, normalization: Normalization | None, activation: str) -> nn.Module:
    """What stands before a layer: normalization, then the activation, and Fixup's shifts before each."""
    shift = [Shift] if "scalar biases" in recipe.fixup else []
    before = [*shift, nn.ReLU] if activation == "relu" else []
    parts = [make() for make in (*before, *shift)]
    return nn.Sequential(*([normalization(channels)] if normalization else []), *parts)


class ResidualAddition(nn.Module):
    """(skip + branch) * scale; without a skip path, the branch alone."""

    def __init__(self, scale: float = 1.0, skip_path: bool = True):
        super().__init__()
        self.scale, self.skip_path = scale, skip_path

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        total = skip + branch if self.skip_path else branch
        return total if self.scale == 1.0 else total * self.scale


class ResidualBlock(nn.Module):
    """x + alpha * branch(x), pre-activation (He et al. 2016), any recipe. The branch chains preactivations and layers.

    A shortcut, where the shape changes, reads the first preactivation's output, as in pre-activation ResNets.
    """

    def __init__(
        self, layers: list[nn.Module], recipe: Recipe, blocks: int, normalization: Normalization, activation: str,
        shortcut: nn.Module | None,
    ):  # fmt: skip
        super().__init__()
        on_branch, outputs = normalization if recipe.normalizes_branch else None, len(layers[-1].weight)
        before = [_preactivation(layer.weight.shape[1], recipe, on_branch, activation) for layer in layers]
        self.preactivations, self.layers, self.shortcut = nn.ModuleList(before), nn.ModuleList(layers), shortcut
        alpha = 1.0 if "scalar multiplier" in recipe.fixup else recipe.initial_alpha(blocks)
        scale = nn.Identity() if alpha is None else Scale(alpha)
        self.scale = normalization(outputs) if recipe.zero_gamma else scale
        self.addition = ResidualAddition(recipe.output_scale, recipe.skip_path)
        self.norm_after = normalization(outputs) if recipe.normalizes_skip else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # [N, C, ...] -> [N, C', ...]
        out = self.preactivations[0](x)
        skip = x if self.shortcut is None else self.shortcut(out)
        for preactivation, layer in zip(self.preactivations[1:], self.layers[:-1], strict=True):
            out = preactivation(layer(out))
        last = self.layers[-1]
        branch = self.scale.after(last, out) if isinstance(self.scale, Scale) else self.scale(last(out))
        return self.norm_after(self.addition(skip, branch))


class ResidualNetwork(nn.Module):
    """`input_layer`, residual `blocks` and `head`, by a `recipe`. It draws its own weights, He et al. 2015.

    A subclass gives what makes the input layer, each stage's (channels, blocks), the channels to be times `width`, and
    what makes a branch's layers by its channels before and after and its stride, 2 where a later stage begins.
    """

    def __init__(
        self, enter: Layer, stages: list[tuple[int, int]], branch: Callable[..., list[nn.Module]], width: int,
        recipe: str | Recipe, classes: int, dropout: float, generator: torch.Generator | None, ghost_batch: int | None,
        layer: type[nn.Module] = nn.Conv2d, activation: str = "relu", **sizes: int,
    ):  # fmt: skip
        super().__init__()
        for size in {"width": width, "classes": classes, **sizes}.items():
            whole(*size)
        number("dropout", dropout, at_least=0, below=1)
        self.recipe = recipe = recipe if isinstance(recipe, Recipe) else get_recipe(recipe)
        self.activation, images, total = activation, layer is nn.Conv2d, sum(count for _, count in stages)
        plain = nn.BatchNorm2d if images else nn.BatchNorm1d
        normalization = plain if ghost_batch is None else functools.partial(GhostBatchNorm, ghost_batch=ghost_batch)
        make, blocks = functools.partial(layer, bias=recipe.biases), []
        with torch.device("meta"):  # where layers draw no weights, which the network draws itself
            self.input_layer = enter(make)
            inputs = next(len(m.weight) for m in self.input_layer.modules() if isinstance(m, LAYERS))
            for stage, (channels, count) in enumerate(stages):
                for index in range(count):
                    outputs, stride = width * channels, 2 if stage > 0 and index == 0 else 1
                    shortcut = make(inputs, outputs, 1, stride) if recipe.skip_path and inputs != outputs else None
                    layers = branch(make, inputs, outputs, stride)
                    blocks.append(ResidualBlock(layers, recipe, total, normalization, activation, shortcut))
                    inputs = outputs
            self.blocks = nn.Sequential(*blocks)
            head = [_preactivation(inputs, recipe, normalization if recipe.normalizes_end else None, activation)]
            head += [nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())] if images else []
            head += [nn.Dropout(dropout)] if recipe.dropout else []
            self.head = nn.Sequential(*head, nn.Linear(inputs, classes))
        self.to_empty(device="cpu").reset_parameters(generator)

    def forward(self, x: Tensor) -> Tensor:  # -> [N, classes]
        return self.head(self.blocks(self.input_layer(x)))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every weight anew, from `generator` or torch's own random state: He's normal initialization.

        A layer that reads a ReLU has weights of variance 2 / fan_in, any other 1 / fan_in: either way its output has
        the second moment of what entered the ReLU. Biases are 0, scalars and zeroed layers as the recipe says.
        """
        first = next(m for m in self.input_layer.modules() if isinstance(m, LAYERS))
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, Scale, Shift)):
                module.reset_parameters()
            elif isinstance(module, LAYERS):
                draw_he(module, 2.0 if self.activation == "relu" and module is not first else 1.0, generator)
        zeros = [block.scale for block in self.blocks] if self.recipe.zero_gamma else []
        if "zero last layer" in self.recipe.fixup:
            zeros += [*(block.layers[-1] for block in self.blocks), self.head[-1]]
        for module in zeros:
            nn.init.zeros_(module.weight)
        if "depth rescaling" in self.recipe.fixup:
            factor = fixup_layer_scale(len(self.blocks), len(self.blocks[0].layers))
            for layer in (layer for block in self.blocks for layer in block.layers[:-1]):
                layer.weight.mul_(factor)


def draw_he(layer: nn.Module, gain: float, generator: torch.Generator | None) -> None:
    """Normal weights of variance gain / fan_in, biases 0."""
    nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.weight[0].numel()), generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
