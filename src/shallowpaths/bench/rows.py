"""What the package's own work costs, each row against its target. A row's function returns a number and a detail."""

import multiprocessing
import resource
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from shallowpaths._device import device_name, resolve_device
from shallowpaths.bench import steps
from shallowpaths.bench.steps import PAIRS, Measured, measure_two, ratio
from shallowpaths.measure import signal_statistics
from shallowpaths.networks import WideResNet
from shallowpaths.theory.checks import one_of

MEBIBYTE, BATCH = 2**20, 16
COLUMNS = ("name", "device", "value", "target", "holds", "detail")


class Row(NamedTuple):
    """What to measure, on these kinds of device."""

    name: str
    measure: Callable[..., Measured]
    target: str | None = None  # "at most" or "at least" a number
    kinds: tuple[str, ...] = ("cpu", "cuda", "mps")

    def holds(self, value: float) -> bool | None:
        """Whether a value keeps within the target; None without one. NaN keeps within none."""
        if self.target is None:
            return None
        words, bound = self.target.rsplit(" ", 1)
        return value <= float(bound) if words == "at most" else value >= float(bound)


def measure_time_over_forward(device: torch.device, depth: int = 1000, pairs: int = PAIRS) -> Measured:
    """Seconds that `signal_statistics` takes over those of a plain forward pass."""
    work = (partial(function, *_network_and_images(device, depth, BATCH)) for function in (signal_statistics, _forward))
    return ratio(*work, device, f"WRN-{depth}-2, {BATCH} images", pairs)


def measure_memory_over_forward(device: torch.device, depth: int = 1000) -> Measured:
    """Peak memory of `signal_statistics` over that of a forward pass, weights included, each in a fresh process."""
    plain, full = (_in_fresh_process(_peak_memory, work, str(device), depth) for work in (_forward, signal_statistics))
    sizes = f"{plain / MEBIBYTE:.0f} MiB forward, {full / MEBIBYTE:.0f} MiB measured"
    return full / plain, f"WRN-{depth}-2, {BATCH} images; {sizes}"


def compile_1000_over_100(device: torch.device) -> Measured:
    """Seconds that compiling takes at depth 1000 over those at depth 100, each in a fresh process without a cache."""
    deep, shallow = (_in_fresh_process(steps.measure_compile, str(device), depth) for depth in (1000, 100))
    return deep / shallow, f"depth 1000 {deep:.1f} s, depth 100 {shallow:.1f} s: first step less a steady one"


_DEEP, _SCALAR, _NO_SCALAR = {"depth": 1000}, {"recipe": "skipinit-1/sqrt(d)"}, {"recipe": "unnormalized"}
_PER_BLOCK = {"above": {"depth": 1000, "batch_size": 16}, "below": {"depth": 100, "batch_size": 16}, "pairs": 3}
ROWS: tuple[Row, ...] = (
    Row("step_over_bare", steps.measure_step_over_bare, "at least 0.95"),
    Row("step_over_usual", steps.measure_step_over_usual, "at least 1.25"),
    Row("step_over_usual_width_2", partial(steps.measure_step_over_usual, width=2), "at least 1.25", ("cpu",)),
    Row("step_over_usual_width_4", partial(steps.measure_step_over_usual, width=4), "at least 10", ("cuda",)),
    Row("depth_1000_over_eager", partial(measure_two, above=_DEEP, below=_DEEP, eager=True), "at least 3", ("cuda",)),
    Row("augment_over_torchvision", steps.measure_augment_over_torchvision, "at least 25"),
    Row("ghost_over_plain_batchnorm", partial(measure_two, above={"ghost_batch": 32}, below={}), "at most 1.25"),
    Row("scalar_over_none", partial(measure_two, above=_SCALAR, below=_NO_SCALAR, pairs=6 * PAIRS), "at most 1.02"),
    Row("seconds_per_block_1000_over_100", partial(measure_two, **_PER_BLOCK), "at most 1.15"),
    Row("compile_1000_over_100", compile_1000_over_100, "at most 2"),
    Row("lanes_8_over_1_batch_8", partial(steps.measure_lanes, batch=8), kinds=("cpu", "mps")),
    Row("lanes_8_over_1_batch_32", partial(steps.measure_lanes, batch=32), kinds=("cpu", "mps")),
    Row("lanes_8_over_1_batch_8", partial(steps.measure_lanes, batch=8), "at most 2.5", ("cuda",)),
    Row("lanes_8_over_1_batch_32", partial(steps.measure_lanes, batch=32), "at most 2.5", ("cuda",)),
    Row("lanes_8_over_1_batch_128", partial(steps.measure_lanes, batch=128)),
    Row("flops_over_matrix_product", steps.measure_achieved_flops, "at least 0.75"),
    Row("measure_time_over_forward", measure_time_over_forward, "at most 1.3"),
    Row("measure_memory_over_forward", measure_memory_over_forward, "at most 1.2"),
)


def run(only: Sequence[str] = (), device: str | None = None, rows: Sequence[Row] = ROWS) -> list[dict[str, Any]]:
    """Results, with COLUMNS, of the rows named in `only`, or all. Raises ValueError: no row here has such a name."""
    where = resolve_device(device)
    here = [row for row in rows if where.type in row.kinds]
    for name in only:
        one_of(f"row for {where.type}", name, [row.name for row in here])
    said, results = f"{device_name(where)}, torch {torch.__version__}", []
    for row in (bar := tqdm([row for row in here if not only or row.name in only], unit="row", file=sys.stderr)):
        bar.set_description(row.name)
        value, detail = row.measure(where)
        found = row.name, said, value, row.target, row.holds(value), detail
        results.append(dict(zip(COLUMNS, found, strict=True)))
    return results


def _network_and_images(device: torch.device, depth: int, batch: int) -> tuple[nn.Module, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    network = WideResNet(depth, 2, "batchnorm", generator=generator)
    return network.to(device), torch.randn(batch, 3, 32, 32, generator=generator).to(device)


def _forward(network: nn.Module, images: torch.Tensor) -> None:
    with torch.no_grad():
        network(images)


def _in_fresh_process(function: Callable[..., float], *arguments: object) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _peak_memory(work: Callable[..., object], device: str, depth: int) -> float:
    """Bytes, above what the process held before it built the network."""
    where = torch.device(device)
    signal_statistics(*_network_and_images(where, depth=10, batch=2))  # torch loads parts at first use
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    before = _peak_bytes(where)
    work(*_network_and_images(where, depth, BATCH))
    return _peak_bytes(where) - before


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss begins with the parent's memory, this does not
        return 1024 * float(status.read_text().partition("VmHWM:")[2].split()[0])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # in bytes on macOS
