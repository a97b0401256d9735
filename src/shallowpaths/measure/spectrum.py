"""The path spectrum: how much of a tangent takes 0, 1, 2 ... residual branches on its way through the network."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found, residual_blocks
from shallowpaths.measure.tangents import through, through_block
from shallowpaths.networks import ResidualBlock
from shallowpaths.networks.tracing import trace
from shallowpaths.theory.checks import whole


@dataclass(frozen=True)
class PathSpectrum:
    """The 2^d paths through d blocks by their length, the number of residual branches that they take.

    Attributes:
        shares: of lengths 0 ... longest, shape [longest + 1]: the mean squared norm of the part of the tangent that
            took so many branches, over the sum of these over all lengths.
        truncated: the share of all longer paths, taken together. shares and truncated sum to one.
        blocks: d.
        interference: squared norm of the whole tangent over that sum. Near 1 where paths of different lengths are
            uncorrelated, as random weights make them; training may change it.
    """

    shares: np.ndarray
    truncated: float
    blocks: int
    interference: float

    @property
    def longest(self) -> int:
        """The longest length that has a share of its own."""
        return len(self.shares) - 1

    @property
    def mean_length(self) -> float:
        """Mean length of a path; with truncated mass, its lower bound, which counts that mass at longest + 1."""
        return self.mean_length_bounds[0]

    @property
    def mean_length_bounds(self) -> tuple[float, float]:
        """What the mean length is at least and at most; equal when nothing is truncated."""
        known = float(np.arange(len(self.shares)) @ self.shares)
        return known + (self.longest + 1) * self.truncated, known + self.blocks * self.truncated


@torch.no_grad()
def path_spectrum(
    network: nn.Module, inputs: Tensor, longest: int | None = None, training: bool = True, seed: int = 0
) -> PathSpectrum:
    """Measure the path spectrum in one pass, exactly: no path is left out, none is sampled.

    A random tangent at the first block's input, one for each input of the batch, goes forward through the blocks. ReLU
    gates and normalization statistics are frozen at what the inputs make them, so that the tangent's way is linear. It
    is kept in parts by the number of branches taken so far: a block's skip path leaves a part where it is, its branch
    moves it on by one. A shortcut with weights is a skip path. A module between blocks leaves all parts where they are.

    Args:
        network: any network made of residual blocks; in float64 it goes deeper before its signal overflows.
        inputs, training: as in `signal_statistics`.
        longest: the longest length to keep apart; all longer paths share one part more. None keeps all lengths apart.
            Time and memory grow with the number of parts.
        seed: of the tangents.

    Raises:
        ValueError: as `signal_statistics`; a signal that overflows on the way; a tangent of which nothing arrives; blocks
            that are not joined by modules, one after the other.
    """
    check_inputs(inputs)
    blocks = residual_blocks(network)
    if longest is not None:
        whole("longest (None for all lengths)", longest, at_least=0)
    longest = len(blocks) if longest is None else min(longest, len(blocks))
    with left_as_found(network, training):
        x = _first_block_input(network, inputs)
        generator = torch.Generator().manual_seed(seed)
        parts = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)[None]  # [parts, N, C, ...]
        number = 0
        for step in _steps(network):
            if not isinstance(step, ResidualBlock):
                x, parts = through(step, x, parts)
                continue
            number += 1
            x, parts = through_block(step, x, parts, longest + 2)
            if not torch.isfinite(x).all():
                raise ValueError(
                    f"the signal overflows {x.dtype} in block {number} of {len(blocks)}, and its gates mean nothing"
                    " from there on: use a wider type (network.double()) or fewer blocks"
                )
            parts = _rescaled(parts, number, len(blocks))
    return _collected(parts, longest, len(blocks))


def _steps(network: nn.Module) -> list[nn.Module]:
    """From the first residual block to the last, in the order of the forward pass, with the modules between."""
    graph = trace(network, leaves=(ResidualBlock,))
    modules = {node: graph.get_submodule(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    blocks = [node for node, module in modules.items() if isinstance(module, ResidualBlock)]
    steps = [node := blocks[0]]
    while node is not blocks[-1]:
        (node, *others), before = node.users, node
        if others or node not in modules:
            raise ValueError(f"after {before.target} comes {node.target}: only modules, one by one, may stand between blocks")
        steps.append(node)
    return [modules[node] for node in steps]


class _Arrived(Exception):
    """The forward pass has reached the first block: the rest need not run."""


def _first_block_input(network: nn.Module, inputs: Tensor) -> Tensor:
    caught: list[Tensor] = []

    def catch(_block: nn.Module, arguments: tuple[Tensor]) -> None:
        caught.append(arguments[0].clone())
        raise _Arrived

    handle = residual_blocks(network)[0].register_forward_pre_hook(catch)
    try:
        network(inputs)
    except _Arrived:
        return caught[0]
    finally:
        handle.remove()
    raise RuntimeError("the network's forward pass does not reach its first residual block")


def _rescaled(parts: Tensor, number: int, blocks: int) -> Tensor:
    """All parts by one power of two, which changes no share, where they come near to overflow or to 0."""
    largest = float(parts.abs().amax())
    if largest == 0 or not np.isfinite(largest):
        state = "nothing of the tangent is left" if largest == 0 else "the tangent overflows"
        raise ValueError(f"{state} after block {number} of {blocks}: there are no shares to take")
    exponent, room = int(np.frexp(largest)[1]), np.log2(torch.finfo(parts.dtype).max)
    return parts if abs(exponent) < room / 4 else parts * 2.0**-exponent


def _collected(parts: Tensor, longest: int, blocks: int) -> PathSpectrum:
    masses = np.zeros(longest + 2)
    masses[: len(parts)] = [float(in_float64(part).square().sum()) for part in parts]
    whole = float(in_float64(parts).sum(0).square().sum())
    shares = masses / masses.sum()
    return PathSpectrum(shares[:-1], float(shares[-1]), blocks, whole / float(masses.sum()))
