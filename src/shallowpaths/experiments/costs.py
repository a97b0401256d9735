"""What runs cost: operations from the architecture, seconds from steps measured on the device at hand."""

import itertools
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from tabulate import tabulate

from shallowpaths._device import named_if_too_large, resolve_device, synchronize
from shallowpaths.data import Dataset
from shallowpaths.recipes import get_recipe
from shallowpaths.theory.depth import blocks_of
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import Run

TRAINING_IMAGES = {"digits": 1437, "cifar10": 50_000, "cifar10-16x16": 50_000}
IMAGE_SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32), "cifar10-16x16": (3, 16, 16)}
PROBE_DEPTH = 16
PROBE_BATCHES = (8, 64)
PROBE_STEPS = 4
BACKWARD = 3  # a training step costs about three forward passes
OVERHEAD = 2e6  # operations that a block of any size could have done while it is being started


def steps_of(config: RunConfig) -> int:
    """Optimizer steps of the whole run."""
    return config.total_steps(config.split(TRAINING_IMAGES[config.data]))


def operations_per_image(config: RunConfig) -> float:
    """Floating-point operations of one forward pass, counting matrix products and convolutions: two per weight used.

    A Wide-ResNet's three stages have 16 k, 32 k and 64 k channels and a fourth of the pixels each time, so that a
    block costs the same in every stage: 2 layers of 2 * 9 * (16 k)^2 * pixels operations.
    """
    channels, height, width = IMAGE_SHAPES[config.data]
    if config.network == "residual-mlp":
        per_block, first = 2 * 2 * config.width**2, 2 * channels * height * width * config.width
    else:
        per_block = 2 * 2 * 9 * (16 * config.width) ** 2 * height * width
        first = 2 * 9 * channels * 16 * height * width
    return first + config.blocks * per_block


def operations(config: RunConfig) -> float:
    """Floating-point operations of all training steps of a run."""
    return BACKWARD * steps_of(config) * config.batch_size * operations_per_image(config)


def work(config: RunConfig) -> float:
    """Operations of a whole run, those included that its steps' blocks cost by being started at all.

    Relative: two runs compare by it on any device. `predict` turns it into seconds where seconds are asked for.
    """
    return operations(config) + BACKWARD * steps_of(config) * config.blocks * OVERHEAD


@dataclass(frozen=True)
class Prediction:
    """What a list of runs is predicted to cost.

    Attributes:
        runs: how many.
        operations: floating-point operations of all their training steps.
        seconds: on `device`, one run after the other; diverged runs end early and cost less.
        device: where the steps were measured.
    """

    runs: int
    operations: float
    seconds: float
    device: str


def predict(configs: Iterable[RunConfig]) -> Prediction:
    """The cost of some runs on this machine.

    It rests on real training steps, taken now, of networks of 16 layers at batches of 8 and 64, one pair for each kind
    of network in the list. Seconds a step are taken as linear in the batch, and as proportional to the number of blocks.
    """
    listed = list(configs)
    device = resolve_device(listed[0].device if listed else "auto")
    seconds = sum(_seconds(c) for c in listed)
    return Prediction(len(listed), sum(map(operations, listed)), seconds, device.type)


def describe_costs(configs: Iterable[RunConfig]) -> str:
    """What runs would cost here, part by part, as text."""
    configs, parts = list(configs), {}
    for config in configs:
        parts.setdefault((config.network, config.depth, config.width, config.batch_size), []).append(config)
    predictions = [predict(part) for part in parts.values()]
    rows = [
        (*part, p.runs, f"{p.operations:.1e}", _duration(p.seconds)) for part, p in zip(parts, predictions, strict=True)
    ]
    total = predict(configs)
    rows.append(("all", "", "", "", total.runs, f"{total.operations:.1e}", _duration(total.seconds)))
    headers = ("network", "depth", "width", "batch", "runs", "operations", "time")
    basis = (
        f"Predicted for this machine ({total.device}), one run after the other, from training steps of 16-layer networks "
        "measured just now, times steps and blocks. Runs that diverge end early and cost less. "
        f"A device that sustained 10^13 operations a second would take {_duration(total.operations / 1e13)}."
    )
    return f"{tabulate(rows, headers=headers, disable_numparse=True)}\n\n{basis}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _seconds(config: RunConfig) -> float:
    normalization = get_recipe(config.recipe).normalization
    recipe = config.recipe if normalization != "none" else "skipinit"
    kind = RunConfig(
        recipe=recipe,
        network=config.network,
        depth=PROBE_DEPTH,
        width=config.width,
        data=config.data,
        precision=config.precision,
        device=resolve_device(config.device).type,
        learning_rate=1e-4,
    )
    small, large = (_step_seconds(kind.replace(batch_size=b)) for b in PROBE_BATCHES)
    per_image = max(large - small, 0.0) / (PROBE_BATCHES[1] - PROBE_BATCHES[0])
    step = max(small + per_image * (config.batch_size - PROBE_BATCHES[0]), small * 0.5)
    return steps_of(config) * step * config.blocks / blocks_of(PROBE_DEPTH, config.network)


@cache
def _step_seconds(config: RunConfig) -> float:
    """Seconds of one training step: the median over a few, on images of noise."""
    times: list[float] = []

    def note_time() -> None:
        synchronize(run.device)
        times.append(time.perf_counter())

    size = f"{config.network} of depth {config.depth} and width {config.width}, batch_size {config.batch_size}"
    with named_if_too_large(f"the run does not fit in memory: {size}, on {config.device}"):
        run = Run(config.replace(epochs=2), _noise(config))
        for epoch in range(2):  # the first warms up
            times.clear()
            run.epoch(epoch, note_time)
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def _noise(config: RunConfig) -> Dataset:
    """A data set of the right shape for PROBE_STEPS steps an epoch."""
    shape = IMAGE_SHAPES[config.data]
    generator = torch.Generator().manual_seed(0)
    count = PROBE_STEPS * config.batch_size
    images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=generator)
    return Dataset(
        name=config.data,
        train_images=images,
        train_labels=labels,
        test_images=images[:0],
        test_labels=labels[:0],
        validation_images=images[:0],
        validation_labels=labels[:0],
        mean=torch.full((shape[0], 1, 1), 127.5),
        std=torch.full((shape[0], 1, 1), 73.6),
        classes=10,
        checksum="",
        padding=shape[1] // 8,
        flips=config.data != "digits",
    ).to(config.device)
