"""What the package's own work costs, each row against its target. `make bench` runs all rows.

A row is a function of a device that returns a number and says how it came about. To add one, write it and list it in
ROWS. A row without a target is there to be read.
"""

import json
import multiprocessing
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from shallowpaths._device import device_name, resolve_device
from shallowpaths.bench import steps as training
from shallowpaths.bench.steps import PAIRS, ratio
from shallowpaths.measure import signal_statistics
from shallowpaths.networks import WideResNet
from shallowpaths.theory.checks import one_of

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Row:
    """One thing to measure, and the bound on its value, if there is one, on these kinds of device."""

    name: str
    measure: Callable[..., tuple[float, str]]
    at_most: float | None = None
    at_least: float | None = None
    kinds: tuple[str, ...] = ("cpu", "cuda", "mps")

    @property
    def target(self) -> str | None:
        """The bound, in words."""
        bounds = {"at most": self.at_most, "at least": self.at_least}
        return next((f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None), None)

    def holds(self, value: float) -> bool | None:
        """Whether a value keeps within the bound; None without one. NaN keeps within none."""
        if self.target is None:
            return None
        return value <= self.at_most if self.at_most is not None else value >= self.at_least


@dataclass(frozen=True)
class Result:
    """What a row came to; a line of bench.json."""

    name: str
    device: str
    value: float
    target: str | None
    holds: bool | None
    detail: str


def measure_time_over_forward(
    device: torch.device, depth: int = 1000, width: int = 2, batch: int = 16, pairs: int = 7
) -> tuple[float, str]:
    """Seconds that `signal_statistics` takes over those of a plain forward pass: the median over interleaved pairs."""
    network, images = _network_and_images(device, depth, width, batch)
    work = (partial(function, network, images) for function in (signal_statistics, _forward))
    return ratio(*work, device, f"WRN-{depth}-{width}, {batch} images", pairs)


def measure_memory_over_forward(
    device: torch.device, depth: int = 1000, width: int = 2, batch: int = 16
) -> tuple[float, str]:
    """Peak memory, weights included and libraries not, of `signal_statistics` over that of a plain forward pass.

    Each pass runs in a fresh process, whose peak is its own.
    """
    arguments = (str(device), depth, width, batch)
    plain, measured = (_in_fresh_process(_peak_memory, work, *arguments) for work in (_forward, signal_statistics))
    return measured / plain, (
        f"WRN-{depth}-{width}, {batch} images; {plain / MEBIBYTE:.0f} MiB forward, {measured / MEBIBYTE:.0f} MiB measured"
    )


def compile_1000_over_100(device: torch.device) -> tuple[float, str]:
    """Seconds that compiling takes at depth 1000 over those at depth 100, each in a fresh process without a cache."""
    deep, shallow = (_in_fresh_process(training.measure_compile, str(device), depth) for depth in (1000, 100))
    return deep / shallow, f"depth 1000 {deep:.1f} s, depth 100 {shallow:.1f} s: first step less a steady one"


_OVER_USUAL = training.measure_step_over_usual
_GHOST = {"above": {"ghost_batch": 32}, "below": {}}
_SCALAR = {"above": {"recipe": "skipinit-1/sqrt(d)"}, "below": {"recipe": "unnormalized"}, "pairs": 6 * PAIRS}

ROWS: tuple[Row, ...] = (
    Row("step_over_bare", training.measure_step_over_bare, at_least=0.95),
    Row("step_over_usual", _OVER_USUAL, at_least=1.25),
    Row("step_over_usual_width_2", partial(_OVER_USUAL, width=2), at_least=1.25, kinds=("cpu",)),
    Row("step_over_usual_width_4", partial(_OVER_USUAL, width=4), at_least=10, kinds=("cuda",)),
    Row("depth_1000_over_eager", training.measure_depth_1000_over_eager, at_least=3, kinds=("cuda",)),
    Row("augment_over_torchvision", training.measure_augment_over_torchvision, at_least=25),
    Row("ghost_over_plain_batchnorm", partial(training.measure_settings, **_GHOST), at_most=1.25),
    Row("scalar_over_none", partial(training.measure_settings, **_SCALAR), at_most=1.02),
    Row("seconds_per_block_1000_over_100", training.measure_seconds_per_block, at_most=1.15),
    Row("compile_1000_over_100", compile_1000_over_100, at_most=2),
    Row("lanes_8_over_1_batch_8", partial(training.measure_lanes, batch=8), kinds=("cpu", "mps")),
    Row("lanes_8_over_1_batch_32", partial(training.measure_lanes, batch=32), kinds=("cpu", "mps")),
    Row("lanes_8_over_1_batch_8", partial(training.measure_lanes, batch=8), at_most=2.5, kinds=("cuda",)),
    Row("lanes_8_over_1_batch_32", partial(training.measure_lanes, batch=32), at_most=2.5, kinds=("cuda",)),
    Row("lanes_8_over_1_batch_128", partial(training.measure_lanes, batch=128)),
    Row("flops_over_matrix_product", training.measure_achieved_flops, at_least=0.75),
    Row("measure_time_over_forward", measure_time_over_forward, at_most=1.3),
    Row("measure_memory_over_forward", measure_memory_over_forward, at_most=1.2),
)


def run(only: Sequence[str] = (), device: str | None = None, rows: Sequence[Row] = ROWS) -> list[Result]:
    """Measure the rows named in `only`, or all, on random images; progress goes to stderr.

    Raises:
        ValueError: no row for this device has such a name; a device that this machine does not have.
    """
    where = resolve_device(device)
    here = [row for row in rows if where.type in row.kinds]
    for name in only:
        one_of(f"row for {where.type}", name, [row.name for row in here])
    chosen = [row for row in here if not only or row.name in only]
    said, results = f"{device_name(where)}, torch {torch.__version__}", []
    for row in (bar := tqdm(chosen, unit="row", file=sys.stderr)):
        bar.set_description(row.name)
        value, detail = row.measure(where)
        results.append(Result(row.name, said, value, row.target, row.holds(value), detail))
    return results


def write(results: Sequence[Result], path: Path) -> None:
    """Write the results as a JSON list."""
    path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


def _network_and_images(device: torch.device, depth: int, width: int, batch: int) -> tuple[nn.Module, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    network = WideResNet(depth, width, "batchnorm", generator=generator)
    return network.to(device), torch.randn(batch, 3, 32, 32, generator=generator).to(device)


def _forward(network: nn.Module, images: torch.Tensor) -> None:
    with torch.no_grad():
        network(images)


def _in_fresh_process(function: Callable[..., Any], *arguments: object) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _peak_memory(work: Callable[..., object], device: str, depth: int, width: int, batch: int) -> float:
    """Bytes, above what the process held before it built the network."""
    where = torch.device(device)
    signal_statistics(*_network_and_images(where, depth=10, width=1, batch=2))  # torch loads parts at first use
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    before = _peak_bytes(where)
    work(*_network_and_images(where, depth, width, batch))
    return _peak_bytes(where) - before


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss begins with the parent's memory, this does not
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * float(line.split()[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # in bytes on macOS
