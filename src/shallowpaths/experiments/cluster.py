"""A sweep's jobs on a Ray cluster. Each of its machines needs this package, with its extra `cluster`, and the data."""

import contextlib
import itertools
import logging
import os
import secrets
import socket
from collections.abc import Callable, Generator, Iterable, Iterator
from types import ModuleType

import torch

from shallowpaths.experiments.execution import MOST_DEATHS, Job, Records, names_of

ANSWER_SECONDS = 20.0  # in which a cluster must take a connection
LOOK_SECONDS = 10.0  # how often to look whether machines have come or gone, while no job ends


def in_cluster(
    train: Callable[[Job], Records], jobs: Iterable[Job], address: str, gpu_share: float = 0
) -> Generator[Records]:
    """As many jobs at a time as the cluster has room for, each on one thread; records in order of their end.

    A job that is lost with its worker is done again. Whatever ends this generator ends the jobs.

    Args:
        address: HOST:PORT, "auto" for the cluster that this machine belongs to, or "local" for one that is started here, with
            a worker for each of torch's threads. Where Ray is connected already, that cluster is used, and left open.
        gpu_share: of one GPU, for each job; 0 for jobs on processors.

    Raises:
        ValueError: Ray is not installed; the cluster cannot be reached, or has no room for one job; a job is lost again and
            again; and what `train` raises.
    """
    with connected(address) as ray:
        task = ray.remote(num_cpus=1, num_gpus=gpu_share, max_retries=MOST_DEATHS - 1)(_on_one_thread)
        if not _room(ray, gpu_share):
            needed = f"no room for a run on 1 processor and {gpu_share:g} GPUs"
            has = "{CPU:g} processors and {GPU:g} GPUs".format_map({"CPU": 0, "GPU": 0} | ray.cluster_resources())
            raise ValueError(f"the cluster {address} has {needed}: it has {has}")
        jobs, under_way = iter(jobs), {}
        try:
            while True:
                free = max(1, _room(ray, gpu_share)) - len(under_way)  # without any machine, one job waits for the next
                for job in itertools.islice(jobs, max(0, free)):
                    under_way[task.remote(train, job)] = job
                if not under_way:
                    return
                for reference in ray.wait(list(under_way), timeout=LOOK_SECONDS)[0]:
                    yield _records(ray, reference, under_way.pop(reference))
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)


@contextlib.contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Ray, connected until the end of this block, which ends a cluster that it started. Raises as `in_cluster` does.

    Without reports to Ray's makers, without the workers' logs on this terminal or anything in the home folder.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"a cluster needs Ray, pip install 'shallowpaths[cluster]': {error}") from error
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray keeps one in the home folder
        options |= {"num_cpus": torch.get_num_threads(), "include_dashboard": False}
    host, _, port = address.rpartition(":")
    try:
        try:
            if host and "//" not in host:  # where nobody answers, Ray would wait for minutes
                socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
            ray.init(address, **options)
        except Exception as error:  # Ray raises a bare one where a cluster does not start in time
            raise ValueError(f"the cluster {address} cannot be reached: {error}") from error
        yield ray
    finally:
        ray.shutdown()


def _room(ray: ModuleType, gpu_share: float) -> int:
    """How many jobs the cluster's machines have room for now, if nobody else uses them."""
    has = ray.cluster_resources()
    processors, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    return min(processors, gpus * int(1 / gpu_share)) if gpu_share else processors


def _on_one_thread(train: Callable[[Job], Records], job: Job) -> Records:
    torch.set_num_threads(1)  # on whatever machine: a run's last digits follow from its threads
    return train(job)


def _records(ray: ModuleType, reference, job: Job) -> Records:
    """What came of a job, or the error that ended it, as `train` raised it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:  # of a worker or machine that was lost once too often
        raise ValueError(f"a run was lost {MOST_DEATHS} times, {names_of([job])}: {str(error).splitlines()[0]}") from error
