"""Figures with controls, that redraw in the static book without a kernel; in Jupyter they are ipywidgets.

An Explorer is a few controls and one function that turns their values into a Picture. The book gets every state's
numbers beside the page and draws them with `book/_assets/explorer.js`; Jupyter calls the function.
"""

from shallowpaths.pages.explorers.explorer import Control, Explorer
from shallowpaths.pages.explorers.pictures import Picture, Series
from shallowpaths.pages.explorers.runs import batch_size_explorer, trainability_explorer
from shallowpaths.pages.explorers.signals import path_explorer, signal_explorer

__all__ = [
    "Control", "Explorer", "Picture", "Series", "batch_size_explorer", "path_explorer", "signal_explorer", "trainability_explorer",
]  # fmt: skip
