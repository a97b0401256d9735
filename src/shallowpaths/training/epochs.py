"""Epochs: which images and which rate each step uses, the steps of one epoch, and the evaluation after it."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths._device import autocast
from shallowpaths.data import Dataset, draw_augmentation
from shallowpaths.training import distributed

EVALUATION_BATCH = 1000
LOOK_EVERY = 50  # steps between looks at a GPU's loss


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """What the learning rate is multiplied by in `step` (from 0) of `steps`.

    "paper": 1 during the first half, then halved at the start of every tenth of the second half. Counted in steps,
    so that a run of a single epoch sees the whole schedule too.
    """
    if schedule == "constant" or 2 * step < steps:
        return 1.0
    tenths = (2 * step - steps) * 10 // steps
    return 0.5 ** (tenths + 1)


@dataclass(frozen=True)
class Timetable:
    """What each step of a run uses: which images, shifted and mirrored how, at which learning rate.

    Order and augmentation are functions of (seed, epoch) alone. Every batch is full: one that an epoch's end cuts is
    filled from the next epoch.

    Attributes:
        images: of the training split.
        batch_size: images a step.
        steps: of the whole run; the last epoch may end within.
        learning_rate, schedule, seed: as in RunConfig.
    """

    images: int
    batch_size: int
    steps: int
    learning_rate: float
    schedule: str
    seed: int

    @property
    def epochs(self) -> int:
        """Epochs that the run enters."""
        return -(-self.steps * self.batch_size // self.images)

    def steps_before(self, epoch: int) -> int:
        """Steps taken before `epoch` starts."""
        return min(epoch * self.images // self.batch_size, self.steps)

    def rates(self, epoch: int) -> list[float]:
        """The learning rate of each of an epoch's steps."""
        numbers = range(self.steps_before(epoch), self.steps_before(epoch + 1))
        return [self.learning_rate * learning_rate_factor(self.schedule, step, self.steps) for step in numbers]

    def order(self, epoch: int) -> Tensor:
        """Indices of the images that `epoch`'s steps use, int64 [S, B].

        The images come in a fresh random order each epoch. The orders follow each other in one stream, which is cut
        into batches: no image is dropped and no batch is short, whatever the batch size.
        """
        first, last = (self.steps_before(e) * self.batch_size for e in (epoch, epoch + 1))
        passes = range(first // self.images, -(-last // self.images))
        stream = torch.cat([torch.randperm(self.images, generator=self._generator(p, "order")) for p in passes])
        start = first - passes[0] * self.images
        return stream[start : start + last - first].view(-1, self.batch_size)

    def batches(self, epoch: int, data: Dataset) -> tuple[Tensor, Tensor, Tensor]:
        """Of each of an epoch's S steps: images [S, B], crop offsets [S, B, 2] and flips [S, B], on the data's device."""
        order = self.order(epoch)
        generator = self._generator(epoch, "augmentation")
        offsets, flips = draw_augmentation(order.numel(), data.padding, data.flips, generator)
        parts = order, offsets.view(*order.shape, 2), flips.view(order.shape)
        return tuple(part.to(data.train_images.device) for part in parts)

    def _generator(self, epoch: int, purpose: str) -> torch.Generator:
        streams = ("order", "augmentation")
        mixed = (self.seed * 1_000_003 + epoch) * len(streams) + streams.index(purpose)
        return torch.Generator().manual_seed(mixed % 2**63)


@dataclass
class EpochResult:
    """What an epoch of training came to for one run: means over its steps."""

    loss: float
    accuracy: float
    learning_rate: float  # of the last step
    first_bad_step: int | None  # within the epoch, the first step whose loss was not finite


def take_steps(
    take: Callable[..., tuple[Tensor, Tensor]],
    batches: Iterable[tuple],
    on_step: Callable[[], object],
    taken: list[tuple[Tensor, Tensor]],
) -> None:
    """Append `take(*batch)`, loss and accuracy, to `taken` for each batch behind those that are there already.

    Both are one number, or one for each of several runs. It ends once no run's loss is finite any more.
    """
    for number, batch in itertools.islice(enumerate(batches), len(taken), None):
        taken.append(take(*batch))
        if _all_diverged(number, taken[-1][0]):
            break
        on_step()


def epoch_results(taken: list[tuple[Tensor, Tensor]], *rates: list[float]) -> list[EpochResult]:
    """Each run's result, from what its steps came to. rates: each run's, step by step."""
    losses, correct = (torch.stack(values).cpu().double().view(len(taken), -1) for values in zip(*taken, strict=True))
    results = []
    for run, mine in enumerate(rates):
        bad = (~torch.isfinite(losses[:, run])).nonzero()
        means = float(losses[:, run].mean()), float(correct[:, run].mean())
        results.append(EpochResult(*means, mine[len(taken) - 1], int(bad[0]) if len(bad) else None))
    return results


def _all_diverged(number: int, loss: Tensor) -> bool:
    """Whether no run's loss is finite after step `number`; a GPU, where the host waits for the answer, is asked now and then."""
    asked = loss.device.type == "cpu" or (number + 1) % LOOK_EVERY == 0
    return asked and not torch.isfinite(loss).any()


@torch.no_grad()
def evaluate(network: nn.Module, data: Dataset, images: Tensor, labels: Tensor, precision: str) -> tuple[float, float]:
    """Mean loss and accuracy on uint8 images, with the statistics gathered in training; each process takes its part of them."""
    network.eval()
    loss = torch.zeros((), dtype=torch.float64)
    correct = 0
    every = distributed.size() * EVALUATION_BATCH
    for start in range(distributed.rank() * EVALUATION_BATCH, len(images), every):
        batch = slice(start, start + EVALUATION_BATCH)
        with autocast(images.device, precision):
            logits = network(data.standardize(images[batch]))
        loss += F.cross_entropy(logits.float(), labels[batch], reduction="sum").cpu().double()
        correct += int((logits.argmax(1) == labels[batch]).sum())
    loss, correct = distributed.total(float(loss), correct, device=images.device)
    return loss / len(images), correct / len(images)
