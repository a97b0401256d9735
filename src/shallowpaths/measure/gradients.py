"""Gradients block by block: how large they are, and how alike for two inputs that are nearly the same."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found, modules_of
from shallowpaths.measure.signals import directions
from shallowpaths.networks import ResidualBlock
from shallowpaths.theory.checks import number


@dataclass(frozen=True)
class GradientStatistics:
    """relative: squared norm of the gradient at the input of block l over that at the last block's output, shape [d].

    Theory's `gradient_second_moment`; He initialization keeps it also where channels and image sizes change.
    """

    relative: np.ndarray

    @property
    def growth(self) -> np.ndarray:
        """The factor on the gradient's squared norm that block l adds on the way back, shape [d]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.relative / np.append(self.relative[1:], 1.0)


@dataclass(frozen=True)
class GradientCorrelation:
    """How alike two neighbouring inputs are at the input of block l: means over pairs, shape [d], called as in theory.

    pair_correlation: cosine between the two signals. gradient_correlation: between the gradients of one function of the
    network's output with respect to them.
    """

    pair_correlation: np.ndarray
    gradient_correlation: np.ndarray


def gradient_statistics(network: nn.Module, inputs: Tensor, training: bool = True, seed: int = 0) -> GradientStatistics:
    """Second moment of the gradient at each block's input: a random one (of `seed`) is sent back from the last output.

    Where a normalization uses the batch's statistics the gradient goes through them too, which takes away two
    directions of N (times positions, in images): a part 2 / N of it. Other arguments and errors as in
    `signal_statistics`.
    """
    pull = {"at_first_block": lambda x: x, "start": lambda last: random_like(last, seed)}
    _, squares = _pull_back(network, inputs, training, lambda g: float(in_float64(g).square().sum()), **pull)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return GradientStatistics(np.array(squares[:-1]) / squares[-1])


def gradient_correlation(
    network: nn.Module, inputs: Tensor, correlation: float = 0.9, training: bool = True, seed: int = 0
) -> GradientCorrelation:
    """Correlation between the gradients of nearby inputs, by depth: where it is lost, gradients are shattered.

    Each input gets a neighbour at the first block: each channel's deviations are mixed with Gaussian noise so that they
    keep their size and have `correlation`, in [-1, 1]. Both are given the same random gradient at the last block's
    output; other pairs have others. Other arguments and errors as in `signal_statistics`.
    """
    number("correlation", correlation, at_least=-1, at_most=1)

    def pair(x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0, keepdim=True)
        noise = random_like(x, seed + 1) * variance.sqrt()
        return torch.cat([x, mean + correlation * (x - mean) + (1 - correlation**2) ** 0.5 * noise])

    def mean_cosine(x: Tensor) -> float:
        first, second = in_float64(x.flatten(1)).chunk(2)
        return float((directions(first) * directions(second)).sum(1).mean())

    def start(last: Tensor) -> Tensor:
        return random_like(last[: len(inputs)], seed).repeat(2, *[1] * (last.ndim - 1))

    signals, gradients = _pull_back(network, inputs, training, mean_cosine, pair, start)
    return GradientCorrelation(np.array(signals[:-1]), np.array(gradients[:-1]))


def _pull_back(
    network: nn.Module, inputs: Tensor, training: bool, look: Callable[[Tensor], float],
    at_first_block: Callable[[Tensor], Tensor], start: Callable[[Tensor], Tensor],
) -> tuple[list[float], list[float]]:  # fmt: skip
    """What `look` sees in signals, and in gradients, at each block's input and at the last one's output: d + 1 of each.

    The first block is given `at_first_block` of its input, and the last one's output the gradient `start` of it.
    """
    check_inputs(inputs)
    blocks = modules_of(network, ResidualBlock)
    signals, gradients, ends = [], [], []  # ends: the first block's input, the last one's output

    def begin(_block: ResidualBlock, arguments: tuple[Tensor]) -> tuple[Tensor]:
        ends.append(at_first_block(arguments[0]).detach().requires_grad_())
        return (ends[0].clone(),)

    def enter(_block: ResidualBlock, arguments: tuple[Tensor]) -> None:
        signals.append(look(arguments[0].detach()))
        # a hook sees the gradient of x as it is now, also when an activation changes x in place later
        arguments[0].register_hook(lambda gradient: gradients.append(look(gradient)))

    def leave(block: ResidualBlock, _arguments: tuple[Tensor], output: Tensor) -> None:
        enter(block, (output,))
        ends.append(output.clone())  # the head's activation in place does not reach it

    with left_as_found(network, training) as stack, torch.enable_grad():
        stack.enter_context(blocks[0].register_forward_pre_hook(begin))
        for block in blocks:
            stack.enter_context(block.register_forward_pre_hook(enter))
        stack.enter_context(blocks[-1].register_forward_hook(leave))
        network(inputs)
        torch.autograd.grad(ends[1], ends[0], start(ends[1]))  # what it gives at x^1 has been seen, like all others
    return signals, gradients[::-1]


def random_like(x: Tensor, seed: int) -> Tensor:
    """Unit Gaussian numbers of x's shape, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
