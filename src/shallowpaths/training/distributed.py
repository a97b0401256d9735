"""Several processes that train one network: torchrun starts them, DistributedDataParallel averages their gradients.

Each takes its slice of every batch. A process alone is the first of one, and none of this does anything then.
"""

import atexit
import os
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
T = TypeVar("T")


def join() -> None:
    """Meet the processes that torchrun's environment names, unless a group exists. ValueError: a part of it is bad."""
    if joined() or not {"RANK", "WORLD_SIZE"} & set(os.environ):
        return
    for name in NUMBERS:
        if not os.environ.get(name, "").isdigit():
            found = ", ".join(f"{n}={os.environ.get(n)}" for n in NUMBERS)
            advice = "torchrun sets all of them, start with it or unset them"
            raise ValueError(f"{name} is no whole number in {found}: {advice}")
    store, rank, size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(_shared_name(store, rank, size), store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    atexit.register(dist.destroy_process_group)


def _shared_name(store: dist.Store, rank: int, size: int) -> str:
    """A name of this start's processes alone: after a restart torchrun's store still holds the dead's addresses."""
    mine = uuid.uuid4().hex
    if rank == 0:
        store.set("first", mine)
        for other in range(1, size):
            store.set(store.get(f"{mine} {other}").decode(), mine)
        return mine
    while not store.check([mine]):  # "first" may still be one of the dead, who answers nobody
        store.set(f"{store.get('first').decode()} {rank}", mine)
        time.sleep(0.1)
    return store.get(mine).decode()


def joined() -> bool:
    """Whether this process belongs to a group, even of one."""
    return dist.is_available() and dist.is_initialized()


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if joined() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if joined() else 0


def is_first() -> bool:
    """Whether this is the process that shows progress and writes files."""
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """Of a machine's GPUs the one that LOCAL_RANK counts. ValueError: it has too few; MPS, which knows no groups."""
    if not joined() or device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"device {device.type!r} has no way between processes: choose cpu or cuda")
    local, there = int(os.environ.get("LOCAL_RANK") or torch.cuda.current_device()), torch.cuda.device_count()
    if local >= there:
        raise ValueError(f"LOCAL_RANK {local}: this machine has {there} GPUs, start at most as many processes on it")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def share(batch_size: int) -> slice:
    """This process's images of each batch, consecutive ones. ValueError: the processes do not divide the batch."""
    each, rest = divmod(batch_size, n := size())
    if rest:
        raise ValueError(f"batch_size {batch_size} cannot be shared among {n} processes: choose a multiple of {n}")
    return slice(rank() * each, (rank() + 1) * each)


class Called(nn.Module):
    """A network and the way in which it is called, as one module, which DistributedDataParallel wants."""

    def __init__(self, network: nn.Module, call: Callable[[Tensor], Tensor]):
        super().__init__()
        self.network, self.forward = network, call


class SlicedDropout(nn.Dropout):
    """Dropout by this process's slice of the batch's mask: masks are independent, and random states stay the same."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B / processes, ...] -> the same."""
        mask = super().forward(torch.ones(size() * len(x), *x.shape[1:], device=x.device))
        return x * mask[share(len(mask))]


def slice_dropout(network: nn.Module) -> None:
    """Put SlicedDropout in the place of the network's dropout, where there are several processes."""
    for parent in list(network.modules()) if joined() else []:
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, SlicedDropout(child.p))


def share_buffers(network: nn.Module) -> None:
    """Give every process the first one's moving averages."""
    for buffer in network.buffers() if joined() else []:
        dist.broadcast(buffer, src=0)


def total(numbers: Tensor, device: torch.device) -> Tensor:
    """The sum over the processes, which meet on `device`."""
    if joined():
        numbers = numbers.to(device)
        dist.all_reduce(numbers)
    return numbers


def from_first(value: T) -> T:
    """The first process's value, everywhere."""
    box = [value]
    if joined():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def one_before_others(load: Callable[[], T]) -> T:
    """`load()`, by one process of each machine first: the others then find what it has downloaded."""
    early = not joined() or os.environ.get("LOCAL_RANK", "0") == "0"
    loaded = load() if early else None
    if joined():
        dist.all_gather_object([None] * size(), None)  # barrier would take a GPU even where all compute on the CPU
    return loaded if early else load()
