"""Learning-rate lanes: runs that differ in learning rate and seed only, trained at the same time on one device.

Weights, moving averages and velocities of all lanes lie in one stack; torch.func takes every lane's gradient at once.
Small batches of small networks leave a device idle, and then many lanes cost hardly more than one.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths import stepping
from shallowpaths.data import Dataset, PaddedPixels
from shallowpaths.recipes import get_recipe
from shallowpaths.runs import RunConfig
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
        loss = functools.partial(_loss, self.architecture, config.precision)  # no method: it would keep the lanes alive
        self._gradients = torch.vmap(torch.func.grad_and_value(loss, has_aux=True))

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
        stacks = [stack for part in self.states().values() for stack in part.values()]
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

    def states(self) -> dict[str, dict[str, Tensor]]:
        """What steps change, in stacks of all lanes."""
        return {"weights": self.weights, "velocities": self.velocities, "buffers": self.buffers}

    @torch.no_grad()
    def load(self, states: dict[str, dict[str, Tensor]]) -> None:
        """Take over what `states` gave."""
        for part, stacks in self.states().items():
            for name, stack in stacks.items():
                found = states[part][name]
                if found.shape != stack.shape:
                    raise ValueError(f"{part} of {name} have shape {tuple(found.shape)}, not {tuple(stack.shape)}")
                stack.copy_(found)
        self.write_back()


def _loss(
    architecture: nn.Module,
    precision: str,
    weights: dict[str, Tensor],
    fixed: dict[str, Tensor],
    buffers: dict[str, Tensor],
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    with autocast(images.device, precision):
        logits = torch.func.functional_call(architecture, (weights, fixed, buffers), images)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels), logits


class LaneRuns:
    """Runs in training as lanes, each on its own images in its own order.

    Args:
        networks: one for each run; after an epoch they hold what the lanes have learned.
        configs: of the runs, see `check_lanes`.
    """

    def __init__(
        self, networks: Sequence[nn.Module], data: Dataset, configs: Sequence[RunConfig], options: StepOptions | None
    ):
        self.networks, self.data, self.configs = networks, data, configs
        self.lanes = Lanes(networks, configs[0], options)
        self.device = self.lanes.device
        self.pixels = PaddedPixels(data.train_images, data.padding, data.mean, data.std) if configs[0].augment else None

    def epoch(
        self, epoch: int, on_step: Callable[[], object], taken: list[tuple[Tensor, Tensor]]
    ) -> list[stepping.EpochResult]:
        """One epoch of every run, as `stepping.train_epoch`."""
        plans = [stepping.epoch_plan(self.data, config, epoch) for config in self.configs]
        plan = (torch.stack(parts, dim=1) for parts in zip(*plans, strict=True))  # [S, L, B, ...]
        rates = [stepping.epoch_rates(config, len(self.data.train_images), epoch) for config in self.configs]
        on_device = torch.tensor(rates, dtype=torch.float32).T.to(self.device)  # at once: no step makes the host wait
        stepping.take_steps(self.take, zip(*plan, on_device, strict=True), on_step, taken)
        self.lanes.write_back()
        return stepping.epoch_results(taken, *rates)

    def states(self) -> dict[str, Any]:
        """As `steps.Step.states`."""
        return self.lanes.states()

    def load(self, states: dict[str, Any]) -> None:
        """As `steps.Step.load`."""
        self.lanes.load(states)

    def take(self, index: Tensor, offsets: Tensor, flips: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        """One step of every run: as `steps.Step.take`, with each run's own images [L, B], offsets, flips and rate."""
        flat = index.flatten()
        if self.pixels is not None:
            images = self.pixels.standardized(flat, offsets.flatten(0, 1), flips.flatten())
        else:
            images = self.data.standardize(self.data.train_images[flat])
        labels = self.data.train_labels[flat].view(index.shape)
        return self.lanes.take(images.unflatten(0, index.shape), labels, rates)


def in_lanes(configs: Sequence[RunConfig], lanes: int) -> list[list[RunConfig]]:
    """The configs in groups of at most `lanes` that `check_lanes` passes, in the order of each group's first."""
    groups: list[list[RunConfig]] = []
    open_groups: dict[str, list[RunConfig]] = {}
    for config in configs:
        shared = config.replace(seed=0, learning_rate=1.0).key
        group = open_groups.get(shared)
        if group is None or len(group) == lanes or _only_alone(config):
            groups.append(group := [])
            open_groups[shared] = group
        group.append(config)
    return groups


def check_lanes(configs: Sequence[RunConfig]) -> None:
    """Refuse with a ValueError what cannot be trained as lanes."""
    if not configs:
        raise ValueError("there is no config to train")
    settings = [config.to_dict() for config in configs]
    differing = sorted({k for other in settings for k in other if other[k] != settings[0][k]} - set(MAY_DIFFER))
    if differing:
        raise ValueError(f"lanes may differ in {' and '.join(MAY_DIFFER)} only, these differ in {', '.join(differing)}")
    if reason := _only_alone(configs[0]):
        raise ValueError(f"recipe {configs[0].recipe!r} has {reason}: its runs cannot be trained as lanes")


def _only_alone(config: RunConfig) -> str | None:
    """What a run has that no lane can have."""
    recipe = get_recipe(config.recipe)
    if recipe.dropout and config.dropout > 0:
        return "dropout"
    if recipe.normalizes_end and config.precision == "bfloat16":  # torch's rule for lanes takes float32 statistics only
        return "batch normalization, which torch does not stack in bfloat16"
    return None
