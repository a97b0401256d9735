"""Data sets: digits (the offline default), CIFAR-10, and any folder of images; to training each is a `Dataset`."""

from shallowpaths.data.imagefolder import load_folder
from shallowpaths.data.sources import FOLDER_VARIABLE, IMAGE_SHAPES, load, noise
from shallowpaths.data.whole import Batch, Dataset

__all__ = ["FOLDER_VARIABLE", "IMAGE_SHAPES", "Batch", "Dataset", "load", "load_folder", "noise"]
