"""Whole data sets as uint8 tensors on the device, and the augmentation that happens there.

"digits" ships with scikit-learn and needs no download. "cifar10" is read from torchvision's files, which are
downloaded once if they are not there. "cifar10-16x16" is CIFAR-10 at half its size, for processors: a fourth of the work.
"""

import dataclasses
import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shallowpaths._torchvision import import_torchvision
from shallowpaths.theory.checks import number, one_of

FOLDER_VARIABLE = "SHALLOWPATHS_DATA"
IMAGE_SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar10-16x16": (3, 16, 16)}
DIGITS_TEST = 360  # of 1797 images
SPLIT_SEED = 2002_10444  # which digits are for testing, which images for validation: the same in every run


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set on one device.

    Attributes:
        name: "digits", "cifar10" or "cifar10-16x16".
        train_images, test_images: uint8 [N, C, H, W].
        train_labels, test_labels: int64 [N].
        validation_images, validation_labels: the same; empty unless `hold_out` made them.
        mean, std: float32 [C, 1, 1], of the whole training set, in the pixels' own units.
        classes: number of labels.
        padding: pixels that a random crop may shift an image by, in each direction.
        flips: whether a mirrored image is as good as the image (of a digit it is not).
        checksum: SHA-256 of all images and labels.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    mean: Tensor
    std: Tensor
    classes: int
    padding: int
    flips: bool
    checksum: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.train_images.shape[1:])

    def standardize(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] -> float32, each channel with mean 0 and standard deviation 1 over the training set."""
        pixels = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return pixels.sub_(self.mean).div_(self.std)

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on another device."""
        return dataclasses.replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})

    def hold_out(self, fraction: float) -> "Dataset":
        """Move a fraction of the training images, always the same ones, to the validation split."""
        number("validation", fraction, at_least=0, below=1)
        if len(self.validation_images):
            raise ValueError("this data set has a validation split already: hold out from the whole one")
        count = round(fraction * len(self.train_images))
        if fraction == 0:
            return self
        if not 0 < count < len(self.train_images):
            raise ValueError(
                f"validation {fraction}: of {len(self.train_images)} training images that leaves {count} to validate on"
            )
        order = torch.randperm(len(self.train_images), generator=torch.Generator().manual_seed(SPLIT_SEED))
        order = order.to(self.train_images.device)
        held, kept = order[:count], order[count:]
        return dataclasses.replace(
            self,
            train_images=self.train_images[kept],
            train_labels=self.train_labels[kept],
            validation_images=self.train_images[held],
            validation_labels=self.train_labels[held],
        )


def load(name: str, device: torch.device | str = "cpu", folder: str | os.PathLike | None = None) -> Dataset:
    """The data set called `name` ("digits", "cifar10" or "cifar10-16x16"), whole, on `device`.

    Args:
        folder: where CIFAR-10's files are or shall be; by default the environment variable SHALLOWPATHS_DATA, else
            ~/.cache/shallowpaths. The digits need no folder.

    Raises:
        ValueError: for an unknown name, or CIFAR-10 files that are damaged, or missing and not to be downloaded; it
            names the folder.
    """
    one_of("data", name, IMAGE_SHAPES)
    if name == "digits":
        return _digits().to(device)
    where = folder or os.environ.get(FOLDER_VARIABLE) or "~/.cache/shallowpaths"
    try:
        cifar = _cifar10(Path(where).expanduser().resolve())
        return (cifar if name == "cifar10" else _halved(cifar)).to(device)
    except RuntimeError as error:
        if "home directory" not in str(error):
            raise
        raise ValueError(f"the data folder {where} cannot be found: {error}") from error
    except OSError as error:
        raise ValueError(f"CIFAR-10 in {where} cannot be read: {error.strerror}: {error.filename}") from error


