"""Leave a network as it was found, find its residual blocks, refuse what cannot be measured."""

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from shallowpaths._device import arithmetic
from shallowpaths.networks import ResidualAddition, ResidualBlock

Kind = TypeVar("Kind", bound=nn.Module)


@contextlib.contextmanager
def left_as_found(network: nn.Module, training: bool | None) -> Iterator[contextlib.ExitStack]:
    """Set the network's mode within, None for no change; put mode, buffers, gradients and random state back after, also on an error.

    Yields a stack for what else is to be undone at the end: ``stack.callback(handle.remove)`` for a hook. Within,
    parameters have no gradient. It may be used between a training step's forward and its backward pass.
    """
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    exact = arithmetic(next(iter(devices), torch.device("cpu")))  # no TF32, which torch convolves in
    with torch.random.fork_rng(devices=list(devices)), exact, contextlib.ExitStack() as stack:
        stack.callback(_put_back, modes, buffers, gradients)
        for parameter, _ in gradients:
            parameter.grad = None
        if training is not None:
            network.train(training)
        yield stack


def _put_back(modes: list, buffers: list, gradients: list) -> None:
    for buffer, value in buffers:
        buffer.data.copy_(value)  # .data: a backward pass that still needs the buffer is not told that it changed
    for parameter, gradient in gradients:
        parameter.grad = gradient
    for module, mode in modes:
        module.training = mode


def residual_additions(network: nn.Module) -> list[ResidualAddition]:
    """The network's residual additions, in order; ValueError where there is none."""
    return _modules(network, ResidualAddition)


def residual_blocks(network: nn.Module) -> list[ResidualBlock]:
    """The network's residual blocks, in order; ValueError where there is none."""
    return _modules(network, ResidualBlock)


def _modules(network: nn.Module, kind: type[Kind]) -> list[Kind]:
    found = [m for m in network.modules() if isinstance(m, kind)]
    if not found:
        raise ValueError(f"{type(network).__name__} has no residual block: none of its modules is a {kind.__name__}")
    return found


def in_float64(x: Tensor) -> Tensor:
    """x in float64; from MPS, which has none, on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def check_inputs(inputs: Tensor) -> None:
    """Refuse with a ValueError what is no batch of real numbers, a batch of one, and NaN or infinity."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.is_meta:
        given = f"{inputs.dtype} on {inputs.device}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"inputs are {given}: give a tensor of floating-point numbers, as the network takes it")
    if inputs.ndim < 2 or len(inputs) < 2:
        raise ValueError(
            f"inputs of shape {tuple(inputs.shape)}: a variance over the batch needs at least two examples"
        )
    if not torch.isfinite(inputs).all():
        raise ValueError("the inputs contain NaN or infinity: nothing measured on them would mean anything")
