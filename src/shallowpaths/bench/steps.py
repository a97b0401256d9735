"""What a training step costs: ours beside the least that it could cost, and beside what is usually written."""

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shallowpaths._device import arithmetic
from shallowpaths._torchvision import import_torchvision
from shallowpaths.bench.timing import (
    PAIRS,
    Measured,
    Pictures,
    StepRun,
    images,
    mean_and_std,
    random_images,
    range_words,
    ratio,
    seconds,
    turn,
)
from shallowpaths.data import Dataset
from shallowpaths.networks.ghost import GhostBatchNorm
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import LaneRuns, build
from shallowpaths.training.steps import StepOptions, default_options, recorded

BATCHES = 8  # whose images are made in one turn
CONFIG = RunConfig(data="cifar10", depth=16, width=1, batch_size=128, learning_rate=1e-4, recipe="batchnorm")


def measure_step_over_bare(device: torch.device, folder: Path | None = None) -> Measured:
    """Our images per second over those of the same step on one fixed batch, with nothing around it."""
    data, what = images(device, folder)
    ours = StepRun(CONFIG, data)
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
        return ratio(repeated, ours.take, device, what, pairs=6 * PAIRS)


def measure_step_over_usual(device: torch.device, folder: Path | None = None, width: int = 1) -> Measured:
    """Our images per second over the usual loop's: DataLoader, two workers, torchvision's transforms, eager float32."""
    data, what = images(device, folder)
    config, steps, warm = CONFIG.replace(width=width), 10, 4
    ours, network = StepRun(config, data), build(config, data.image_shape, data.classes).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    pictures = Pictures(data.to("cpu"), (steps + warm) * config.batch_size)
    ratios = []
    for _ in range(PAIRS):
        loader = torch.utils.data.DataLoader(pictures, config.batch_size, shuffle=True, num_workers=2)
        batches = iter(loader)  # its workers end with it, so they do not disturb our turn
        for _ in range(warm):
            _usual_step(network, optimizer, next(batches), device)
        usual = seconds(lambda batches=batches: [_usual_step(network, optimizer, b, device) for b in batches], device)
        ours.take()
        ratios.append(usual / seconds(lambda: [ours.take() for _ in range(steps)], device))
    return statistics.median(ratios), f"WRN-16-{width}, {steps} steps of 128, {what}; {range_words(ratios)}"


def measure_augment_over_torchvision(device: torch.device, folder: Path | None = None) -> Measured:
    """Images per second of our crop, flip and standardization over torchvision's image by image, one core each."""

    def prepare(data: Dataset, order: Tensor) -> Callable[[], object]:
        pictures = Pictures(data.to("cpu"), order.numel())
        return lambda: list(pictures)

    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _augment_ratio(device, folder, prepare)
    finally:
        torch.set_num_threads(count)


def measure_augment_over_torchvision_batches(device: torch.device, folder: Path | None = None) -> Measured:
    """The same over torchvision's transforms of whole batches, which crop and flip all images of a batch alike."""
    v2 = import_torchvision("transforms.v2")

    def prepare(data: Dataset, order: Tensor) -> Callable[[], object]:
        to_float = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*mean_and_std(data))]
        transform = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *to_float])
        return lambda: [transform(data.train_images[index]) for index in order]

    return _augment_ratio(device, folder, prepare)


def _augment_ratio(
    device: torch.device, folder: Path | None, prepare: Callable[[Dataset, Tensor], Callable[[], object]]
) -> Measured:
    """Both make the images of the same batches, one batch after the other; what theirs prepares is not timed."""
    data, what = images(device, folder)
    ours = StepRun(CONFIG, data)
    theirs = prepare(data, ours.batches[0][:BATCHES])
    return ratio(theirs, lambda: ours.make_batches(BATCHES), device, what, pairs=5 * PAIRS)


def measure_compiled_over_eager(device: torch.device, folder: Path | None = None) -> Measured:
    """Steps per second with compiled blocks over those without, both in torch.channels_last."""
    data, what = images(device, folder)
    eager, compiled = (StepRun(CONFIG, data, StepOptions(compiled=wanted)) for wanted in (False, True))
    other = StepRun(CONFIG, data, StepOptions(channels_last=False))
    value, detail = ratio(eager.take, compiled.take, device, what)
    layout, _ = ratio(other.take, eager.take, device, what)
    default = "compiled" if default_options(device).compiled else "eager"
    return (
        value,
        f"{detail}; default here: {default}; channels_last is {layout:.2f} times as fast as torch's own layout",
    )


def measure_depth_1000_over_eager(device: torch.device) -> Measured:
    """Steps per second at depth 1000 with this device's defaults over those of the same step in eager mode."""
    data, config = random_images(device), CONFIG.replace(depth=1000)
    uncompiled = dataclasses.replace(default_options(device), compiled=False, graph=False)
    ours, eager = StepRun(config, data), StepRun(config, data, uncompiled)
    return ratio(eager.take, ours.take, device, f"WRN-1000-1, batch {config.batch_size}")


