"""Learning-rate lanes: runs that differ in learning rate and seed, trained at once, in one stack, by torch.func."""

import copy
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths._device import arithmetic, autocast
from shallowpaths.training.config import RunConfig
from shallowpaths.training.steps import Recorded, StepOptions, penalty_and_factor, recorded, unchanged

Stacks = dict[str, Tensor]


class Lanes:
    """Networks of one architecture in training, one a lane, each with its own learning rate; `config` is any lane's.

    A lane does what SGD of `steps.make_optimizer` does to its network alone, the moving averages of batch
    normalization included. Nothing passes from lane to lane: one that holds NaN leaves the others as they are.
    The networks are read here, and written by `write_back`.
    """

    def __init__(self, networks: Sequence[nn.Module], options: StepOptions, config: RunConfig):
        self.networks, self.options, self.config = networks, options, config
        self.device = next(networks[0].parameters()).device
        self.recorded: Recorded | None = None
        self.tried = not (self.options.graph and self.device.type == "cuda")
        architecture = copy.deepcopy(networks[0]).train()  # of its own: the networks change mode to be evaluated
        stacks, buffers = torch.func.stack_module_state(list(networks))
        trained = {name for name, p in networks[0].named_parameters() if p.requires_grad}
        self.weights = {name: p.detach() for name, p in stacks.items() if name in trained}
        self.buffers = {name: p.detach() for name, p in stacks.items() if name not in trained} | buffers
        self.velocities = {name: torch.zeros_like(p) for name, p in self.weights.items()}
        loss = functools.partial(_loss, architecture, config.precision)  # no method: it would keep the lanes alive
        self._gradients = torch.vmap(torch.func.grad_and_value(loss, has_aux=True))

    def take(self, images: Tensor, labels: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        """A step on images [L, B, C, H, W], labels [L, B], at rates [L]: losses before it, shares of right, [L]."""
        with arithmetic(self.device, self.options.tf32, self.options.deterministic):
            if not self.tried:
                self.tried = True
                with unchanged(lambda: [stack for part in self.states().values() for stack in part.values()]):
                    self.recorded = recorded(self._take, (images, labels, rates))
            return (self.recorded or self._take)(images, labels, rates)

    def _take(self, images: Tensor, labels: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        gradients, (losses, logits) = self._gradients(self.weights, self.buffers, images, labels)
        with torch.no_grad():
            for name, weight in self.weights.items():
                penalty, factor = penalty_and_factor(self.config, name, weight.ndim - 1)  # the first counts lanes
                gradient = gradients[name].add_(weight, alpha=penalty) if penalty else gradients[name]
                velocity = self.velocities[name].mul_(self.config.momentum).add_(gradient)
                weight.sub_((rates.to(weight.dtype) * factor).view(-1, *[1] * (weight.ndim - 1)) * velocity)
        return losses, (logits.argmax(2) == labels).float().mean(1)

    @torch.no_grad()
    def write_back(self) -> None:
        """Put every lane's weights and buffers into its network."""
        for lane, network in enumerate(self.networks):
            for name, value in (*network.named_parameters(), *network.named_buffers()):
                value.copy_((self.weights if name in self.weights else self.buffers)[name][lane])

    def states(self) -> dict[str, Stacks]:
        """What steps change, in stacks of all lanes."""
        return {"weights": self.weights, "velocities": self.velocities, "buffers": self.buffers}

    @torch.no_grad()
    def load(self, states: dict[str, Stacks]) -> None:
        """Take over what `states` gave."""
        for part, stacks in self.states().items():
            for name, stack in stacks.items():
                found = states[part][name]
                if found.shape != stack.shape:
                    raise ValueError(f"{part} of {name} have shape {tuple(found.shape)}, not {tuple(stack.shape)}")
                stack.copy_(found)
        self.write_back()


def _loss(
    architecture: nn.Module, precision: str, weights: Stacks, buffers: Stacks, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    with autocast(images.device, precision):
        logits = torch.func.functional_call(architecture, (weights, buffers), images)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels), logits
