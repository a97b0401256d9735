"""Leave a network as it was found, find its residual blocks, refuse what cannot be measured."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from shallowpaths._device import arithmetic


@contextlib.contextmanager
def left_as_found(network: nn.Module, training: bool | None) -> Iterator[contextlib.ExitStack]:
    """Set the network's mode within, None for no change; put mode, buffers, gradients and random state back after.

    Yields a stack for what else is to be undone, as ``stack.enter_context(handle)`` for a hook. Within, parameters have
    no gradient. It may be used between a training step's forward and its backward pass.
    """
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    exact = arithmetic(next(iter(devices), torch.device("cpu")))  # no TF32, which torch convolves in
    with torch.random.fork_rng(devices=list(devices)), exact:
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            if training is not None:
                network.train(training)
            with contextlib.ExitStack() as stack:
                yield stack
        finally:
            for buffer, value in buffers:
                buffer.data.copy_(value)  # .data: a backward pass that still needs it is not told that it changed
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for module, mode in modes:
                module.training = mode


def modules_of(network: nn.Module, kind: type[nn.Module]) -> list[Any]:
    """The network's modules of a kind, in order; ValueError where there is none."""
    found = [module for module in network.modules() if isinstance(module, kind)]
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
        raise ValueError(f"inputs of shape {(*inputs.shape,)}: a variance over the batch needs at least two examples")
    if not torch.isfinite(inputs).all():
        raise ValueError("the inputs contain NaN or infinity: nothing measured on them would mean anything")
