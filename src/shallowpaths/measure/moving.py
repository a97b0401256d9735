"""What batch normalization has gathered: the moving variance and the squared moving mean, block by block."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found, residual_blocks
from shallowpaths.networks import ResidualBlock

BATCH_NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class MovingStatistics:
    """Of the first batch normalization of each residual branch, averaged over its channels; arrays of shape [d].

    Attributes:
        variance: the moving variance, theory's `input_variance`. Its root is what the branch is divided by.
        squared_mean: the square of the moving mean, theory's `input_squared_mean`.
    """

    variance: np.ndarray
    squared_mean: np.ndarray


def moving_statistics(network: nn.Module, batches: Iterable[Tensor]) -> MovingStatistics:
    """What the first batch normalization on each branch gathers: plain means over these batches.

    Args:
        network: any network made of residual blocks that have batch normalization on their branches. It keeps its own averages.
        batches: inputs, which go through the network in training mode.

    Raises:
        ValueError: no residual block; no batch normalization on its branch; no batch, or one as `signal_statistics`
            refuses it.
    """
    firsts = [_first_normalization(block) for block in residual_blocks(network)]
    with left_as_found(network, training=True) as stack, torch.no_grad():
        for norm in (m for m in network.modules() if isinstance(m, BATCH_NORMALIZATIONS)):
            stack.callback(setattr, norm, "momentum", norm.momentum)
            norm.momentum = None  # torch's word for a plain mean
            for average in (norm.running_mean, norm.running_var, norm.num_batches_tracked):
                average.data.zero_()  # .data: a backward pass that still needs them is not told that they changed
        count = 0
        for count, inputs in enumerate(batches, start=1):  # noqa: B007, read after the loop
            check_inputs(inputs)
            network(inputs)
        if count == 0:
            raise ValueError("batches is empty: there is nothing to average over")
        variance = torch.stack([in_float64(norm.running_var).mean() for norm in firsts])
        squared_mean = torch.stack([in_float64(norm.running_mean).square().mean() for norm in firsts])
        return MovingStatistics(variance.cpu().numpy(), squared_mean.cpu().numpy())


def _first_normalization(block: ResidualBlock) -> nn.Module:
    for module in block.preactivations[0]:
        if isinstance(module, BATCH_NORMALIZATIONS):
            return module
    raise ValueError("a residual branch has no batch normalization, so it has no moving statistics")
