"""RunConfig -> train() -> RunRecord."""

import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from shallowpaths import data as datasets
from shallowpaths._device import arithmetic, device_name, named_if_too_large, resolve_device
from shallowpaths.data import Dataset
from shallowpaths.networks import count_parameters
from shallowpaths.theory.checks import whole
from shallowpaths.training import checkpoints, distributed
from shallowpaths.training.checkpoints import Position
from shallowpaths.training.config import RunConfig, only_configs
from shallowpaths.training.curvature import curvature
from shallowpaths.training.epochs import EpochResult, Timetable, evaluate
from shallowpaths.training.record import RunRecord, commit, versions
from shallowpaths.training.runs import LaneRuns, Run, Trainable, check_lanes
from shallowpaths.training.steps import StepOptions, default_options

log = logging.getLogger(__name__)


def train(
    config: RunConfig,
    data_folder: str | os.PathLike | None = None,
    progress: bool = True,
    checkpoint_folder: str | os.PathLike | None = None,
    checkpoint_every: float = 60.0,
    options: StepOptions | None = None,
    workers: int = 0,
) -> RunRecord:
    """Train the network that `config` describes and say what came of it.

    A function of its config: on the same device, the same config gives the same record, but for the times and
    versions in it. A run whose loss stops being finite is a result, not an error: it ends there, as "diverged".
    torch's random state is left as it was found.

    Started by torchrun, its processes train one network together, by torch's DistributedDataParallel: each takes its slice of
    every batch, and all return the same record, whose device_name counts them. It is the run of one process to rounding,
    but that batch normalization takes its statistics over a process's slice, as over a ghost batch; the moving averages are
    the first process's. Only the first one shows progress and writes checkpoints.

    Args:
        data_folder: where CIFAR-10's files are or shall be (see `shallowpaths.data.load`); an imagefolder, with train and val.
        progress: show a bar on stderr; it hides itself where TQDM_DISABLE=1 is set.
        checkpoint_folder: save the run's state here after a step now and then, and go on from a state that is there
            already. A run that was killed ends with the same result as if it had not been (on the CPU, with as many
            threads: bit for bit). The checkpoint is deleted once the run has ended.
        checkpoint_every: seconds that lie between two checkpoints at least; 0 saves after every step.
        options: what makes the step fast; None takes the device's defaults. They change rounding at most.
        workers: processes that decode an imagefolder's images, for each that trains; 0 decodes in that one. They change nothing.

    Raises:
        ValueError: a device that is not there, a batch that torchrun's processes do not divide, a run that its data is too
            small for or that does not fit in memory, data that cannot be read; a checkpoint folder that cannot be written,
            or a checkpoint in it that does not belong to this run.
    """
    return train_lanes([config], data_folder, progress, checkpoint_folder, checkpoint_every, options, workers)[0]


