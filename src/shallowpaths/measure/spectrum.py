"""The path spectrum: how much of a tangent takes 0, 1, 2 ... residual branches on its way through the network."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.gradients import random_like
from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found, modules_of
from shallowpaths.measure.signals import BATCH_NORMALIZATIONS
from shallowpaths.networks import ResidualBlock
from shallowpaths.theory.checks import whole


@dataclass(frozen=True)
class PathSpectrum:
    """The 2^d paths through d blocks by their length, the number of residual branches that they take.

    shares: of lengths 0 ... longest, shape [longest + 1]: the squared norm of the part of the tangent that took so many
        branches, over that of all. truncated: the share of all longer paths, so that all sum to one.
    """

    shares: np.ndarray
    truncated: float

    @property
    def mean_length(self) -> float:
        """Mean length of a path; with truncated mass, its lower bound, which counts that mass at longest + 1."""
        return float(np.arange(len(self.shares)) @ self.shares) + len(self.shares) * self.truncated


@torch.no_grad()
def path_spectrum(
    network: nn.Module, inputs: Tensor, longest: int | None = None, training: bool = True, seed: int = 0
) -> PathSpectrum:
    """Measure the path spectrum in one pass, exactly: no path is left out, none is sampled.

    A random tangent (of `seed`) at the first block's input, one for each input of the batch, goes forward. ReLU gates
    and normalization statistics are frozen at what the inputs make them, so that its way is linear. It is kept in parts
    by the number of branches taken so far: a block's skip path, or a shortcut with weights, leaves a part where it is,
    its branch moves it on by one. In float64 it goes deeper before it overflows.

    longest: the longest length to keep apart, all longer ones sharing one part more; None keeps all apart. Other
    arguments and errors as in `signal_statistics`; ValueError also for a signal that overflows on the way, a
    tangent of which nothing arrives, and anything that stands between blocks.
    """
    check_inputs(inputs)
    blocks = modules_of(network, ResidualBlock)
    if longest is not None:
        whole("longest (None for all lengths)", longest, at_least=0)
    longest = len(blocks) if longest is None else min(longest, len(blocks))
    parts = reached = None  # the tangent's parts [k, N, C, ...], part i through i branches; the last block's output

    def enter(block: ResidualBlock, arguments: tuple[Tensor]) -> None:
        nonlocal parts
        x, where = arguments[0], f"block {blocks.index(block) + 1} of {len(blocks)}"
        if x is not reached and parts is not None:
            raise ValueError(f"{where} reads another tensor than the one before gives: nothing may stand between them")
        if not torch.isfinite(block.forward(x.clone())).all():  # here its normalizations freeze
            words = "its gates mean nothing from there on: use a wider type (network.double()) or fewer blocks"
            raise ValueError(f"the signal overflows {x.dtype} in {where}, and {words}")
        parts = random_like(x, seed)[None] if parts is None else parts
        parts = _rescaled(through_block(block, x, parts, longest + 2), where)

    def leave(_block: ResidualBlock, _arguments: tuple[Tensor], output: Tensor) -> None:
        nonlocal reached
        reached = output

    with left_as_found(network, training) as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)  # torch.func's own
        for module in network.modules():
            if isinstance(module, BATCH_NORMALIZATIONS) and training:
                stack.enter_context(module.register_forward_pre_hook(_freeze))
        for block in blocks:
            stack.enter_context(block.register_forward_pre_hook(enter))
            stack.enter_context(block.register_forward_hook(leave))
        network(inputs)
    masses = np.zeros(longest + 2)
    masses[: len(parts)] = [float(in_float64(part).square().sum()) for part in parts]
    shares = masses / masses.sum()
    return PathSpectrum(shares[:-1], float(shares[-1]))


def _freeze(norm: nn.Module, arguments: tuple[Tensor]) -> None:
    """Let a normalization keep the statistics of the first batch that it sees."""
    if norm.training:
        x = arguments[0]
        variance, mean = torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)
        norm.running_var.data.copy_(variance)  # .data: a backward pass that still needs it is not told that it changed
        norm.running_mean.data.copy_(mean)
        norm.eval()


def through_block(block: ResidualBlock, x: Tensor, parts: Tensor, room: int) -> Tensor:
    """The tangent after a block whose normalizations are frozen, in parts by the number of branches taken.

    parts: [k, N, C, ...]. Comes back one longer, but with at most `room`: the last one then holds all longer paths.
    """

    def terms(x: Tensor) -> tuple[Tensor, Tensor]:
        caught: list[tuple[Tensor, Tensor]] = []
        with block.addition.register_forward_pre_hook(lambda _, arguments: caught.append(arguments)):
            block.forward(x.clone())  # an activation in place changes the skip path too
        return caught[0]

    skip, branch = _derivative(terms, x, parts)
    skip, branch = torch.cat([skip, torch.zeros_like(skip[:1])]), torch.cat([torch.zeros_like(branch[:1]), branch])
    parts = block.addition(skip, branch)
    if len(parts) > room:
        parts = torch.cat([parts[:-2], parts[-2:].sum(0, keepdim=True)])
    if isinstance(block.norm_after, nn.Identity):
        return parts
    return _derivative(block.norm_after, parts[0], parts)  # the same wherever it is taken


def _derivative(function: Callable[[Tensor], Any], x: Tensor, parts: Tensor) -> Any:
    """Of a function at x, along each of the parts."""
    return torch.vmap(lambda part: torch.func.jvp(function, (x,), (part,))[1])(parts)


def _rescaled(parts: Tensor, where: str) -> Tensor:
    """All parts by one power of two, which changes no share, where they come near to overflow or to 0."""
    largest = float(parts.abs().amax())
    if largest == 0 or not np.isfinite(largest):
        state = "nothing of the tangent is left" if largest == 0 else "the tangent overflows"
        raise ValueError(f"{state} after {where}: there are no shares to take")
    exponent, room = int(np.frexp(largest)[1]), np.log2(torch.finfo(parts.dtype).max)
    return parts if abs(exponent) < room / 4 else parts * 2.0**-exponent
