"""Batch normalization over ghost batches: each chunk of the batch is normalized by its own statistics.

A large batch then keeps the noise that a small one has (Hoffer et al. 2017). The operation equals a loop of torch's
own batch normalization over the chunks, but makes no copy of the chunks and joins no outputs.
"""

import torch
from torch import Tensor, nn

from shallowpaths.theory.checks import whole

Tensors = tuple[Tensor, Tensor, Tensor]


class GhostBatchNorm(nn.BatchNorm2d):
    """Batch normalization in chunks of `ghost_batch` consecutive images; the last chunk may be smaller.

    The moving averages go through the chunks in turn, as if each were a batch. In evaluation it is nn.BatchNorm2d.

    Args:
        channels: C.
        ghost_batch: images that share their statistics, at least 1.

    Shapes:
        [N, C] or [N, C, ...] -> the same, in the same memory format.

    Raises:
        ValueError: in training, a chunk with one value per channel, which has no variance.
    """

    def __init__(self, channels: int, ghost_batch: int):
        super().__init__(channels)
        whole("ghost_batch", ghost_batch)
        self.ghost_batch = ghost_batch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.ghost_batch:
            return super().forward(x)
        self._check_chunks(x)
        normalized, means, variances = ghost_normalize(x, self.weight, self.bias, self.ghost_batch, self.eps)
        with torch.no_grad():
            self._move_averages(means, variances)
        return normalized

    def extra_repr(self) -> str:
        """As torch's, with the ghost batch."""
        return f"{super().extra_repr()}, ghost_batch={self.ghost_batch}"

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002, torch's name: this class takes [N, C] too
        if input.ndim < 2:
            raise ValueError(f"an input of shape {tuple(input.shape)} has no channels: [N, C, ...] is expected")

    def _check_chunks(self, x: Tensor) -> None:
        smallest = len(x) % self.ghost_batch or self.ghost_batch
        if smallest * x[0, 0].numel() < 2:
            raise ValueError(
                f"ghost_batch {self.ghost_batch} cuts a batch of {len(x)} so that a chunk has one value per channel:"
                " it has no variance"
            )

    def _move_averages(self, means: Tensor, variances: Tensor) -> None:
        """The chunks' statistics, [K, C], enter one after the other: average <- (1 - m) average + m statistic."""
        chunks = len(means)
        self.num_batches_tracked.add_(chunks)
        if self.momentum is None:  # torch's word for a plain mean over all that was seen
            shares = 1.0 / self.num_batches_tracked.to(means.dtype)
            shares, kept = shares.expand(chunks), 1 - chunks * shares
        else:
            age = torch.arange(chunks - 1, -1, -1, device=means.device, dtype=means.dtype)
            shares, kept = self.momentum * (1 - self.momentum) ** age, (1 - self.momentum) ** chunks
        for average, statistics in ((self.running_mean, means), (self.running_var, variances)):
            average.mul_(kept).add_((shares[:, None] * statistics).sum(0))  # no matrix product: autocast would round it


