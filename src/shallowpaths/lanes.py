"""Learning-rate lanes: runs that differ in learning rate and seed only, trained at the same time on one device.

Weights, moving averages and velocities of all lanes lie in one stack; torch.func takes every lane's gradient at once.
Small batches of small networks leave a device idle, and then many lanes cost hardly more than one.
"""

import copy
import math
import os
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths import data as datasets
from shallowpaths import devices, stepping
from shallowpaths.data import Dataset, PaddedPixels
from shallowpaths.networks import build, count_parameters
from shallowpaths.recipes import get_recipe
from shallowpaths.runs import RunConfig, RunRecord
from shallowpaths.steps import Recorded, StepOptions, arithmetic, autocast, default_options, recorded

MAY_DIFFER = ("learning_rate", "seed")


class Lanes:
    """Networks of one architecture in training, one a lane, each with its own learning rate.

    A lane does what SGD of `stepping.make_optimizer` does to its network alone, the moving averages of batch
    normalization included. Nothing passes from lane to lane: one that holds NaN leaves the others as they are.

    Args:
        networks: one a lane. They are read here, and written by `write_back`.
        config: momentum, L2 and precision of all lanes.
        options: `graph`, `tf32` and `deterministic` are heeded; None takes the device's defaults.
    """

    def __init__(self, networks: Sequence[nn.Module], config: RunConfig, options: StepOptions | None = None):
        self.networks, self.config = networks, config
        self.device = next(networks[0].parameters()).device
        self.options = default_options(self.device) if options is None else options
        self.recorded: Recorded | None = None
        self.tried = not (self.options.graph and self.device.type == "cuda")
        self.architecture = copy.deepcopy(networks[0]).train()  # of its own: the networks change mode to be evaluated
        weights, self.buffers = torch.func.stack_module_state(list(networks))
        trained = {name for name, p in networks[0].named_parameters() if p.requires_grad}
        self.fixed = {name: p.detach() for name, p in weights.items() if name not in trained}
        self.weights = {name: p.detach() for name, p in weights.items() if name in trained}
        self.velocities = {name: torch.zeros_like(p) for name, p in self.weights.items()}
        self._gradients = torch.vmap(torch.func.grad_and_value(self._loss, has_aux=True))

    def take(self, images: Tensor, labels: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One step of every lane.

        Args:
            images, labels: [L, B, C, H, W] and [L, B], a batch for each of the L lanes.
            rates: [L], each lane's learning rate.

        Returns:
            Each lane's mean loss before the step and its share of right answers, [L].
        """
        with arithmetic(self.device, self.options):
            if not self.tried:
                self._try(images, labels, rates)
            return (self.recorded or self._take)(images, labels, rates)

    def _try(self, *inputs: Tensor) -> None:
        """Record the step; then weights, velocities and buffers are what they were."""
        self.tried = True
        stacks = [t for part in (self.weights, self.velocities, self.buffers) for t in part.values()]
        before = [stack.clone() for stack in stacks]
        self.recorded = recorded(self._take, inputs)
        for stack, value in zip(stacks, before, strict=True):
            stack.copy_(value)

    def _take(self, images: Tensor, labels: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        leaves = self.weights, self.fixed, self.buffers, images, labels
        gradients, (losses, logits) = self._gradients(*leaves)
        with torch.no_grad():
            for name, weight in self.weights.items():
                decays = weight.ndim - 1 >= 2 or self.config.l2_on_scalars  # the first dimension counts lanes
                gradient = gradients[name].add_(weight, alpha=self.config.l2) if decays else gradients[name]
                velocity = self.velocities[name].mul_(self.config.momentum).add_(gradient)
                weight.sub_(rates.to(weight.dtype).view(-1, *[1] * (weight.ndim - 1)) * velocity)
        return losses, (logits.argmax(2) == labels).float().mean(1)

    @torch.no_grad()
    def write_back(self) -> None:
        """Put every lane's weights and buffers into its network."""
        for lane, network in enumerate(self.networks):
            for name, value in (*network.named_parameters(), *network.named_buffers()):
                stack = next(part for part in (self.weights, self.fixed, self.buffers) if name in part)
                value.copy_(stack[name][lane])

    def _loss(self, weights: dict, fixed: dict, buffers: dict, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(images.device, self.config.precision):
            logits = torch.func.functional_call(self.architecture, (weights, fixed, buffers), images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, labels), logits


def train_lanes(configs: Sequence[RunConfig], data_folder: str | os.PathLike | None = None) -> list[RunRecord]:
    """Train all configs at the same time, and return their records in the same order.

    Each step is `train`'s to rounding. Where training is chaotic, at the largest rates that still train, many steps make
    more of a rounding, and the results part. A record's seconds are its share of the whole.

    Raises:
        ValueError: the configs differ in more than learning rate and seed, or use dropout, whose random numbers a lane
            does not draw as a run alone does; the lanes do not fit in memory together; and what `train` refuses.
    """
    configs = _one_architecture(configs)
    first = configs[0]
    device = devices.resolve_device(first.device)
    data = datasets.load(first.data, device, data_folder).hold_out(first.validation)
    stepping.check_batch(first, len(data.train_images))
    started = time.perf_counter()
    with stepping.named_if_too_large(first, len(configs)):
        networks = [build(config, data.image_shape, data.classes).to(device) for config in configs]
        results = _train(Lanes(networks, first), configs, data)
    return [
        RunRecord(
            config=config,
            parameters=count_parameters(networks[0]),
            data_checksum=data.checksum,
            train_images=len(data.train_images),
            seconds=round((time.perf_counter() - started) / len(configs), 3),
            lanes=len(configs),
            device_name=devices.device_name(device),
            versions=devices.versions(),
            commit=devices.commit(),
            **result,
        )
        for config, result in zip(configs, results, strict=True)
    ]


def in_lanes(configs: Sequence[RunConfig], lanes: int) -> list[list[RunConfig]]:
    """The configs in groups of at most `lanes` that `train_lanes` takes, in the order of each group's first."""
    groups: list[list[RunConfig]] = []
    open_groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        shared = config.replace(seed=0, learning_rate=1.0).key
        group = open_groups.get(shared)
        if group is None or len(group) == lanes or _has_dropout(config):
            groups.append(group := [])
            open_groups[shared] = group
        group.append(config)
    return groups


def _one_architecture(configs: Sequence[RunConfig]) -> list[RunConfig]:
    if not configs:
        raise ValueError("there is no config to train")
    configs = [config.replace(device=devices.resolve_device(config.device).type) for config in configs]
    settings = [config.to_dict() for config in configs]
    differing = sorted({k for other in settings for k in other if other[k] != settings[0][k]} - set(MAY_DIFFER))
    if differing:
        raise ValueError(f"lanes may differ in {' and '.join(MAY_DIFFER)} only, these differ in {', '.join(differing)}")
    if _has_dropout(configs[0]):
        raise ValueError(f"recipe {configs[0].recipe!r} has dropout: its runs cannot be trained as lanes")
    return configs


def _has_dropout(config: RunConfig) -> bool:
    return get_recipe(config.recipe).dropout and config.dropout > 0


def _train(lanes: Lanes, configs: Sequence[RunConfig], data: Dataset) -> list[dict]:
    """Every lane's outcome, curve and test results, as RunRecord's fields."""
    first, images = configs[0], len(data.train_images)
    results: list[dict] = [{"outcome": "running", "curve": []} for _ in configs]
    pixels, after = PaddedPixels(data.train_images, data.padding, data.mean, data.std), 0
    for epoch in range(first.total_epochs(images)):
        losses, correct, rates = _epoch(lanes, configs, data, pixels, epoch)
        before, after = after, after + len(losses)
        lanes.write_back()
        for lane, result in enumerate(results):
            if result["outcome"] == "diverged":
                continue
            bad = (~torch.isfinite(losses[:, lane])).nonzero()
            point = {"epoch": epoch + 1, "learning_rate": float(rates[lane])}
            point |= {"train_loss": float(losses[:, lane].mean()), "train_accuracy": float(correct[:, lane].mean())}
            loss, point = _validated(lanes.networks[lane], data, first, point) if not len(bad) else (0.0, point)
            if len(bad) or not math.isfinite(loss):
                step = before + int(bad[0]) if len(bad) else after
                result |= {"outcome": "diverged", "diverged_step": step}
            else:
                result["curve"].append(point)
        if all(result["outcome"] == "diverged" for result in results):
            break
    return [_tested(network, data, first, r, after) for network, r in zip(lanes.networks, results, strict=True)]


def _epoch(
    lanes: Lanes, configs: Sequence[RunConfig], data: Dataset, pixels: PaddedPixels, epoch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and accuracies of one epoch's steps, float64 [S, L], and the last step's rates [L]."""
    first, images = configs[0], len(data.train_images)
    plans = [stepping.epoch_plan(data, config, epoch) for config in configs]
    index, offsets, flips = (torch.stack(parts, dim=1) for parts in zip(*plans, strict=True))  # [S, L, B, ...]
    base = torch.tensor([config.learning_rate for config in configs], dtype=torch.float64)
    before, steps = stepping.steps_before(epoch, images, first.batch_size), first.total_steps(images)
    factors = [stepping.learning_rate_factor(first.schedule, before + s, steps) for s in range(len(index))]
    rates = torch.tensor(factors, dtype=torch.float64)[:, None] * base
    on_device = rates.float().to(index.device)  # all at once: a copy at each step would make the host wait
    taken = []
    for chosen, shifts, mirrored, rate in zip(index, offsets, flips, on_device, strict=True):
        flat = chosen.flatten()
        if first.augment:
            batch = pixels.standardized(flat, shifts.flatten(0, 1), mirrored.flatten())
        else:
            batch = data.standardize(data.train_images[flat])
        labels = data.train_labels[flat].view(chosen.shape)
        taken.append(lanes.take(batch.unflatten(0, chosen.shape), labels, rate))
    losses, correct = (torch.stack(part).cpu().double() for part in zip(*taken, strict=True))
    return losses, correct, rates[-1]


def _validated(network: nn.Module, data: Dataset, config: RunConfig, point: dict) -> tuple[float, dict]:
    if not len(data.validation_images):
        return 0.0, point
    held = data.validation_images, data.validation_labels
    loss, accuracy = stepping.evaluate(network, data, *held, config.precision)
    return loss, point | {"validation_loss": loss, "validation_accuracy": accuracy}


def _tested(network: nn.Module, data: Dataset, config: RunConfig, result: dict, steps: int) -> dict:
    if result["outcome"] == "diverged":
        return result
    loss, accuracy = stepping.evaluate(network, data, data.test_images, data.test_labels, config.precision)
    if not math.isfinite(loss):
        return result | {"outcome": "diverged", "diverged_step": steps}
    return result | {"outcome": "finished", "test_loss": loss, "test_accuracy": accuracy}
