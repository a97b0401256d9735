"""RunConfig -> train() -> RunRecord."""

import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from shallowpaths import checkpoints, devices, stepping
from shallowpaths import data as datasets
from shallowpaths.checkpoints import Position, Trained
from shallowpaths.data import Dataset
from shallowpaths.lanes import LaneRuns, check_lanes
from shallowpaths.networks import build, count_parameters
from shallowpaths.runs import RunConfig, RunRecord
from shallowpaths.stepping import EpochResult
from shallowpaths.steps import Step, StepOptions, arithmetic, default_options

log = logging.getLogger(__name__)


def train(
    config: RunConfig,
    data_folder: str | os.PathLike | None = None,
    progress: bool = True,
    checkpoint_folder: str | os.PathLike | None = None,
    checkpoint_every: float = 60.0,
    options: StepOptions | None = None,
) -> RunRecord:
    """Train the network that `config` describes and say what came of it.

    A function of its config: on the same device, the same config gives the same record, but for the times and
    versions in it. A run whose loss stops being finite is a result, not an error: it ends there, as "diverged".
    torch's random state is left as it was found.

    Args:
        data_folder: where CIFAR-10's files are or shall be (see `shallowpaths.data.load`).
        progress: show a bar on stderr; it hides itself where TQDM_DISABLE=1 is set.
        checkpoint_folder: save the run's state here after a step now and then, and go on from a state that is there
            already. A run that was killed ends with the same result as if it had not been (on the CPU, with as many
            threads: bit for bit). The checkpoint is deleted once the run has ended.
        checkpoint_every: seconds that lie between two checkpoints at least; 0 saves after every step.
        options: what makes the step fast; None takes the device's defaults. They change rounding at most.

    Raises:
        ValueError: a device that is not there, a batch larger than the training set, a run that does not fit in memory,
            a residual-mlp with batch normalization over one image, data that cannot be read; a checkpoint folder that
            cannot be written, or a checkpoint in it that does not belong to this run.
    """
    return _train([config], data_folder, progress, checkpoint_folder, checkpoint_every, options)[0]


def train_lanes(
    configs: Sequence[RunConfig],
    data_folder: str | os.PathLike | None = None,
    progress: bool = True,
    checkpoint_folder: str | os.PathLike | None = None,
    checkpoint_every: float = 60.0,
    options: StepOptions | None = None,
) -> list[RunRecord]:
    """Train all configs at the same time (see `shallowpaths.lanes`), and return their records in the same order.

    Each step is `train`'s to rounding. Where training is chaotic, at the largest rates that still train, many steps make
    more of a rounding, and the results part. A record's seconds are its share of the whole. The arguments are `train`'s;
    what was interrupted goes on where the same configs are trained together again.

    Raises:
        ValueError: the configs differ in more than learning rate and seed, or use dropout, whose random numbers a lane
            does not draw as a run alone does; the lanes do not fit in memory together; and what `train` refuses.
    """
    check_lanes(configs)
    return _train(configs, data_folder, progress, checkpoint_folder, checkpoint_every, options)


class _Runs(Trained, Protocol):
    """One run in training, or several as lanes."""

    networks: Sequence[nn.Module]

    def epoch(
        self, epoch: int, on_step: Callable[[], object], taken: list[tuple[Tensor, Tensor]]
    ) -> list[EpochResult]: ...


class _SingleRun:
    """One run in training, as `lanes.LaneRuns` are several."""

    def __init__(self, network: nn.Module, data: Dataset, config: RunConfig, options: StepOptions | None):
        network = network.to(memory_format=torch.channels_last)
        self.networks = [network]
        self.step = Step(network, stepping.make_optimizer(network, config), data, config, options)
        self.device, self.states, self.load = self.step.device, self.step.states, self.step.load

    def epoch(self, epoch: int, on_step: Callable[[], object], taken: list[tuple[Tensor, Tensor]]) -> list[EpochResult]:
        return [stepping.train_epoch(self.step, epoch, on_step, taken)]


def _train(
    configs: Sequence[RunConfig],
    data_folder: str | os.PathLike | None,
    progress: bool,
    checkpoint_folder: str | os.PathLike | None,
    checkpoint_every: float,
    options: StepOptions | None,
) -> list[RunRecord]:
    """The records of configs that are trained at the same time."""
    device = devices.resolve_device(configs[0].device)
    configs = [config.replace(device=device.type) for config in configs]
    first, lanes = configs[0], len(configs)
    saver = _Saver(configs, checkpoint_folder, checkpoint_every) if checkpoint_folder is not None else None
    options = default_options(device) if options is None else options
    with _reproducible(first.seed), stepping.named_if_too_large(first, lanes), arithmetic(device, options):
        data = datasets.load(first.data, device, data_folder).hold_out(first.validation)
        stepping.check_batch(first, len(data.train_images))
        networks = [build(config, data.image_shape, data.classes).to(device) for config in configs]
        started = time.perf_counter()
        position = Position([{"outcome": "running", "curve": []} for _ in configs])
        runs = (
            _SingleRun(networks[0], data, first, options) if lanes == 1 else LaneRuns(networks, data, configs, options)
        )
        _run(runs, data, configs, position, saver, progress)
    if saver:
        saver.discard()
    seconds = position.seconds + time.perf_counter() - started
    return [
        RunRecord(
            config=config,
            parameters=count_parameters(networks[0]),
            data_checksum=data.checksum,
            train_images=len(data.train_images),
            seconds=round(seconds / lanes, 3),
            lanes=lanes,
            device_name=devices.device_name(device),
            versions=devices.versions(),
            commit=devices.commit(),
            **result,
        )
        for config, result in zip(configs, position.results, strict=True)
    ]


