"""The residual block of every network, and what it is made of."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths.recipes import Recipe

Normalization = Callable[[int], nn.Module]


class Scale(nn.Module):
    """Multiply by one number: SkipInit's alpha, or Fixup's multiplier."""

    def __init__(self, initial: float, learns: bool = True):
        super().__init__()
        self.initial = initial
        self.alpha = nn.Parameter(torch.empty(()), requires_grad=learns)

    def reset_parameters(self) -> None:
        """Back to the initial value."""
        nn.init.constant_(self.alpha, self.initial)

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * x

    def after(self, layer: nn.Module, x: Tensor) -> Tensor:
        """alpha * layer(x), with alpha on the layer's weights: no pass over the activations, forward or backward.

        layer: an nn.Conv2d with zeros around its images, or an nn.Linear.
        """
        weight = self.alpha * layer.weight
        bias = None if layer.bias is None else self.alpha * layer.bias
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


class Shift(nn.Module):
    """Add one number, 0 at first: Fixup's scalar bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(()))

    def reset_parameters(self) -> None:
        """Back to 0."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Bias(nn.Module):
    """Add one number per channel, 0 at first. The result is a new tensor, whether or not the numbers learn."""

    def __init__(self, channels: int, learns: bool = True):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(channels), requires_grad=learns)

    def reset_parameters(self) -> None:
        """Back to 0."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, ...] -> the same
        return (x.movedim(1, -1) + self.bias).movedim(-1, 1)


class Preactivation(nn.Sequential):
    """What stands before a layer: normalization, then the activation, and Fixup's shifts before each."""

    def __init__(self, channels: int, recipe: Recipe, normalization: Normalization | None, activation: str):
        shift = "scalar biases" in recipe.fixup
        parts = [
            normalization(channels) if normalization else None,
            Shift() if shift and activation == "relu" else None,
            nn.ReLU() if activation == "relu" else None,
            Shift() if shift else None,
        ]
        super().__init__(*(part for part in parts if part is not None))


class ResidualAddition(nn.Module):
    """(skip + branch) * scale; without a skip path, the branch alone."""

    def __init__(self, scale: float = 1.0, skip_path: bool = True):
        super().__init__()
        self.scale, self.skip_path = scale, skip_path

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        total = skip + branch if self.skip_path else branch
        return total if self.scale == 1.0 else total * self.scale


class ResidualBlock(nn.Module):
    """x + alpha * branch(x), pre-activation (He et al. 2016), any recipe.

    The branch is a chain of preactivation -> layer. A shortcut, where the shape changes, reads the first
    preactivation's output, as in pre-activation ResNets.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        recipe: Recipe,
        blocks: int,
        normalization: Normalization,
        activation: str = "relu",
        shortcut: nn.Module | None = None,
    ):
        super().__init__()
        on_branch = normalization if recipe.normalizes_branch else None
        self.preactivations = nn.ModuleList(
            Preactivation(_inputs(layer), recipe, on_branch, activation) for layer in layers
        )
        self.layers = nn.ModuleList(layers)
        self.shortcut = shortcut
        alpha = 1.0 if "scalar multiplier" in recipe.fixup else recipe.initial_alpha(blocks)
        if recipe.zero_gamma:
            self.scale = normalization(_outputs(layers[-1]))
        else:
            self.scale = nn.Identity() if alpha is None else Scale(alpha, recipe.learns_alpha)
        self.addition = ResidualAddition(recipe.output_scale, recipe.skip_path)
        self.norm_after = normalization(_outputs(layers[-1])) if recipe.normalizes_skip else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # [N, C, ...] -> [N, C', ...]
        out = self.preactivations[0](x)
        skip = x if self.shortcut is None else self.shortcut(out)
        for preactivation, layer in zip(self.preactivations[1:], self.layers[:-1], strict=True):
            out = preactivation(layer(out))
        last = self.layers[-1]
        branch = self.scale.after(last, out) if isinstance(self.scale, Scale) else self.scale(last(out))
        return self.norm_after(self.addition(skip, branch))


class ResidualNetwork(nn.Module):
    """Input layer, residual blocks, classifier. Made by the subclasses; initializes itself, He et al. 2015.

    Attributes:
        recipe: the Recipe that it was built from.
        input_layer, blocks, head: in the order in which they are applied.
    """

    recipe: Recipe
    activation: str
    input_layer: nn.Module
    blocks: nn.Sequential
    head: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:  # -> [N, classes]
        return self.head(self.blocks(self.input_layer(x)))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every weight anew: He's normal initialization, biases 0, scalars and zeroed layers as the recipe says.

        A layer that reads a ReLU has weights of variance 2 / fan_in, any other 1 / fan_in: either way its output has
        the second moment of what entered the ReLU. Draws from `generator`, or from torch's own random state.
        """
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, Scale, Shift)):
                module.reset_parameters()
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                gain = 2.0 if self.activation == "relu" and module is not self._first_layer else 1.0
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=math.sqrt(gain / fan_in), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            self._apply_recipe(block)
        if "zero last layer" in self.recipe.fixup:
            nn.init.zeros_(self.head[-1].weight)

    def _apply_recipe(self, block: ResidualBlock) -> None:
        if self.recipe.zero_gamma:
            nn.init.zeros_(block.scale.weight)
        if "zero last layer" in self.recipe.fixup:
            nn.init.zeros_(block.layers[-1].weight)
        if "depth rescaling" in self.recipe.fixup:
            layers = len(block.layers)  # m of Fixup's rule 2, He x d^(-1/(2m-2)) on all but the last
            for layer in block.layers[:-1]:
                layer.weight.mul_(len(self.blocks) ** (-1 / (2 * layers - 2)))

    @property
    def _first_layer(self) -> nn.Module:
        return next(m for m in self.input_layer.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def _inputs(layer: nn.Module) -> int:
    return layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features


def _outputs(layer: nn.Module) -> int:
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
