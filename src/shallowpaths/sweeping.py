"""Many runs: each config once, finished ones skipped, shared with whoever works on the same store."""

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import torch
from tqdm import tqdm

from shallowpaths import checkpoints, stepping
from shallowpaths.devices import resolve_device
from shallowpaths.lanes import in_lanes
from shallowpaths.plans.costs import images_of, work
from shallowpaths.runs import RunConfig, RunRecord
from shallowpaths.stores import Store
from shallowpaths.training import train, train_lanes

log = logging.getLogger(__name__)
POLL_SECONDS = 0.5  # how often to look whether another process has finished what we wait for


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
            interrupted sweep goes on in the middle of a run. Several processes may sweep into one store at the same
            time: they share the work, and each returns when all of it is done.
        data_folder, progress: as in `train`.
        limit_seconds: start no run later than this. What is not done then is left out of the list.
        processes: so many runs at a time, each in a process of its own with its share of torch's threads. Small networks
            cannot use several threads well. Needs a store, over which the processes agree; and in a script the line
            `if __name__ == "__main__":`, as all Python that starts processes.
        lanes: so many runs that differ in learning rate and seed only, as one (see `shallowpaths.lanes`). Each step is
            the same to rounding. 1 by default: on a CPU, a process for each core does better. Where the rows
            lanes_8_over_1 of `shallowpaths bench` are far below 8, they pay.

    Raises:
        ValueError: a config stands twice in the list or has a batch larger than its training split; the store cannot
            be written, or there is none for several processes; fewer than 1 lane.
    """
    if lanes < 1:
        raise ValueError(f"lanes {lanes}: give at least 1")
    if processes < 1 or (processes > 1 and store is None):
        raise ValueError(f"processes {processes}: give at least 1, and a store for more than one")
    wanted = [c.replace(device=resolve_device(c.device).type) for c in configs]
    if len({c.key for c in wanted}) < len(wanted):
        raise ValueError("the sweep lists the same config twice: a run is a function of its config, change its seed")
    for config in wanted:
        stepping.check_batch(config, images_of(config))
    late = _deadline(limit_seconds)
    kept = Store(store) if store is not None else None
    done = {record.config.key: record for record in kept.load()} if kept else {}
    missing = [c for c in wanted if c.key not in done]
    trained = functools.partial(_trained, data_folder, progress and processes == 1)
    helped = functools.partial(sweep, missing, store, data_folder, False, lanes=lanes)
    with _Progress(wanted, missing, progress) as bar:
        if kept:
            with _helpers(processes, len(missing), helped, limit_seconds):
                _run_shared(missing, done, kept, bar, late, trained, lanes)
        else:
            for group in in_lanes(missing, lanes):
                if not late():
                    done |= {record.config.key: record for record in trained(None, group)}
                    bar.advance(group)
    return [done[c.key] for c in wanted if c.key in done]


def processes_for(configs: Iterable[RunConfig]) -> int:
    """How many runs to do at a time: one for each of torch's threads on a CPU, one on anything else."""
    on_cpu = all(resolve_device(device).type == "cpu" for device in {c.device for c in configs})
    return torch.get_num_threads() if on_cpu else 1


def _run_shared(
    missing: list[RunConfig],
    done: dict[str, RunRecord],
    store: Store,
    bar: "_Progress",
    late: Callable[[], bool],
    trained: Callable[[Path, list[RunConfig]], list[RunRecord]],
    lanes: int,
) -> None:
    """Do what no other process does; then wait for the rest, and take over what a process left when it died."""
    while missing and not late():
        busy = True
        for group in in_lanes(missing, lanes):
            if late():
                break
            with contextlib.ExitStack() as claims:
                mine = [config for config in group if claims.enter_context(store.claim(config.key))]
                if not mine:
                    continue
                busy = False
                stored = {record.config.key for record in store.load()}  # by another process since we looked
                due = [config for config in mine if config.key not in stored]
                for record in trained(store.checkpoint_folder, due):
                    if store.append(record):
                        stored.add(record.config.key)
                        checkpoints.discard(checkpoints.path_of(store.checkpoint_folder, [record.config]))
                bar.advance(due)
                for config in mine:
                    if config.key in stored:
                        store.forget_claim(config.key)
        done |= {record.config.key: record for record in store.load()}
        missing = [c for c in missing if c.key not in done]
        bar.show(missing)
        if missing and busy:
            time.sleep(POLL_SECONDS)
    store.flush()


def _trained(
    data_folder: str | os.PathLike | None, progress: bool, folder: Path | None, group: list[RunConfig]
) -> list[RunRecord]:
    if len(group) > 1:
        return train_lanes(group, data_folder, progress, folder)
    return [train(config, data_folder, progress, checkpoint_folder=folder) for config in group]


@contextlib.contextmanager
def _helpers(processes: int, runs: int, helped: Callable[..., object], limit_seconds: float | None) -> Iterator[None]:
    """Processes that do `helped` meanwhile; gone at the end, whatever ends it.

    Each process has its share of torch's threads, also where there are fewer runs than processes: a run's last digits
    follow from its threads, and the same command gives the same digits.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // processes)
    end = None if limit_seconds is None or processes == 1 else time.time() + limit_seconds
    context = multiprocessing.get_context("spawn")  # the only way that leaves torch's threads and CUDA alone
    count, started = min(processes, runs) - 1, []
    torch.set_num_threads(share)
    try:
        with _without_interrupts() if count > 0 else contextlib.nullcontext():
            for _ in range(count):
                process = context.Process(target=_help, args=(helped, share, end), daemon=True)
                process.start()
                started.append(process)
        yield
        for process in started:
            process.join()
    finally:
        for process in started:
            process.terminate()  # only after Ctrl-C or an error is one still there; what it was doing is saved
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started within never see Ctrl-C: it reaches every process, and the first one says what there is to say.

    Here it is only put off, to the end of this block. Without effect where the system has no such mask.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else the first process starts it, and that lifts the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _help(helped: Callable[..., object], threads: int, end: float | None) -> None:
    """What a helping process does. An error ends it: the first process takes its run over, and meets what it met."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared by processes, and one that is killed would leave it behind
    torch.set_num_threads(threads)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            helped(limit_seconds=None if end is None else max(0.0, end - time.time()))
        except (ValueError, OSError) as error:
            log.warning("a process that helped the sweep ends, its run is taken over: %s", error)


def _end_with_parent() -> None:
    """A sweep that was killed leaves nothing behind that works on unseen. What this process did is saved, but for a minute."""
    multiprocessing.parent_process().join()
    os._exit(1)


class _Progress:
    """A bar over a sweep's work, so that the time left is right although one run may cost a hundred times another."""

    def __init__(self, wanted: list[RunConfig], missing: list[RunConfig], shown: bool):
        self.runs, self.left = len(wanted), {c.key: work(c) for c in missing}
        self.all_work = sum(self.left.values())
        hidden = (
            {} if shown and len(missing) > 1 and sys.stderr is not None else {"disable": True}
        )  # else TQDM_DISABLE decides
        self.bar = tqdm(
            total=1.0,
            desc=self._count(),
            smoothing=0,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
            **hidden,
        )

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def advance(self, configs: list[RunConfig]) -> None:
        """Some runs are finished."""
        for config in configs:
            self.left.pop(config.key, None)
        self._draw()

    def show(self, missing: list[RunConfig]) -> None:
        """Count what other processes have finished."""
        for key in set(self.left) - {c.key for c in missing}:
            del self.left[key]
        self._draw()

    def _draw(self) -> None:
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
