"""How alike a network's inputs have become, block by block."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found, residual_additions
from shallowpaths.networks import ResidualAddition


@dataclass(frozen=True)
class InputCorrelation:
    """Mean over all pairs of different inputs, at what enters the addition of block l; arrays of shape [d].

    Attributes:
        cosine: between the two signals as they are, theory's `skip_correlation`. At 1 all inputs look the same.
    """

    cosine: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """1 - cosine: what is left to tell two inputs apart by."""
        return 1 - self.cosine


@torch.no_grad()
def input_correlation(network: nn.Module, inputs: Tensor, training: bool = True) -> InputCorrelation:
    """Mean correlation between different inputs, by depth, from one forward pass.

    Args and errors as in `signal_statistics`. Without a skip path it is what enters the block.
    """
    check_inputs(inputs)
    additions = residual_additions(network)
    found: list[float] = []

    def look(_module: ResidualAddition, arguments: tuple[Tensor, Tensor]) -> None:
        found.append(_mean_cosine(in_float64(arguments[0]).flatten(1)))

    with left_as_found(network, training) as stack:
        for addition in additions:
            stack.callback(addition.register_forward_pre_hook(look).remove)
        network(inputs)
    return InputCorrelation(np.array(found))


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Row by row, of two matrices [N, C] -> [N]; NaN for a row of zeros, which has no direction."""
    return (_directions(first) * _directions(second)).sum(1)


def _directions(rows: Tensor) -> Tensor:
    """Each row over its norm; over its largest entry first, whose square may overflow."""
    rows = rows / rows.abs().amax(1, keepdim=True)
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def _mean_cosine(rows: Tensor) -> float:
    """Over all pairs of different rows. The sum of all unit vectors, squared, holds every pair twice, and each row once."""
    count = len(rows)
    return float((_directions(rows).sum(0).square().sum() - count) / (count * (count - 1)))
