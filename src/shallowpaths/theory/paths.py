"""The 2^d paths through d blocks, by their length: the number of residual branches that a path takes."""

import math

import numpy as np
from numpy.typing import ArrayLike

from shallowpaths.theory.checks import Array, numbers, whole
from shallowpaths.theory.moments import RELU_VARIANCE_SHARE, batchnorm_moving_variance


def _probabilities(path_probability: ArrayLike) -> Array:
    probabilities = numbers("path_probability", path_probability, at_least=0, at_most=1)
    if probabilities.ndim != 1 or probabilities.size == 0:
        raise ValueError(f"path_probability has shape {probabilities.shape}; it must be [d], d at least 1")
    return probabilities


def path_length_distribution(path_probability: ArrayLike) -> Array:
    """Share of the variance that paths of length 0 ... d carry, shape [d + 1]; exact, sums to 1. [derived]

    path_probability: p_l of block l, shape [d]: the branch share, or ``Signal.path_probability`` for the Jacobian.
    Independent weights make the variances of paths add: a path's share is the product of p_l over the branches that it
    takes and of 1 - p_l over those it skips, and its length is Poisson-binomial.
    """
    probabilities = _probabilities(path_probability)
    shares = np.zeros(probabilities.size + 1)
    shares[0] = 1.0
    for taken in probabilities:  # only sums of positive terms, so no digits cancel
        shares[1:] = shares[1:] * (1 - taken) + shares[:-1] * taken
        shares[0] *= 1 - taken
    return shares


def mean_path_length(path_probability: ArrayLike) -> float:
    """Mean length of a path, the sum of p_l over the blocks. [derived]"""
    return float(_probabilities(path_probability).sum())


def path_length_variance(path_probability: ArrayLike) -> float:
    """Variance of the length of a path, the sum of p_l (1 - p_l). [derived]"""
    probabilities = _probabilities(path_probability)
    return float((probabilities * (1 - probabilities)).sum())


def harmonic_mean_path_length(blocks: int) -> float:
    """H_{d+1} - 1 with H_n = 1 + 1/2 + ... + 1/n: mean path length with BN, linear branches. [derived]"""
    whole("blocks", blocks)
    return math.fsum(1 / number for number in range(2, blocks + 2))


def logarithmic_mean_path_length(blocks: int) -> float:
    """What H_{d+1} - 1 tends to for many blocks: ln d - 0.42, with 0.42 = 1 - Euler's constant. [derived]"""
    whole("blocks", blocks)
    return math.log(blocks) + float(np.euler_gamma) - 1


def batchnorm_path_probability(blocks: int, activation: str = "linear", layers_per_block: int = 1) -> Array:
    """p_l = 1 / (1 + k v_l) of the Jacobian with BN on the branch, shape [d]; v_l: moving variance. [derived]

    BN divides a tangent's second moment by v_l, and each further one of the branch's m by the variance 1 - 1/pi = 0.68
    that the ReLU layer before it leaves (1 in a linear network). So k = 0.68^(m - 1).
    """
    whole("layers_per_block", layers_per_block)
    inner = RELU_VARIANCE_SHARE ** (layers_per_block - 1) if activation == "relu" else 1.0
    return 1 / (1 + inner * batchnorm_moving_variance(blocks, activation))