def ghost_normalize(x: Tensor, weight: Tensor, bias: Tensor, size: int, eps: float) -> Tensors:
    """Each chunk of `size` images of x [N, C, ...] normalized by itself, then times weight [C] plus bias [C].

    Returns:
        The result, as x, and each chunk's mean and unbiased variance, [K, C]. Only the result has a gradient.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return _by_formula(x, weight, bias, size, eps)  # the compiler fuses it; a GPU has one launch for all chunks
    return _ByChunks.apply(x, weight, bias, size, eps)[:3]


def _by_formula(x: Tensor, weight: Tensor, bias: Tensor, size: int, eps: float) -> Tensors:
    """All full chunks at once, then what is left."""
    full = len(x) // size * size
    if full == len(x):
        return _equal_chunks(x, weight, bias, size, eps)
    parts = (_equal_chunks(x[:full], weight, bias, size, eps), _equal_chunks(x[full:], weight, bias, None, eps))
    return tuple(torch.cat(both) for both in zip(*parts, strict=True))


def _equal_chunks(x: Tensor, weight: Tensor, bias: Tensor, size: int | None, eps: float) -> Tensors:
    chunks = x.unflatten(0, (-1, size or len(x)))  # [K, size, C, ...]
    over = (1, *range(3, chunks.ndim))
    wide = chunks.to(weight.dtype)  # statistics are taken in the weights' precision
    variance, mean = torch.var_mean(wide, over, correction=0, keepdim=True)
    per_channel = (1, 1, -1, *[1] * (chunks.ndim - 3))
    factor = torch.rsqrt(variance + eps) * weight.view(per_channel)
    normalized = (wide - mean) * factor + bias.view(per_channel)
    count = chunks[0, :, 0].numel()
    unbiased = variance.detach().flatten(1) * (count / (count - 1))
    return normalized.to(x.dtype).flatten(0, 1), mean.detach().flatten(1), unbiased


def _layout(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


class _ByChunks(torch.autograd.Function):
    """torch's own kernel on one chunk after the other, reading from and writing into slices of the whole batch.

    On a CPU that kernel is several times as fast as the formula. Derivatives of derivatives, vmap and forward mode,
    which the kernel with slices does not have, go by the formula.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, size: int, eps: float):
        x = x.contiguous(memory_format=_layout(x))  # the kernel writes slices right in these two layouts only
        normalized, places = torch.empty_like(x), range(0, len(x), size)
        # moving averages, the kernel's own mean and 1 / deviation: [K, C] each
        means, variances, saved_means, saved_inverses = weight.new_zeros(4, len(places), len(weight)).unbind()
        for k, start in enumerate(places):
            chunk = slice(start, start + size)
            moving = (means[k], variances[k], True, 1.0, eps)  # with momentum 1 they become the chunk's statistics
            out = {"out": normalized[chunk], "save_mean": saved_means[k], "save_invstd": saved_inverses[k]}
            torch.ops.aten.native_batch_norm.out(x[chunk], weight, bias, *moving, **out)
        return normalized, means, variances, saved_means, saved_inverses

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, bias, ctx.size, ctx.eps = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, *output[3:])
        ctx.save_for_forward(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor, *_statistics: None):
        x, weight, bias, saved_means, saved_inverses = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone differentiates this again
            _, pullback = torch.func.vjp(lambda *leaves: _by_formula(*leaves, ctx.size, ctx.eps)[0], x, weight, bias)
            return *pullback(gradient), None, None
        layout = _layout(x)
        x, gradient = x.contiguous(memory_format=layout), gradient.contiguous(memory_format=layout)
        into, scratch = torch.empty_like(x), torch.empty(2, len(saved_means), *weight.shape).to(weight)
        for k, start in enumerate(range(0, len(x), ctx.size)):
            chunk = slice(start, start + ctx.size)
            statistics = (None, None, saved_means[k], saved_inverses[k], True, ctx.eps, (True, True, True))
            out = {"out0": into[chunk], "out1": scratch[0, k], "out2": scratch[1, k]}
            torch.ops.aten.native_batch_norm_backward.out(gradient[chunk], x[chunk], weight, *statistics, **out)
        return into, *scratch.sum(1), None, None

    @staticmethod
    def jvp(ctx, x: Tensor, weight: Tensor, bias: Tensor, *_settings: None):
        """Forward mode, by the formula."""
        leaves = ctx.saved_tensors[:3]
        pairs = zip(leaves, (x, weight, bias), strict=True)
        tangents = tuple(torch.zeros_like(leaf) if t is None else t for leaf, t in pairs)
        _, moved = torch.func.jvp(lambda *p: _by_formula(*p, ctx.size, ctx.eps)[0], leaves, tangents)
        return moved, None, None, None, None

    @staticmethod
    def vmap(_info, dimensions, x: Tensor, weight: Tensor, bias: Tensor, size: int, eps: float):
        """Many networks at once, by the formula."""
        lanes = torch.vmap(lambda *leaves: _by_formula(*leaves, size, eps), dimensions[:3])(x, weight, bias)
        return (*lanes, *lanes[1:]), 0
