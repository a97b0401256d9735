"""What theory says about a residual network at initialization, before anything is run.

Block l turns x^l into x^{l+1} = scale (x^l + alpha f_l(x^l)), l = 1 ... d, d the number of blocks, Var(x^1) = 1. A
layer of the branch f_l is: batch normalization (BN) if the network has it, the activation, a weight matrix with He
initialization. Layers are wide. Second moments q are means of squares over inputs and channels, squared means s are of
a channel over the inputs, variances q - s. s / q is also the correlation between two inputs, at first 0 for centred
ones. [paper]: stated in De and Smith, arXiv 2002.10444; [derived]: worked out for this book, checked in its tests.
"""
# ruff: noqa: I001, names are listed side by side

from shallowpaths.theory.blocks import NORMALIZATIONS, Signal, signal
from shallowpaths.theory.limits import (
    effective_learning_rate, finite_width, largest_rate_of_scalars, largest_stable_rate, odd_covariance,
    optimal_learning_rate, overflow_depth, padding_gain, parallel_seconds, tangent_kernel,
)  # fmt: skip
from shallowpaths.theory.moments import (
    ACTIVATIONS, RELU_MEAN_SHARE, batchnorm_branch_share, batchnorm_moving_variance, batchnorm_path_probability,
    batchnorm_skip_second_moment, batchnorm_squared_mean, block_index, fixup_layer_scale, harmonic_mean_path_length,
    logarithmic_mean_path_length, mean_path_length, path_length_distribution, path_length_variance, relu_correlation,
    relu_gate_correlation, scaled_skip_second_moment,
)  # fmt: skip

__all__ = [
    "ACTIVATIONS", "NORMALIZATIONS", "RELU_MEAN_SHARE", "Signal", "batchnorm_branch_share", "batchnorm_moving_variance",
    "batchnorm_path_probability", "batchnorm_skip_second_moment", "batchnorm_squared_mean", "block_index",
    "effective_learning_rate", "finite_width", "fixup_layer_scale", "harmonic_mean_path_length",
    "largest_rate_of_scalars", "largest_stable_rate", "logarithmic_mean_path_length", "mean_path_length",
    "odd_covariance", "optimal_learning_rate", "overflow_depth", "padding_gain", "parallel_seconds",
    "path_length_distribution", "path_length_variance", "relu_correlation", "relu_gate_correlation",
    "scaled_skip_second_moment", "signal", "tangent_kernel",
]  # fmt: skip
