"""What a forward pass shows, block by block: variances, squared means, how alike inputs are, what BN gathers."""

import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found, modules_of
from shallowpaths.networks import ResidualAddition, ResidualBlock

BATCH_NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)
_PART = 2**18  # a float32 dot product of more numbers than this loses digits


@dataclass(frozen=True)
class SignalStatistics:
    """Statistics of one forward pass, each an array over the d residual blocks, in the order of the network.

    A variance is over the batch (and positions, in images) for each channel, then averaged over channels. A second
    moment is the mean of squares: variance plus squared mean. The skip path is the paper's x^l as it enters the
    addition (0 where a network has none), the branch is taken just before it, the output after it and its factor.
    branch_share is the branch's part in the output's variance; channels are the output's.
    """

    skip_variance: np.ndarray
    skip_squared_mean: np.ndarray
    branch_variance: np.ndarray
    branch_squared_mean: np.ndarray
    output_variance: np.ndarray
    output_squared_mean: np.ndarray
    branch_share: np.ndarray
    channels: np.ndarray
    skip_second_moment: np.ndarray
    branch_second_moment: np.ndarray
    output_second_moment: np.ndarray


@dataclass(frozen=True)
class InputCorrelation:
    """cosine: between the signals of two inputs as they enter the addition of block l, mean over all pairs, [d]."""

    cosine: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """1 - cosine: what is left to tell two inputs apart by."""
        return 1 - self.cosine


@dataclass(frozen=True)
class MovingStatistics:
    """Of each branch's first normalization, channels' means, [d]: theory's `input_variance`, `input_squared_mean`."""

    variance: np.ndarray
    squared_mean: np.ndarray


def signal_statistics(network: nn.Module, inputs: Tensor, training: bool = True) -> SignalStatistics:
    """Variances and means on the skip path and the branches, from one forward pass in the network's precision.

    network: any network whose blocks end in a ResidualAddition. inputs: a batch as it takes it, [N, ...] with N >= 2.
    training: whether batch normalization uses the batch's own statistics (True) or the gathered ones.

    Raises ValueError: no residual block; inputs that are no batch of two or more, or with NaN or infinity in them.
    """
    moments: list[Tensor] = []  # each block's variance and squared mean, of skip path, branch and output
    shapes: list[tuple[float, int]] = []
    last: tuple[Callable, int, tuple[Tensor, Tensor]] | None = None  # output, its version, its moments

    def look(module: ResidualAddition, arguments: tuple[Tensor, Tensor], output: Tensor) -> None:
        nonlocal last
        skip, branch = arguments
        known = last is not None and last[0]() is skip and last[1] == skip._version  # need not be measured again
        nothing = (skip.new_zeros(()), skip.new_zeros(()))
        entering = nothing if not module.skip_path else last[2] if known else channel_moments(skip)
        leaving = channel_moments(output)
        # a weak reference, so that no activation lives longer than it would; in inference mode changes are not counted
        last = None if output.is_inference() else (weakref.ref(output), output._version, leaving)
        moments.append(torch.stack([*entering, *channel_moments(branch), *leaving]))
        shapes.append((module.scale, output.shape[1]))

    _look_at_additions(network, inputs, training, look)
    values = torch.stack(moments).cpu().double().numpy().T
    scales, channels = map(np.array, zip(*shapes, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):  # overflowed networks are a subject, not an accident
        share = values[2] * scales**2 / values[4]
    return SignalStatistics(*values, share, channels, *(values[::2] + values[1::2]))


def input_correlation(network: nn.Module, inputs: Tensor, training: bool = True) -> InputCorrelation:
    """Mean correlation between different inputs, by depth; arguments and errors as in `signal_statistics`."""
    found: list[float] = []

    def look(_module: ResidualAddition, arguments: tuple[Tensor, Tensor], _output: Tensor) -> None:
        rows = directions(in_float64(arguments[0]).flatten(1))
        count = len(rows)  # the sum of all unit vectors, squared, holds every pair twice, and each row once
        found.append(float((rows.sum(0).square().sum() - count) / (count * (count - 1))))

    _look_at_additions(network, inputs, training, look)
    return InputCorrelation(np.array(found))


@torch.no_grad()
def moving_statistics(network: nn.Module, batches: Iterable[Tensor]) -> MovingStatistics:
    """What the first batch normalization on each branch gathers: plain means over these batches, in training mode.

    ValueError: no residual block, no batch normalization on its branch, no batch, or one that is no batch of inputs.
    """
    blocks = modules_of(network, ResidualBlock)
    firsts = [m for block in blocks for m in block.preactivations[0] if isinstance(m, BATCH_NORMALIZATIONS)]
    if len(firsts) < len(blocks):
        raise ValueError("a residual branch has no batch normalization, so it has no moving statistics")
    with left_as_found(network, training=True) as stack:
        for norm in (m for m in network.modules() if isinstance(m, BATCH_NORMALIZATIONS)):
            stack.callback(setattr, norm, "momentum", norm.momentum)
            norm.momentum = None  # torch's word for a plain mean
            for average in (norm.running_mean, norm.running_var, norm.num_batches_tracked):
                average.data.zero_()  # .data: a backward pass that still needs them is not told that they changed
        for inputs in batches:
            check_inputs(inputs)
            network(inputs)
        if not firsts[0].num_batches_tracked:
            raise ValueError("batches is empty: there is nothing to average over")
        variance = torch.stack([in_float64(norm.running_var).mean() for norm in firsts])
        squared_mean = torch.stack([in_float64(norm.running_mean).square().mean() for norm in firsts])
        return MovingStatistics(variance.cpu().numpy(), squared_mean.cpu().numpy())


@torch.no_grad()
def _look_at_additions(network: nn.Module, inputs: Tensor, training: bool, look: Callable) -> None:
    """One forward pass, in which `look` is a forward hook of each residual addition."""
    check_inputs(inputs)
    additions = modules_of(network, ResidualAddition)
    with left_as_found(network, training) as stack:
        for addition in additions:
            stack.enter_context(addition.register_forward_hook(look))
        network(inputs)


def directions(rows: Tensor) -> Tensor:
    """Each row, [N, C], over its norm; over its largest entry first, whose square may overflow. NaN for zeros."""
    rows = rows / rows.abs().amax(1, keepdim=True)
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance over all but the channels, and squared mean, both averaged over channels; 0-dimensional. x: [N, C, ...].

    The mean is taken first, so that one that is large beside the deviation costs no digits. Sums and dot products do
    this 10 to 50 times as fast on a CPU as torch.var_mean, for one temporary copy of x.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    channels_last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    values = x.movedim(1, -1) if channels_last else x.contiguous()
    values = values.flatten(0, -2) if channels_last or x.ndim == 2 else values.flatten(2)  # [M, C] or [N, C, M]
    root = math.sqrt(x.numel())
    scaled = values / root  # the sum of its squares is a mean, which overflows no sooner
    mean = scaled.mean(0) if values.ndim == 2 else scaled.sum(2).mean(0) / scaled.shape[2]
    scaled -= mean if values.ndim == 2 else mean[:, None]
    variance = torch.stack([torch.dot(part, part) for part in scaled.view(-1).split(_PART)]).sum()
    return variance, (mean * root).square().mean()
