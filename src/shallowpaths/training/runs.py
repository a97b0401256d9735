"""Runs in training: what a config asks for becomes networks, steps and a timetable here, and is handed on as such."""

import json
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shallowpaths.data import Dataset
from shallowpaths.networks import ResidualMLP, ResidualNetwork, ResNetV2, WideResNet
from shallowpaths.recipes import get_recipe
from shallowpaths.training import distributed
from shallowpaths.training.config import RunConfig
from shallowpaths.training.epochs import EpochResult, OnStep, Taken, Timetable, take_steps
from shallowpaths.training.lanes import Lanes
from shallowpaths.training.steps import Step, StepOptions, default_options

MAY_DIFFER = ("learning_rate", "seed")  # between runs that are trained as lanes


class Run:
    """One run in training: `run.epoch(0)`, `run.epoch(1)`, ... on `run.network`.

    On the data's device, after `hold_out`; with a new network of the config's, and the device's default options, unless
    others are given. ValueError: the config's batch does not fit the data, see `RunConfig.split`.
    """

    def __init__(
        self, config: RunConfig, data: Dataset, network: nn.Module | None = None, options: StepOptions | None = None
    ):
        self.device, self.precision = data.device, config.precision
        options = default_options(self.device) if options is None else options
        network = build(config, data.image_shape, data.classes) if network is None else network
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self.network = network.to(self.device, memory_format=layout)
        self.networks, self.timetables = [self.network], [Timetable(config, len(data.train_images))]
        distributed.slice_dropout(self.network)
        self.step = Step(self.network, data, options, config)
        self.states, self.load = self.step.states, self.step.load

    def epoch(self, number: int, on_step: OnStep = lambda: None, taken: Taken | None = None) -> list[EpochResult]:
        """Train for an epoch (from 0), call `on_step` after each step, and stop early once no loss is finite.

        The epoch goes on behind the steps `taken` already, where it was interrupted; each step is added to them.
        """
        taken, (times,) = [] if taken is None else taken, self.timetables
        rates, data, done = times.rates(number), self.step.data, len(taken)
        self.network.train()
        own = distributed.share(times.batch_size)
        fed = data.feed(*(part[done:, own] for part in times.batches(number, data)))
        steps = ((*inputs, rate) for inputs, rate in zip(fed, rates[done:], strict=True))
        results = take_steps(self.step.take, steps, on_step, taken, rates)
        distributed.share_buffers(self.network)
        return results


class LaneRuns:
    """Runs in training as lanes, each on its own images in its own order. For the configs see `check_lanes`."""

    def __init__(self, configs: Sequence[RunConfig], data: Dataset, options: StepOptions | None = None):
        first = configs[0]
        self.data, self.device, self.precision = data, data.device, first.precision
        self.networks = [build(config, data.image_shape, data.classes).to(self.device) for config in configs]
        self.timetables = [Timetable(config, len(data.train_images)) for config in configs]
        options = default_options(self.device) if options is None else options
        self.lanes = Lanes(self.networks, options, first)
        self.states, self.load = self.lanes.states, self.lanes.load
        self.make = data.maker(first.augment)

    def epoch(self, number: int, on_step: OnStep = lambda: None, taken: Taken | None = None) -> list[EpochResult]:
        """See Run."""
        taken = [] if taken is None else taken
        each = [times.batches(number, self.data) for times in self.timetables]
        batches = (torch.stack(parts, dim=1)[len(taken) :] for parts in zip(*each, strict=True))  # [S, L, B, ...]
        rates = [times.rates(number) for times in self.timetables]
        on_device = torch.tensor(rates, dtype=torch.float32).T.to(self.device)  # at once: no step makes the host wait
        steps = zip(*batches, on_device[len(taken) :], strict=True)
        results = take_steps(self.take, steps, on_step, taken, *rates)
        self.lanes.write_back()
        return results

    def take(self, index: Tensor, offsets: Tensor, flips: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One step of every run: as `Step.take`, with each run's own images [L, B], offsets, flips and rate."""
        images, labels = self.make(index.flatten(), offsets.flatten(0, 1), flips.flatten())
        return self.lanes.take(images.unflatten(0, index.shape), labels.view(index.shape), rates)


Trainable = Run | LaneRuns


def build(config: RunConfig, image_shape: Sequence[int], classes: int) -> ResidualNetwork:
    """The network of a run on images of shape (channels, height, width), initialized from the run's seed."""
    common = {name: getattr(config, name) for name in ("depth", "width", "recipe", "dropout", "ghost_batch")}
    common |= {"classes": classes, "generator": torch.Generator().manual_seed(config.seed)}
    if config.network == "residual-mlp":
        return ResidualMLP(inputs=math.prod(image_shape), **common)
    return (WideResNet if config.network == "wide-resnet" else ResNetV2)(channels=image_shape[0], **common)


def in_lanes(configs: Sequence[RunConfig], lanes: int) -> list[list[RunConfig]]:
    """The configs in groups of at most `lanes` that `check_lanes` passes, in the order of each group's first."""
    groups: list[list[RunConfig]] = []
    open_groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        shared = json.dumps({k: v for k, v in config.to_dict().items() if k not in MAY_DIFFER})
        if len(open_groups.get(shared, ())) in (0, lanes) or _only_alone(config):
            groups.append([])
            open_groups[shared] = groups[-1]
        open_groups[shared].append(config)
    return groups


def check_lanes(configs: Sequence[RunConfig]) -> None:
    """Refuse with a ValueError what cannot be trained as lanes."""
    if not configs:
        raise ValueError("there is no config to train")
    first, *others = (config.to_dict() for config in configs)
    differing = {name for other in others for name in other if other[name] != first[name]} - set(MAY_DIFFER)
    if differing:
        names = ", ".join(sorted(differing))
        raise ValueError(f"lanes may differ in {' and '.join(MAY_DIFFER)} only, these differ in {names}")
    if reason := _only_alone(configs[0]):
        raise ValueError(f"{reason}: such runs cannot be trained as lanes")


def _only_alone(config: RunConfig) -> str | None:
    """What a run has that no lane can have."""
    recipe = get_recipe(config.recipe)
    if recipe.dropout and config.dropout > 0:
        return f"recipe {config.recipe!r} has dropout"
    if recipe.normalizes_end and config.precision == "bfloat16":  # torch's rule for lanes takes float32 statistics only
        return f"recipe {config.recipe!r} has batch normalization, which torch does not stack in bfloat16"
    if config.data == "imagefolder":
        return "data 'imagefolder' streams from a disk"
    if config.curvature_images:
        return f"curvature_images is {config.curvature_images}, and curvature is measured of one network"
    return None
