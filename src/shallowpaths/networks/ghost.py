"""Batch normalization over ghost batches, chunks of the batch that are normalized each by its own statistics.

A large batch then keeps the noise that a small one has (Hoffer et al. 2017).
"""

import torch
from torch import Tensor, nn

from shallowpaths.theory.checks import whole


class GhostBatchNorm(nn.BatchNorm2d):
    """Batch normalization in chunks of `ghost_batch` consecutive images, at least 1; the last chunk may be smaller.

    [N, channels, ...] -> the same, in the same memory format. The moving averages go through the chunks in turn. In
    evaluation it is nn.BatchNorm2d; in training a ValueError refuses a chunk of one value per channel.
    """

    def __init__(self, channels: int, ghost_batch: int):
        super().__init__(channels)
        whole("ghost_batch", ghost_batch)
        self.ghost_batch = ghost_batch

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) <= self.ghost_batch:
            return super().forward(x)
        smallest = len(x) % self.ghost_batch or self.ghost_batch
        if smallest * x[0, 0].numel() < 2:
            cut = f"ghost_batch {self.ghost_batch} cuts a batch of {len(x)}"
            raise ValueError(f"{cut} so that a chunk has one value per channel: it has no variance")
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            normalize = super().forward  # a loop over the chunks; elsewhere a formula for all at once
            return torch.cat([normalize(chunk) for chunk in x.split(self.ghost_batch)])
        normalized, means, variances = normalize_chunks(x, self.weight, self.bias, self.ghost_batch, self.eps)
        with torch.no_grad():
            self._move_averages(means, variances)
        return normalized

    def extra_repr(self) -> str:
        """As torch's, with the ghost batch."""
        return f"{super().extra_repr()}, ghost_batch={self.ghost_batch}"

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002, torch's name: this class takes [N, C] too
        if input.ndim < 2:
            raise ValueError(f"an input of shape {tuple(input.shape)} has no channels: [N, C, ...] is expected")

    def _move_averages(self, means: Tensor, variances: Tensor) -> None:
        """The chunks' statistics [K, C] enter one after the other: average <- (1 - m) average + m statistic."""
        chunks = len(means)
        self.num_batches_tracked.add_(chunks)
        if self.momentum is None:  # torch's word for a plain mean over all that was seen
            shares = (1.0 / self.num_batches_tracked.to(means.dtype)).expand(chunks)
            kept = 1 - chunks * shares[0]
        else:
            age = torch.arange(chunks - 1, -1, -1, device=means.device, dtype=means.dtype)
            shares, kept = self.momentum * (1 - self.momentum) ** age, (1 - self.momentum) ** chunks
        for average, statistics in ((self.running_mean, means), (self.running_var, variances)):
            average.mul_(kept).add_((shares[:, None] * statistics).sum(0))  # no matrix product: autocast would round it


def normalize_chunks(x: Tensor, weight: Tensor, bias: Tensor, size: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each chunk of `size` images of x [N, C, ...] normalized by itself, then times weight [C] plus bias [C].

    A compiler fuses it, and a GPU has one launch for all chunks but the smaller last one. Returns the result, as x, and
    each chunk's mean and unbiased variance, [K, C], which have no gradient.
    """
    parts = [_equal_chunks(part, weight, bias, min(size, len(part)), eps) for part in x.split(len(x) // size * size)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(both) for both in zip(*parts, strict=True))


def _equal_chunks(x: Tensor, weight: Tensor, bias: Tensor, size: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    chunks = x.unflatten(0, (-1, size))  # [K, size, C, ...]
    wide = chunks.to(weight.dtype)  # statistics are taken in the weights' precision
    variance, mean = torch.var_mean(wide, (1, *range(3, chunks.ndim)), correction=0, keepdim=True)
    per_channel = (1, 1, -1, *[1] * (chunks.ndim - 3))
    factor = torch.rsqrt(variance + eps) * weight.view(per_channel)
    normalized = (wide - mean) * factor + bias.view(per_channel)
    count = chunks[0, :, 0].numel()
    unbiased = variance.detach().flatten(1) * (count / (count - 1))
    return normalized.to(x.dtype).flatten(0, 1), mean.detach().flatten(1), unbiased
