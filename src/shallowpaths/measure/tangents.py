"""Tangents through one residual block, with its gates and its normalization statistics frozen.

Several tangents travel together: [parts, N, C, ...] beside one signal [N, C, ...]. Each step mirrors a module of
`networks`; a test holds them against torch.func.jvp of the same network.
"""

import torch
from torch import Tensor, nn

from shallowpaths.networks import ResidualBlock, Scale, Shift


def through_block(block: ResidualBlock, x: Tensor, parts: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """Signal and tangent after the block; the tangent in parts by the number of branches taken.

    parts: [k, N, C, ...], part i has taken i branches. Comes back one part longer, but with at most `room` parts: the
    last one then holds all paths of length `room` - 1 and more.
    """
    out, out_parts = through(block.preactivations[0], x, parts)
    skip, skip_parts = x, parts
    if block.shortcut is not None:
        skip, skip_parts = through(block.shortcut, out, out_parts)
    branch, branch_parts = through(block.layers[0], out, _last_two_together(out_parts, room))
    for preactivation, layer in zip(block.preactivations[1:], block.layers[1:], strict=True):
        branch, branch_parts = through(layer, *through(preactivation, branch, branch_parts))
    branch, branch_parts = through(block.scale, branch, branch_parts)
    parts = _added(skip_parts if block.addition.skip_path else None, branch_parts) * block.addition.scale
    return through(block.norm_after, block.addition(skip, branch), parts)


def _last_two_together(parts: Tensor, room: int) -> Tensor:
    """Where the room is full, the two longest parts take the next branch as one: both end in the last part."""
    if len(parts) < room:
        return parts
    return torch.cat([parts[:-2], parts[-2:].sum(0, keepdim=True)])


def _added(skip: Tensor | None, branch: Tensor) -> Tensor:
    """Part i of the result: part i of the skip path, and part i - 1 of what took this branch."""
    total = torch.cat([torch.zeros_like(branch[:1]), branch])
    if skip is not None:
        total[: len(skip)] += skip
    return total


def through(module: nn.Module, x: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and tangents after a module. An activation in place changes both in place, as it does in the network."""
    if isinstance(module, nn.Sequential):
        for step in module:
            x, parts = through(step, x, parts)
        return x, parts
    if isinstance(module, nn.ReLU):
        gates = x > 0
        return module(x), parts.mul_(gates) if module.inplace else parts * gates
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return module(x), parts * _normalization_factor(module, x)
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        return module(x), _through_weights(module, parts)
    if isinstance(module, Scale):
        return module(x), module.alpha * parts
    if isinstance(module, (Shift, nn.Identity)):
        return module(x), parts
    raise ValueError(f"a residual block holds a {type(module).__name__}: it is not known how a tangent passes it")


def _normalization_factor(norm: nn.Module, x: Tensor) -> Tensor:
    """What the normalization multiplies deviations by, for each channel, ready for broadcasting over [N, C, ...]."""
    variance = norm.running_var
    if norm.training or variance is None:
        variance = torch.var(x, dim=[0, *range(2, x.ndim)], correction=0)
    factor = torch.rsqrt(variance + norm.eps)
    factor = factor if norm.weight is None else factor * norm.weight
    return factor.view(-1, *[1] * (x.ndim - 2))


def _through_weights(layer: nn.Module, parts: Tensor) -> Tensor:
    """The layer without its bias, all parts as one large batch."""
    flat = parts.flatten(0, 1)
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(flat, layer.weight).unflatten(0, parts.shape[:2])
    options = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return nn.functional.conv2d(flat, layer.weight, None, *options).unflatten(0, parts.shape[:2])