def train_lanes(
    configs: Sequence[RunConfig],
    data_folder: str | os.PathLike | None = None,
    progress: bool = True,
    checkpoint_folder: str | os.PathLike | None = None,
    checkpoint_every: float = 60.0,
    options: StepOptions | None = None,
    workers: int = 0,
    keep_checkpoint: bool = False,
) -> list[RunRecord]:
    """Train all configs at the same time (see `shallowpaths.training.lanes`); their records come in the same order.

    Each step is `train`'s to rounding. Where training is chaotic, at the largest rates that still train, many steps make
    more of a rounding, and the results part. A record's seconds are its share of the whole. The arguments are `train`'s;
    what was interrupted goes on where the same configs are trained together again.

    Args:
        keep_checkpoint: leave the last checkpoint there, for a caller who puts the records into a store before it deletes it.

    Raises:
        ValueError: the configs differ in more than learning rate and seed, or use dropout, whose random numbers a lane
            does not draw as a run alone does, or measure curvature; torchrun's processes; the
            lanes do not fit in memory together; and what `train` refuses.
    """
    only_configs(configs)
    if len(configs) != 1:
        check_lanes(configs)
    first, lanes = configs[0], len(configs)
    distributed.join()
    device = distributed.own_device(resolve_device(first.device))
    distributed.share(first.batch_size)  # refuses what cannot be shared
    if lanes > 1 and distributed.joined():
        raise ValueError("lanes are many runs on one device, torchrun's processes one run on many: train each config by itself")
    configs = [config.replace(device=device.type) for config in configs]
    saver = None
    if checkpoint_folder is not None:
        path = checkpoints.path_of(checkpoint_folder, [config.key for config in configs])
        saver = _Saver(path, [config.to_dict() for config in configs], checkpoint_every)
    options = default_options(device) if options is None else options
    title = f"{first.recipe}, depth {first.depth}, " + (
        f"rate {first.learning_rate:g}" if lanes == 1 else f"{lanes} lanes"
    )
    size = f"{first.network} of depth {first.depth} and width {first.width}, batch_size {first.batch_size}, on {device.type}"
    with (
        _reproducible(first.seed, device),
        named_if_too_large(
            f"{'the run does' if lanes == 1 else f'{lanes} runs as lanes do'} not fit in memory: {size}"
        ),
        arithmetic(device, options.tf32, options.deterministic),
    ):
        data = distributed.one_before_others(lambda: _load(first, device, data_folder, workers))
        first.split(len(data.train_images))  # refuses what cannot be trained on so many
        data = data.hold_out(first.validation)
        started = time.perf_counter()
        runs = Run(first, data, options=options) if lanes == 1 else LaneRuns(configs, data, options)
        position = Position([{"outcome": "running", "curve": []} for _ in configs])
        _run(runs, data, position, saver, title, progress and distributed.is_first(), first.curvature_images)
    if saver and not keep_checkpoint and distributed.is_first():
        checkpoints.discard(saver.path)
    seconds, name = position.seconds + time.perf_counter() - started, device_name(device)
    records = [
        RunRecord(
            config=config,
            parameters=count_parameters(runs.networks[0]),
            data_checksum=data.checksum,
            train_images=len(data.train_images),
            seconds=round(seconds / lanes, 3),
            lanes=lanes,
            device_name=f"{distributed.size()} x {name}" if distributed.size() > 1 else name,
            versions=versions(),
            commit=commit(),
            **result,
        )
        for config, result in zip(configs, position.results, strict=True)
    ]
    return distributed.from_first(records)


def _load(config: RunConfig, device: torch.device, folder: str | os.PathLike | None, workers: int) -> Dataset:
    whole("workers", workers, at_least=0)
    if config.data != "imagefolder":
        return datasets.load(config.data, device, folder)
    skip = config.bad_images == "skip"
    return datasets.load_folder(folder, device, config.image_size, skip, config.augment, workers)


def _run(
    runs: Trainable, data: Dataset, position: Position, saver: "_Saver | None", title: str, progress: bool, curvature_images: int
) -> None:
    """Train to the end, from a checkpoint on where there is one. Outcomes, curves and test results go to `position`."""
    if saver:
        saver.resume(runs, position)
    times = runs.timetables[0]
    with _progress_bar(title, times, position, progress) as bar:

        def on_step() -> None:
            bar.update()
            if saver:
                saver.save_if_due(runs, position)

        for epoch in range(position.epoch, times.epochs):
            _measure(runs.networks[0], data, times, curvature_images, position)
            found = runs.epoch(epoch, on_step, position.taken)
            for network, result, mine in zip(runs.networks, position.results, found, strict=True):
                if result["outcome"] == "running":
                    _note_epoch(network, data, runs.precision, times, epoch, mine, position.measured, result)
            position.epoch = epoch + 1
            position.taken.clear()
            pairs = zip(found, position.results, strict=True)
            training = [mine for mine, result in pairs if result["outcome"] == "running"]
            if not training:
                return
            bar.set_postfix(epoch=epoch + 1, loss=training[0].loss, accuracy=training[0].accuracy)
    for network, result in zip(runs.networks, position.results, strict=True):
        if result["outcome"] == "running":
            _test(network, data, runs.precision, times, result)