def _run(
    runs: _Runs,
    data: Dataset,
    configs: Sequence[RunConfig],
    position: Position,
    saver: "_Saver | None",
    progress: bool,
) -> None:
    """Train to the end, from a checkpoint on where there is one. Outcomes, curves and test results go to `position`."""
    if saver:
        saver.resume(runs, position)
    first, images = configs[0], len(data.train_images)
    with _progress_bar(configs, images, position, progress) as bar:

        def on_step() -> None:
            bar.update()
            if saver:
                saver.save_if_due(runs, position)

        for epoch in range(position.epoch, first.total_epochs(images)):
            found = runs.epoch(epoch, on_step, position.taken)
            for network, result, mine in zip(runs.networks, position.results, found, strict=True):
                if result["outcome"] == "running":
                    _note_epoch(network, data, first, epoch, mine, result)
            position.epoch = epoch + 1
            position.taken.clear()
            training = [
                mine for mine, result in zip(found, position.results, strict=True) if result["outcome"] == "running"
            ]
            if not training:
                return
            bar.set_postfix(
                epoch=epoch + 1,
                loss=_range_of(m.loss for m in training),
                accuracy=_range_of(m.accuracy for m in training),
            )
    for network, result in zip(runs.networks, position.results, strict=True):
        if result["outcome"] == "running":
            _test(network, data, first, result)


def _note_epoch(
    network: nn.Module, data: Dataset, config: RunConfig, epoch: int, found: EpochResult, result: dict[str, Any]
) -> None:
    """Add an epoch to a run's curve; or say that the run has diverged."""
    images = len(data.train_images)
    if found.first_bad_step is not None:
        before = stepping.steps_before(epoch, images, config.batch_size)
        result |= {"outcome": "diverged", "diverged_step": before + found.first_bad_step}
        return
    point = {"epoch": epoch + 1, "learning_rate": found.learning_rate}
    point |= {"train_loss": found.loss, "train_accuracy": found.accuracy}
    if len(data.validation_images):
        held = data.validation_images, data.validation_labels
        loss, accuracy = stepping.evaluate(network, data, *held, config.precision)
        if not math.isfinite(loss):
            steps = min(stepping.steps_before(epoch + 1, images, config.batch_size), config.total_steps(images))
            result |= {"outcome": "diverged", "diverged_step": steps}
            return
        point |= {"validation_loss": loss, "validation_accuracy": accuracy}
    result["curve"].append(point)


def _test(network: nn.Module, data: Dataset, config: RunConfig, result: dict[str, Any]) -> None:
    """Read the test set, once."""
    loss, accuracy = stepping.evaluate(network, data, data.test_images, data.test_labels, config.precision)
    if math.isfinite(loss):
        result |= {"outcome": "finished", "test_loss": loss, "test_accuracy": accuracy}
    else:
        result |= {"outcome": "diverged", "diverged_step": config.total_steps(len(data.train_images))}


class _Saver:
    """The checkpoint of what is trained: saved not too often, restored once, deleted at the end."""

    def __init__(self, configs: Sequence[RunConfig], folder: str | os.PathLike, every: float):
        checkpoints.prepare(folder)
        self.configs, self.every = configs, every
        self.path = checkpoints.path_of(folder, configs)
        self.seconds_before = 0.0

    def resume(self, runs: Trained, position: Position) -> None:
        """Where there is a checkpoint, put the runs, torch's generators and the position where it has them."""
        self.saved = self.started = time.monotonic()
        if self.path.exists():
            vars(position).update(vars(checkpoints.restore(self.path, self.configs, runs)))
            self.seconds_before = position.seconds

    def save_if_due(self, runs: Trained, position: Position) -> None:
        """Save, if the last time is long enough ago. A full disk costs the checkpoint, not the run."""
        now = time.monotonic()
        if now - self.saved < self.every:
            return
        now_at = dataclasses.replace(position, seconds=self.seconds_before + now - self.started)
        try:
            checkpoints.save(self.path, self.configs, runs, now_at)
        except OSError as error:
            log.warning("no checkpoint this time, the run goes on: %s", error)
        self.saved = time.monotonic()

    def discard(self) -> None:
        """The runs have ended: their records say all."""
        checkpoints.discard(self.path)


def _range_of(values: Iterable[float]) -> str:
    """A run's value; of several runs the smallest and the largest."""
    ends = min(every := list(values)), max(every)
    return " to ".join(f"{value:.3f}" for value in dict.fromkeys(ends))


def _progress_bar(configs: Sequence[RunConfig], images: int, position: Position, progress: bool) -> tqdm:
    config = configs[0]
    what = f"rate {config.learning_rate:g}" if len(configs) == 1 else f"{len(configs)} lanes"
    shown = progress and sys.stderr is not None
    hidden = {} if shown else {"disable": True}  # not given, the environment variable TQDM_DISABLE decides
    return tqdm(
        total=config.total_steps(images),
        initial=stepping.steps_before(position.epoch, images, config.batch_size) + len(position.taken),
        desc=f"{config.recipe}, depth {config.depth}, {what}",
        unit="step",
        leave=False,
        **hidden,
    )


@contextlib.contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """torch's random state follows from the seed within, and is what it was after."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # for dropout: all else has its own generator
        yield
