"""RunConfig -> train() -> RunRecord."""

import contextlib
import math
import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from shallowpaths import data as datasets
from shallowpaths import devices, stepping
from shallowpaths.data import Dataset
from shallowpaths.networks import build, count_parameters
from shallowpaths.runs import RunConfig, RunRecord


def train(config: RunConfig, data_folder: str | os.PathLike | None = None, progress: bool = True) -> RunRecord:
    """Train the network that `config` describes and say what came of it.

    A function of its config: on the same device, the same config gives the same record, but for the times and
    versions in it. A run whose loss stops being finite is a result, not an error: it ends there, as "diverged".
    torch's random state is left as it was found.

    Args:
        data_folder: where CIFAR-10's files are or shall be (see `shallowpaths.data.load`).
        progress: show a bar on stderr; it hides itself where TQDM_DISABLE=1 is set.

    Raises:
        ValueError: a device that is not there, a batch larger than the training set, data that cannot be read.
    """
    device = devices.resolve_device(config.device)
    config = config.replace(device=device.type)
    data = datasets.load(config.data, device, data_folder).hold_out(config.validation)
    if config.batch_size > len(data.train_images):
        raise ValueError(
            f"batch_size {config.batch_size} is larger than the training split, {len(data.train_images)} images of {data.name}"
        )
    with _reproducible(config.seed):
        network = build(config, data.image_shape, data.classes).to(device, memory_format=torch.channels_last)
        started = time.perf_counter()
        result = _run(network, data, config, progress)
    return RunRecord(
        config=config,
        parameters=count_parameters(network),
        data_checksum=data.checksum,
        train_images=len(data.train_images),
        seconds=round(time.perf_counter() - started, 3),
        device_name=devices.device_name(device),
        versions=devices.versions(),
        commit=devices.commit(),
        **result,
    )


def _run(network: torch.nn.Module, data: Dataset, config: RunConfig, progress: bool) -> dict[str, Any]:
    """The run's outcome, curve and test results, as RunRecord's fields."""
    optimizer = stepping.make_optimizer(network, config)
    curve: list[dict[str, float]] = []
    with _progress_bar(config, len(data.train_images), progress) as bar:
        for epoch in range(config.epochs):
            first, after = (
                stepping.steps_before(e, len(data.train_images), config.batch_size) for e in (epoch, epoch + 1)
            )
            result = stepping.train_epoch(network, optimizer, data, config, epoch, bar.update)
            if result.first_bad_step is not None:
                return _diverged(first + result.first_bad_step, curve)
            point = {"epoch": epoch + 1, "learning_rate": optimizer.param_groups[0]["lr"]}
            point |= {"train_loss": result.loss, "train_accuracy": result.accuracy}
            if len(data.validation_images):
                loss, accuracy = stepping.evaluate(
                    network, data, data.validation_images, data.validation_labels, config.precision
                )
                if not math.isfinite(loss):
                    return _diverged(after, curve)
                point |= {"validation_loss": loss, "validation_accuracy": accuracy}
            curve.append(point)
            bar.set_postfix(epoch=epoch + 1, loss=f"{result.loss:.3f}", accuracy=f"{result.accuracy:.3f}")
    test_loss, test_accuracy = stepping.evaluate(network, data, data.test_images, data.test_labels, config.precision)
    if not math.isfinite(test_loss):
        return _diverged(after, curve)
    return {"outcome": "finished", "curve": curve, "test_loss": test_loss, "test_accuracy": test_accuracy}


def _diverged(step: int, curve: list[dict[str, float]]) -> dict[str, Any]:
    return {"outcome": "diverged", "diverged_step": step, "curve": curve}


def _progress_bar(config: RunConfig, images: int, progress: bool) -> tqdm:
    steps = stepping.steps_before(config.epochs, images, config.batch_size)
    hidden = {} if progress else {"disable": True}  # not given, the environment variable TQDM_DISABLE decides
    return tqdm(
        total=steps,
        desc=f"{config.recipe}, depth {config.depth}, rate {config.learning_rate:g}",
        unit="step",
        leave=False,
        **hidden,
    )


@contextlib.contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """torch's random state follows from the seed within, and is what it was after; deterministic convolutions."""
    with torch.random.fork_rng(), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        torch.manual_seed(seed)  # for dropout: all else has its own generator
        yield
