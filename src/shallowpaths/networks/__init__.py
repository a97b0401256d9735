"""Residual networks: one class per architecture, one residual block; what stands on the branch is a Recipe.

A block ends in a ResidualAddition, a module: `shallowpaths.measure` looks where skip path and finished branch meet.
"""

from shallowpaths.networks.architectures import ResidualMLP, ResNetV2, WideResNet, count_parameters
from shallowpaths.networks.conversion import Conversion, to_fixup, to_skipinit
from shallowpaths.networks.ghost import GhostBatchNorm
from shallowpaths.networks.residual import Bias, ResidualAddition, ResidualBlock, ResidualNetwork, Scale, Shift

__all__ = [
    "Bias", "Conversion", "GhostBatchNorm", "ResNetV2", "ResidualAddition", "ResidualBlock", "ResidualMLP", "ResidualNetwork",
    "Scale", "Shift", "WideResNet", "count_parameters", "to_fixup", "to_skipinit",
]  # fmt: skip
