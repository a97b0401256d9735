"""Images that stream from a disk, in torchvision's ImageFolder layout: FOLDER/train/CLASS/IMAGE, and the same in val.

Worker processes decode, crop and flip. What an image becomes follows from its seed: their number changes nothing.
"""

import dataclasses
import functools
import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from shallowpaths._torchvision import import_torchvision
from shallowpaths.data.sources import FOLDER_VARIABLE
from shallowpaths.data.whole import SPLIT_SEED, Batch, Dataset, mean_and_std

log = logging.getLogger(__name__)
COLOURS = ("RGB", "L", "1", "P", "CMYK", "YCbCr")  # kinds of image that become RGB and lose nothing that they say
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what PIL raises
SAMPLE = 1000  # images from which mean and standard deviation are taken
RESIZE = 256 / 224  # of the shorter side, over the square that evaluation cuts from the middle


@dataclass(frozen=True, eq=False)
class FolderDataset(Dataset):
    """A Dataset whose images stay on the disk: `train_images` and the like are their paths below `folder`, bytes [N].

    In training an image goes through torchvision's RandomResizedCrop and RandomHorizontalFlip; in evaluation it is
    resized to 256/224 of the size, and the middle cut out. What cannot be read is a ValueError; with `skip` it is left
    out, and in training the folder's next good image stands in for it.
    """

    folder: Path
    size: int  # H = W of the images that a network sees
    skip: bool
    augment: bool
    workers: int  # processes that decode; 0 decodes in this one
    evaluation_batch: ClassVar[int] = 200

    @property
    def counts_top5(self) -> bool:
        """Whether there are more than five classes."""
        return self.classes > 5

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return 3, self.size, self.size

    def draw(self, order: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """For images in `order`, int64 [S, B]: their index, and a seed for what happens to each, [S, B]."""
        return order, torch.randint(2**32, order.shape, generator=generator)

    def feed(self, *drawn: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """uint8 images [B, C, H, W] and labels [B] of each step, on the device, a few steps ahead of their use."""
        keys = (list(zip(*(part.tolist() for part in step), strict=True)) for step in zip(*drawn, strict=True))
        return self._batches("train", keys)

    def maker(self, augment: bool) -> Callable[..., Batch]:  # noqa: ARG002, workers have augmented
        """See Dataset."""
        return lambda images, labels: (self.standardize(images), labels)

    def plain(self, part: str, size: int, first: int = 0, every: int = 1) -> Iterator[Batch]:
        """See Dataset. A batch is smaller where images were skipped, and none where all of it was."""
        count = len(getattr(self, f"{part}_images"))
        starts = range(first * size, count, every * size)
        keys = ([(index, None) for index in range(start, min(start + size, count))] for start in starts)
        return ((self.standardize(images), labels) for images, labels in self._batches(part, keys))

    def _batches(self, part: str, keys: Iterable[list[tuple[int, int | None]]]) -> Iterator[tuple[Tensor, Tensor]]:
        """A batch for each list of (index, seed)."""
        more = {"sampler": keys, "num_workers": self.workers, "pin_memory": self.device.type == "cuda"}
        own = torch.Generator()  # else the loader would draw from torch's, and what dropout draws would depend on it
        for pixels, labels, bad in DataLoader(_Images(self, part), batch_size=None, generator=own, **more):
            for message in bad:
                _refuse_or_skip(message, self.skip)
            if len(labels):
                yield tuple(tensor.to(self.device, non_blocking=True) for tensor in (pixels, labels))


class _Images(torch.utils.data.Dataset):
    """What a worker does: decode the images that keys (index, seed) name, and transform them."""

    def __init__(self, data: FolderDataset, part: str):
        self.folder, self.names = data.folder, getattr(data, f"{part}_images")
        self.labels = getattr(data, f"{part}_labels").cpu()
        v2 = import_torchvision("transforms.v2")  # seconds, so only where it is used
        plain = v2.Resize(round(data.size * RESIZE)), v2.CenterCrop(data.size)
        random = (v2.RandomResizedCrop(data.size), v2.RandomHorizontalFlip()) if data.augment else plain
        self.plain, self.random = (v2.Compose([*steps, v2.PILToTensor()]) for steps in (plain, random))

    def __getitem__(self, keys: list[tuple[int, int | None]]) -> tuple[Tensor, Tensor, list[str]]:
        """uint8 [B, C, H, W], labels [B], and what is wrong with files; in training the next good one is taken."""
        images, labels, bad = [], [], []
        for index, seed in keys:
            for place in [index] if seed is None else itertools.chain(range(index, len(self.names)), range(index)):
                try:
                    image = _read(self.folder / os.fsdecode(self.names[place]))
                except ValueError as error:
                    bad.append(str(error))
                    continue
                with torch.random.fork_rng([]):
                    torch.default_generator.manual_seed(seed or 0)
                    images.append((self.plain if seed is None else self.random)(image))
                labels.append(int(self.labels[place]))
                break
        return torch.stack(images) if images else torch.empty(0), torch.tensor(labels), bad


def _read(path: Path) -> Image.Image:
    """The image in RGB. ValueError: the file is damaged, may not be read, or holds something else than colours."""
    try:
        with Image.open(path) as image:
            if image.mode in COLOURS:
                return image.convert("RGB")
            reason = f"it has the channels {image.mode}, and only colours and greys of 8 bits are read"
    except UNREADABLE as error:
        reason = getattr(error, "strerror", None) or error
    raise ValueError(f"the image {path} cannot be read: {reason}")


@functools.cache
def _refuse_or_skip(message: str, skip: bool) -> None:
    """A ValueError, or a warning once a process."""
    if not skip:
        raise ValueError(f'{message}. Repair or remove it, or skip what is bad: bad_images = "skip"')
    log.warning("skipped: %s", message)


def load_folder(
    folder: str | os.PathLike | None, device: torch.device | str = "cpu", size: int = 224, skip: bool = False,
    augment: bool = True, workers: int = 0,
) -> FolderDataset:  # fmt: skip
    """The images below `folder`, in the subfolders train and val, which hold a folder for each class.

    Mean and standard deviation are those of up to SAMPLE training images, always the same ones. The checksum is SHA-256
    of all files' names and sizes. `folder` is by default the environment variable SHALLOWPATHS_DATA.
    ValueError: no such folder; classes that differ between train and val; unless `skip`, what cannot be read.
    """
    where = folder or os.environ.get(FOLDER_VARIABLE)
    if not where:
        raise ValueError(f'data "imagefolder" needs a folder with train and val: --data-folder, or {FOLDER_VARIABLE}')
    root = Path(where).expanduser().resolve()
    (classes, *train), (others, *test) = (_listed(root, part, skip) for part in ("train", "val"))
    if classes != others:
        differ = ", ".join(sorted(set(classes) ^ set(others))[:5])
        raise ValueError(f"the classes in {root / 'train'} and {root / 'val'} differ: {differ}")
    digest = hashlib.sha256()
    for name in itertools.chain(train[0].tolist(), test[0].tolist()):
        path = root / os.fsdecode(name)
        digest.update(name + f" {path.stat().st_size if os.access(path, os.F_OK) else -1}\n".encode())
    nothing, as_it_is = (train[0][:0], train[1][:0]), (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    known = len(classes), 0, True, digest.hexdigest(), root, size, skip, augment, workers
    data = FolderDataset("imagefolder", *train, *test, *nothing, *as_it_is, *known)
    chosen = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(SPLIT_SEED))[:SAMPLE]
    sample = dataclasses.replace(data, train_images=train[0][chosen], train_labels=train[1][chosen])
    pixels = [images.byte() for images, _ in sample.plain("train", sample.evaluation_batch)]
    if not pixels:
        raise ValueError(f"none of {len(chosen)} images for training in {root} can be read")
    mean, std = mean_and_std(torch.cat(pixels))
    return dataclasses.replace(data, mean=mean, std=std).to(device)


def _listed(root: Path, part: str, skip: bool) -> tuple[list[str], np.ndarray, Tensor]:
    """Of root/train or root/val: the classes, the images' paths below root, as bytes, and their labels."""
    folder = root / part
    try:
        found = import_torchvision("datasets").ImageFolder(folder, allow_empty=True)
    except OSError as error:
        raise ValueError(f"{folder} is no folder of folders of images: {error.strerror or error}") from error
    names = [os.fsencode(Path(path).relative_to(root)) for path, _ in found.samples]
    for name in sorted({*found.classes} - {found.classes[label] for label in found.targets}):
        _refuse_or_skip(f"the class {folder / name} has no image, or may not be read", skip)
    if not names:
        raise ValueError(f"{folder} has no image")
    return found.classes, np.array(names), torch.tensor(found.targets, dtype=torch.int64)