def measure_settings(
    device: torch.device, folder: Path | None = None, *, above: dict, below: dict, pairs: int = PAIRS
) -> Measured:
    """Seconds of a step with the settings `above` over those of one with `below`."""
    data, what = images(device, folder)
    ours, other = (StepRun(CONFIG.replace(**settings), data) for settings in (above, below))
    return ratio(ours.take, other.take, device, what, pairs)


def measure_ghost_over_loop(device: torch.device) -> Measured:
    """Seconds of ghost batch normalization, forward and backward, over those of torch's in a loop over the chunks."""
    x = torch.randn(128, 16, 32, 32, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
    ghost, plain = GhostBatchNorm(16, 32).to(device), nn.BatchNorm2d(16).to(device)

    def step(normalized: Callable[[], Tensor]) -> None:
        x.grad = None
        normalized().sum().backward()

    def loop() -> None:
        step(lambda: torch.cat([plain(chunk) for chunk in x.split(32)]))

    what = "128 images of 16 x 32 x 32, ghost batches of 32"
    return ratio(lambda: step(lambda: ghost(x)), loop, device, what, pairs=5 * PAIRS)


def measure_seconds_per_block(device: torch.device) -> Measured:
    """Seconds a block at depth 1000 over those at depth 100; depth 16 in the detail."""
    data = random_images(device)
    config = CONFIG.replace(batch_size=16)
    runs = {depth: StepRun(config.replace(depth=depth), data) for depth in (16, 100, 1000)}
    taken = {depth: [] for depth in runs}
    for _ in range(4):
        for depth, run in runs.items():
            taken[depth].append(turn(run.take, device) / run.config.blocks)
    each = {depth: statistics.median(values[1:]) for depth, values in taken.items()}
    ratios = [deep / shallow for deep, shallow in zip(taken[1000][1:], taken[100][1:], strict=True)]
    detail = ", ".join(f"depth {depth}: {1e3 * value:.2f} ms" for depth, value in each.items())
    return statistics.median(ratios), f"a block, batch 16: {detail}; {range_words(ratios)}"


def measure_compile(device: str, depth: int) -> float:
    """First step less a steady step, seconds, compiled without any cache. For a process of its own."""
    first, later = _fresh_steps(device, CONFIG.replace(depth=depth, batch_size=16), 2, StepOptions(compiled=True))
    return first - min(later)


def measure_first_step(device: str) -> Measured:
    """Seconds of a first step with the device's defaults, compiled without any cache. For a process of its own."""
    first, later = _fresh_steps(device, CONFIG, PAIRS)
    return first, f"later ones {statistics.median(later):.3f} s; {default_options(torch.device(device))}"


def _fresh_steps(
    device: str, config: RunConfig, later: int, options: StepOptions | None = None
) -> tuple[float, list[float]]:
    """Seconds of a first step, with an empty cache for what is compiled, and of `later` more."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        where = torch.device(device)
        run = StepRun(config, random_images(where), options)
        return seconds(run.take, where), [seconds(run.take, where) for _ in range(later)]


def measure_lanes(device: torch.device, batch: int) -> Measured:
    """Seconds of a step of eight lanes over those of one run's step."""
    data, lanes = random_images(device), 8
    config = CONFIG.replace(batch_size=batch)
    one = StepRun(config, data)
    many = LaneRuns([config.replace(seed=s) for s in range(lanes)], data)
    batch_of_each = [torch.stack([part[0]] * lanes) for part in one.batches]
    rates = torch.full((lanes,), config.learning_rate, device=device)
    value, detail = ratio(lambda: many.take(*batch_of_each, rates), one.take, device, f"batch {batch}", pairs=4)
    return value, f"{detail}; one after the other costs {lanes}"


def measure_achieved_flops(device: torch.device) -> Measured:
    """The step's floating-point operations per second over those of a large matrix product on this device."""
    run = StepRun(CONFIG, random_images(device))
    run.take()
    with FlopCounterMode(display=False) as counter:
        StepRun(CONFIG, run.step.data, StepOptions()).take()
    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    rates = []
    with arithmetic(device, run.step.options.tf32, run.step.options.deterministic):
        for _ in range(PAIRS):
            ceiling = 2 * size**3 / turn(lambda: a @ b, device)
            rates.append((counter.get_total_flops() / turn(run.take, device), ceiling))
    step, ceiling = (statistics.median(values) for values in zip(*rates, strict=True))
    return step / ceiling, f"{step / 1e9:.0f} GFLOP/s in the step, {ceiling / 1e9:.0f} in a {size} x {size} product"


def one_step(device: str) -> None:
    """What peak memory is measured of."""
    StepRun(CONFIG, random_images(torch.device(device))).take()


def _usual_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], device: torch.device
) -> None:
    pictures, labels = (part.to(device) for part in batch)
    optimizer.zero_grad()
    F.cross_entropy(network(pictures), labels).backward()
    optimizer.step()
