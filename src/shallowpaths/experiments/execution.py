"""The jobs of a sweep, several at a time by worker processes. A job is a list of configs that are trained together.

As `map` does, an executor takes the function that trains a job, and jobs, each when there is room for it.
"""

import contextlib
import itertools
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from multiprocessing import resource_tracker

import torch
from loky import ProcessPoolExecutor
from loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from shallowpaths.training.config import RunConfig
from shallowpaths.training.record import RunRecord

log = logging.getLogger(__name__)
Job = list[RunConfig]
Records = list[RunRecord]
MOST_DEATHS = 3  # of workers, one after the other, without any job done in between
LOOK_SECONDS = 0.5  # how often a worker looks whether its sweep still lives


def in_processes(train: Callable[[Job], Records], jobs: Iterable[Job], processes: int) -> Generator[Records]:
    """So many jobs at a time, each in a worker process with its share of torch's threads; records in order of their end.

    A worker that dies is reported, and what was under way goes on from its checkpoint. Whatever ends this ends the workers.
    Raises ValueError: workers die again and again; and what `train` raises.
    """
    warnings.filterwarnings("ignore", "A worker was restarted", UserWarning)  # loky renews one that has grown: no news
    jobs, under_way, deaths, pool = iter(jobs), {}, 0, _pool(processes)
    try:
        while True:
            with _without_interrupts():  # which the workers inherit: this process alone answers Ctrl-C
                for job in itertools.islice(jobs, processes - len(under_way)):
                    under_way[pool.submit(train, job)] = job
            if not under_way:
                return
            wait(under_way, return_when=FIRST_COMPLETED)
            for future in [f for f in under_way if f.done() and not _died(f)]:
                deaths = 0
                del under_way[future]
                yield future.result()
            if any(map(_died, under_way)):
                deaths += 1
                log.warning("a worker process died; what was under way goes on from its last checkpoint")
                pool.shutdown(kill_workers=True)
                if deaths == MOST_DEATHS:
                    said = "worker processes died one after the other, of too little memory perhaps"
                    raise ValueError(f"{deaths} {said}: {names_of(under_way.values())}")
                jobs, under_way, pool = itertools.chain(list(under_way.values()), jobs), {}, _pool(processes)
    finally:
        pool.shutdown(kill_workers=True)


def names_of(jobs: Iterable[Job]) -> str:
    """The jobs' architectures, for a message."""
    return "; ".join(f"{c.recipe}, depth {c.depth}, batch_size {c.batch_size}" for c, *_ in jobs)


def _pool(processes: int) -> ProcessPoolExecutor:
    share = max(1, torch.get_num_threads() // processes)  # where there are fewer jobs too: last digits follow from threads
    return ProcessPoolExecutor(processes, initializer=_begin, initargs=(os.getpid(), share))


def _died(future: Future) -> bool:
    return future.done() and isinstance(future.exception(), TerminatedWorkerError)


def _begin(sweep: int, threads: int) -> None:
    """What a worker does first. A sweep that was killed leaves none behind: what it did is saved, but for a minute."""

    def end_with_sweep() -> None:
        while os.getppid() == sweep:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own is shared by processes: a worker that is killed would leave it behind
    threading.Thread(target=end_with_sweep, daemon=True).start()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C is put off to the end of this block, and never reaches processes that are started in it.

    They inherit the mask. It covers this thread alone: a signal that another one takes is kept for the end as well.
    Without effect where the system has no such mask.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else the first worker's start does it, and Python's own then lifts the mask
    late: list[int] = []
    main = threading.current_thread() is threading.main_thread()  # no other may set a handler, nor is ever interrupted
    handler = signal.signal(signal.SIGINT, lambda number, _: late.append(number)) if main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if late:
            signal.raise_signal(signal.SIGINT)
