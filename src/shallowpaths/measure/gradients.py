"""Gradients block by block: how large they are, and how alike for two inputs that are nearly the same."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths.measure.correlations import cosines
from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found, residual_blocks
from shallowpaths.networks import ResidualBlock
from shallowpaths.theory.checks import number

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class GradientStatistics:
    """Second moments of the gradient with respect to the residual blocks' inputs x^l, in the order of the network.

    Attributes:
        second_moment: mean of squares of the gradient at the input of block l, shape [d].
        values: how many numbers one input's x^l has, shape [d].
        output_second_moment, output_values: the same at the output of the last block.
    """

    second_moment: np.ndarray
    values: np.ndarray
    output_second_moment: float
    output_values: int

    @property
    def relative(self) -> np.ndarray:
        """Squared norm at the input of block l over that at the last block's output: theory's `gradient_second_moment`.

        He initialization keeps this ratio also where the number of channels and the size of the images change.
        """
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            return self.second_moment * self.values / (self.output_second_moment * self.output_values)

    @property
    def growth(self) -> np.ndarray:
        """The factor on the gradient's squared norm that block l adds on the way back, shape [d]."""
        relative = np.append(self.relative, 1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return relative[:-1] / relative[1:]


@dataclass(frozen=True)
class GradientCorrelation:
    """How alike two neighbouring inputs and their gradients are; means over pairs, arrays of shape [d].

    Attributes:
        pair_correlation: cosine between the two signals at the input of block l, theory's `pair_correlation`.
        gradient_correlation: cosine between the gradients of one function of the network's output with respect to
            them, theory's `gradient_correlation`.
    """

    pair_correlation: np.ndarray
    gradient_correlation: np.ndarray


def gradient_statistics(
    network: nn.Module, inputs: Tensor, labels: Tensor | None = None, training: bool = True, seed: int = 0
) -> GradientStatistics:
    """Second moment of the gradient at each block's input, from one forward and one backward pass.

    Args:
        network, inputs, training: as in `signal_statistics`.
        labels: None sends back a random gradient, drawn from `seed` for each input on its own, from the last block's
            output; theory is about this one. With labels [N] it is the gradient of the cross entropies' sum.

    The batch's statistics depend on each input, and the gradient goes through them too. It takes two directions of
    N (times positions, in images) away at each normalization: a part 2 / N of the gradient's second moment.

    Raises:
        ValueError: as `signal_statistics`; labels that do not fit.
    """
    check_inputs(inputs)
    if labels is not None and (labels.shape != inputs.shape[:1] or labels.dtype != torch.long):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype}: give one whole number for each of"
            f" the {len(inputs)} inputs, as torch.int64"
        )

    def start(last: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        if labels is None:
            return last, random_like(last, seed)
        loss = F.cross_entropy(logits, labels.to(logits.device), reduction="sum")
        return loss, torch.ones_like(loss)

    def look(gradient: Tensor) -> tuple[float, int]:
        return float(in_float64(gradient).square().mean()), gradient[0].numel()

    _, gradients = _pull_back(network, inputs, start, look, training)
    moments, values = zip(*gradients, strict=True)
    return GradientStatistics(np.array(moments[:-1]), np.array(values[:-1]), moments[-1], values[-1])


def gradient_correlation(
    network: nn.Module, inputs: Tensor, neighbours: Tensor | None = None, correlation: float = 0.9,
    training: bool = True, seed: int = 0,
) -> GradientCorrelation:  # fmt: skip
    """Correlation between the gradients of nearby inputs, by depth: where it is lost, gradients are shattered.

    Both inputs of a pair are given the same random gradient at the last block's output; other pairs have others.

    Args:
        network, inputs, training: as in `gradient_statistics`.
        neighbours: one for each input, of the inputs' shape. None makes them at the first block's input: each
            channel's deviations are mixed with Gaussian noise so that they keep their size and have `correlation`.
        correlation: in [-1, 1]; not read where neighbours are given.
        seed: of the noise and of the gradients.

    Raises:
        ValueError: as `gradient_statistics`; neighbours of another shape; a correlation out of range.
    """
    check_inputs(inputs)
    number("correlation", correlation, at_least=-1, at_most=1)
    if neighbours is not None:
        if neighbours.shape != inputs.shape:
            raise ValueError(f"neighbours of shape {tuple(neighbours.shape)}: the inputs have {tuple(inputs.shape)}")
        check_inputs(neighbours)

    def pair(x: Tensor) -> Tensor:
        return torch.cat([x, _neighbours(x, correlation, seed)])

    def start(last: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001, the loss plays no part
        return last, random_like(last[: len(inputs)], seed).repeat(2, *[1] * (last.ndim - 1))

    together = inputs if neighbours is None else torch.cat([inputs, neighbours])
    at_first_block = pair if neighbours is None else None
    signals, gradients = _pull_back(network, together, start, _pair_cosine, training, at_first_block)
    return GradientCorrelation(np.array(signals[:-1]), np.array(gradients[:-1]))


def _pull_back(
    network: nn.Module,
    inputs: Tensor,
    start: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    look: Callable[[Tensor], Seen],
    training: bool,
    at_first_block: Callable[[Tensor], Tensor] | None = None,
) -> tuple[list[Seen], list[Seen]]:
    """What `look` sees in signals, and in gradients, at each block's input and at the last one's output: d + 1 of each.

    `start` is given the last block's output and the network's, and says what the gradient is taken of, and times what.
    """
    blocks = residual_blocks(network)
    signals: list[Seen] = []
    gradients: list[Seen] = []

    def seen(x: Tensor) -> None:
        signals.append(look(x.detach()))
        # a hook sees the gradient of x as it is now, also when an activation changes x in place later
        x.register_hook(lambda gradient: gradients.append(look(gradient)))

    def begin(_block: ResidualBlock, arguments: tuple[Tensor]) -> tuple[Tensor]:
        x = arguments[0] if at_first_block is None else at_first_block(arguments[0])
        source.append(x.detach().requires_grad_())
        return (source[0].clone(),)

    def enter(_block: ResidualBlock, arguments: tuple[Tensor]) -> None:
        seen(arguments[0])

    def leave(_block: ResidualBlock, _arguments: tuple[Tensor], output: Tensor) -> None:
        seen(output)
        last.append(output.clone())  # the head's activation in place does not reach it

    source: list[Tensor] = []
    last: list[Tensor] = []
    with left_as_found(network, training) as stack, torch.enable_grad():
        stack.callback(blocks[0].register_forward_pre_hook(begin).remove)
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(enter).remove)
        stack.callback(blocks[-1].register_forward_hook(leave).remove)
        logits = network(inputs)
        target, direction = start(last[0], logits)
        torch.autograd.grad(target, source[0], direction)  # what it gives at x^1 has been seen, like all others
    return signals, gradients[::-1]


def random_like(x: Tensor, seed: int) -> Tensor:
    """Unit Gaussian numbers of x's shape, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


def _neighbours(x: Tensor, correlation: float, seed: int) -> Tensor:
    """x with its deviations from the batch's mean, channel by channel, mixed with noise of their size."""
    dims = [0, *range(2, x.ndim)]
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    noise = random_like(x, seed + 1) * variance.sqrt()
    return mean + correlation * (x - mean) + (1 - correlation**2) ** 0.5 * noise


def _pair_cosine(x: Tensor) -> float:
    """Mean over pairs of the cosine between the first half of the batch and the second."""
    first, second = in_float64(x.flatten(1)).chunk(2)
    return float(cosines(first, second).mean())
