"""What runs cost: operations from the architecture, seconds from steps measured on the device at hand."""

import itertools
import statistics
import time
from collections.abc import Iterable
from functools import cache

from tabulate import tabulate

from shallowpaths._device import named_if_too_large, resolve_device, synchronize
from shallowpaths.data import IMAGE_SHAPES, noise
from shallowpaths.recipes import get_recipe
from shallowpaths.theory.depth import blocks_of
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import Run

TRAINING_IMAGES = {"digits": 1437, "cifar10": 50_000, "cifar10-16x16": 50_000, "imagefolder": 1_281_167}  # ImageNet's
PROBES = {"wide-resnet": (16, 8, 64), "residual-mlp": (16, 8, 64), "resnet50-v2": (50, 2, 8)}  # depth and two batches
PROBE_STEPS = 4
BACKWARD = 3  # a training step costs about three forward passes


def steps_of(config: RunConfig) -> int:
    """A run's optimizer steps."""
    return config.total_steps(config.split(TRAINING_IMAGES[config.data]))


def operations_per_image(config: RunConfig) -> float:
    """Floating-point operations of one forward pass, counting matrix products and convolutions: two per weight used."""
    channels, height, width = image_shape(config)
    pixels = height * width
    first, block = {  # a stage has twice the channels of the last and a fourth of its pixels: all blocks cost the same
        "wide-resnet": (2 * 9 * channels * 16 * pixels, 2 * 2 * 9 * (16 * config.width) ** 2 * pixels),
        "residual-mlp": (2 * channels * pixels * config.width, 2 * 2 * config.width**2),
        "resnet50-v2": (2 * 49 * channels * 64 * pixels / 4, 2 * (4 + 9 + 4) * (64 * config.width) ** 2 * pixels / 16),
    }[config.network]
    return first + config.blocks * block


def image_shape(config: RunConfig) -> tuple[int, int, int]:
    """(channels, height, width) of what the network sees."""
    return (3, config.image_size, config.image_size) if config.image_size else IMAGE_SHAPES[config.data]


def operations(config: RunConfig) -> float:
    """Floating-point operations of all training steps of a run."""
    return BACKWARD * steps_of(config) * config.batch_size * operations_per_image(config)


def describe_costs(configs: Iterable[RunConfig]) -> str:
    """What runs would cost here, part by part, as text."""
    configs, parts, rows = list(configs), {}, []
    for config in configs:
        parts.setdefault((config.network, config.depth, config.width, config.batch_size), []).append(config)
    parts["all", "", "", ""] = configs
    for part, runs in parts.items():
        total = sum(map(operations, runs))
        rows.append((*part, len(runs), f"{total:.1e}", _duration(sum(map(predicted_seconds, runs)))))
    headers = ("network", "depth", "width", "batch", "runs", "operations", "time")
    return (
        f"{tabulate(rows, headers, disable_numparse=True)}\n\n"
        f"Predicted for this machine ({resolve_device(configs[0].device).type}), one run after the other, from steps "
        "of small networks measured just now, times steps and blocks. Runs that diverge end early and cost less. "
        f"A device that sustained 10^13 operations a second would take {_duration(total / 1e13)}."
    )


def _duration(seconds: float) -> str:
    units = {"days": 86_400, "hours": 3600, "minutes": 60}
    unit = next((unit for unit, size in units.items() if seconds >= 2 * size), "seconds")
    return f"{seconds / units.get(unit, 1):.1f} {unit}"


def predicted_seconds(config: RunConfig) -> float:
    """Of a run here, less reading files: from steps of a small network, now, as linear in the batch and the blocks."""
    depth, few, many = PROBES[config.network]
    kind = {name: getattr(config, name) for name in ("network", "width", "data", "image_size", "precision")}
    kind["recipe"] = "skipinit" if get_recipe(config.recipe).normalization == "none" else config.recipe
    probe = RunConfig(depth=depth, device=resolve_device(config.device).type, learning_rate=1e-4, epochs=2, **kind)
    small, large = (_step_seconds(probe.replace(batch_size=b)) for b in (few, many))
    per_image = max(large - small, 0.0) / (many - few)
    step = max(small + per_image * (config.batch_size - few), small * 0.5)
    return steps_of(config) * step * config.blocks / blocks_of(depth, config.network)


@cache
def _step_seconds(config: RunConfig) -> float:
    """Seconds of one training step: the median over a few, on images of noise."""
    times: list[float] = []

    def note_time() -> None:
        synchronize(run.device)
        times.append(time.perf_counter())

    size = f"{config.network} of depth {config.depth} and width {config.width}, batch_size {config.batch_size}"
    with named_if_too_large(f"the run does not fit in memory: {size}, on {config.device}"):
        images = noise(config.data, PROBE_STEPS * config.batch_size, image_shape(config)).to(config.device)
        run = Run(config, images)
        run.epoch(0)  # warms up
        run.epoch(1, note_time)
    return statistics.median(after - before for before, after in itertools.pairwise(times))
