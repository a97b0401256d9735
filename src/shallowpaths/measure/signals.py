"""Variances and squared means on the skip path and on the residual branches, from one forward pass."""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths.measure.guard import check_inputs, left_as_found, residual_additions


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
    def blocks(self) -> int:
        """d, the number of residual blocks."""
        return len(self.skip_variance)

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
    taken: list[dict[str, tuple[Tensor, Tensor]]] = []
    last: dict[str, object] = {}

    def look(module: nn.Module, arguments: tuple[Tensor, Tensor], output: Tensor) -> None:
        skip, branch = arguments
        if not module.skip_path:
            entering = (skip.new_zeros(()), skip.new_zeros(()))
        elif skip is last.get("output"):
            entering = last["statistics"]  # measured as the last block's output
        else:
            entering = _moments(skip)
        statistics = {"skip": entering, "branch": _moments(branch), "output": _moments(output)}
        last.update(output=output, statistics=statistics["output"])
        taken.append(statistics | {"scale": module.scale, "channels": output.shape[1]})

    with contextlib.ExitStack() as stack:
        stack.enter_context(left_as_found(network, training))
        for addition in additions:
            stack.callback(addition.register_forward_hook(look).remove)
        network(inputs)
    return _gather(taken)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance over all but the channels, and squared mean, both averaged over channels; 0-dimensional."""
    variance, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)
    return variance.mean(), mean.square().mean()


def _gather(taken: list[dict]) -> SignalStatistics:
    values = {
        f"{path}_{name}": torch.stack([block[path][i] for block in taken]).double().cpu().numpy()
        for path in ("skip", "branch", "output")
        for i, name in enumerate(("variance", "squared_mean"))
    }
    scale = np.array([block["scale"] for block in taken])
    with np.errstate(invalid="ignore", divide="ignore"):  # overflowed networks are a subject, not an accident
        share = values["branch_variance"] * scale**2 / values["output_variance"]
    return SignalStatistics(**values, branch_share=share, channels=np.array([block["channels"] for block in taken]))
