"""What a training step costs: ours beside the least that it could cost, and beside what is usually written.

Machines drift, so a ratio is the median over pairs that take turns: A B, A B, ...
"""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shallowpaths import data as datasets
from shallowpaths._device import arithmetic, synchronize
from shallowpaths._torchvision import import_torchvision
from shallowpaths.data import Dataset
from shallowpaths.networks.ghost import GhostBatchNorm
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import LaneRuns, Run, build
from shallowpaths.training.steps import StepOptions, default_options, recorded

Measured = tuple[float, str]
PAIRS = 7
IN_A_ROW = 10  # steps that a GPU does in one turn
BATCHES = 8  # whose images are made in one turn
IMAGES = 10_000  # random ones, where CIFAR-10 is not there
CONFIG = RunConfig(data="cifar10", depth=16, width=1, batch_size=128, learning_rate=1e-4, recipe="batchnorm")


def measure_step_over_bare(device: torch.device, folder: Path | None = None) -> Measured:
    """Our images per second over those of the same step on one fixed batch, with nothing around it."""
    data, what = images(device, folder)
    ours = _Run(CONFIG, data)
    ours.take()  # it compiles and records, where that is the default
    network, optimizer = ours.step.forward, ours.step.optimizer
    batch, labels = ours.step.batch(*(part[0] for part in ours.batches))

    def bare() -> tuple[Tensor, ...]:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(batch), labels).backward()
        optimizer.step()
        return ()

    with arithmetic(device, ours.step.options.tf32, ours.step.options.deterministic):
        repeated = (ours.step.recorded and recorded(bare, ())) or bare
        return _ratio(repeated, ours.take, device, what, pairs=6 * PAIRS)


def measure_step_over_usual(device: torch.device, folder: Path | None = None, width: int = 1) -> Measured:
    """Our images per second over the usual loop's: DataLoader, two workers, torchvision's transforms, eager float32."""
    data, what = images(device, folder)
    config, steps, warm = CONFIG.replace(width=width), 10, 4
    ours, network = _Run(config, data), build(config, data.image_shape, data.classes).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    pictures = _Pictures(data.to("cpu"), (steps + warm) * config.batch_size)
    ratios = []
    for _ in range(PAIRS):
        loader = torch.utils.data.DataLoader(pictures, config.batch_size, shuffle=True, num_workers=2)
        batches = iter(loader)  # its workers end with it, so they do not disturb our turn
        for _ in range(warm):
            _usual_step(network, optimizer, next(batches), device)
        usual = seconds(lambda batches=batches: [_usual_step(network, optimizer, b, device) for b in batches], device)
        ours.take()
        ratios.append(usual / seconds(lambda: [ours.take() for _ in range(steps)], device))
    return statistics.median(ratios), f"WRN-16-{width}, {steps} steps of 128, {what}; {_range(ratios)}"


def measure_augment_over_torchvision(device: torch.device, folder: Path | None = None) -> Measured:
    """Images per second of our crop, flip and standardization over torchvision's image by image, one core each.

    Both make the images of eight batches, one batch after the other.
    """
    data, what = images(device, folder)
    ours, count = _Run(CONFIG, data), torch.get_num_threads()
    pictures = _Pictures(data.to("cpu"), BATCHES * CONFIG.batch_size)
    torch.set_num_threads(1)
    try:
        return _ratio(lambda: list(pictures), lambda: ours.make_batches(BATCHES), device, what, pairs=5 * PAIRS)
    finally:
        torch.set_num_threads(count)


def measure_augment_over_torchvision_batches(device: torch.device, folder: Path | None = None) -> Measured:
    """The same over torchvision's transforms of whole batches, which crop and flip all images of a batch alike."""
    data, what = images(device, folder)
    ours = _Run(CONFIG, data)
    v2 = import_torchvision("transforms.v2")
    crop_and_flip = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
    transform = v2.Compose([*crop_and_flip, v2.ToDtype(torch.float32, scale=True), v2.Normalize(*_mean_and_std(data))])
    order = ours.batches[0][:BATCHES]
    return _ratio(
        lambda: [transform(data.train_images[index]) for index in order],
        lambda: ours.make_batches(BATCHES),
        device,
        what,
        pairs=5 * PAIRS,
    )


def measure_compiled_over_eager(device: torch.device, folder: Path | None = None) -> Measured:
    """Steps per second with compiled blocks over those without, both in torch.channels_last."""
    data, what = images(device, folder)
    eager, compiled = (_Run(CONFIG, data, StepOptions(compiled=wanted)) for wanted in (False, True))
    other = _Run(CONFIG, data, StepOptions(channels_last=False))
    value, detail = _ratio(eager.take, compiled.take, device, what)
    layout, _ = _ratio(other.take, eager.take, device, what)
    default = "compiled" if default_options(device).compiled else "eager"
    return (
        value,
        f"{detail}; default here: {default}; channels_last is {layout:.2f} times as fast as torch's own layout",
    )


