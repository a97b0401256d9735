"""Sweeps: many runs, each done once, resumed where they were interrupted."""

import contextlib
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable

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
) -> list[RunRecord]:
    """Train every config and return the records in the same order.

    Args:
        store: where records are kept (see `Store`). A config whose record is there already is not run again, and each
            new record is on the disk before the next run starts. Runs that take minutes are saved in between, so that an
            interrupted sweep goes on in the middle of a run.
        data_folder, progress: as in `train`.
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
    late = _deadline(limit_seconds)
    with contextlib.ExitStack() as stack:
        kept = None if store is None else stack.enter_context(Store(store))
        done = {record.config.key: record for record in kept.load()} if kept else {}
        missing = [config for config in wanted if config.key not in done]
        bar = stack.enter_context(_Progress(len(wanted), {c.key: work(c) for c in missing}, progress))
        folder = kept.checkpoint_folder if kept else None
        shown = progress and processes == 1
        trained = functools.partial(_trained, data_folder=data_folder, progress=shown, folder=folder)
        jobs = itertools.takewhile(lambda _: not late(), in_lanes(missing, lanes))
        execute = functools.partial(in_processes, processes=processes) if processes > 1 else one_by_one
        for records in execute(jobs, trained):
            keys = [record.config.key for record in records]
            done |= dict(zip(keys, records, strict=True))
            if kept and kept.append(*records):
                for together in (keys, *([key] for key in keys)):
                    checkpoints.discard(checkpoints.path_of(folder, together))
            bar.advance(keys)
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
    job: list[RunConfig], data_folder: str | os.PathLike | None, progress: bool, folder: str | os.PathLike | None
) -> list[RunRecord]:
    """A job's records; its checkpoint stays until they are in the store."""
    return train_lanes(job, data_folder, progress, folder, keep_checkpoint=True)


class _Progress:
    """A bar over a sweep's work, so that the time left is right although one run may cost a hundred times another.

    Args:
        runs: all of them. left: the work of each that is still to be done, by its key.
    """

    def __init__(self, runs: int, left: dict[str, float], shown: bool):
        self.runs, self.left = runs, left
        self.all_work = sum(left.values())
        shown = shown and len(left) > 1 and sys.stderr is not None
        self.bar = tqdm(
            total=1.0,
            desc=self._count(),
            smoothing=0,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
            **({} if shown else {"disable": True}),  # not given, TQDM_DISABLE decides
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, keys: Iterable[str]) -> None:
        """Some runs are finished."""
        for key in keys:
            self.left.pop(key, None)
        done = 1.0 - sum(self.left.values()) / max(self.all_work, 1.0)  # not added up run by run: it must end at 1
        self.bar.update(done - self.bar.n)
        self.bar.set_description_str(self._count())

    def _count(self) -> str:
        return f"sweep: {self.runs - len(self.left)} of {self.runs} runs"


def _deadline(seconds: float | None) -> Callable[[], bool]:
    """A function that says whether the time is over."""
    if seconds is None:
        return lambda: False
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end
