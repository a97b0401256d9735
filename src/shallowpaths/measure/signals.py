"""Variances and squared means on the skip path and on the residual branches, from one forward pass."""

import math
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.guard import check_inputs, left_as_found, residual_additions
from shallowpaths.networks import ResidualAddition

_PART = 2**18  # a float32 dot product of more numbers than this loses digits


@dataclass(frozen=True)
class SignalStatistics:
    """Statistics of one forward pass, each an array over the d residual blocks, in the order of the network.

    A variance is taken over the batch (and over positions, in images) for each channel, then averaged over channels.
    A second moment is the mean of squares; it is the variance plus the squared mean.

    Attributes:
        skip_variance, skip_squared_mean: of the skip path as it enters the addition of block l, the paper's Var(x^l);
            0 where a network has no skip path.
        branch_variance, branch_squared_mean: of the residual branch, finished, just before the addition.
        output_variance, output_squared_mean: of the block's output, after the addition and its factor.
        branch_share: the branch's part in the variance of the block's output, Var(branch) / Var(output).
        channels: of each block's output.
    """

    skip_variance: np.ndarray
    skip_squared_mean: np.ndarray
    branch_variance: np.ndarray
    branch_squared_mean: np.ndarray
    output_variance: np.ndarray
    output_squared_mean: np.ndarray
    branch_share: np.ndarray
    channels: np.ndarray

    @property
    def skip_second_moment(self) -> np.ndarray:
        """Mean square on the skip path."""
        return self.skip_variance + self.skip_squared_mean

    @property
    def branch_second_moment(self) -> np.ndarray:
        """Mean square at the end of the branch."""
        return self.branch_variance + self.branch_squared_mean

    @property
    def output_second_moment(self) -> np.ndarray:
        """Mean square of the block's output."""
        return self.output_variance + self.output_squared_mean


@torch.no_grad()
def signal_statistics(network: nn.Module, inputs: Tensor, training: bool = True) -> SignalStatistics:
    """Variances and means on the skip path and the branches, from one forward pass in float32.

    Args:
        network: any network whose blocks end in a ResidualAddition.
        inputs: a batch as the network takes it, [N, ...] with N >= 2.
        training: whether batch normalization uses the batch's own statistics (True) or the gathered ones.

    Raises:
        ValueError: no residual block; a batch of one, over which there is no variance; NaN or infinity in the inputs.
    """
    check_inputs(inputs)
    additions = residual_additions(network)
    moments: list[Tensor] = []  # each block's variance and squared mean, of skip path, branch and output
    shapes: list[tuple[float, int]] = []
    last = _LastOutput()

    def look(module: ResidualAddition, arguments: tuple[Tensor, Tensor], output: Tensor) -> None:
        skip, branch = arguments
        nothing = (skip.new_zeros(()), skip.new_zeros(()))
        entering = (last.statistics_of(skip) or channel_moments(skip)) if module.skip_path else nothing
        leaving = channel_moments(output)
        last.set(output, leaving)
        moments.append(torch.stack([*entering, *channel_moments(branch), *leaving]))
        shapes.append((module.scale, output.shape[1]))

    with left_as_found(network, training) as stack:
        for addition in additions:
            stack.callback(addition.register_forward_hook(look).remove)
        network(inputs)
    values = torch.stack(moments).cpu().double().numpy().T
    scales, channels = map(np.array, zip(*shapes, strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):  # overflowed networks are a subject, not an accident
        share = values[2] * scales**2 / values[4]
    return SignalStatistics(*values, share, channels)


class _LastOutput:
    """The last block's output with its statistics: what the next block's skip path need not measure again."""

    def __init__(self) -> None:
        self.statistics: tuple[Tensor, Tensor] | None = None

    def set(self, output: Tensor, statistics: tuple[Tensor, Tensor]) -> None:
        if output.is_inference():  # it does not count its changes, so nothing may be reused
            return
        # a weak reference, so that no activation lives longer than it would
        self.output, self.version, self.statistics = weakref.ref(output), output._version, statistics

    def statistics_of(self, skip: Tensor) -> tuple[Tensor, Tensor] | None:
        """The statistics if `skip` is that output, and no activation in place has changed it since."""
        known = self.statistics is not None and self.output() is skip and skip._version == self.version
        return self.statistics if known else None


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance over all but the channels, and squared mean, both averaged over channels; 0-dimensional.

    x: [N, C, ...]. The mean is taken first, so that a mean that is large beside the deviation costs no digits. Sums
    and dot products do this 10 to 50 times as fast on a CPU as torch.var_mean, for one temporary copy of x.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    channels_last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    values = x.movedim(1, -1) if channels_last else x.contiguous()
    values = values.flatten(0, -2) if channels_last or x.ndim == 2 else values.flatten(2)  # [M, C] or [N, C, M]
    root = math.sqrt(x.numel())
    scaled = values / root  # the sum of its squares is a mean, which overflows no sooner
    if values.ndim == 2:
        mean = scaled.mean(0)
        scaled -= mean
    else:
        mean = scaled.sum(2).mean(0) / scaled.shape[2]
        scaled -= mean[:, None]
    variance = torch.stack([torch.dot(part, part) for part in scaled.view(-1).split(_PART)]).sum()
    return variance, (mean * root).square().mean()
