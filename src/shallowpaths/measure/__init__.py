"""What a live network does: its signal, its gradients and its paths, block by block; and the loss of any module: its curvature
and the noise of its gradients.

Every measurement leaves the network as it found it: weights, buffers, gradients, training mode, hooks and random
state. `predicted_signal` gives the theory to draw beside each.
"""

from shallowpaths.measure.correlations import InputCorrelation, input_correlation
from shallowpaths.measure.curvature import HessianEigenvalues, hessian_eigenvalues
from shallowpaths.measure.gradients import (
    GradientCorrelation,
    GradientStatistics,
    gradient_correlation,
    gradient_statistics,
)
from shallowpaths.measure.guard import left_as_found, residual_additions, residual_blocks
from shallowpaths.measure.inspection import InspectedBlock, Inspection, inspect
from shallowpaths.measure.moving import MovingStatistics, moving_statistics
from shallowpaths.measure.noise import GradientNoise, gradient_noise
from shallowpaths.measure.objective import NotFinite
from shallowpaths.measure.prediction import predicted_signal
from shallowpaths.measure.signals import SignalStatistics, signal_statistics
from shallowpaths.measure.spectrum import PathSpectrum, path_spectrum

__all__ = [
    "GradientCorrelation", "GradientNoise", "GradientStatistics", "HessianEigenvalues", "InputCorrelation", "InspectedBlock",
    "Inspection", "MovingStatistics", "NotFinite", "PathSpectrum", "SignalStatistics", "gradient_correlation", "gradient_noise",
    "gradient_statistics", "hessian_eigenvalues", "input_correlation", "inspect", "left_as_found", "moving_statistics",
    "path_spectrum", "predicted_signal", "residual_additions", "residual_blocks", "signal_statistics",
]  # fmt: skip
