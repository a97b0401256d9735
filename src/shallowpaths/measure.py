"""What a live network does: the variances on its skip path and on its residual branches.

Every measurement leaves the network as it found it: weights, buffers, training mode, hooks and random state.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shallowpaths import theory
from shallowpaths.networks import ResidualAddition, ResidualBlock, ResidualNetwork


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


@contextlib.contextmanager
def left_as_found(network: nn.Module, training: bool) -> Iterator[None]:
    """Set the network's mode within; put mode, buffers, gradients and random state back after, also on an error."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            network.train(training)
            yield
        finally:
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for module, mode in modes:
                module.training = mode


def residual_additions(network: nn.Module) -> list[ResidualAddition]:
    """The network's residual additions, in order.

    Raises:
        ValueError: there is none.
    """
    additions = [m for m in network.modules() if isinstance(m, ResidualAddition)]
    if not additions:
        raise ValueError(f"{type(network).__name__} has no residual block: nothing ends in a ResidualAddition")
    return additions


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
    _check_inputs(inputs)
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


def predicted_signal(
    network: ResidualNetwork, correlation: float = 0.0, image_size: int | None = None
) -> theory.Signal:
    """What theory says of this network at initialization, block by block: the line to draw beside `signal_statistics`.

    Args:
        network: as built, its recipe unchanged.
        correlation: between any two of the inputs as they leave the input layer; 0 for centred, independent inputs.
        image_size: height of the images, for a convolutional network: zero padding takes a part of the signal at
            each border, and the smaller the image the larger the part. None predicts for images without borders.
    """
    recipe, blocks = network.recipe, list(network.blocks)
    projections = [number for number, block in enumerate(blocks, start=1) if block.shortcut is not None]
    alpha = recipe.initial_alpha(len(blocks))
    scale = theory.fixup_layer_scale(len(blocks), len(blocks[0].layers)) if "depth rescaling" in recipe.fixup else 1.0
    return theory.signal(
        len(blocks),
        normalization=recipe.normalization,
        alpha=scale if alpha is None else alpha,
        output_scale=recipe.output_scale,
        zero_branch=recipe.starts_as_identity,
        skip_path=recipe.skip_path,
        activation=network.activation,
        layers_per_block=len(blocks[0].layers),
        correlation=correlation,
        projections=projections,
        layer_gain=1.0 if image_size is None else _padding_gains(blocks, image_size),
    )


def _padding_gains(blocks: list[ResidualBlock], size: int) -> list[float]:
    """For each block, the part of the second moment that one of its convolutions keeps at the borders."""
    gains = []
    for block in blocks:
        size = -(-size // block.layers[0].stride[0])
        gains.append(theory.padding_gain(size, layers=len(block.layers)) ** (1 / len(block.layers)))
    return gains


def _check_inputs(inputs: Tensor) -> None:
    if inputs.ndim < 2 or len(inputs) < 2:
        raise ValueError(
            f"inputs of shape {tuple(inputs.shape)}: a variance over the batch needs at least two examples"
        )
    if not torch.isfinite(inputs).all():
        raise ValueError("the inputs contain NaN or infinity: nothing measured on them would mean anything")


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
