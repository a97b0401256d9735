"""RunConfig -> train() -> RunRecord."""

import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from shallowpaths import checkpoints, devices, stepping
from shallowpaths import data as datasets
from shallowpaths.checkpoints import Position
from shallowpaths.networks import build, count_parameters
from shallowpaths.runs import RunConfig, RunRecord
from shallowpaths.steps import Step, StepOptions

log = logging.getLogger(__name__)


def train(
    config: RunConfig,
    data_folder: str | os.PathLike | None = None,
    progress: bool = True,
    checkpoint_folder: str | os.PathLike | None = None,
    checkpoint_every: float = 60.0,
    options: StepOptions | None = None,
) -> RunRecord:
    """Train the network that `config` describes and say what came of it.

    A function of its config: on the same device, the same config gives the same record, but for the times and
    versions in it. A run whose loss stops being finite is a result, not an error: it ends there, as "diverged".
    torch's random state is left as it was found.

    Args:
        data_folder: where CIFAR-10's files are or shall be (see `shallowpaths.data.load`).
        progress: show a bar on stderr; it hides itself where TQDM_DISABLE=1 is set.
        checkpoint_folder: save the run's state here after a step now and then, and go on from a state that is there
            already. A run that was killed ends with the same result as if it had not been (on the CPU, with as many
            threads: bit for bit). The checkpoint is deleted once the run has ended.
        checkpoint_every: seconds that lie between two checkpoints at least; 0 saves after every step.
        options: what makes the step fast; None takes the device's defaults. They change rounding at most.

    Raises:
        ValueError: a device that is not there, a batch larger than the training set, a run that does not fit in memory,
            a residual-mlp with batch normalization over one image, data that cannot be read; a checkpoint folder that
            cannot be written, or a checkpoint in it that does not belong to this run.
    """
    device = devices.resolve_device(config.device)
    config = config.replace(device=device.type)
    saver = _Saver(config, checkpoint_folder, checkpoint_every) if checkpoint_folder is not None else None
    data = datasets.load(config.data, device, data_folder).hold_out(config.validation)
    stepping.check_batch(config, len(data.train_images))
    with _reproducible(config.seed), stepping.named_if_too_large(config):
        network = build(config, data.image_shape, data.classes).to(device, memory_format=torch.channels_last)
        started = time.perf_counter()
        position = Position()
        optimizer = stepping.make_optimizer(network, config)
        step = Step(network, optimizer, data, config, options)
        result = _run(step, position, saver, progress)
    if saver:
        saver.discard()
    return RunRecord(
        config=config,
        parameters=count_parameters(network),
        data_checksum=data.checksum,
        train_images=len(data.train_images),
        seconds=round(position.seconds + time.perf_counter() - started, 3),
        device_name=devices.device_name(device),
        versions=devices.versions(),
        commit=devices.commit(),
        **result,
    )


def _run(step: Step, position: Position, saver: "_Saver | None", progress: bool) -> dict[str, Any]:
    """The run's outcome, curve and test results, as RunRecord's fields; from a checkpoint on, where there is one."""
    network, optimizer, data, config = step.network, step.optimizer, step.data, step.config
    images = len(data.train_images)
    if saver:
        saver.resume(network, optimizer, position)
    with _progress_bar(config, images, position, progress) as bar:

        def on_step() -> None:
            bar.update()
            if saver:
                saver.save_if_due(network, optimizer, position)

        for epoch in range(position.epoch, config.total_epochs(images)):
            result = stepping.train_epoch(network, optimizer, data, config, epoch, on_step, step, position.taken)
            if result.first_bad_step is not None:
                before = stepping.steps_before(epoch, images, config.batch_size)
                return _diverged(before + result.first_bad_step, position.curve)
            point = {"epoch": epoch + 1, "learning_rate": float(optimizer.param_groups[0]["lr"])}
            point |= {"train_loss": result.loss, "train_accuracy": result.accuracy}
            if len(data.validation_images):
                loss, accuracy = stepping.evaluate(
                    network, data, data.validation_images, data.validation_labels, config.precision
                )
                if not math.isfinite(loss):
                    return _diverged(_steps_after(epoch, images, config), position.curve)
                point |= {"validation_loss": loss, "validation_accuracy": accuracy}
            position.curve.append(point)
            position.epoch = epoch + 1
            position.taken.clear()
            bar.set_postfix(epoch=epoch + 1, loss=f"{result.loss:.3f}", accuracy=f"{result.accuracy:.3f}")
    test_loss, test_accuracy = stepping.evaluate(network, data, data.test_images, data.test_labels, config.precision)
    if not math.isfinite(test_loss):
        return _diverged(config.total_steps(images), position.curve)
    return {"outcome": "finished", "curve": position.curve, "test_loss": test_loss, "test_accuracy": test_accuracy}


class _Saver:
    """One run's checkpoint: saved not too often, restored once, deleted at the end."""

    def __init__(self, config: RunConfig, folder: str | os.PathLike, every: float):
        checkpoints.prepare(folder)
        self.config, self.every = config, every
        self.path = checkpoints.path_of(folder, config)
        self.seconds_before = 0.0

    def resume(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
        """Where there is a checkpoint, put network, optimizer, generators and position where it has them."""
        self.saved = self.started = time.monotonic()
        if self.path.exists():
            found = checkpoints.restore(self.path, self.config, network, optimizer)
            vars(position).update(vars(found))
            self.seconds_before = found.seconds

    def save_if_due(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
        """Save, if the last time is long enough ago. A full disk costs the checkpoint, not the run."""
        now = time.monotonic()
        if now - self.saved < self.every:
            return
        now_at = dataclasses.replace(position, seconds=self.seconds_before + now - self.started)
        try:
            checkpoints.save(self.path, self.config, network, optimizer, now_at)
        except OSError as error:
            log.warning("no checkpoint this time, the run goes on: %s", error)
        self.saved = time.monotonic()

    def discard(self) -> None:
        """The run has ended: its record says all."""
        self.path.unlink(missing_ok=True)


def _steps_after(epoch: int, images: int, config: RunConfig) -> int:
    return min(stepping.steps_before(epoch + 1, images, config.batch_size), config.total_steps(images))


def _diverged(step: int, curve: list[dict[str, float]]) -> dict[str, Any]:
    return {"outcome": "diverged", "diverged_step": step, "curve": curve}


def _progress_bar(config: RunConfig, images: int, position: Position, progress: bool) -> tqdm:
    shown = progress and sys.stderr is not None
    hidden = {} if shown else {"disable": True}  # not given, the environment variable TQDM_DISABLE decides
    return tqdm(
        total=config.total_steps(images),
        initial=stepping.steps_before(position.epoch, images, config.batch_size) + len(position.taken),
        desc=f"{config.recipe}, depth {config.depth}, rate {config.learning_rate:g}",
        unit="step",
        leave=False,
        **hidden,
    )


@contextlib.contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """torch's random state follows from the seed within, and is what it was after."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # for dropout: all else has its own generator
        yield
