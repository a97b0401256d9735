"""Data sets: digits (the offline default), CIFAR-10, and any folder of images.

`whole` has what lies whole on the device, and the augmentation that happens there; `sources` says where it comes from;
`imagefolder` streams from a disk what is too large for that. Training sees no difference: see `Dataset`.
"""

from shallowpaths.data.imagefolder import FolderDataset, load_folder
from shallowpaths.data.sources import FOLDER_VARIABLE, IMAGE_SHAPES, load, noise
from shallowpaths.data.whole import Batch, Dataset, PaddedPixels, draw_augmentation

__all__ = [
    "FOLDER_VARIABLE", "IMAGE_SHAPES", "Batch", "Dataset", "FolderDataset", "PaddedPixels", "draw_augmentation", "load",
    "load_folder", "noise",
]  # fmt: skip
