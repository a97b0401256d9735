"""What theory says of a network as built: the line to draw beside its measurements."""

import math
from typing import Any

from torch import nn

from shallowpaths import theory
from shallowpaths.networks import ResidualBlock, ResidualNetwork
from shallowpaths.recipes import Recipe


def predicted_signal(
    network: ResidualNetwork, correlation: float = 0.0, image_size: int | None = None,
    pair_correlation: float | None = None,
) -> theory.Signal:  # fmt: skip
    """What theory says of this network at initialization, its recipe unchanged, block by block.

    correlation: between any two of the inputs as they leave the input layer; 0 for centred, independent inputs.
    image_size: height of the images as they enter a convolutional network's blocks; None predicts without borders.
    pair_correlation: between the two inputs of a pair, for `gradient_correlation`; None takes any two inputs.
    """
    blocks = list(network.blocks)
    gain = 1.0 if image_size is None else _padding_gains(blocks, image_size, network.recipe.normalizes_branch)
    options = {"activation": network.activation, "correlation": correlation, "pair_correlation": pair_correlation}
    options["projections"] = [number for number, block in enumerate(blocks, start=1) if block.shortcut is not None]
    return signal_of_recipe(network.recipe, len(blocks), len(blocks[0].layers), layer_gain=gain, **options)


def signal_of_recipe(recipe: Recipe, blocks: int, layers_per_block: int = 2, **options: Any) -> theory.Signal:
    """`theory.signal` with what a recipe says of it; options: its other arguments."""
    alpha = recipe.initial_alpha(blocks)
    if alpha is None:
        alpha = theory.fixup_layer_scale(blocks, layers_per_block) if "depth rescaling" in recipe.fixup else 1.0
    options |= {"layers_per_block": layers_per_block, "alpha": 0.0 if recipe.starts_as_identity else alpha}
    options |= {name: getattr(recipe, name) for name in ("normalization", "output_scale", "skip_path")}
    return theory.signal(blocks, **options)


def _padding_gains(blocks: list[ResidualBlock], size: int, normalized: bool) -> list[float]:
    """For each block, the part of the second moment that one of its layers keeps at the borders."""
    gains = []
    for block in blocks:
        if not all(isinstance(layer, nn.Conv2d) for layer in block.layers):
            raise ValueError(f"image_size {size}: only convolutional networks have images with borders")
        size = -(-size // math.prod(layer.stride[0] for layer in block.layers))
        wide = sum(layer.kernel_size[0] > 1 for layer in block.layers)  # 1x1 ones see no border
        made_up = normalized and block.layers[-1].kernel_size[0] == 1  # for by the normalization before it
        gains.append(1.0 if made_up else theory.padding_gain(size, layers=wide) ** (1 / len(block.layers)))
    return gains
