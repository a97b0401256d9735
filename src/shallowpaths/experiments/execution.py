"""The jobs of a sweep, several at a time: by worker processes, or by a Ray cluster. Executors take what `map` takes."""

import contextlib
import itertools
import logging
import os
import secrets
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from multiprocessing import resource_tracker
from types import ModuleType

import torch
from loky import ProcessPoolExecutor
from loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from shallowpaths.training.config import RunConfig
from shallowpaths.training.record import RunRecord

log = logging.getLogger(__name__)
Job = list[RunConfig]
Records = list[RunRecord]
Train = Callable[[Job], Records]
MOST_DEATHS = 3  # of workers, one after the other, without any job done in between


def in_processes(train: Train, jobs: Iterable[Job], processes: int) -> Generator[Records]:
    """Records of jobs as they end, so many at a time, each in a worker process with its share of torch's threads.

    A job is configs that are trained together; one that is lost with its worker is done again. What ends this generator
    ends the jobs. Raises ValueError: workers die again and again; and what `train` raises.
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
                    raise ValueError(f"{deaths} {said}: {_names(under_way.values())}")
                jobs, under_way, pool = itertools.chain(list(under_way.values()), jobs), {}, _pool(processes)
    finally:
        pool.shutdown(kill_workers=True)


def _names(jobs: Iterable[Job]) -> str:
    return "; ".join(f"{c.recipe}, depth {c.depth}, batch_size {c.batch_size}" for c, *_ in jobs)


def _pool(processes: int) -> ProcessPoolExecutor:
    share = max(1, torch.get_num_threads() // processes)  # with fewer jobs too: last digits follow from threads
    return ProcessPoolExecutor(processes, initializer=_begin, initargs=(os.getpid(), share))


def _died(future: Future) -> bool:
    return future.done() and isinstance(future.exception(), TerminatedWorkerError)


def _begin(sweep: int, threads: int) -> None:
    """What a worker does first. A sweep that was killed leaves none behind: what it did is saved, but for a minute."""

    def end_with_sweep() -> None:
        while os.getppid() == sweep:
            time.sleep(0.5)
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


def in_cluster(train: Train, jobs: Iterable[Job], address: str, gpu_share: float = 0) -> Generator[Records]:
    """As many jobs at a time as a Ray cluster has room for, each on one thread, and on so much of one GPU.

    address: HOST:PORT, "auto" for the cluster that this machine belongs to, or "local" for one that is started here,
        with a worker for each of torch's threads. Its machines need this package, its extra `cluster`, and the data.
    Raises ValueError: Ray is not installed; the cluster cannot be reached or has no room; and as `in_processes`.
    """
    with connected(address) as ray:

        @ray.remote(num_cpus=1, num_gpus=gpu_share, max_retries=MOST_DEATHS - 1)
        def on_one_thread(job: Job) -> Records:
            torch.set_num_threads(1)  # on whatever machine: a run's last digits follow from its threads
            return train(job)

        if not _room(ray, gpu_share):
            needed = f"no room for a run on 1 processor and {gpu_share:g} GPUs"
            has = "{CPU:g} processors and {GPU:g} GPUs".format_map({"CPU": 0, "GPU": 0} | ray.cluster_resources())
            raise ValueError(f"the cluster {address} has {needed}: it has {has}")
        jobs, under_way = iter(jobs), {}
        try:
            while True:
                free = max(1, _room(ray, gpu_share)) - len(under_way)  # without any machine, one job waits for the next
                for job in itertools.islice(jobs, max(0, free)):
                    under_way[on_one_thread.remote(job)] = job
                if not under_way:
                    return
                for reference in ray.wait(list(under_way), timeout=10)[0]:  # then machines may have come
                    job = under_way.pop(reference)
                    try:
                        records = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause from None  # as `train` raised it
                    except ray.exceptions.RayError as error:  # of a worker or machine that was lost once too often
                        said = f"a run was lost {MOST_DEATHS} times, {_names([job])}: {str(error).splitlines()[0]}"
                        raise ValueError(said) from error
                    yield records
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)


@contextlib.contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Ray, connected until the end of this block, which ends a cluster that it started. Raises as `in_cluster` does."""
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"a cluster needs Ray, pip install 'shallowpaths[cluster]': {error}") from error
    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            _connect(ray, address)
        yield ray


def _connect(ray: ModuleType, address: str) -> None:
    """Without reports to Ray's makers, without the workers' logs on this terminal or anything in the home folder."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray keeps one in the home folder
        options |= {"num_cpus": torch.get_num_threads(), "include_dashboard": False}
    host, _, port = address.rpartition(":")
    try:
        if host and "//" not in host:  # where nobody answers, Ray would wait for minutes
            socket.create_connection((host, int(port)), timeout=20).close()
        ray.init(address, **options)
    except Exception as error:  # Ray raises a bare one where a cluster does not start in time
        raise ValueError(f"the cluster {address} cannot be reached: {error}") from error


def _room(ray: ModuleType, gpu_share: float) -> int:
    """How many jobs the cluster's machines have room for now, if nobody else uses them."""
    has = ray.cluster_resources()
    processors, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    return min(processors, gpus * int(1 / gpu_share)) if gpu_share else processors
