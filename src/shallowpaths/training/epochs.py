"""Epochs: which images and which rate each step uses, the steps of one epoch, and the evaluation after it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths._device import autocast
from shallowpaths.data import Dataset
from shallowpaths.measure import NotFinite, gradient_noise, hessian_eigenvalues
from shallowpaths.training import distributed
from shallowpaths.training.config import RunConfig

LOOK_EVERY = 50  # steps between looks at a GPU's loss
KEPT = ("gradient_square", "gradient_variance", "gradient_curvature", "noise_curvature")
TOLERANCE, MOST_PRODUCTS = 0.05, 20  # a few in a hundred: less than from one epoch to the next
ORDER, AUGMENTATION = 0, 1  # streams of random numbers
OnStep = Callable[[], object]
Taken = list[tuple[Tensor, ...]]  # loss and accuracy of each step, perhaps top-5 too: one number, or one for each lane


def learning_rate_factor(schedule: str, step: int, steps: int, warmup: int = 0) -> float:
    """What the learning rate is multiplied by in `step` (from 0) of `steps`.

    "paper": 1 during the first half, then halved at the start of every tenth of the second half. [paper]
    Over the first `warmup` steps step s has (s + 1) / warmup of that.
    """
    rising = min((step + 1) / warmup, 1.0) if warmup else 1.0
    if schedule == "constant" or 2 * step < steps:
        return rising
    return rising * 0.5 ** ((2 * step - steps) * 10 // steps + 1)


class Timetable:
    """What each step of a run uses: which images, shifted and mirrored how, at which learning rate.

    Order and augmentation are functions of (seed, epoch) alone. Every batch is full: one that an epoch's end cuts is
    filled from the next epoch. ValueError: the run does not fit a training split of `images`, see `RunConfig.split`.
    """

    def __init__(self, config: RunConfig, images: int):
        self.config, self.images = config, config.replace(validation=0.0).split(images)
        self.batch_size, self.steps = config.batch_size, config.total_steps(images)
        self.epochs = -(-self.steps * self.batch_size // images)

    def steps_before(self, epoch: int) -> int:
        """Steps taken before `epoch` starts."""
        return min(epoch * self.images // self.batch_size, self.steps)

    def rates(self, epoch: int) -> list[float]:
        """The learning rate of each of an epoch's steps."""
        numbers = range(self.steps_before(epoch), self.steps_before(epoch + 1))
        plan = self.steps, self.config.warmup_epochs * self.images // self.batch_size
        rate, schedule = self.config.learning_rate, self.config.schedule
        return [rate * learning_rate_factor(schedule, step, *plan) for step in numbers]

    def order(self, epoch: int) -> Tensor:
        """Indices of the images of `epoch`'s steps, int64 [S, B], cut from one stream of all epochs' random orders."""
        first, last = (self.steps_before(e) * self.batch_size for e in (epoch, epoch + 1))
        passes = range(first // self.images, -(-last // self.images))
        stream = torch.cat([torch.randperm(self.images, generator=self._generator(p, ORDER)) for p in passes])
        start = first - passes[0] * self.images
        return stream[start : start + last - first].view(-1, self.batch_size)

    def batches(self, epoch: int, data: Dataset) -> tuple[Tensor, ...]:
        """What `data.draw` gives for the images of each of an epoch's S steps, [S, B, ...]."""
        return data.draw(self.order(epoch), self._generator(epoch, AUGMENTATION))

    def _generator(self, epoch: int, stream: int) -> torch.Generator:
        mixed = (self.config.seed * 1_000_003 + epoch) * 2 + stream
        return torch.Generator().manual_seed(mixed % 2**63)


@dataclass
class EpochResult:
    """What an epoch of training came to for one run: means over its steps."""

    loss: float
    accuracy: float
    learning_rate: float  # of the last step
    first_bad_step: int | None  # within the epoch, the first step whose loss was not finite
    top5_accuracy: float | None = None


def take_steps(
    take: Callable[..., Sequence[Tensor]], batches: Iterable[tuple], on_step: OnStep, taken: Taken, *rates: list[float]
) -> list[EpochResult]:
    """Append `take(*batch)` to `taken` for each batch; each run's result, of those that were there too, at its `rates`.

    It ends once no run's loss is finite any more; a GPU, where the host waits for the answer, is asked now and then.
    """
    for number, batch in enumerate(batches, start=len(taken) + 1):
        taken.append(take(*batch))
        asked = taken[-1][0].device.type == "cpu" or number % LOOK_EVERY == 0
        if asked and not torch.isfinite(taken[-1][0]).any():
            break
        on_step()
    losses, *correct = (torch.stack(values).cpu().double().view(len(taken), -1) for values in zip(*taken, strict=True))
    results = []
    for run, mine in enumerate(rates):
        bad = (~torch.isfinite(losses[:, run])).nonzero()
        loss, accuracy, *top5 = (float(values[:, run].mean()) for values in (losses, *correct))
        results.append(EpochResult(loss, accuracy, mine[len(taken) - 1], int(bad[0]) if len(bad) else None, *top5))
    return results


def answers(logits: Tensor, labels: Tensor, counts_top5: bool) -> list[Tensor]:
    """Bool [N], whether a label is the likeliest; with `counts_top5` also whether it is among the five likeliest."""
    right = [logits.argmax(1) == labels]
    return [*right, (logits.topk(5).indices == labels[:, None]).any(1)] if counts_top5 else right


@torch.no_grad()
def evaluate(network: nn.Module, data: Dataset, part: str, precision: str) -> dict[str, float]:
    """Mean loss, accuracy and perhaps top5_accuracy on "train", "validation" or "test", as "test_loss" and so on.

    With the statistics gathered in training. Each process takes its batches. ValueError: no image can be read.
    """
    network.eval()
    sums = torch.zeros(3 + data.counts_top5, dtype=torch.float64)
    for images, labels in data.plain(part, data.evaluation_batch, distributed.rank(), distributed.size()):
        with autocast(data.device, precision):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum").cpu().double()
        right = (each.sum().cpu().double() for each in answers(logits, labels, data.counts_top5))
        sums += torch.stack([torch.tensor(len(labels)).double(), loss, *right])
    count, *totals = distributed.total(sums, data.device).tolist()
    if not count:
        raise ValueError(f"none of the {part} images of {data.name!r} can be read")
    names = (f"{part}_{name}" for name in ("loss", "accuracy", "top5_accuracy"))
    return dict(zip(names, (total / count for total in totals), strict=False))


def curvature(network: nn.Module, data: Dataset, images: int, batch_size: int) -> dict[str, float]:
    """The Hessian's largest_eigenvalue, and KEPT of GradientNoise, on the first `images` of the training split.

    In training mode and float32, of the cross entropy alone. Nothing, where one of them is not finite.
    """
    batch = next(data.plain("train", images))
    options = {"batch_size": batch_size, "tolerance": TOLERANCE, "max_products": MOST_PRODUCTS}
    try:
        (largest,) = hessian_eigenvalues(network, *batch, **options).values
        noise = gradient_noise(network, *batch, batch_size)
    except NotFinite:
        return {}
    return {"largest_eigenvalue": float(largest)} | {name: getattr(noise, name) for name in KEPT}
