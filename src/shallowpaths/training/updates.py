"""What a step does to each parameter: momentum, the L2 penalty, and a rate of its own for the branches' scalars."""

from collections import defaultdict

import torch
from torch import nn

from shallowpaths.training.config import RunConfig


def penalty_of(config: RunConfig, dimensions: int) -> float:
    """The L2 coefficient of a parameter that has so many dimensions; alpha, biases and normalization parameters have below 2."""
    return config.l2 if dimensions >= 2 or config.l2_on_scalars else 0.0


def rate_factor(config: RunConfig, name: str) -> float:
    """The factor on the learning rate of the parameter of that name."""
    return config.alpha_rate if name.rpartition(".")[2] == "alpha" else 1.0


def make_optimizer(network: nn.Module, config: RunConfig) -> torch.optim.SGD:
    """torch's SGD with heavy-ball momentum; each group keeps the factor on its rate as "rate_factor"."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[penalty_of(config, parameter.ndim), rate_factor(config, name)].append(parameter)
    return torch.optim.SGD(
        [
            {"params": group, "weight_decay": penalty, "rate_factor": factor, "lr": config.learning_rate * factor}
            for (penalty, factor), group in groups.items()
        ],
        lr=config.learning_rate,
        momentum=config.momentum,
        fused=next(network.parameters()).device.type in ("cpu", "cuda"),  # where torch has it
    )
