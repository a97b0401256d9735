"""What a training step costs: ours beside the least that it could cost, and beside what is usually written."""

import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shallowpaths._device import arithmetic, synchronize
from shallowpaths._torchvision import import_torchvision
from shallowpaths.data import Dataset, noise
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import LaneRuns, Run, build
from shallowpaths.training.steps import StepOptions, default_options, recorded

Measured = tuple[float, str]
Work = Callable[[], object]
PAIRS = 7
IN_A_ROW = 10  # steps that a GPU does in one turn: starting and waiting then cost next to nothing
IMAGES = 10_000
BATCHES = 8  # whose images are made in one turn
CONFIG = RunConfig(data="cifar10", depth=16, width=1, batch_size=128, learning_rate=1e-4, recipe="batchnorm")


def measure_step_over_bare(device: torch.device) -> Measured:
    """Our images per second over those of the same step on one fixed batch, with nothing around it."""
    ours = StepRun(CONFIG, device)
    ours.take()  # it compiles and records, where that is the default
    batch = ours.step.batch(*(part[0] for part in ours.batches))
    bare = partial(_plain_step, ours.step.forward, ours.step.optimizer, device, *batch)
    with arithmetic(device, ours.step.options.tf32, ours.step.options.deterministic):
        repeated = (ours.step.recorded and recorded(bare, ())) or bare
        return ratio(repeated, ours.take, device, "WRN-16-1, batch 128", pairs=6 * PAIRS)


def measure_step_over_usual(device: torch.device, width: int = 1) -> Measured:
    """Our images per second over the usual loop's: DataLoader, two workers, torchvision's transforms, eager float32."""
    config, steps, warm = CONFIG.replace(width=width), 10, 4
    ours = StepRun(config, device)
    network = build(config, ours.step.data.image_shape, ours.step.data.classes).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    step = partial(_plain_step, network, optimizer, device)
    pictures, ratios = Pictures(ours.step.data, (steps + warm) * config.batch_size), []
    for _ in range(PAIRS):
        loader = torch.utils.data.DataLoader(pictures, config.batch_size, shuffle=True, num_workers=2)
        steps_taken = itertools.starmap(step, loader)  # its workers end with it, so they do not disturb our turn
        list(itertools.islice(steps_taken, warm))
        usual = seconds(partial(list, steps_taken), device) / steps
        ours.take()
        ratios.append(usual / seconds(ours.take, device, steps))
    return statistics.median(ratios), f"WRN-16-{width}, {steps} steps of 128; {range_words(ratios)}"


def measure_augment_over_torchvision(device: torch.device) -> Measured:
    """Images per second of our crop, flip and standardization over torchvision's image by image, one core each."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours = StepRun(CONFIG, device)
        pictures = Pictures(ours.step.data, BATCHES * CONFIG.batch_size)
        parts = list(zip(*(part[:BATCHES] for part in ours.batches), strict=True))
        work = (lambda: list(pictures)), (lambda: [ours.step.batch(*part) for part in parts])
        return ratio(*work, device, f"{BATCHES} batches of 128", pairs=5 * PAIRS)
    finally:
        torch.set_num_threads(count)


def measure_two(device: torch.device, *, above: dict, below: dict, pairs: int = PAIRS, eager: bool = False) -> Measured:
    """Seconds of a step, for each block, with the settings `above`, perhaps in eager mode, over those with `below`."""
    options = dataclasses.replace(default_options(device), **({"compiled": False, "graph": False} if eager else {}))
    one, other = StepRun(CONFIG.replace(**above), device, options), StepRun(CONFIG.replace(**below), device)
    what = f"WRN-{one.config.depth}-1, batch {one.config.batch_size}"
    value, detail = ratio(one.take, other.take, device, what, pairs)
    return value * other.config.blocks / one.config.blocks, detail


def measure_compile(device: str, depth: int) -> float:
    """First step less a steady step, seconds, compiled without any cache. For a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        run = StepRun(CONFIG.replace(depth=depth, batch_size=16), torch.device(device), StepOptions(compiled=True))
        first, *later = (seconds(run.take, torch.device(device)) for _ in range(3))
        return first - min(later)