def _measure(network: nn.Module, data: Dataset, times: Timetable, images: int, position: Position) -> None:
    """Curvature, at the start of an epoch; where the epoch goes on from a checkpoint, that holds it."""
    if images and not position.taken:
        position.measured = curvature(network, data, images, times.batch_size)


def _test(network: nn.Module, data: Dataset, precision: str, times: Timetable, result: dict[str, Any]) -> None:
    """Read the test set, once."""
    found = evaluate(network, data, "test", precision)
    if math.isfinite(found["loss"]):
        result |= {"outcome": "finished"} | {f"test_{name}": value for name, value in found.items()}
    else:
        result |= {"outcome": "diverged", "diverged_step": times.steps}


def _note_epoch(
    network: nn.Module,
    data: Dataset,
    precision: str,
    times: Timetable,
    epoch: int,
    found: EpochResult,
    measured: dict[str, float],
    result: dict[str, Any],
) -> None:
    """Add an epoch to a run's curve; or say that the run has diverged."""
    if found.first_bad_step is not None:
        result |= {"outcome": "diverged", "diverged_step": times.steps_before(epoch) + found.first_bad_step}
        return
    point = {"epoch": epoch + 1, "learning_rate": found.learning_rate}
    point |= {"train_loss": found.loss, "train_accuracy": found.accuracy}
    if found.top5_accuracy is not None:
        point["train_top5_accuracy"] = found.top5_accuracy
    if len(data.validation_images):
        held_out = evaluate(network, data, "validation", precision)
        if not math.isfinite(held_out["loss"]):
            result |= {"outcome": "diverged", "diverged_step": times.steps_before(epoch + 1)}
            return
        point |= {f"validation_{name}": value for name, value in held_out.items()}
    result["curve"].append(point | measured)


class _Saver:
    """The checkpoint of what is trained: saved not too often, restored once."""

    def __init__(self, path: Path, configs: list[dict[str, Any]], every: float):
        if distributed.is_first():
            checkpoints.prepare(path.parent)
        self.path, self.configs, self.every = path, configs, every
        self.seconds_before = 0.0

    def resume(self, runs: Trainable, position: Position) -> None:
        """Where there is a checkpoint, put the runs, torch's generators and the position where it has them."""
        self.saved = self.started = time.monotonic()
        if distributed.from_first(self.path.exists()):
            vars(position).update(vars(checkpoints.restore(self.path, self.configs, runs)))
            self.seconds_before = position.seconds

    def save_if_due(self, runs: Trainable, position: Position) -> None:
        """Save, if the last time is long enough ago. A full disk costs the checkpoint, not the run."""
        now = time.monotonic()
        if now - self.saved < self.every or not distributed.is_first():
            return
        now_at = dataclasses.replace(position, seconds=self.seconds_before + now - self.started)
        try:
            checkpoints.save(self.path, self.configs, runs, now_at)
        except OSError as error:
            log.warning("no checkpoint this time, the run goes on: %s", error)
        self.saved = time.monotonic()


def _progress_bar(title: str, times: Timetable, position: Position, progress: bool) -> tqdm:
    shown = progress and sys.stderr is not None
    hidden = {} if shown else {"disable": True}  # not given, the environment variable TQDM_DISABLE decides
    done = times.steps_before(position.epoch) + len(position.taken)
    return tqdm(total=times.steps, initial=done, desc=title, unit="step", leave=False, **hidden)


@contextlib.contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """torch's random state follows from the seed within, and is what it was after: for dropout, all else has generators.

    Of the CPU and the run's own device: torch.manual_seed, and fork_rng by itself, would start every GPU of the machine.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            getattr(torch, device.type).manual_seed(seed)
        yield
