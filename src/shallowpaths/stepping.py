"""One epoch of training: which images, which rate, and the step itself.

Order and augmentation are functions of (seed, epoch) alone, so that any epoch can be repeated by itself.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths.data import Dataset, draw_augmentation
from shallowpaths.recipes import get_recipe
from shallowpaths.runs import RunConfig
from shallowpaths.steps import Step, autocast

EVALUATION_BATCH = 1000
LOOK_EVERY = 50  # steps between looks at a GPU's loss
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")  # on CPUs and GPUs


def learning_rate_factor(schedule: str, step: int, steps: int) -> float:
    """What the learning rate is multiplied by in `step` (from 0) of `steps`.

    "paper": 1 during the first half, then halved at the start of every tenth of the second half. Counted in steps,
    so that a run of a single epoch sees the whole schedule too.
    """
    if schedule == "constant" or 2 * step < steps:
        return 1.0
    tenths = (2 * step - steps) * 10 // steps
    return 0.5 ** (tenths + 1)


def make_optimizer(network: nn.Module, config: RunConfig, fused: bool | None = None) -> torch.optim.SGD:
    """SGD with heavy-ball momentum; the L2 penalty on all weights, on scalars and vectors only if the config says so.

    fused: one kernel for the update of a parameter; None takes it where torch has it.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters) if fused is None else fused
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.l2},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": config.l2 if config.l2_on_scalars else 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=fused)


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


def epoch_plan(data: Dataset, config: RunConfig, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    """What each of an epoch's S steps uses: images [S, B], crop offsets [S, B, 2] and flips [S, B], on the data's device."""
    count = len(data.train_images)
    left = config.total_steps(count) - steps_before(epoch, count, config.batch_size)  # a budget in steps may end here
    order = image_order(config.seed, epoch, count, config.batch_size)[:left]
    offsets, flips = draw_augmentation(
        order.numel(), data.padding, data.flips, _generator(config.seed, epoch, "augmentation")
    )
    parts = order, offsets.view(*order.shape, 2), flips.view(order.shape)
    return tuple(part.to(data.train_images.device) for part in parts)


def epoch_rates(config: RunConfig, images: int, epoch: int) -> list[float]:
    """The learning rate of each of an epoch's steps."""
    steps = config.total_steps(images)
    first, last = (steps_before(e, images, config.batch_size) for e in (epoch, epoch + 1))
    factors = (learning_rate_factor(config.schedule, step, steps) for step in range(first, min(last, steps)))
    return [config.learning_rate * factor for factor in factors]


def check_batch(config: RunConfig, images: int) -> None:
    """Refuse with a ValueError a batch of which no step can be taken. images: of the training split."""
    if config.batch_size == 1 and config.network == "residual-mlp" and get_recipe(config.recipe).normalizes_end:
        raise ValueError(
            f"batch_size 1: recipe {config.recipe!r} has batch normalization, and in a residual-mlp the one value that "
            "an image gives each unit has no variance: take at least 2 images"
        )
    if config.batch_size > images:
        raise ValueError(
            f"batch_size {config.batch_size} is larger than the training split, {images} images of {config.data}"
        )


@contextlib.contextmanager
def named_if_too_large(config: RunConfig, runs: int = 1) -> Iterator[None]:
    """What torch and Python raise when memory is short becomes a ValueError that says what was too large.

    runs: how many of this kind were trained at the same time.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        what = "the run does" if runs == 1 else f"{runs} runs as lanes do"
        raise ValueError(
            f"{what} not fit in memory: {config.network} of depth {config.depth} and width {config.width}, "
            f"batch_size {config.batch_size}, on {config.device}"
        ) from error


@dataclass
class EpochResult:
    """What an epoch of training came to for one run: means over its steps."""

    loss: float
    accuracy: float
    learning_rate: float  # of the last step
    first_bad_step: int | None  # within the epoch, the first step whose loss was not finite


def train_epoch(
    step: Step,
    epoch: int,
    on_step: Callable[[], object] = lambda: None,
    taken: list[tuple[Tensor, Tensor]] | None = None,
) -> EpochResult:
    """One epoch of a run's steps, each followed by `on_step()`. Stops early once a loss was not finite.

    taken: loss and accuracy of each step that was taken already, where the epoch was interrupted. It grows by each
        step's own, so that `on_step` can save it; the epoch goes on behind it.
    """
    taken = [] if taken is None else taken
    rates = epoch_rates(step.config, len(step.data.train_images), epoch)
    step.network.train()
    take_steps(step.take, zip(*epoch_plan(step.data, step.config, epoch), rates, strict=True), on_step, taken)
    return epoch_results(taken, rates)[0]


def take_steps(
    take: Callable[..., tuple[Tensor, Tensor]],
    batches: Iterable[tuple],
    on_step: Callable[[], object],
    taken: list[tuple[Tensor, Tensor]],
) -> None:
    """Append `take(*batch)`, loss and accuracy, to `taken` for each batch behind those that are there already.

    Both are one number, or one for each of several runs. It ends once no run's loss is finite any more.
    """
    watch = _Watch()
    for number, batch in itertools.islice(enumerate(batches), len(taken), None):
        taken.append(take(*batch))
        if watch.has_seen_the_end(number, taken[-1][0]):
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


class _Watch:
    """Looks for a loss that is not finite, without making a GPU wait: it reads what was copied LOOK_EVERY steps ago."""

    def __init__(self) -> None:
        self.copied: tuple[Tensor, torch.cuda.Event | None] | None = None

    def has_seen_the_end(self, number: int, loss: Tensor) -> bool:
        """Whether every run has diverged, as far as is known after step `number`."""
        if loss.device.type == "cpu":
            return not torch.isfinite(loss).any()
        if (number + 1) % LOOK_EVERY:
            return False
        earlier, self.copied = self.copied, self._copy(loss)
        if earlier is None or (earlier[1] is not None and not earlier[1].query()):
            return False
        return not torch.isfinite(earlier[0]).any()

    def _copy(self, loss: Tensor) -> tuple[Tensor, "torch.cuda.Event | None"]:
        if loss.device.type != "cuda":
            return loss, None
        event = torch.cuda.Event()
        copy = torch.empty(loss.shape, dtype=loss.dtype, pin_memory=True).copy_(loss, non_blocking=True)
        event.record()
        return copy, event


@torch.no_grad()
def evaluate(network: nn.Module, data: Dataset, images: Tensor, labels: Tensor, precision: str) -> tuple[float, float]:
    """Mean loss and accuracy on uint8 images, with the statistics gathered in training."""
    network.eval()
    loss = torch.zeros((), dtype=torch.float64)
    correct = 0
    for start in range(0, len(images), EVALUATION_BATCH):
        batch = slice(start, start + EVALUATION_BATCH)
        with autocast(images.device, precision):
            logits = network(data.standardize(images[batch]))
        loss += F.cross_entropy(logits.float(), labels[batch], reduction="sum").cpu().double()
        correct += int((logits.argmax(1) == labels[batch]).sum())
    return float(loss) / len(images), correct / len(images)


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    streams = ("order", "augmentation")
    mixed = (seed * 1_000_003 + epoch) * len(streams) + streams.index(purpose)
    return torch.Generator().manual_seed(mixed % 2**63)
