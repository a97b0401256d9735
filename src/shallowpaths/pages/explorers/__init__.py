"""Figures with controls: a function makes a Picture of their values; a page has every state's numbers, no kernel."""

from shallowpaths.pages.explorers.explorer import Control, Explorer
from shallowpaths.pages.explorers.pictures import Picture, Series
from shallowpaths.pages.explorers.runs import batch_size_explorer, trainability_explorer
from shallowpaths.pages.explorers.signals import path_explorer, signal_explorer

__all__ = [
    "Control", "Explorer", "Picture", "Series", "batch_size_explorer", "path_explorer", "signal_explorer",
    "trainability_explorer",
]  # fmt: skip
