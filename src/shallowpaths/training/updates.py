"""What a step does to each parameter: momentum, the L2 penalty, and a rate of its own for the branches' scalars."""

from collections import defaultdict

import torch
from torch import nn

from shallowpaths.training.config import RunConfig


def penalty_and_factor(config: RunConfig, name: str, dimensions: int) -> tuple[float, float]:
    """A parameter's L2 coefficient and the factor on its rate; alpha, biases and normalization's have below 2 dimensions."""
    penalty = config.l2 if dimensions >= 2 or config.l2_on_scalars else 0.0
    return penalty, config.alpha_rate if name.rpartition(".")[2] == "alpha" else 1.0


def make_optimizer(network: nn.Module, config: RunConfig) -> torch.optim.SGD:
    """torch's SGD with heavy-ball momentum; each group keeps the factor on its rate as "rate_factor"."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups[penalty_and_factor(config, name, parameter.ndim)].append(parameter)
    rate, fused = config.learning_rate, next(network.parameters()).device.type in ("cpu", "cuda")  # where torch has it
    parts = [
        {"params": group, "weight_decay": penalty, "rate_factor": factor, "lr": rate * factor}
        for (penalty, factor), group in groups.items()
    ]
    return torch.optim.SGD(parts, lr=rate, momentum=config.momentum, fused=fused)
