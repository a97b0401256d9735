"""What a live network does: its signal, its gradients and its paths, block by block.

Every measurement leaves the network as it found it: weights, buffers, gradients, training mode, hooks and random
state. `predicted_signal` gives the theory to draw beside each.
"""

from shallowpaths.measure.correlations import InputCorrelation, input_correlation
from shallowpaths.measure.gradients import (
    GradientCorrelation,
    GradientStatistics,
    gradient_correlation,
    gradient_statistics,
)
from shallowpaths.measure.guard import left_as_found, residual_additions, residual_blocks
from shallowpaths.measure.moving import MovingStatistics, moving_statistics
from shallowpaths.measure.prediction import predicted_signal
from shallowpaths.measure.signals import SignalStatistics, signal_statistics
from shallowpaths.measure.spectrum import PathSpectrum, path_spectrum

__all__ = [
    "GradientCorrelation", "GradientStatistics", "InputCorrelation", "MovingStatistics", "PathSpectrum", "SignalStatistics",
    "gradient_correlation", "gradient_statistics", "input_correlation", "left_as_found", "moving_statistics",
    "path_spectrum", "predicted_signal", "residual_additions", "residual_blocks", "signal_statistics",
]  # fmt: skip
