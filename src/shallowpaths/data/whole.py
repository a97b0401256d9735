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
    """A data set on one device: images uint8 [N, C, H, W], labels int64 [N].

    What training needs is `draw`, `feed` and `maker` for an epoch's steps, in this order, and `plain` to evaluate.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    validation_images: Tensor  # empty unless `hold_out` made them
    validation_labels: Tensor
    mean: Tensor  # float32 [C, 1, 1], of the whole training set, in the pixels' own units
    std: Tensor
    classes: int
    padding: int  # pixels that a random crop may shift an image by, in each direction
    flips: bool  # whether a mirrored image is as good as the image (of a digit it is not)
    checksum: str  # SHA-256 of all images and labels
    evaluation_batch: ClassVar[int] = 1000  # images to be evaluated together
    counts_top5: ClassVar[bool] = False  # whether records have the share of labels among the five likeliest

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.mean.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.train_images.shape[1:])

    def standardize(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] -> float32, each channel with mean 0 and standard deviation 1 over the training set."""
        pixels = images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return pixels.sub_(self.mean).div_(self.std)

    def draw(self, order: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """For images in `order`, int64 [S, B]: index, uniform crop offset [S, B, 2], flip [S, B], on the device."""
        offsets = torch.randint(0, 2 * self.padding + 1, (*order.shape, 2), generator=generator)
        flips = torch.rand(order.shape, generator=generator) < (0.5 if self.flips else 0.0)
        return tuple(part.to(self.device) for part in (order, offsets, flips))

    def feed(self, *drawn: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """What `draw` gave, or a part of its steps or columns, step by step, as `maker`'s functions take it."""
        return zip(*drawn, strict=True)

    def maker(self, augment: bool) -> Callable[..., Batch]:
        """A function that makes a Batch of training images from a step's index [B], offsets [B, 2] and flips [B]."""
        if augment:
            crop = cropper(self.train_images, self.padding, self.mean, self.std)
            return lambda index, offsets, flips: (crop(index, offsets, flips), self.train_labels[index])
        return lambda index, *_: (self.standardize(self.train_images[index]), self.train_labels[index])

    def plain(self, part: str, size: int, first: int = 0, every: int = 1) -> Iterator[Batch]:
        """Of "train", "validation" or "test", in batches of `size`, the batches number first, first + every, ..."""
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
        if fraction == 0:
            return self
        images = len(self.train_images)
        count = round(fraction * images)
        if not 0 < count < images:
            raise ValueError(f"validation {fraction}: of {images} training images that leaves {count} to validate on")
        order = torch.randperm(images, generator=torch.Generator().manual_seed(SPLIT_SEED))
        held, kept = ((self.train_images[part], self.train_labels[part]) for part in (order[:count], order[count:]))
        names = "train_images", "train_labels", "validation_images", "validation_labels"
        return dataclasses.replace(self, **dict(zip(names, kept + held, strict=True)))


def cropper(images: Tensor, padding: int, mean: Tensor, std: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Pad images once, each pixel one number: a batch's crops and flips are then a single gather.

    images: uint8 [N, C, H, W] with C of at most 4; padding: p, zeros on each side; mean, std: float32 [C, 1, 1].

    Returns a function of index, int64 [B], offsets, int64 [B, 2], the crop's top and left corner in the padded image,
    each 0 to 2p, and flips, bool [B]: the images at `index`, cropped, mirrored if their flip says so, then as by
    `Dataset.standardize`, float32 [B, C, H, W] in torch.channels_last.
    """
    channels, height, width = images.shape[1:]
    if channels > 4:
        raise ValueError(f"images with {channels} channels: at most 4 fit into one number a pixel")
    room = 1 if channels == 1 else 4  # bytes a pixel
    padded = F.pad(images.permute(0, 2, 3, 1), (0, room - channels, *[padding] * 4)).contiguous()
    padded_height, padded_width = padded.shape[1:3]
    numbers = padded.view(-1) if room == 1 else padded.view(torch.int32).view(-1)
    mean, std = (s.flatten().repeat(width) for s in (mean, std))  # of a row, as it lies in memory
    places = torch.arange(width * room, device=images.device)
    used = places[places % room < channels]
    integer = torch.int32 if numbers.numel() < 2**31 else torch.int64  # half the work, where it suffices

    def cropped(index: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
        index, offsets = index.to(integer), offsets.to(integer)
        down, right = (torch.arange(n, device=index.device, dtype=integer)[None] for n in (height, width))
        rows = (index * padded_height + offsets[:, 0])[:, None] + down
        columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - right, right)
        places = (rows * padded_width)[:, :, None] + columns[:, None, :]  # [B, H, W]
        pixels = numbers.index_select(0, places.view(-1)).view(torch.uint8).float().view(len(index) * height, -1)
        if len(used) < pixels.shape[1]:
            pixels = pixels.index_select(1, used)  # on a CPU, twice as fast as a slice
        pixels = pixels.sub_(mean).div_(std)
        if channels == 1:  # both layouts in one, and torch then takes the strides of the other
            return pixels.view(len(index), 1, height, width)
        return pixels.view(len(index), height, width, channels).permute(0, 3, 1, 2)

    return cropped


def mean_and_std(images: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel, [C, 1, 1], exactly: from how often each of the 256 values occurs."""
    counts = np.stack([np.bincount(images[:, c].numpy().ravel(), minlength=256) for c in range(images.shape[1])])
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ np.arange(256)
    variance = share @ np.arange(256.0) ** 2 - mean**2
    return tuple(torch.from_numpy(a).float()[:, None, None] for a in (mean, np.sqrt(variance)))
