"""What batch normalization has gathered: the moving variance and the squared moving mean, block by block."""

import contextlib
from collections.abc import Iterable, Iterator
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

    @property
    def downscaling(self) -> np.ndarray:
        """What the normalization divides by, sqrt(moving variance): the paper's factor on the residual branch."""
        return np.sqrt(self.variance)


def moving_statistics(network: nn.Module, batches: Iterable[Tensor] | None = None) -> MovingStatistics:
    """The moving averages of the first batch normalization on each branch.

    Args:
        network: any network made of residual blocks that have batch normalization on their branches.
        batches: None reads the averages as they stand. Otherwise these inputs go through the network in training
            mode first, and the averages are the plain means over these batches; the network keeps its own.

    Raises:
        ValueError: no residual block; no batch normalization on its branch; no batch, or one as `signal_statistics`
            refuses it.
    """
    norms = [_first_normalization(block) for block in residual_blocks(network)]
    if batches is None:
        return _read(norms)
    with left_as_found(network, training=True), _averaging(network), torch.no_grad():
        count = 0
        for count, inputs in enumerate(batches, start=1):  # noqa: B007, read after the loop
            check_inputs(inputs)
            network(inputs)
        if count == 0:
            raise ValueError("batches is empty: there is nothing to average over")
        return _read(norms)


def _first_normalization(block: ResidualBlock) -> nn.Module:
    for module in block.preactivations[0]:
        if isinstance(module, BATCH_NORMALIZATIONS):
            return module
    raise ValueError("a residual branch has no batch normalization, so it has no moving statistics")


@contextlib.contextmanager
def _averaging(network: nn.Module) -> Iterator[None]:
    """Let every batch normalization start its averages afresh and weigh all batches alike; undone at the end."""
    norms = [m for m in network.modules() if isinstance(m, BATCH_NORMALIZATIONS)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            for average in (norm.running_mean, norm.running_var, norm.num_batches_tracked):
                average.data.zero_()  # .data: a backward pass that still needs them is not told that they changed
            norm.momentum = None  # torch's word for a plain mean
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _read(norms: list[nn.Module]) -> MovingStatistics:
    variance = torch.stack([in_float64(norm.running_var).mean() for norm in norms])
    squared_mean = torch.stack([in_float64(norm.running_mean).square().mean() for norm in norms])
    return MovingStatistics(variance.cpu().numpy(), squared_mean.cpu().numpy())