def measure_lanes(device: torch.device, batch: int, lanes: int = 8) -> Measured:
    """Seconds of a step of so many lanes over those of one run's step."""
    one = StepRun(CONFIG.replace(batch_size=batch), device)
    many = LaneRuns([one.config.replace(seed=s) for s in range(lanes)], one.step.data)
    batch_of_each = [torch.stack([part[0]] * lanes) for part in one.batches]
    rates = torch.full((lanes,), one.config.learning_rate, device=device)
    value, detail = ratio(lambda: many.take(*batch_of_each, rates), one.take, device, f"batch {batch}", pairs=4)
    return value, f"{detail}; one after the other costs {lanes}"


def measure_achieved_flops(device: torch.device) -> Measured:
    """The step's floating-point operations per second over those of a large matrix product on this device."""
    run = StepRun(CONFIG, device)
    with FlopCounterMode(display=False) as counter:
        StepRun(CONFIG, device, StepOptions()).take()
    size = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    step, product = counter.get_total_flops(), 2 * size**3
    what = f"{product / 1e9:.1f} GFLOP of a {size} x {size} product, {step / 1e9:.1f} of a step"
    with arithmetic(device, run.step.options.tf32, run.step.options.deterministic):
        value, detail = ratio(lambda: a @ b, run.take, device, what)
    return value * step / product, detail


def _plain_step(
    network: nn.Module, optimizer: torch.optim.SGD, device: torch.device, images: Tensor, labels: Tensor
) -> tuple[()]:
    optimizer.zero_grad()
    F.cross_entropy(network(images.to(device)), labels.to(device)).backward()
    optimizer.step()
    return ()


def seconds(work: Work, device: torch.device, times: int = 1) -> float:
    """Wall time of one call of `work`, done so many times in a row, to the end of what it gave the device to do."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / times


class StepRun:
    """A run's steps on random images, one at a time."""

    def __init__(self, config: RunConfig, device: torch.device, options: StepOptions | None = None):
        run = Run(config, noise("cifar10", IMAGES).to(device), options=options)
        run.network.train()
        self.config, self.step, self.number = config, run.step, 0
        self.batches = run.timetables[0].batches(0, run.step.data)

    def take(self) -> None:
        """The next step."""
        self.step.take(*(part[self.number % len(part)] for part in self.batches), self.config.learning_rate)
        self.number += 1


class Pictures(torch.utils.data.Dataset):
    """Images as torchvision hands them out: from PIL, each through its own transforms."""

    def __init__(self, data: Dataset, count: int):
        from PIL import Image  # torchvision brings it

        data, transforms, self.open = data.to("cpu"), import_torchvision("transforms"), Image.fromarray
        self.pixels = data.train_images[:count].permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.train_labels[:count].tolist()
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        mean, std = ((values.flatten() / 255).tolist() for values in (data.mean, data.std))  # of pixels from 0 to 1
        self.transform = transforms.Compose([*steps, transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.open(self.pixels[index])), self.labels[index]


def ratio(above: Work, below: Work, device: torch.device, what: str, pairs: int = PAIRS) -> Measured:
    """Seconds of `above` over `below`: the median over pairs that take turns, as machines drift; two pairs warm up."""
    times = 1 if device.type == "cpu" else IN_A_ROW
    taken = [(seconds(above, device, times), seconds(below, device, times)) for _ in range(pairs + 2)][2:]
    ratios = [a / b for a, b in taken]
    middle = " over ".join(f"{1e3 * statistics.median(column):.2f}" for column in zip(*taken, strict=True))
    return statistics.median(ratios), f"{what}; {middle} ms; {range_words(ratios)}"


def range_words(ratios: list[float]) -> str:
    """How many pairs there were, and their smallest and largest ratio."""
    return f"{len(ratios)} pairs from {min(ratios):.2f} to {max(ratios):.2f}"
