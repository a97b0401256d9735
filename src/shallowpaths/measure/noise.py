"""The noise of SGD's gradients: how large it is beside the gradient, and what it costs along the loss's curvature."""

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths.measure.objective import Loss, objective
from shallowpaths.theory.checks import whole

FEWEST_BATCHES = 4  # three that differ, and one for the jackknife to leave out
_SHIFTS = (1, 2)


@dataclasses.dataclass(frozen=True)
class GradientNoise:
    """Of a mean loss with gradient g and Hessian H, where an example's gradient has the covariance Sigma.

    gradient_square is |g|^2, gradient_variance tr Sigma, gradient_curvature g^T H g, noise_curvature tr(H Sigma). They
    are unbiased, so that they can be averaged before they are divided; where noise hides what they estimate, they may
    come out negative. A ratio to what is exactly zero is NaN. standard_errors has those of these four and of the two
    scales, by a jackknife over batches: of the two curvatures up to sqrt(2) too large, as what a pair of batches says
    goes with either.
    """

    gradient_square: float
    gradient_variance: float
    gradient_curvature: float
    noise_curvature: float
    standard_errors: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def simple_noise_scale(self) -> float:
        """tr Sigma / |g|^2: examples a batch whose noise is as large as the gradient."""
        return self.gradient_variance / (self.gradient_square or math.nan)

    @property
    def noise_scale(self) -> float:
        """tr(H Sigma) / g^T H g: the same weighted by curvature."""
        return self.noise_curvature / (self.gradient_curvature or math.nan)


_NAMES = (*list(GradientNoise.__annotations__)[:4], "simple_noise_scale", "noise_scale")


def gradient_noise(
    network: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int, loss: Loss = F.cross_entropy,
    training: bool = True,
) -> GradientNoise:  # fmt: skip
    """The gradient's square and variance, and the curvature along both, from the gradients of K batches.

    Each is a mean over products of different batches' gradients g_a and Hessians H_c, which makes it unbiased: g_a .
    g_b for |g|^2, g_a^T H_c g_b for g^T H g, and with g_b on both sides for g^T H g + tr(H Sigma) / B. H_c meets two
    g_b, those of the next batches, and every g_a. All gradients are held at once, in float64. With batch normalization
    in training mode an example's gradient depends on its batch: Sigma is then B times the covariance of a batch's
    gradient, and g the mean gradient of batches of that size.

    batch_size: B, which divides the number of examples, in random order, into K >= 4 consecutive batches.

    Other arguments and errors as in `hessian_eigenvalues`; ValueError also for fewer than four batches.
    """
    whole("batch_size", batch_size)
    with objective(network, inputs, targets, loss, batch_size, training) as mean_loss:
        count = mean_loss.batches
        if count < FEWEST_BATCHES:
            given = f"{len(inputs)} inputs are {count} batches of {batch_size}"
            raise ValueError(f"{given}: at least {FEWEST_BATCHES} are needed")
        gradients = torch.stack([mean_loss.gradient(batch) for batch in range(count)])
        columns = []
        for c in range(count):
            products = mean_loss.products(c, *(gradients[(c + shift) % count] for shift in _SHIFTS))
            columns.append(gradients @ torch.stack(products, dim=1))  # [K, shifts]
        squares = (gradients @ gradients.T).cpu().numpy()  # g_a . g_b, [K, K]
        # for each shift g_a . H_c g_b of batch b = c + shift, in a circle, [shifts, K (a), K (c)]
        curvatures = torch.stack(columns).permute(2, 1, 0).cpu().numpy()
    kept = [*~np.eye(count, dtype=bool), np.ones(count, dtype=bool)]  # all but each batch in turn, then all
    *without, found = (_estimates(squares, curvatures, row, batch_size) for row in kept)
    values = {name: np.array([getattr(estimate, name) for estimate in without]) for name in _NAMES}
    errors = {name: float(np.sqrt((count - 1) * each.var())) for name, each in values.items()}
    return dataclasses.replace(found, standard_errors=errors)


def _estimates(squares: np.ndarray, curvatures: np.ndarray, kept: np.ndarray, batch_size: int) -> GradientNoise:
    """From the batches that are kept, [K]."""
    count, places = kept.sum(), np.arange(len(kept))
    same = squares.diagonal()[kept].mean()
    square = (kept @ squares @ kept / count - same) / (count - 1)  # mean over pairs of different batches
    both, different = [], []
    for shift, table in zip(_SHIFTS, curvatures, strict=True):
        other = (places + shift) % len(kept)
        used, own = kept & kept[other], table[other, places]
        both.append(own[used])
        different.append(((kept @ table - own - table.diagonal()) / (count - 2))[used])
    curvature = np.concatenate(different).mean()
    noise = np.concatenate(both).mean() - curvature
    return GradientNoise(*map(float, (square, batch_size * (same - square), curvature, batch_size * noise)))
