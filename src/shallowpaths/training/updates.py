"""What a step does to each parameter: momentum, the L2 penalty, and a rate of its own for the branches' scalars."""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import nn

from shallowpaths.training.config import RunConfig


@dataclass(frozen=True)
class Update:
    """What one update of SGD with heavy-ball momentum does to each parameter; fields as in RunConfig.

    A scalar here is what has no matrix: alpha, biases, and the parameters of normalizations.
    """

    momentum: float
    l2: float
    l2_on_scalars: bool = True
    alpha_rate: float = 1.0

    @classmethod
    def of(cls, config: RunConfig) -> "Update":
        """A run's."""
        return cls(config.momentum, config.l2, config.l2_on_scalars, config.alpha_rate)

    def penalty(self, dimensions: int) -> float:
        """The L2 coefficient of a parameter that has so many dimensions."""
        return self.l2 if dimensions >= 2 or self.l2_on_scalars else 0.0

    def rate_factor(self, name: str) -> float:
        """The factor on the learning rate of the parameter of that name."""
        return self.alpha_rate if name.rpartition(".")[2] == "alpha" else 1.0


def make_optimizer(
    network: nn.Module, learning_rate: float, update: Update, fused: bool | None = None
) -> torch.optim.SGD:
    """torch's SGD that does `update`; each group keeps the factor on its rate as "rate_factor".

    fused: one kernel for the update of a parameter; None takes it where torch has it.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[update.penalty(parameter.ndim), update.rate_factor(name)].append(parameter)
    devices = {p.device.type for group in groups.values() for p in group}
    return torch.optim.SGD(
        [
            {"params": group, "weight_decay": penalty, "rate_factor": factor, "lr": learning_rate * factor}
            for (penalty, factor), group in groups.items()
        ],
        lr=learning_rate,
        momentum=update.momentum,
        fused=devices <= {"cpu", "cuda"} if fused is None else fused,
    )
