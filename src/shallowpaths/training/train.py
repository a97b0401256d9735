"""RunConfig -> train() -> RunRecord."""

import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from shallowpaths import data as datasets
from shallowpaths._device import arithmetic, device_name, named_if_too_large, resolve_device
from shallowpaths.data import Dataset
from shallowpaths.networks import count_parameters
from shallowpaths.theory.checks import whole
from shallowpaths.training import checkpoints, distributed
from shallowpaths.training.checkpoints import Position
from shallowpaths.training.config import RunConfig, only_configs
from shallowpaths.training.epochs import EpochResult, curvature, evaluate
from shallowpaths.training.record import RunRecord, commit, versions
from shallowpaths.training.runs import LaneRuns, Run, Trainable, check_lanes
from shallowpaths.training.steps import StepOptions, default_options

log = logging.getLogger(__name__)
Folder = str | os.PathLike | None


def train(
    config: RunConfig, data_folder: Folder = None, progress: bool = True, checkpoint_folder: Folder = None,
    checkpoint_every: float = 60.0, options: StepOptions | None = None, workers: int = 0,
) -> RunRecord:  # fmt: skip
    """Train the network that `config` describes and say what came of it.

    A function of its config: on the same device, the same config gives the same record, but for the times and
    versions in it. A run whose loss stops being finite is a result, not an error: it ends there, as "diverged".
    torch's random state is left as it was found.

    Started by torchrun, its processes train one network together, by torch's DistributedDataParallel: each takes its slice
    of every batch, and all return the same record, whose device_name counts them. It is the run of one process to rounding,
    but that batch normalization takes its statistics over a process's slice, as over a ghost batch.

    Args:
        data_folder: where CIFAR-10's files are or shall be (see `data.load`); an imagefolder, with train and val.
        progress: show a bar on stderr, unless TQDM_DISABLE=1 is set.
        checkpoint_folder: save the run's state here now and then, and go on from a state that is there already: a run that
            was killed ends as if it had not been (on the CPU, with as many threads: bit for bit). It is deleted at the end.
        checkpoint_every: seconds that lie between two checkpoints at least; 0 saves after every step.
        options: what makes the step fast; None takes the device's defaults. They change rounding at most.
        workers: processes that decode an imagefolder's images, for each that trains; 0 decodes in that one.

    Raises:
        ValueError: a device that is not there, a batch that torchrun's processes do not divide, a run that its data is too
            small for or that does not fit in memory, data that cannot be read; a checkpoint folder that cannot be written,
            or a checkpoint in it that does not belong to this run.
    """
    return train_lanes([config], data_folder, progress, checkpoint_folder, checkpoint_every, options, workers)[0]


