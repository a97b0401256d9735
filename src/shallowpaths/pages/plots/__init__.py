"""Every figure of the book, each with its prediction; a reader's own measurements go in the same way."""

from shallowpaths.pages.plots.batch_sizes import accuracy_by_batch_size, rate_by_batch_size  # noqa: I001 - one wraps
from shallowpaths.pages.plots.drawing import BookFigure, style_of
from shallowpaths.pages.plots.runs import accuracy_by_depth, accuracy_by_rate, loss_by_rate
from shallowpaths.pages.plots.runs import trainability_map, training_curves
from shallowpaths.pages.plots.values import inspection, path_lengths, signal_by_block
from shallowpaths.pages.plots.values import signal_panels, values_against, values_by_block

__all__ = [
    "BookFigure", "accuracy_by_batch_size", "accuracy_by_depth", "accuracy_by_rate", "inspection", "loss_by_rate", "path_lengths",
    "rate_by_batch_size", "signal_by_block", "signal_panels", "style_of", "trainability_map", "training_curves",
    "values_against", "values_by_block",
]  # fmt: skip
