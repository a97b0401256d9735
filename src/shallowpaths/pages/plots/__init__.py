"""Every figure of the book, each with its prediction; a reader's own measurements go in the same way."""

from shallowpaths.pages.plots.batch_sizes import accuracy_by_batch_size, rate_by_batch_size
from shallowpaths.pages.plots.depth import accuracy_by_rate, trainability_map
from shallowpaths.pages.plots.drawing import style_of
from shallowpaths.pages.plots.figure import BookFigure
from shallowpaths.pages.plots.inspection import inspection
from shallowpaths.pages.plots.lines import values_against
from shallowpaths.pages.plots.paths import path_length_by_blocks, path_lengths, share_by_blocks
from shallowpaths.pages.plots.rates import loss_by_rate, loss_by_rate_per_example, rate_by_alpha_rate
from shallowpaths.pages.plots.scaling import steps_by_batch_size, time_by_devices
from shallowpaths.pages.plots.signals import overflow_by_format, signal_by_block, signal_panels, values_by_block
from shallowpaths.pages.plots.training import accuracy_by_depth, alphas_by_block, training_curves

__all__ = [
    "BookFigure", "accuracy_by_batch_size", "accuracy_by_depth", "accuracy_by_rate", "alphas_by_block", "inspection",
    "loss_by_rate", "loss_by_rate_per_example", "overflow_by_format", "path_length_by_blocks", "path_lengths", "rate_by_alpha_rate",
    "rate_by_batch_size", "share_by_blocks", "signal_by_block", "signal_panels", "steps_by_batch_size", "style_of",
    "time_by_devices", "trainability_map", "training_curves", "values_against", "values_by_block",
]  # fmt: skip