def train_lanes(
    configs: Sequence[RunConfig], data_folder: Folder = None, progress: bool = True, checkpoint_folder: Folder = None,
    checkpoint_every: float = 60.0, options: StepOptions | None = None, workers: int = 0, keep_checkpoint: bool = False,
) -> list[RunRecord]:  # fmt: skip
    """Train all configs at the same time (see `shallowpaths.training.lanes`); their records come in the same order.

    Each step is `train`'s to rounding; where training is chaotic, at the largest rates that still train, the results part.
    A record's seconds are its share of the whole. The arguments are `train`'s; `keep_checkpoint` leaves the last checkpoint
    to a caller who puts the records into a store before it deletes it.

    Raises:
        ValueError: what `runs.check_lanes` refuses; torchrun's processes; the lanes do not fit in memory together; and what
            `train` refuses.
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
    path, settings = None, [config.to_dict() for config in configs]
    if checkpoint_folder is not None:
        path = checkpoints.path_of(checkpoint_folder, [config.key for config in configs])
        if distributed.is_first():
            checkpoints.prepare(path.parent)
    options = default_options(device) if options is None else options
    one = lanes == 1
    title = f"{first.recipe}, depth {first.depth}, " + (f"rate {first.learning_rate:g}" if one else f"{lanes} lanes")
    size = f"{first.network} of depth {first.depth} and width {first.width}, batch_size {first.batch_size}, on {device.type}"
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),  # by itself it would start every GPU
        named_if_too_large(f"{'the run does' if one else f'{lanes} runs as lanes do'} not fit in memory: {size}"),
        arithmetic(device, options.tf32, options.deterministic),
    ):
        torch.default_generator.manual_seed(first.seed)  # for dropout, all else has generators; torch.manual_seed starts GPUs
        if device.type != "cpu":
            getattr(torch, device.type).manual_seed(first.seed)
        data = distributed.one_before_others(lambda: _load(first, device, data_folder, workers))
        first.split(len(data.train_images))  # refuses what cannot be trained on so many
        data = data.hold_out(first.validation)
        started = time.perf_counter()
        runs = Run(first, data, options=options) if one else LaneRuns(configs, data, options)
        position = Position([{"outcome": "running", "curve": []} for _ in configs])
        if path and distributed.from_first(path.exists()):
            position = checkpoints.restore(path, settings, runs)
        save = _saving(path, settings, checkpoint_every, runs, position) if path else lambda: None
        _run(runs, data, position, save, title, progress and distributed.is_first(), first.curvature_images)
    if path and not keep_checkpoint and distributed.is_first():
        checkpoints.discard(path)
    seconds, name = position.seconds + time.perf_counter() - started, device_name(device)
    known = {
        "parameters": count_parameters(runs.networks[0]), "data_checksum": data.checksum,
        "train_images": len(data.train_images), "seconds": round(seconds / lanes, 3), "lanes": lanes,
        "device_name": f"{distributed.size()} x {name}" if distributed.size() > 1 else name,
        "versions": versions(), "commit": commit(),
    }  # fmt: skip
    records = [RunRecord(config, **known, **result) for config, result in zip(configs, position.results, strict=True)]
    return distributed.from_first(records)


def _load(config: RunConfig, device: torch.device, folder: Folder, workers: int) -> Dataset:
    whole("workers", workers, at_least=0)
    if config.data != "imagefolder":
        return datasets.load(config.data, device, folder)
    skip = config.bad_images == "skip"
    return datasets.load_folder(folder, device, config.image_size, skip, config.augment, workers)


def _saving(
    path: Path, settings: checkpoints.Configs, every: float, runs: Trainable, position: Position
) -> Callable[[], None]:
    """What saves a checkpoint, if the last one is `every` seconds old. A full disk costs the checkpoint, not the run."""
    saved = started = time.monotonic()

    def save_if_due() -> None:
        nonlocal saved
        now = time.monotonic()
        if now - saved < every or not distributed.is_first():
            return
        try:
            now_at = dataclasses.replace(position, seconds=position.seconds + now - started)
            checkpoints.save(path, settings, runs, now_at)
        except OSError as error:
            log.warning("no checkpoint this time, the run goes on: %s", error)
        saved = time.monotonic()

    return save_if_due


def _run(
    runs: Trainable, data: Dataset, position: Position, save: Callable[[], None], title: str, progress: bool, images: int
) -> None:
    """Train to the end. Outcomes, curves and test results go to `position`. images: for curvature, see RunConfig."""
    times = runs.timetables[0]
    hidden = {} if progress and sys.stderr is not None else {"disable": True}  # not given, TQDM_DISABLE decides
    done = times.steps_before(position.epoch) + len(position.taken)
    with tqdm(total=times.steps, initial=done, desc=title, unit="step", leave=False, **hidden) as bar:

        def on_step() -> None:
            bar.update()
            save()

        for epoch in range(position.epoch, times.epochs):
            if images and not position.taken:  # else the checkpoint holds it
                position.measured = curvature(runs.networks[0], data, images, times.batch_size)
            found = runs.epoch(epoch, on_step, position.taken)
            _note_epoch(runs, data, position, found)
            position.epoch = epoch + 1
            position.taken.clear()
            pairs = zip(found, position.results, strict=True)
            training = [mine for mine, result in pairs if result["outcome"] == "running"]
            if not training:
                return
            bar.set_postfix(epoch=epoch + 1, loss=training[0].loss, accuracy=training[0].accuracy)
    for network, result in zip(runs.networks, position.results, strict=True):
        if result["outcome"] == "running":
            tested = evaluate(network, data, "test", runs.precision)
            good = math.isfinite(tested["test_loss"])
            result |= {"outcome": "finished"} | tested if good else _diverged(times.steps)


def _note_epoch(runs: Trainable, data: Dataset, position: Position, found: list[EpochResult]) -> None:
    """Add an epoch to the runs' curves; or say that they have diverged."""
    for network, times, mine, result in zip(runs.networks, runs.timetables, found, position.results, strict=True):
        if result["outcome"] != "running":
            continue
        first, last = (times.steps_before(epoch) for epoch in (position.epoch, position.epoch + 1))
        if mine.first_bad_step is not None:
            result |= _diverged(first + mine.first_bad_step)
            continue
        held_out = evaluate(network, data, "validation", runs.precision) if len(data.validation_images) else {}
        if not math.isfinite(held_out.get("validation_loss", 0.0)):
            result |= _diverged(last)
            continue
        point = {"epoch": position.epoch + 1, "learning_rate": mine.learning_rate}
        point |= {"train_loss": mine.loss, "train_accuracy": mine.accuracy}
        top5 = {} if mine.top5_accuracy is None else {"train_top5_accuracy": mine.top5_accuracy}
        result["curve"].append(point | top5 | held_out | position.measured)


def _diverged(step: int) -> dict[str, Any]:
    return {"outcome": "diverged", "diverged_step": step}
