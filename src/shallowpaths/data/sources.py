"""Where whole data sets come from.

"digits" ships with scikit-learn; "cifar10" is torchvision's, downloaded once if it is not there; "cifar10-16x16" is
CIFAR-10 at half its size, for processors: a fourth of the work.
"""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shallowpaths._torchvision import import_torchvision
from shallowpaths.data.whole import SPLIT_SEED, Dataset, mean_and_std
from shallowpaths.theory.checks import one_of

FOLDER_VARIABLE = "SHALLOWPATHS_DATA"
IMAGE_SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar10-16x16": (3, 16, 16)}


def load(name: str, device: torch.device | str = "cpu", folder: str | os.PathLike | None = None) -> Dataset:
    """The data set called `name` ("digits", "cifar10" or "cifar10-16x16"), whole, on `device`.

    CIFAR-10's files are or shall be in `folder`, by default the environment variable SHALLOWPATHS_DATA, else
    ~/.cache/shallowpaths. ValueError: an unknown name, or files that are damaged, or missing and not to be downloaded.
    """
    one_of("data", name, IMAGE_SHAPES)
    if name == "digits":
        return _digits().to(device)
    where = folder or os.environ.get(FOLDER_VARIABLE) or "~/.cache/shallowpaths"
    try:
        cifar = _cifar10(Path(where).expanduser().resolve())
    except (OSError, RuntimeError) as error:  # pathlib raises the latter where there is no home folder
        raise ValueError(f"CIFAR-10 in {where} cannot be read: {error}") from error
    return (cifar if name == "cifar10" else _halved(cifar)).to(device)


def noise(name: str, count: int, shape: tuple[int, int, int] | None = None) -> Dataset:
    """Random images for training, of a shape or in that of the data set called `name`: to measure what steps cost."""
    shape = shape or IMAGE_SHAPES[name]
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 10
    return _dataset(name, images, labels, images[:0], labels[:0], padding=shape[1] // 8, flips=name != "digits")


@functools.cache
def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # 1 second to import, so only where it is used

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test, train = order[:360], order[360:]  # of 1797 images
    return _dataset("digits", images[train], labels[train], images[test], labels[test], padding=1, flips=False)


@functools.cache
def _cifar10(folder: Path) -> Dataset:
    datasets = import_torchvision("datasets")
    cifar, parts = datasets.CIFAR10, []
    files = [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]
    paths = {folder / cifar.base_folder / name: md5 for name, md5 in files}
    for path, md5 in paths.items():
        if path.exists() and not datasets.utils.check_integrity(path, md5):
            raise ValueError(f"CIFAR-10 file {path} is damaged: its MD5 is not {md5}. Delete it, to download it again")
    for train in (True, False):
        try:
            part = cifar(folder, train=train, download=not all(path.exists() for path in paths))
        except (OSError, RuntimeError) as error:  # torchvision raises either when a download fails
            missing = f"CIFAR-10 is not in {folder} and could not be downloaded ({error})"
            advice = f"or name the folder that has it with --data-folder or {FOLDER_VARIABLE}"
            raise ValueError(f"{missing}. Put torchvision's cifar-10-batches-py there, {advice}") from error
        parts += [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)]
    return _dataset("cifar10", *parts, padding=4, flips=True)


@functools.lru_cache(maxsize=1)
def _halved(data: Dataset) -> Dataset:
    """Each block of 2 x 2 pixels averaged, to the nearest whole number, halves up."""
    train, test = (F.avg_pool2d(x.float(), 2).add_(0.5).floor_().byte() for x in (data.train_images, data.test_images))
    parts = train, data.train_labels, test, data.test_labels
    return _dataset(f"{data.name}-16x16", *parts, padding=data.padding // 2, flips=data.flips)


def _dataset(name: str, *parts: Tensor, padding: int, flips: bool) -> Dataset:
    """A data set from its training images and labels and those for testing, without a validation split as yet."""
    checksum = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in parts)).hexdigest()
    images, labels, *_ = parts
    classes = int(labels.max()) + 1
    return Dataset(name, *parts, images[:0], labels[:0], *mean_and_std(images), classes, padding, flips, checksum)
