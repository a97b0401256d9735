"""Leave a network as it was found, find its residual additions, refuse what cannot be measured."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from shallowpaths.networks import ResidualAddition


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


def check_inputs(inputs: Tensor) -> None:
    if inputs.ndim < 2 or len(inputs) < 2:
        raise ValueError(
            f"inputs of shape {tuple(inputs.shape)}: a variance over the batch needs at least two examples"
        )
    if not torch.isfinite(inputs).all():
        raise ValueError("the inputs contain NaN or infinity: nothing measured on them would mean anything")
