"""How far a network of finite width strays from the theory of wide layers: noise, not news.

Given its input, a He layer of w channels multiplies an input's second moment by chi^2_w / w, whose relative variance is
2 / w. A ReLU adds 3 / w, because positive and negative channels never balance exactly: 5 / w a layer. The same weights
serve all inputs, so two inputs of correlation c share 2 c^2 / w and odd(c) / w of this. What a batch's average keeps is
the
mean over its pairs: in a linear network almost nothing, with ReLU, which makes inputs alike, nearly all of it. All
formulas are [derived], to first order in 1 / w.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from shallowpaths.theory.blocks import Signal
from shallowpaths.theory.checks import Array, number, numbers, whole
from shallowpaths.theory.moments import relu_correlation


@dataclass(frozen=True)
class FiniteWidth:
    """Deviations on the skip path at block l = 1 ... d, each of shape [d].

    relative_deviation: one standard deviation of the logarithm of the skip path's measured second moment, over seeds.
    variance_excess: expected extra variance over the second moment, because inputs come to differ in norm.
    """

    relative_deviation: Array
    variance_excess: Array

    def band(self, expected: Array, deviations: float = 1.0) -> tuple[Array, Array]:
        """Lower and upper edge around ``expected``, for one network."""
        factor = np.exp(number("deviations", deviations, above=0) * self.relative_deviation)
        return expected / factor, expected * factor


def odd_covariance(correlation: ArrayLike) -> Array:
    """Covariance of x|x| and y|y| for unit Gaussians x, y of correlation c; 0 at 0, 3 at 1. [derived]

    2 relu(x)^2 = x^2 + x|x|, so this is what a ReLU adds to the covariance 2 c^2 of x^2 and y^2. From the arc-cosine
    kernel of degree 2 (Cho and Saul 2009).
    """
    c = np.clip(numbers("correlation", correlation), -1, 1)
    angle = np.arccos(c)
    kernel = 3 * np.sin(angle) * c + (math.pi - angle) * (1 + 2 * c**2)
    return 2 / math.pi * kernel - 1 - 2 * c**2


def finite_width(signal: Signal, width: int, batch: int) -> FiniteWidth:
    """What ``width`` channels and ``batch`` inputs add to a fully connected network's ``signal``. [derived]

    An approximation: Gaussian channels, independent Gaussian inputs, no projections; data on few directions have a
    wider band, convolutions their own. In 40 to 60 simulated networks of width 64 and 128 the deviation was mostly 0.66
    to 1.16 times the predicted one, that of the skip variance about as large or smaller: with ReLU 0.36 to 1.05 times.
    """
    if not isinstance(signal, Signal):
        raise TypeError(f"signal {signal!r} must be what theory.signal returns")
    whole("width", width, at_least=2)
    whole("batch", batch, at_least=2)
    common = signal.skip_correlation
    itself = _log_covariance(signal, np.ones_like(common), np.zeros_like(common)) / width
    others = _log_covariance(signal, common, _spread(signal, width)) / width
    variance = itself / batch + (1 - 1 / batch) * others
    return FiniteWidth(np.sqrt(np.maximum(variance, 0)), common * np.maximum(itself - others, 0) / 4)


def _shares(signal: Signal) -> tuple[Array, bool]:
    """The branch's part of each block's second moment, and whether a BN undoes what came before."""
    return np.minimum(signal.branch_second_moment_share, 1 - 1e-12), signal.normalization.startswith("branch")


def _spread(signal: Signal, width: int) -> Array:
    """Variance over pairs of inputs of their correlation, at block l: each branch adds its own."""
    share, unlike = _shares(signal)[0], 1 - signal.skip_correlation
    spread = np.empty_like(share)
    spread[0] = 1 / width
    for block in range(1, share.size):
        p = share[block - 1]
        fresh = (2 * p * (1 - p) + signal.layers_per_block * p**2) / width
        kept = spread[block - 1] * (unlike[block] / unlike[block - 1]) ** 2
        spread[block] = kept + fresh * unlike[block] ** 2
    return spread


def _layer_noise(signal: Signal, skip: Array, spread: Array) -> tuple[Array, Array]:
    """Width times the covariance of two inputs' log(branch / expectation); and their branch correlation.

    Without BN the branch inherits the skip path's own deviation, which is not counted here. A BN removes what came
    before it, so there only the last layer counts.
    """
    relu, (_, normalized) = signal.activation == "relu", _shares(signal)
    between_channels = np.where(skip == 1, 1.0, 0.0) if normalized else skip
    noise = np.zeros_like(skip)
    for layer in range(1 if normalized else signal.layers_per_block):
        if relu and (layer > 0 or normalized):
            noise += odd_covariance(between_channels)
        between_channels = relu_correlation(between_channels) if relu else between_channels
        noise += 2 * (between_channels**2 + spread)
    return noise, between_channels


def _persistent_noise(signal: Signal, skip: Array) -> Array:
    """Width times what the first ReLU of each branch adds: its channels' signs last from block to block."""
    share, normalized = _shares(signal)
    if signal.activation == "linear" or normalized:
        return np.zeros_like(share)
    memory = np.concatenate([[0.0], np.cumsum(np.log1p(-share[:-1]) / 2)])
    total = share**2 * odd_covariance(skip)
    for lag in range(1, share.size):
        kept = np.exp(memory[lag:] - memory[:-lag])
        if kept.max() < 1e-4:
            break
        total[lag:] += 2 * share[lag:] * share[:-lag] * odd_covariance(skip[:-lag] * kept)
    return total


def _log_covariance(signal: Signal, skip: Array, spread: Array) -> Array:
    """Width times the covariance of two inputs' log second moments, from their correlation at block l."""
    share, normalized = _shares(signal)
    noise, branch = _layer_noise(signal, skip, spread)
    fresh = share**2 * noise + 4 * share * (1 - share) * (skip * branch + spread)
    fresh += _persistent_noise(signal, skip)
    covariance = np.empty_like(share)
    covariance[0] = 2 * (skip[0] ** 2 + spread[0])
    for block in range(1, share.size):
        inherited = (1 - share[block - 1]) ** 2 if normalized else 1.0
        covariance[block] = inherited * covariance[block - 1] + fresh[block - 1]
    if signal.normalization == "branch and skip":
        covariance[1:] = 0.0
    return covariance
