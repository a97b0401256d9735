"""The noise of SGD's gradients: how large it is beside the gradient, and what it costs along the loss's curvature."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths.measure.objective import Loss, Objective, objective
from shallowpaths.theory.checks import whole

FEWEST_BATCHES = 4  # three that differ, and one for the jackknife to leave out
_SHIFTS = (1, 2)


@dataclass(frozen=True)
class GradientNoise:
    """Of a mean loss with gradient g and Hessian H, where an example's gradient has the covariance Sigma.

    The first four are unbiased, so that they can be averaged before they are divided; where the noise hides what they
    estimate, they may come out negative. A ratio to what is exactly zero is NaN.

    Attributes:
        gradient_square: |g|^2.
        gradient_variance: tr Sigma.
        gradient_curvature: g^T H g.
        noise_curvature: tr(H Sigma).
        standard_errors: of each of these four and of the three scales below, by name. A jackknife over batches: of the two
            curvatures it may come out up to sqrt(2) too large, as what a pair of batches says goes with either.
    """

    gradient_square: float
    gradient_variance: float
    gradient_curvature: float
    noise_curvature: float
    standard_errors: dict[str, float] = field(default_factory=dict)

    @property
    def simple_noise_scale(self) -> float:
        """tr Sigma / |g|^2: examples a batch whose noise is as large as the gradient."""
        return _ratio(self.gradient_variance, self.gradient_square)

    @property
    def noise_scale(self) -> float:
        """tr(H Sigma) / g^T H g: the same weighted by curvature."""
        return _ratio(self.noise_curvature, self.gradient_curvature)

    @property
    def one_step_rate(self) -> float:
        """|g|^2 / g^T H g: the rate at which one step along the whole gradient gains most."""
        return _ratio(self.gradient_square, self.gradient_curvature)


_NAMES = (
    "gradient_square", "gradient_variance", "gradient_curvature", "noise_curvature",
    "simple_noise_scale", "noise_scale", "one_step_rate",
)  # fmt: skip


def gradient_noise(
    network: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int, loss: Loss = F.cross_entropy,
    training: bool = True,
) -> GradientNoise:  # fmt: skip
    """The gradient's square and variance, and the curvature along both, from the gradients of K batches.

    Each is a mean over products of different batches' gradients g_a and Hessians H_c, which makes it unbiased:
    g_a . g_b for |g|^2, g_a^T H_c g_b for g^T H g, and with g_b on both sides for g^T H g + tr(H Sigma) / B. H_c meets two
    g_b, those of the next batches, and every g_a. All gradients are held at once, in float64.

    With batch normalization in training mode an example's gradient depends on its batch: Sigma is then B times the
    covariance of a batch's gradient, and g the mean gradient of batches of that size.

    Args:
        network, inputs, targets, loss, training: as in `hessian_eigenvalues`. The examples must come in random order.
        batch_size: B, which divides the number of examples into K >= 4 consecutive batches.

    Raises:
        ValueError: as `hessian_eigenvalues`; fewer than four batches.
    """
    whole("batch_size", batch_size)
    with objective(network, inputs, targets, loss, batch_size, training) as mean_loss:
        batches = mean_loss.batches
        if batches < FEWEST_BATCHES:
            raise ValueError(f"{len(inputs)} inputs are {batches} batches of {batch_size}: at least {FEWEST_BATCHES} are needed")
        squares, curvatures = _tables(mean_loss)
    kept = np.ones(batches, dtype=bool)
    found = _estimates(squares, curvatures, kept, batch_size)
    without = [_estimates(squares, curvatures, kept & (np.arange(batches) != k), batch_size) for k in range(batches)]
    errors = {}
    for name in _NAMES:
        values = np.array([getattr(estimate, name) for estimate in without])
        errors[name] = float(np.sqrt((batches - 1) * values.var()))
    return GradientNoise(*(getattr(found, name) for name in _NAMES[:4]), errors)


def _ratio(one: float, other: float) -> float:
    """one / other; NaN where the gradient or its curvature is exactly zero."""
    return one / other if other else math.nan


def _tables(mean_loss: Objective) -> tuple[np.ndarray, np.ndarray]:
    """g_a . g_b, [K, K]; and for each shift g_a . H_c g_b of batch b = c + shift, in a circle, [shifts, K (a), K (c)]."""
    batches = range(mean_loss.batches)
    gradients = torch.stack([mean_loss.gradient(batch) for batch in batches])
    columns = []
    for c in batches:
        products = mean_loss.products(c, *(gradients[(c + shift) % len(batches)] for shift in _SHIFTS))
        columns.append(gradients @ torch.stack(products, dim=1))  # [K, shifts]
    return (gradients @ gradients.T).cpu().numpy(), torch.stack(columns).permute(2, 1, 0).cpu().numpy()


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
    return GradientNoise(float(square), float(batch_size * (same - square)), float(curvature), float(batch_size * noise))
