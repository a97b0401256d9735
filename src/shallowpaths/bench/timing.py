"""What the rows measure with: random images, a run's steps one at a time, seconds, and the ratio of two that take turns.

Machines drift, so a ratio is the median over pairs that take turns: A B, A B, ...
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from shallowpaths import data as datasets
from shallowpaths._device import synchronize
from shallowpaths._torchvision import import_torchvision
from shallowpaths.data import Dataset
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import Run
from shallowpaths.training.steps import StepOptions

Measured = tuple[float, str]
PAIRS = 7
IN_A_ROW = 10  # steps that a GPU does in one turn
IMAGES = 10_000


def random_images(device: torch.device) -> Dataset:
    """A data set of CIFAR-10's shape."""
    return datasets.noise("cifar10", IMAGES).to(device)


def turn(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call of `work`. A GPU does several in a row, so that starting and waiting cost next to nothing."""
    if device.type == "cpu":
        return seconds(work, device)
    return seconds(lambda: [work() for _ in range(IN_A_ROW)], device) / IN_A_ROW


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work`, to the end of what it gave the device to do."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


class StepRun:
    """A run's steps, one at a time."""

    def __init__(self, config: RunConfig, data: Dataset, options: StepOptions | None = None):
        self.config, self.run = config, Run(config, data, options=options)
        self.step, (times,) = self.run.step, self.run.timetables
        self.run.network.train()
        self.batches = times.batches(0, data)
        self.number = 0

    def make_batches(self, count: int) -> None:
        """The images of the epoch's first `count` batches, one batch after the other."""
        for part in zip(*(part[:count] for part in self.batches), strict=True):
            self.step.batch(*part)

    def take(self) -> None:
        """The next step."""
        self.step.take(*(part[self.number % len(part)] for part in self.batches), self.config.learning_rate)
        self.number += 1


class Pictures(torch.utils.data.Dataset):
    """Images as torchvision hands them out: from PIL, each through its own transforms."""

    def __init__(self, data: Dataset, count: int):
        transforms = import_torchvision("transforms")
        self.pixels = np.ascontiguousarray(data.train_images[:count].permute(0, 2, 3, 1).numpy())
        self.labels = data.train_labels[:count].tolist()
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        mean, std = ((statistic.flatten() / 255).tolist() for statistic in (data.mean, data.std))  # of pixels from 0 to 1
        self.transform = transforms.Compose([*steps, transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image  # torchvision brings it

        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def ratio(
    above: Callable[[], object], below: Callable[[], object], device: torch.device, what: str, pairs: int = PAIRS
) -> Measured:
    """Seconds of `above` over seconds of `below`; the first two pairs warm up."""
    taken = [(turn(above, device), turn(below, device)) for _ in range(pairs + 2)][2:]
    ratios = [a / b for a, b in taken]
    middle = (1e3 * statistics.median(column) for column in zip(*taken, strict=True))
    return statistics.median(ratios), f"{what}; {' over '.join(f'{m:.2f}' for m in middle)} ms; {range_words(ratios)}"


def range_words(ratios: list[float]) -> str:
    """How many pairs there were, and their smallest and largest ratio."""
    return f"{len(ratios)} pairs from {min(ratios):.2f} to {max(ratios):.2f}"