def noise(name: str, count: int) -> Dataset:
    """Random images for training, in the shape of the data set called `name`: to measure what a step on it costs."""
    shape = IMAGE_SHAPES[name]
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 10
    return _dataset(name, images, labels, images[:0], labels[:0], padding=shape[1] // 8, flips=name != "digits")


class PaddedPixels:
    """Images padded once, each pixel one number: a batch's crops and flips are then a single gather.

    Args:
        images: uint8 [N, C, H, W] with at most 4 channels. They stay on their device, in (H + 2p)(W + 2p) bytes an
            image for one channel, four times that for more.
        padding: p, zeros on each side.
        mean, std: of the channels, float32 [C, 1, 1].
    """

    def __init__(self, images: Tensor, padding: int, mean: Tensor, std: Tensor):
        self.channels, self.height, self.width = images.shape[1:]
        if self.channels > 4:
            raise ValueError(f"images with {self.channels} channels: at most 4 fit into one number a pixel")
        room = 1 if self.channels == 1 else 4  # bytes a pixel
        unused = (0, room - self.channels)
        padded = F.pad(images.permute(0, 2, 3, 1), (*unused, padding, padding, padding, padding))
        self.padded_height, self.padded_width = padded.shape[1:3]
        self.numbers = padded.contiguous().view(-1) if room == 1 else padded.contiguous().view(torch.int32).view(-1)
        self.mean, self.std = (s.flatten().repeat(self.width) for s in (mean, std))  # of a row, as it lies in memory
        places = torch.arange(self.width * room, device=images.device)
        self.channel_places = places[places % room < self.channels]
        self.integer = torch.int32 if self.numbers.numel() < 2**31 else torch.int64  # half the work, where it suffices

    def standardized(self, index: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
        """The images at `index`, int64 [B]: cropped, mirrored if their flip says so, then as by `Dataset.standardize`.

        offsets: int64 [B, 2], the crop's top and left corner in the padded image, each 0 to 2p; (p, p) shifts nothing.
        flips: bool [B]. Returns float32 [B, C, H, W] in torch.channels_last. It works on whole rows of pixels, which lie
        in memory one channel after the other.
        """
        rows = self._gathered(index, offsets, flips).to(torch.float32).view(len(index) * self.height, -1)
        if len(self.channel_places) < rows.shape[1]:
            rows = rows.index_select(1, self.channel_places)  # on a CPU, twice as fast as a slice
        rows = rows.sub_(self.mean).div_(self.std)
        if self.channels == 1:  # both layouts in one, and torch then takes the strides of the other
            return rows.view(len(index), 1, self.height, self.width)
        return rows.view(len(index), self.height, self.width, self.channels).permute(0, 3, 1, 2)

    def _gathered(self, index: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
        """The bytes of the batch's pixels, one after the other."""
        index, offsets = index.to(self.integer), offsets.to(self.integer)
        rows, columns = (
            torch.arange(size, device=index.device, dtype=self.integer).expand(len(index), -1)
            for size in (self.height, self.width)
        )
        rows = (index * self.padded_height + offsets[:, 0])[:, None] + rows
        columns = offsets[:, 1:] + torch.where(flips[:, None], self.width - 1 - columns, columns)
        places = (rows * self.padded_width)[:, :, None] + columns[:, None, :]  # [B, H, W]
        return self.numbers.index_select(0, places.view(-1)).view(torch.uint8)


def draw_augmentation(count: int, padding: int, flips: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Offsets [count, 2] uniform on 0 .. 2 padding, and flips [count] with probability 1/2 (none if not `flips`)."""
    offsets = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
    mirrored = torch.rand(count, generator=generator) < (0.5 if flips else 0.0)
    return offsets, mirrored


@functools.cache
def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # 1 second to import, so only where it is used

    digits = load_digits()
    images = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test, train = order[:DIGITS_TEST], order[DIGITS_TEST:]
    return _dataset("digits", images[train], labels[train], images[test], labels[test], padding=1, flips=False)


@functools.cache
def _cifar10(folder: Path) -> Dataset:
    datasets = import_torchvision("datasets")
    _check_files(folder, datasets)
    parts = []
    for train in (True, False):
        try:
            part = datasets.CIFAR10(folder, train=train, download=not _files_are_there(folder, datasets))
        except (OSError, RuntimeError) as error:  # torchvision raises either when a download fails
            raise ValueError(
                f"CIFAR-10 is not in {folder} and could not be downloaded ({error}). Put torchvision's folder "
                f"cifar-10-batches-py there, or name the folder that has it with --data-folder or {FOLDER_VARIABLE}"
            ) from error
        parts += [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets)]
    return _dataset("cifar10", *parts, padding=4, flips=True)


@functools.lru_cache(maxsize=1)
def _halved(data: Dataset) -> Dataset:
    """Each block of 2 x 2 pixels averaged, to the nearest whole number, halves up."""
    train, test = (
        F.avg_pool2d(images.float(), 2).add_(0.5).floor_().byte() for images in (data.train_images, data.test_images)
    )
    parts = train, data.train_labels, test, data.test_labels
    return _dataset(f"{data.name}-16x16", *parts, padding=data.padding // 2, flips=data.flips)


def _check_files(folder: Path, datasets) -> None:
    for file_name, checksum in _files(datasets.CIFAR10):
        path = folder / datasets.CIFAR10.base_folder / file_name
        if path.exists() and not datasets.utils.check_integrity(path, checksum):
            raise ValueError(
                f"CIFAR-10 file {path} is damaged: its MD5 is not {checksum}. Delete it, and it will be downloaded again"
            )


def _files_are_there(folder: Path, datasets) -> bool:
    return all((folder / datasets.CIFAR10.base_folder / name).exists() for name, _ in _files(datasets.CIFAR10))


def _files(cifar) -> list[tuple[str, str]]:
    """The data set's files and their MD5."""
    return [*cifar.train_list, *cifar.test_list, (cifar.meta["filename"], cifar.meta["md5"])]


def _mean_and_std(images: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel, [C, 1, 1], exactly: from how often each of the 256 values occurs."""
    counts = np.stack([np.bincount(images[:, c].numpy().ravel(), minlength=256) for c in range(images.shape[1])])
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ np.arange(256)
    variance = share @ np.arange(256.0) ** 2 - mean**2
    return tuple(torch.from_numpy(a).float()[:, None, None] for a in (mean, np.sqrt(variance)))


def _dataset(name: str, *parts: Tensor, padding: int, flips: bool) -> Dataset:
    """A data set from its training images and labels and those for testing, without a validation split as yet."""
    digest = hashlib.sha256()
    for tensor in parts:
        digest.update(tensor.numpy().tobytes())
    images, labels, *_ = parts
    mean, std = _mean_and_std(images)
    classes = int(labels.max()) + 1
    return Dataset(name, *parts, images[:0], labels[:0], mean, std, classes, padding, flips, digest.hexdigest())
