"""What a live network does: its signal, gradients and paths, block by block; any module's loss: curvature and noise.

Every measurement leaves the network as it found it: weights, buffers, gradients, mode, hooks and random state.
"""

from shallowpaths.measure.curvature import GradientNoise, NotFinite, gradient_noise, hessian_eigenvalues
from shallowpaths.measure.gradients import gradient_correlation, gradient_statistics, path_spectrum
from shallowpaths.measure.inspection import Inspection, inspect
from shallowpaths.measure.prediction import predicted_signal
from shallowpaths.measure.signals import SignalStatistics, input_correlation, moving_statistics, signal_statistics

__all__ = [
    "GradientNoise", "Inspection", "NotFinite", "SignalStatistics", "gradient_correlation", "gradient_noise",
    "gradient_statistics", "hessian_eigenvalues", "input_correlation", "inspect", "moving_statistics", "path_spectrum",
    "predicted_signal", "signal_statistics",
]  # fmt: skip
