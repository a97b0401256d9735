"""One epoch of training: which images, which rate, and the step itself.

Order and augmentation are functions of (seed, epoch) alone, so that any epoch can be repeated by itself.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths.data import Dataset, crop_and_flip, draw_augmentation
from shallowpaths.runs import RunConfig

EVALUATION_BATCH = 1000
CHECK_EVERY = {"cpu": 1, "cuda": 50, "mps": 50}  # steps between looks at the loss; a look stops a GPU's queue


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """What the learning rate is multiplied by in `step` (from 0) of `steps`.

    "paper": 1 during the first half, then halved at the start of every tenth of the second half. Counted in steps,
    so that a run of a single epoch sees the whole schedule too.
    """
    if schedule == "constant" or 2 * step < steps:
        return 1.0
    tenths = (2 * step - steps) * 10 // steps
    return 0.5 ** (tenths + 1)


def make_optimizer(network: nn.Module, config: RunConfig) -> torch.optim.SGD:
    """SGD with heavy-ball momentum; the L2 penalty on all weights, on scalars and vectors only if the config says so."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.l2},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": config.l2 if config.l2_on_scalars else 0.0},
    ]
    return torch.optim.SGD([g for g in groups if g["params"]], lr=config.learning_rate, momentum=config.momentum)


def steps_before(epoch: int, images: int, batch_size: int) -> int:
    """Steps taken before `epoch` starts. Every batch is full: one that an epoch's end cuts is filled from the next epoch."""
    return epoch * images // batch_size


def image_order(seed: int, epoch: int, images: int, batch_size: int) -> Tensor:
    """Indices of the images that `epoch`'s steps use, int64 [steps, batch_size].

    The images come in a fresh random order each epoch. The orders follow each other in one stream, which is cut
    into batches: no image is dropped and no batch is short, whatever the batch size.
    """
    first, last = (steps_before(e, images, batch_size) * batch_size for e in (epoch, epoch + 1))
    passes = range(first // images, -(-last // images))
    stream = torch.cat([torch.randperm(images, generator=_generator(seed, p, "order")) for p in passes])
    start = first - passes[0] * images
    return stream[start : start + last - first].view(-1, batch_size)


def training_batches(data: Dataset, config: RunConfig, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's batches: standardized float32 images [B, C, H, W] and labels [B], on the data's device."""
    device = data.train_images.device
    count = len(data.train_images)
    left = config.total_steps(count) - steps_before(epoch, count, config.batch_size)  # a budget in steps may end here
    order = image_order(config.seed, epoch, count, config.batch_size)[:left]
    offsets, flips = draw_augmentation(
        order.numel(), data.padding, data.flips, _generator(config.seed, epoch, "augmentation")
    )
    order, offsets, flips = (t.to(device) for t in (order, offsets.view(*order.shape, 2), flips.view(order.shape)))
    for index, offset, flip in zip(order, offsets, flips, strict=True):
        images = data.train_images[index]
        if config.augment:
            images = crop_and_flip(images, data.padding, offset, flip)
        yield data.standardize(images), data.train_labels[index]


@dataclass
class EpochResult:
    """What an epoch of training came to: sums over its steps, on the device until they are read."""

    loss: float
    accuracy: float
    first_bad_step: int | None  # within the epoch, the first step whose loss was not finite


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.SGD,
    data: Dataset,
    config: RunConfig,
    epoch: int,
    on_step: Callable[[], object],
) -> EpochResult:
    """One epoch of steps, each followed by `on_step()`. Stops early once a loss was not finite."""
    device = data.train_images.device
    first = steps_before(epoch, len(data.train_images), config.batch_size)
    steps = config.total_steps(len(data.train_images))
    losses, correct = [], []
    network.train()
    for step, (images, labels) in enumerate(training_batches(data, config, epoch)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(config.schedule, first + step, steps)
        optimizer.zero_grad(set_to_none=True)
        with _autocast(device, config.precision):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        correct.append((logits.detach().argmax(1) == labels).float().mean())
        on_step()
        if (step + 1) % CHECK_EVERY[device.type] == 0 and not torch.isfinite(losses[-1]):
            break
    all_losses = torch.stack(losses).cpu()
    bad = (~torch.isfinite(all_losses)).nonzero()
    first_bad = int(bad[0]) if len(bad) else None
    return EpochResult(float(all_losses.double().mean()), float(torch.stack(correct).double().mean()), first_bad)


@torch.no_grad()
def evaluate(network: nn.Module, data: Dataset, images: Tensor, labels: Tensor, precision: str) -> tuple[float, float]:
    """Mean loss and accuracy on uint8 images, with the statistics gathered in training."""
    network.eval()
    loss = torch.zeros((), dtype=torch.float64)
    correct = 0
    for start in range(0, len(images), EVALUATION_BATCH):
        batch = slice(start, start + EVALUATION_BATCH)
        with _autocast(images.device, precision):
            logits = network(data.standardize(images[batch]))
        loss += F.cross_entropy(logits.float(), labels[batch], reduction="sum").cpu().double()
        correct += int((logits.argmax(1) == labels[batch]).sum())
    return float(loss) / len(images), correct / len(images)


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    streams = ("order", "augmentation")
    mixed = (seed * 1_000_003 + epoch) * len(streams) + streams.index(purpose)
    return torch.Generator().manual_seed(mixed % 2**63)
