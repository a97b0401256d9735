"""RunConfig -> train() -> RunRecord."""

import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

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

    A function of its config: on the same device, the same config gives the same record, but for times and versions.
    A run whose loss stops being finite is no error: it ends there, as "diverged". torch's random state stays as it was.

    Started by torchrun, its processes train one network together, by torch's DistributedDataParallel: each takes its
    slice of every batch, and all return one record, whose device_name counts them. It is the run of one process to
    rounding, but that batch normalization takes its statistics over a process's slice, as over a ghost batch.

    Args:
        data_folder: where CIFAR-10's files are or shall be (see `data.load`); an imagefolder, with train and val.
        progress: show a bar on stderr, unless TQDM_DISABLE=1 is set.
        checkpoint_folder: save the run's state here now and then, until it ends, and go on from what is there: a run
            that was killed ends as if it had not been (on the CPU, with as many threads: bit for bit).
        checkpoint_every: seconds that lie between two checkpoints at least; 0 saves after every step.
        options: what makes the step fast; None takes the device's defaults. They change rounding at most.
        workers: processes that decode an imagefolder's images, for each that trains; 0 decodes in that one.

    Raises:
        ValueError: a device that is not there, a batch that torchrun's processes do not divide, a run that does not fit
            its data or the memory, data that cannot be read; a checkpoint that cannot be written or is another run's.
    """
    return train_lanes([config], data_folder, progress, checkpoint_folder, checkpoint_every, options, workers)[0]


def train_lanes(
    configs: Sequence[RunConfig], data_folder: Folder = None, progress: bool = True, checkpoint_folder: Folder = None,
    checkpoint_every: float = 60.0, options: StepOptions | None = None, workers: int = 0, keep_checkpoint: bool = False,
) -> list[RunRecord]:  # fmt: skip
    """Train all configs at the same time (see `shallowpaths.training.lanes`); their records come in the same order.

    Each step is `train`'s to rounding; where training is chaotic, at the largest rates that train, the results part.
    A record's seconds are its share of the whole. `keep_checkpoint` leaves the last checkpoint to the caller.
    ValueError: as in `train`, and what `runs.check_lanes` refuses, torchrun's processes, lanes too large together.
    """
    only_configs(configs)
    if len(configs) != 1:
        check_lanes(configs)
    distributed.join()
    device = distributed.own_device(resolve_device(configs[0].device))
    distributed.share(configs[0].batch_size)  # refuses what cannot be shared
    configs = [config.replace(device=device.type) for config in configs]
    first, lanes, one, path = configs[0], len(configs), len(configs) == 1, None
    if lanes > 1 and distributed.joined():
        reason = "lanes are many runs on one device, torchrun's processes one run on many"
        raise ValueError(f"{reason}: train each config by itself")
    if checkpoint_folder is not None:
        path = checkpoints.path_of(checkpoint_folder, [config.key for config in configs])
        if distributed.is_first():
            checkpoints.prepare(path.parent)
    whole("workers", workers, at_least=0)
    load = partial(datasets.load, first.data)
    if first.data == "imagefolder":
        settings = {"size": first.image_size, "skip": first.bad_images == "skip", "augment": first.augment}
        load = partial(datasets.load_folder, **settings, workers=workers)
    options = default_options(device) if options is None else options
    what = "the run does" if one else f"{lanes} runs as lanes do"
    size = f"{first.network} of depth {first.depth} and width {first.width}, batch_size {first.batch_size}"
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),  # by itself it would start every GPU
        named_if_too_large(f"{what} not fit in memory: {size}, on {device.type}"),
        arithmetic(device, options.tf32, options.deterministic),
    ):
        torch.default_generator.manual_seed(first.seed)  # for dropout; torch.manual_seed would start every GPU
        if device.type != "cpu":
            getattr(torch, device.type).manual_seed(first.seed)
        data = distributed.one_before_others(lambda: load(device=device, folder=data_folder))
        first.split(len(data.train_images))  # refuses what cannot be trained on so many
        data = data.hold_out(first.validation)
        started = time.perf_counter()
        runs = Run(first, data, options=options) if one else LaneRuns(configs, data, options)
        position = Position([{"outcome": "running", "curve": []} for _ in configs])
        if path and distributed.from_first(path.exists()):
            position = checkpoints.restore(path, runs)
        _run(runs, data, position, path, checkpoint_every, progress and distributed.is_first())
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


def _run(runs: Trainable, data: Dataset, position: Position, path: Path | None, every: float, progress: bool) -> None:
    """Train to the end, with a checkpoint after `every` seconds. Outcomes, curves and test results go to `position`."""
    times, results = runs.timetables[0], position.results
    config = times.config
    what = f"rate {config.learning_rate:g}" if len(results) == 1 else f"{len(results)} lanes"
    title = f"{config.recipe}, depth {config.depth}, {what}"
    hidden = {} if progress and sys.stderr is not None else {"disable": True}  # not given, TQDM_DISABLE decides
    done = times.steps_before(position.epoch) + len(position.taken)
    started = saved = time.monotonic()
    with tqdm(total=times.steps, initial=done, desc=title, unit="step", leave=False, **hidden) as bar:

        def on_step() -> None:
            nonlocal saved
            bar.update()
            if path and distributed.is_first() and time.monotonic() - saved >= every:
                seconds = position.seconds + time.monotonic() - started
                try:
                    checkpoints.save(path, runs, dataclasses.replace(position, seconds=seconds))
                except OSError as error:  # a full disk costs the checkpoint, not the run
                    log.warning("no checkpoint this time, the run goes on: %s", error)
                saved = time.monotonic()

        for epoch in range(position.epoch, times.epochs):
            if config.curvature_images and not position.taken:  # else the checkpoint holds it
                position.measured = curvature(runs.networks[0], data, config.curvature_images, times.batch_size)
            found = runs.epoch(epoch, on_step, position.taken)
            _note_epoch(runs, data, position, found)
            position.epoch = epoch + 1
            position.taken.clear()
            training = [mine for mine, result in zip(found, results, strict=True) if result["outcome"] == "running"]
            if not training:
                return
            bar.set_postfix(epoch=epoch + 1, loss=training[0].loss, accuracy=training[0].accuracy)
    for network, result in zip(runs.networks, results, strict=True):
        if result["outcome"] == "running":
            tested = evaluate(network, data, "test", runs.precision)
            diverged = {"outcome": "diverged", "diverged_step": times.steps}
            result |= {"outcome": "finished"} | tested if math.isfinite(tested["test_loss"]) else diverged


def _note_epoch(runs: Trainable, data: Dataset, position: Position, found: list[EpochResult]) -> None:
    """Add an epoch to the runs' curves; or say that they have diverged."""
    for network, times, mine, result in zip(runs.networks, runs.timetables, found, position.results, strict=True):
        if result["outcome"] != "running":
            continue
        steps = range(times.steps_before(position.epoch), times.steps_before(position.epoch + 1))
        bad, held_out = mine.first_bad_step, {}
        if bad is None and len(data.validation_images):
            held_out = evaluate(network, data, "validation", runs.precision)
            bad = None if math.isfinite(held_out["validation_loss"]) else len(steps)
        if bad is not None:
            result |= {"outcome": "diverged", "diverged_step": steps.start + bad}
            continue
        point = {"epoch": position.epoch + 1, "learning_rate": mine.learning_rate}
        point |= {"train_loss": mine.loss, "train_accuracy": mine.accuracy}
        top5 = {} if mine.top5_accuracy is None else {"train_top5_accuracy": mine.top5_accuracy}
        result["curve"].append(point | top5 | held_out | position.measured)