def measure_depth_1000_over_eager(device: torch.device) -> Measured:
    """Steps per second at depth 1000 with this device's defaults over those of the same step in eager mode."""
    data, config = random_images(device), CONFIG.replace(depth=1000)
    uncompiled = dataclasses.replace(default_options(device), compiled=False, graph=False)
    ours, eager = _Run(config, data), _Run(config, data, uncompiled)
    return _ratio(eager.take, ours.take, device, f"WRN-1000-1, batch {config.batch_size}")


def measure_ghost_over_plain_batchnorm(device: torch.device, folder: Path | None = None) -> Measured:
    """Seconds of a step with ghost batches of 32 in 128 over those with the whole batch."""
    data, what = images(device, folder)
    plain, ghost = (_Run(CONFIG.replace(ghost_batch=size), data) for size in (None, 32))
    return _ratio(ghost.take, plain.take, device, what)


def measure_ghost_over_loop(device: torch.device) -> Measured:
    """Seconds of ghost batch normalization, forward and backward, over those of torch's in a loop over the chunks."""
    x = torch.randn(128, 16, 32, 32, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
    ghost, plain = GhostBatchNorm(16, 32).to(device), nn.BatchNorm2d(16).to(device)

    def step(normalized: Callable[[], Tensor]) -> None:
        x.grad = None
        normalized().sum().backward()

    return _ratio(
        lambda: step(lambda: ghost(x)),
        lambda: step(lambda: torch.cat([plain(chunk) for chunk in x.split(32)])),
        device,
        "128 images of 16 x 32 x 32, ghost batches of 32",
        pairs=5 * PAIRS,
    )


def measure_scalar_over_none(device: torch.device, folder: Path | None = None) -> Measured:
    """Seconds of a step with SkipInit's scalar over those without."""
    data, what = images(device, folder)
    scalar, none = (_Run(CONFIG.replace(recipe=r), data) for r in ("skipinit-1/sqrt(d)", "unnormalized"))
    return _ratio(scalar.take, none.take, device, what, pairs=6 * PAIRS)


def measure_seconds_per_block(device: torch.device) -> Measured:
    """Seconds a block at depth 1000 over those at depth 100; depth 16 in the detail."""
    data = random_images(device)
    config = CONFIG.replace(batch_size=16)
    runs = {depth: _Run(config.replace(depth=depth), data) for depth in (16, 100, 1000)}
    taken = {depth: [] for depth in runs}
    for _ in range(4):
        for depth, run in runs.items():
            taken[depth].append(turn(run.take, device) / run.config.blocks)
    each = {depth: statistics.median(values[1:]) for depth, values in taken.items()}
    ratios = [deep / shallow for deep, shallow in zip(taken[1000][1:], taken[100][1:], strict=True)]
    detail = ", ".join(f"depth {depth}: {1e3 * value:.2f} ms" for depth, value in each.items())
    return statistics.median(ratios), f"a block, batch 16: {detail}; {_range(ratios)}"


def measure_compile(device: str, depth: int) -> float:
    """First step less a steady step, seconds, compiled without any cache. For a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        where = torch.device(device)
        run = _Run(CONFIG.replace(depth=depth, batch_size=16), random_images(where), StepOptions(compiled=True))
        first = seconds(run.take, where)
        return first - min(seconds(run.take, where) for _ in range(2))


def measure_lanes(device: torch.device, batch: int) -> Measured:
    """Seconds of a step of eight lanes over those of one run's step."""
    data, lanes = random_images(device), 8
    config = CONFIG.replace(batch_size=batch)
    one = _Run(config, data)
    many = LaneRuns([config.replace(seed=s) for s in range(lanes)], data)
    batch_of_each = [torch.stack([part[0]] * lanes) for part in one.batches]
    rates = torch.full((lanes,), config.learning_rate, device=device)
    value, detail = _ratio(lambda: many.take(*batch_of_each, rates), one.take, device, f"batch {batch}", pairs=4)
    return value, f"{detail}; one after the other costs {lanes}"


def measure_achieved_flops(device: torch.device) -> Measured:
    """The step's floating-point operations per second over those of a large matrix product on this device."""
    run = _Run(CONFIG, random_images(device))
    run.take()
    with FlopCounterMode(display=False) as counter:
        _Run(CONFIG, run.step.data, StepOptions()).take()
    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    rates = []
    with arithmetic(device, run.step.options.tf32, run.step.options.deterministic):
        for _ in range(PAIRS):
            ceiling = 2 * size**3 / turn(lambda: a @ b, device)
            rates.append((counter.get_total_flops() / turn(run.take, device), ceiling))
    step, ceiling = (statistics.median(values) for values in zip(*rates, strict=True))
    return step / ceiling, f"{step / 1e9:.0f} GFLOP/s in the step, {ceiling / 1e9:.0f} in a {size} x {size} product"


def measure_first_step(device: str) -> Measured:
    """Seconds of a first step with the device's defaults, compiled without any cache. For a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        where = torch.device(device)
        run = _Run(CONFIG, random_images(where))
        first, later = seconds(run.take, where), statistics.median(seconds(run.take, where) for _ in range(PAIRS))
    return first, f"later ones {later:.3f} s; {default_options(where)}"


def one_step(device: str) -> None:
    """What peak memory is measured of."""
    _Run(CONFIG, random_images(torch.device(device))).take()


def images(device: torch.device, folder: Path | None) -> tuple[Dataset, str]:
    """CIFAR-10 where its files are, else random images of its shape; and which of them it is."""
    root = folder or os.environ.get(datasets.FOLDER_VARIABLE)
    if root and (Path(root) / "cifar-10-batches-py").is_dir():
        return datasets.load("cifar10", device, root), "CIFAR-10"
    return random_images(device), "random images, as no folder with CIFAR-10 was named"


def random_images(device: torch.device) -> Dataset:
    """A data set of CIFAR-10's shape."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(IMAGES) % 10
    mean, std = torch.full((3, 1, 1), 127.5), torch.full((3, 1, 1), 73.9)
    both = {"validation_images": pictures[:0], "validation_labels": labels[:0], "classes": 10, "checksum": ""}
    return Dataset(
        "random", pictures, labels, pictures[:100], labels[:100], mean=mean, std=std, padding=4, flips=True, **both
    ).to(device)


def turn(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call of `work`. A GPU does several in a row, so that starting and waiting cost next to nothing."""
    if device.type == "cpu":
        return seconds(work, device)
    return seconds(lambda: [work() for _ in range(IN_A_ROW)], device) / IN_A_ROW


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work`, to the end of what it gave the device to do."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


class _Run:
    """A run's steps, one at a time."""

    def __init__(self, config: RunConfig, data: Dataset, options: StepOptions | None = None):
        self.config, self.run = config, Run(config, data, options=options)
        self.step, (times,) = self.run.step, self.run.timetables
        self.run.network.train()
        self.batches = times.batches(0, data)
        self.number = 0

    def make_batches(self, count: int) -> None:
        """The images of the epoch's first `count` batches, one batch after the other."""
        for part in zip(*(part[:count] for part in self.batches), strict=True):
            self.step.batch(*part)

    def take(self) -> None:
        """The next step."""
        self.step.take(*(part[self.number % len(part)] for part in self.batches), self.config.learning_rate)
        self.number += 1


class _Pictures(torch.utils.data.Dataset):
    """Images as torchvision hands them out: from PIL, each through its own transforms."""

    def __init__(self, data: Dataset, count: int):
        transforms = import_torchvision("transforms")
        self.pixels = np.ascontiguousarray(data.train_images[:count].permute(0, 2, 3, 1).numpy())
        self.labels = data.train_labels[:count].tolist()
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize(*_mean_and_std(data))])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image  # torchvision brings it

        if index >= len(self):
            raise IndexError(index)
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def _mean_and_std(data: Dataset) -> tuple[list[float], ...]:
    """Of the channels, for pixels from 0 to 1."""
    return tuple((statistic.flatten() / 255).tolist() for statistic in (data.mean, data.std))


def _usual_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], device: torch.device
) -> None:
    pictures, labels = (part.to(device) for part in batch)
    optimizer.zero_grad()
    F.cross_entropy(network(pictures), labels).backward()
    optimizer.step()


def _ratio(
    above: Callable[[], object], below: Callable[[], object], device: torch.device, what: str, pairs: int = PAIRS
) -> Measured:
    """Seconds of `above` over seconds of `below`; the first two pairs warm up."""
    taken = [(turn(above, device), turn(below, device)) for _ in range(pairs + 2)][2:]
    ratios = [a / b for a, b in taken]
    middle = (1e3 * statistics.median(column) for column in zip(*taken, strict=True))
    return statistics.median(ratios), f"{what}; {' over '.join(f'{m:.2f}' for m in middle)} ms; {_range(ratios)}"


def _range(ratios: list[float]) -> str:
    return f"{len(ratios)} pairs from {min(ratios):.2f} to {max(ratios):.2f}"
