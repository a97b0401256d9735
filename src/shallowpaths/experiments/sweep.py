"""Sweeps: many runs, each done once, resumed where they were interrupted."""

import contextlib
import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from shallowpaths._device import resolve_device
from shallowpaths.experiments.costs import TRAINING_IMAGES, operations, steps_of
from shallowpaths.experiments.execution import Job, Records, in_cluster, in_processes
from shallowpaths.experiments.store import Store
from shallowpaths.theory.checks import number, whole
from shallowpaths.training import checkpoints, distributed
from shallowpaths.training.config import RunConfig, only_configs
from shallowpaths.training.record import RunRecord
from shallowpaths.training.runs import in_lanes
from shallowpaths.training.train import train_lanes

OVERHEAD = 6e6  # operations that a block of any size could have done while a step starts its parts


def sweep(
    configs: Iterable[RunConfig], store: str | os.PathLike | None = None, data_folder: str | os.PathLike | None = None,
    progress: bool = True, processes: int = 1, lanes: int = 1, cluster: str | None = None, gpu_share: float = 1,
    workers: int = 0,
) -> list[RunRecord]:
    """Train every config and return the records in the same order.

    Args:
        store: keeps the records (see `Store`). Whose record is there is not run again; long runs are saved in between.
        data_folder, progress, workers: as in `train`.
        processes: so many runs at a time, each in a process of its own with its share of torch's threads.
        lanes: so many runs that differ in learning rate and seed only, as one; each step is the same to rounding.
        cluster: the address of a Ray cluster that does the runs instead (see `in_cluster`). A run that is lost with its
            worker begins again where that does not see the store's folder. A device "auto" is this machine's.
        gpu_share: of one GPU, for each run of a cluster on CUDA.
    Raises ValueError: what `check`, `Store` and `in_cluster` refuse; fewer than 1 process or lane, more under torchrun,
    or processes and a cluster.
    """
    whole("lanes", lanes)
    whole("processes", processes)
    number("gpu_share", gpu_share, above=0, at_most=1)
    if cluster is not None and processes > 1:
        raise ValueError(f"processes {processes} and the cluster {cluster}: a cluster has its own, give one of the two")
    distributed.join()
    if distributed.joined() and (max(lanes, processes) > 1 or cluster is not None):
        said = "torchrun's processes share each run, leave all three out"
        raise ValueError(f"lanes {lanes}, processes {processes}, cluster {cluster}: {said}")
    wanted = check(configs, elsewhere=cluster is not None)
    for config in wanted:
        distributed.share(config.batch_size)  # refuses, before any run, what torchrun's processes cannot share
    with contextlib.ExitStack() as stack:
        kept = None if store is None or not distributed.is_first() else stack.enter_context(Store(store))
        done = distributed.from_first({record.config.key: record for record in kept.load()} if kept else {})
        missing = [config for config in wanted if config.key not in done]
        left = {c.key: round(operations(c) + OVERHEAD * c.blocks * steps_of(c)) for c in missing}  # whole: an exact sum
        bar = stack.enter_context(_progress_bar(len(wanted), left, progress and distributed.is_first()))
        folder = distributed.from_first(kept.checkpoint_folder.absolute() if kept else None)
        if folder and missing:
            checkpoints.prepare(folder)  # here: a worker on another machine must not make one of its own
        shown = progress and processes == 1 and cluster is None
        trained = functools.partial(_trained, data_folder=data_folder, progress=shown, folder=folder, workers=workers)
        execute = functools.partial(in_processes, processes=processes) if processes > 1 else map
        if cluster is not None and missing:
            gpus = gpu_share if any(config.device == "cuda" for config in missing) else 0
            execute = functools.partial(in_cluster, address=cluster, gpu_share=gpus)
        for records in execute(trained, in_lanes(missing, lanes)):
            keys = [record.config.key for record in records]
            done |= dict(zip(keys, records, strict=True))
            if kept:
                kept.append(*records)
                for together in (keys, *([key] for key in keys)):
                    checkpoints.discard(checkpoints.path_of(folder, together))
            bar.update(sum(map(left.pop, keys)))
            bar.set_description_str(f"sweep: {len(wanted) - len(left)} of {len(wanted)} runs")
        return [done[config.key] for config in wanted]


def check(configs: Iterable[RunConfig], elsewhere: bool = False) -> list[RunConfig]:
    """The configs with their devices resolved; one that is named need not be of this machine, if they run `elsewhere`.

    Raises ValueError: one stands twice, or cannot be trained on its data (`RunConfig.split`); TypeError: no RunConfig.
    """
    wanted = only_configs(configs)
    here = {d: resolve_device(d).type for d in {c.device for c in wanted} if d == "auto" or not elsewhere}
    wanted = [config.replace(device=here.get(config.device, config.device)) for config in wanted]
    if len(set(wanted)) < len(wanted):
        raise ValueError("the sweep lists the same config twice: a run is a function of its config, change its seed")
    for config in wanted:
        config.split(TRAINING_IMAGES[config.data])
    return wanted


def processes_for(configs: Iterable[RunConfig]) -> int:
    """How many runs to do at a time: one for each of torch's threads on a CPU, else, or under torchrun, one."""
    distributed.join()
    on_cpu = {resolve_device(device).type for device in {c.device for c in configs}} == {"cpu"}
    return torch.get_num_threads() if on_cpu and not distributed.joined() else 1


def _trained(job: Job, folder: Path | None, **options: Any) -> Records:
    """A job's records; its checkpoint stays until they are in the store. This machine may not see its folder."""
    seen = folder if folder and folder.is_dir() else None
    return train_lanes(job, checkpoint_folder=seen, keep_checkpoint=True, **options)


def _progress_bar(runs: int, left: dict[str, int], shown: bool) -> tqdm:
    """Over the work that is left, so that the time left is right although one run may cost a hundred times another."""
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    hide = {} if shown and len(left) > 1 and sys.stderr is not None else {"disable": True}  # else TQDM_DISABLE decides
    said = f"sweep: {runs - len(left)} of {runs} runs"
    return tqdm(total=sum(left.values()), desc=said, smoothing=0, bar_format=form, **hide)
