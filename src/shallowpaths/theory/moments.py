"""The closed forms of the paper, what one ReLU layer does to two inputs, and the lengths of the 2^d paths."""

import math

import numpy as np
from numpy.typing import ArrayLike

from shallowpaths.theory.checks import Array, number, numbers, one_of, whole

ACTIVATIONS = ("linear", "relu")
RELU_MEAN_SHARE = 1 / math.pi  # squared mean over second moment after a ReLU of a centred Gaussian [derived]
RELU_VARIANCE_SHARE = 1 - RELU_MEAN_SHARE


def block_index(blocks: int) -> Array:
    """l = 1 ... d as floats, shape [d]."""
    whole("blocks", blocks)
    return np.arange(1, blocks + 1, dtype=float)


def scaled_skip_second_moment(blocks: int, alpha: float = 1.0) -> Array:
    """Skip path's second moment (1 + alpha^2)^(l - 1) at block l without BN, [d]. [paper]; alpha not 1 [derived]"""
    with np.errstate(over="ignore"):
        return (1 + np.square(np.float64(number("alpha", alpha)))) ** (block_index(blocks) - 1)


def batchnorm_skip_second_moment(blocks: int) -> Array:
    """Second moment l of the skip path at block l with BN on the branch, shape [d]. [paper]"""
    return block_index(blocks)


def batchnorm_branch_share(blocks: int) -> Array:
    """The branch's part 1 / (l + 1) of the second moment after block l, BN on the branch, shape [d]. [paper]"""
    return 1 / (block_index(blocks) + 1)


def batchnorm_moving_variance(blocks: int, activation: str = "linear") -> Array:
    """Moving variance of branch l's first BN, shape [d]: l, or 1 + (1 - 1/pi)(l - 1) with ReLU. [derived]"""
    one_of("activation", activation, ACTIVATIONS)
    return 1 + (RELU_VARIANCE_SHARE if activation == "relu" else 1.0) * (block_index(blocks) - 1)


def batchnorm_squared_mean(blocks: int, activation: str = "linear") -> Array:
    """Squared channel mean at the first BN of branch l, shape [d]: 0, or (l - 1) / pi with ReLU. [derived]"""
    one_of("activation", activation, ACTIVATIONS)
    return (RELU_MEAN_SHARE if activation == "relu" else 0.0) * (block_index(blocks) - 1)


def fixup_layer_scale(blocks: int, layers_per_block: int = 2) -> float:
    """Fixup's factor d^(-1 / (2 m - 2)) on the He weights of the first m - 1 of a branch's m layers. [paper]

    Alone it divides the branch's second moment by d, as alpha = 1 / sqrt(d) does. [derived]
    """
    whole("blocks", blocks)
    whole("layers_per_block", layers_per_block, at_least=2)
    return float(blocks) ** (-1 / (2 * layers_per_block - 2))


def relu_correlation(correlation: ArrayLike) -> Array:
    """Two inputs' after ReLU and a He layer: (sqrt(1 - c^2) + c (pi - arccos c)) / pi. [derived], Cho and Saul 2009"""
    c = numbers("correlation", correlation, at_least=-1, at_most=1)
    return np.minimum((np.sqrt(1 - c**2) + c * (math.pi - np.arccos(c))) / math.pi, 1.0)


def relu_gate_correlation(correlation: ArrayLike) -> Array:
    """Factor 1 - arccos(c) / pi on the correlation of two inputs' gradients at a ReLU layer. [derived]"""
    return 1 - np.arccos(numbers("correlation", correlation, at_least=-1, at_most=1)) / math.pi


def _probabilities(path_probability: ArrayLike) -> Array:
    probabilities = numbers("path_probability", path_probability, at_least=0, at_most=1)
    if probabilities.ndim != 1 or probabilities.size == 0:
        raise ValueError(f"path_probability has shape {probabilities.shape}; it must be [d], d at least 1")
    return probabilities


def path_length_distribution(path_probability: ArrayLike) -> Array:
    """Share of the variance that paths of length 0 ... d carry, shape [d + 1]; exact, sums to 1. [derived]

    path_probability: p_l of block l, shape [d]: the branch share, or ``Signal.path_probability`` for the Jacobian. A
    path's share is the product of p_l over the branches it takes and of 1 - p_l over the others: Poisson-binomial.
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

    Each further one of the branch's m BN divides by the variance 1 - 1/pi that a ReLU leaves: k = (1 - 1/pi)^(m - 1).
    """
    whole("layers_per_block", layers_per_block)
    inner = RELU_VARIANCE_SHARE ** (layers_per_block - 1) if activation == "relu" else 1.0
    return 1 / (1 + inner * batchnorm_moving_variance(blocks, activation))
