"""What passes through the blocks: gradients, their size and likeness; tangents, by how many branches they take."""

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found, modules_of
from shallowpaths.measure.signals import BATCH_NORMALIZATIONS, directions
from shallowpaths.networks import ResidualBlock
from shallowpaths.networks.tracing import trace
from shallowpaths.theory.checks import number, whole


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

    pair_correlation: cosine between the signals. gradient_correlation: between one output's gradients with respect to
        them.
    """

    pair_correlation: np.ndarray
    gradient_correlation: np.ndarray


def gradient_statistics(network: nn.Module, inputs: Tensor, training: bool = True, seed: int = 0) -> GradientStatistics:
    """Second moment of the gradient at each block's input: a random one (of `seed`) is sent back from the last output.

    Where a normalization uses the batch's statistics the gradient goes through them too, which takes a part 2 / N of it
    away (N times positions, in images). Other arguments and errors as in `signal_statistics`.
    """
    pull = {"at_first_block": lambda x: x, "start": lambda last: random_like(last, seed)}
    _, squares = _pull_back(network, inputs, training, lambda g: float(in_float64(g).square().sum()), **pull)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return GradientStatistics(np.array(squares[:-1]) / squares[-1])


def gradient_correlation(
    network: nn.Module, inputs: Tensor, correlation: float = 0.9, training: bool = True, seed: int = 0
) -> GradientCorrelation:
    """Correlation between the gradients of nearby inputs, by depth: where it is lost, gradients are shattered.

    Each input gets a neighbour at the first block: each channel's deviations are mixed with Gaussian noise (of `seed`)
    so that they keep their size and have `correlation`, in [-1, 1]. Both are given the same random gradient at the last
    block's output; other pairs have others. Other arguments and errors as in `signal_statistics`.
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


@dataclass(frozen=True)
class PathSpectrum:
    """The 2^d paths through d blocks by their length, the number of residual branches that they take.

    shares: of lengths 0 ... longest, shape [longest + 1], in the squared norm of a tangent. truncated: of all longer
        ones.
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
    """How much of a tangent takes 0, 1, 2 ... residual branches, in one pass, exactly: no path is left out or sampled.

    A random tangent (of `seed`) at the first block's input, one for each input of the batch, goes forward. ReLU gates
    and normalization statistics are frozen at what the inputs make them, so that its way is linear. It is kept in parts
    by the number of branches taken so far: a block's skip path, or a shortcut with weights, leaves a part where it is,
    its branch moves it on by one. Modules between blocks are on every path. In float64 it goes deeper before overflow.

    longest: the longest length to keep apart, all longer ones sharing one part more; None keeps all apart. Other
    arguments and errors as in `signal_statistics`; ValueError also for a signal that overflows on the way, a tangent of
    which nothing arrives, and anything but modules, one by one, between the blocks.
    """
    check_inputs(inputs)
    blocks = modules_of(network, ResidualBlock)
    if longest is not None:
        whole("longest (None for all lengths)", longest, at_least=0)
    longest = len(blocks) if longest is None else min(longest, len(blocks))
    before = _modules_before(network)
    parts = reached = None  # the tangent [k, N, C, ...] by branches taken; the last block's output

    def enter(block: ResidualBlock, arguments: tuple[Tensor]) -> None:
        nonlocal parts, reached
        x, where = arguments[0], f"block {blocks.index(block) + 1} of {len(blocks)}"
        for module in before[block]:
            parts = _derivative(lambda y, module=module: module(y.clone()), reached, parts)
            reached = module(reached.clone())
        reached = block.forward(x.clone())  # here its normalizations freeze
        if not torch.isfinite(reached).all():
            words = "its gates mean nothing from there on: use a wider type (network.double()) or fewer blocks"
            raise ValueError(f"the signal overflows {x.dtype} in {where}, and {words}")
        parts = random_like(x, seed)[None] if parts is None else parts
        parts = _rescaled(through_block(block, x, parts, longest + 2), where)

    with left_as_found(network, training) as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)  # torch.func's own
        for module in network.modules():
            if isinstance(module, BATCH_NORMALIZATIONS) and training:
                stack.enter_context(module.register_forward_pre_hook(_freeze))
        for block in blocks:
            stack.enter_context(block.register_forward_pre_hook(enter))
        network(inputs)
    masses = np.zeros(longest + 2)
    masses[: len(parts)] = [float(in_float64(part).square().sum()) for part in parts]
    shares = masses / masses.sum()
    return PathSpectrum(shares[:-1], float(shares[-1]))


def _modules_before(network: nn.Module) -> dict[nn.Module, list[nn.Module]]:
    """For each residual block, the modules between the last block and it."""
    graph = trace(network, leaves=(ResidualBlock,))
    modules = {node: graph.get_submodule(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    nodes = [node for node, module in modules.items() if isinstance(module, ResidualBlock)]
    found: dict[nn.Module, list[nn.Module]] = {modules[nodes[0]]: []}
    for node, last in itertools.pairwise(nodes):
        found[modules[last]] = passed = []
        while (after := next(iter(node.users))) is not last:
            if len(node.users) > 1 or after not in modules:
                order = f"after {node.target} comes {after.target}"
                raise ValueError(f"{order}: only modules, one by one, may stand between blocks")
            passed.append(modules[after])
            node = after
    return found


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
