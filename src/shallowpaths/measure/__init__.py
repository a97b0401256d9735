"""What a live network does: the variances on its skip path and on its residual branches.

Every measurement leaves the network as it found it: weights, buffers, training mode, hooks and random state.
"""

from shallowpaths.measure.guard import left_as_found, residual_additions
from shallowpaths.measure.prediction import predicted_signal
from shallowpaths.measure.signals import SignalStatistics, signal_statistics

__all__ = ["SignalStatistics", "left_as_found", "predicted_signal", "residual_additions", "signal_statistics"]
