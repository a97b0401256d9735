"""Whole data sets as uint8 tensors on the device, and the augmentation that happens there."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shallowpaths.theory.checks import number

SPLIT_SEED = 2002_10444  # which digits are for testing, which images for validation: the same in every run
Batch = tuple[Tensor, Tensor]  # standardized images, float32 [B, C, H, W], and labels, int64 [B]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set on one device.

    What training needs of it is `draw`, `feed` and `maker` for an epoch's steps, in this order, and `plain` to evaluate.

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
        evaluation_batch: images to be evaluated together.
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
    evaluation_batch: ClassVar[int] = 1000

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.mean.device

    @property
    def counts_top5(self) -> bool:
        """Whether records hold the share of images whose label is among the five likeliest."""
        return False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.train_images.shape[1:])

    def standardize(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] -> float32, each channel with mean 0 and standard deviation 1 over the training set."""
        pixels = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return pixels.sub_(self.mean).div_(self.std)

    def draw(self, order: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """For images in `order`, int64 [S, B]: their index, crop offset [S, B, 2] and flip [S, B], on the device."""
        offsets, flips = draw_augmentation(order.numel(), self.padding, self.flips, generator)
        parts = order, offsets.view(*order.shape, 2), flips.view(order.shape)
        return tuple(part.to(self.device) for part in parts)

    def feed(self, *drawn: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """What `draw` gave, or a part of its steps or columns, step by step, as `maker`'s functions take it."""
        return zip(*drawn, strict=True)

    def maker(self, augment: bool) -> Callable[..., Batch]:
        """A function that makes a Batch of training images from a step's index [B], offsets [B, 2] and flips [B]."""
        pixels = PaddedPixels(self.train_images, self.padding, self.mean, self.std) if augment else None

        def make(index: Tensor, offsets: Tensor, flips: Tensor) -> Batch:
            standardized = pixels.standardized(index, offsets, flips) if pixels else self.standardize(self.train_images[index])
            return standardized, self.train_labels[index]

        return make

    def plain(self, part: str, size: int, first: int = 0, every: int = 1) -> Iterator[Batch]:
        """The images of "train", "validation" or "test" in order, as they are, in batches of `size`; the last is smaller.

        first, every: of these batches only numbers first, first + every, ...
        """
        images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
        for start in range(first * size, len(images), every * size):
            yield self.standardize(images[start : start + size]), labels[start : start + size]

    def to(self, device: torch.device | str) -> Self:
        """The same data on another device."""
        return dataclasses.replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)})

    def hold_out(self, fraction: float) -> Self:
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
        held, kept = order[:count], order[count:]
        return dataclasses.replace(
            self,
            train_images=self.train_images[kept],
            train_labels=self.train_labels[kept],
            validation_images=self.train_images[held],
            validation_labels=self.train_labels[held],
        )




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


def mean_and_std(images: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel, [C, 1, 1], exactly: from how often each of the 256 values occurs."""
    counts = np.stack([np.bincount(images[:, c].numpy().ravel(), minlength=256) for c in range(images.shape[1])])
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ np.arange(256)
    variance = share @ np.arange(256.0) ** 2 - mean**2
    return tuple(torch.from_numpy(a).float()[:, None, None] for a in (mean, np.sqrt(variance)))
