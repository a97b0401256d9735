"""Gradients block by block: how large they are, and how alike for two inputs that are nearly the same."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.correlations import cosines
from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found, residual_blocks
from shallowpaths.networks import ResidualBlock
from shallowpaths.theory.checks import number


@dataclass(frozen=True)
class GradientStatistics:
    """Sizes of the gradient with respect to the residual blocks' inputs x^l, in the order of the network.

    Attributes:
        relative: squared norm at the input of block l over that at the last block's output, shape [d]: theory's
            `gradient_second_moment`. He initialization keeps this ratio also where the number of channels and the size of
            the images change.
    """

    relative: np.ndarray

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


def gradient_statistics(network: nn.Module, inputs: Tensor, training: bool = True, seed: int = 0) -> GradientStatistics:
    """Second moment of the gradient at each block's input, from one forward and one backward pass.

    A random gradient, for each input another, is sent back from the last block's output.

    Args:
        network, inputs, training: as in `signal_statistics`.
        seed: of the gradient.

    The batch's statistics depend on each input, and the gradient goes through them too. It takes two directions of
    N (times positions, in images) away at each normalization: a part 2 / N of the gradient's second moment.

    Raises:
        ValueError: as `signal_statistics`.
    """
    check_inputs(inputs)

    def squared_norm(gradient: Tensor) -> float:
        return float(in_float64(gradient).square().sum())

    _, squares = _pull_back(network, inputs, lambda x: x, lambda last: random_like(last, seed), squared_norm, training)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return GradientStatistics(np.array(squares[:-1]) / squares[-1])


def gradient_correlation(
    network: nn.Module, inputs: Tensor, correlation: float = 0.9, training: bool = True, seed: int = 0
) -> GradientCorrelation:
    """Correlation between the gradients of nearby inputs, by depth: where it is lost, gradients are shattered.

    Each input gets a neighbour at the first block: each channel's deviations are mixed with Gaussian noise so that they keep
    their size and have `correlation`. Both inputs of a pair are given the same random gradient at the last block's output;
    other pairs have others.

    Args:
        network, inputs, training: as in `signal_statistics`.
        correlation: in [-1, 1].
        seed: of the noise and of the gradients.

    Raises:
        ValueError: as `signal_statistics`; a correlation out of range.
    """
    check_inputs(inputs)
    number("correlation", correlation, at_least=-1, at_most=1)

    def pair(x: Tensor) -> Tensor:
        return torch.cat([x, _neighbours(x, correlation, seed)])

    def start(last: Tensor) -> Tensor:
        return random_like(last[: len(inputs)], seed).repeat(2, *[1] * (last.ndim - 1))

    signals, gradients = _pull_back(network, inputs, pair, start, _pair_cosine, training)
    return GradientCorrelation(np.array(signals[:-1]), np.array(gradients[:-1]))


def _pull_back(
    network: nn.Module,
    inputs: Tensor,
    at_first_block: Callable[[Tensor], Tensor],
    start: Callable[[Tensor], Tensor],
    look: Callable[[Tensor], float],
    training: bool,
) -> tuple[list[float], list[float]]:
    """What `look` sees in signals, and in gradients, at each block's input and at the last one's output: d + 1 of each.

    The first block is given `at_first_block` of its input, and the last one's output the gradient `start` of it.
    """
    blocks = residual_blocks(network)
    signals: list[float] = []
    gradients: list[float] = []

    def seen(x: Tensor) -> None:
        signals.append(look(x.detach()))
        # a hook sees the gradient of x as it is now, also when an activation changes x in place later
        x.register_hook(lambda gradient: gradients.append(look(gradient)))

    def begin(_block: ResidualBlock, arguments: tuple[Tensor]) -> tuple[Tensor]:
        source.append(at_first_block(arguments[0]).detach().requires_grad_())
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
        network(inputs)
        torch.autograd.grad(last[0], source[0], start(last[0]))  # what it gives at x^1 has been seen, like all others
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
