"""Sweeps: many runs, each done once, resumed where they were interrupted."""

import contextlib
import functools
import itertools
import math
import os
import sys
import time
from collections.abc import Iterable

import torch
from tqdm import tqdm

from shallowpaths._device import resolve_device
from shallowpaths.experiments.costs import TRAINING_IMAGES, work
from shallowpaths.experiments.execution import in_processes, one_by_one
from shallowpaths.experiments.store import Store
from shallowpaths.theory.checks import whole
from shallowpaths.training import checkpoints
from shallowpaths.training.config import RunConfig, only_configs
from shallowpaths.training.record import RunRecord
from shallowpaths.training.runs import in_lanes
from shallowpaths.training.train import train_lanes


def sweep(
    configs: Iterable[RunConfig],
    store: str | os.PathLike | None = None,
    data_folder: str | os.PathLike | None = None,
    progress: bool = True,
    limit_seconds: float | None = None,
    processes: int = 1,
    lanes: int = 1,
    workers: int = 0,
) -> list[RunRecord]:
    """Train every config and return the records in the same order.

    Args:
        store: where records are kept (see `Store`). A config whose record is there already is not run again, and each
            new record is on the disk before the next run starts. Runs that take minutes are saved in between, so that an
            interrupted sweep goes on in the middle of a run.
        data_folder, progress, workers: as in `train`.
        limit_seconds: start no run later than this. What is not done then is left out of the list.
        processes: so many runs at a time, each in a process of its own with its share of torch's threads. Small networks
            cannot use several threads well.
        lanes: so many runs that differ in learning rate and seed only, as one (see `shallowpaths.training.lanes`). Each
            step is the same to rounding. 1 by default: on a CPU, a process for each core does better. Where the rows
            lanes_8_over_1 of `shallowpaths bench` are far below 8, they pay.

    Raises:
        ValueError: what `check` refuses; the store cannot be written or is in use by another sweep; fewer than 1 process
            or lane.
    """
    whole("lanes", lanes)
    whole("processes", processes)
    wanted = check(configs)
    end = math.inf if limit_seconds is None else time.monotonic() + limit_seconds
    with contextlib.ExitStack() as stack:
        kept = None if store is None else stack.enter_context(Store(store))
        done = {record.config.key: record for record in kept.load()} if kept else {}
        missing = [config for config in wanted if config.key not in done]
        left = {config.key: round(work(config)) for config in missing}  # in whole numbers, whose sum is exact
        bar = stack.enter_context(_progress_bar(len(wanted), left, progress))
        folder = kept.checkpoint_folder if kept else None
        shown = progress and processes == 1
        trained = functools.partial(_trained, data_folder=data_folder, progress=shown, folder=folder, workers=workers)
        jobs = itertools.takewhile(lambda _: time.monotonic() < end, in_lanes(missing, lanes))
        execute = functools.partial(in_processes, processes=processes) if processes > 1 else one_by_one
        for records in execute(jobs, trained):
            keys = [record.config.key for record in records]
            done |= dict(zip(keys, records, strict=True))
            if kept and kept.append(*records):
                for together in (keys, *([key] for key in keys)):
                    checkpoints.discard(checkpoints.path_of(folder, together))
            bar.update(sum(map(left.pop, keys)))
            bar.set_description_str(_count(len(wanted), left))
        if kept:
            kept.flush()
        return [done[config.key] for config in wanted if config.key in done]


def check(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """The configs with their devices resolved, if all of them can be swept.

    Raises:
        ValueError: a config stands twice in the list, or cannot be trained on its data set (`RunConfig.split`).
        TypeError: what stands in it is no RunConfig.
    """
    wanted = [config.replace(device=resolve_device(config.device).type) for config in only_configs(configs)]
    if len({config.key for config in wanted}) < len(wanted):
        raise ValueError("the sweep lists the same config twice: a run is a function of its config, change its seed")
    for config in wanted:
        config.split(TRAINING_IMAGES[config.data])
    return wanted


def processes_for(configs: Iterable[RunConfig]) -> int:
    """How many runs to do at a time: one for each of torch's threads on a CPU, one on anything else."""
    on_cpu = all(resolve_device(device).type == "cpu" for device in {c.device for c in configs})
    return torch.get_num_threads() if on_cpu else 1


def _trained(
    job: list[RunConfig], data_folder: str | os.PathLike | None, progress: bool, folder: str | os.PathLike | None, workers: int
) -> list[RunRecord]:
    """A job's records; its checkpoint stays until they are in the store."""
    return train_lanes(job, data_folder, progress, folder, workers=workers, keep_checkpoint=True)


def _progress_bar(runs: int, left: dict[str, int], shown: bool) -> tqdm:
    """Over the work that is left, so that the time left is right although one run may cost a hundred times another."""
    hidden = {} if shown and len(left) > 1 and sys.stderr is not None else {"disable": True}  # not given, TQDM_DISABLE decides
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    return tqdm(total=sum(left.values()), desc=_count(runs, left), smoothing=0, bar_format=form, **hidden)


def _count(runs: int, left: dict[str, int]) -> str:
    return f"sweep: {runs - len(left)} of {runs} runs"
