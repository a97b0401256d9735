"""Residual networks: one class per architecture, one residual block; what stands on the branch is a Recipe.

A block ends in a ResidualAddition, a module of its own: it sees the skip path and the finished branch just before they
meet, which is where the paper's quantities live and where `shallowpaths.measure` looks. Imports recipes and theory.
"""

from shallowpaths.networks.architectures import ResidualMLP, ResNetV2, WideResNet, count_parameters
from shallowpaths.networks.conversion import Conversion, to_fixup, to_skipinit
from shallowpaths.networks.ghost import GhostBatchNorm
from shallowpaths.networks.residual import Bias, ResidualAddition, ResidualBlock, ResidualNetwork, Scale, Shift

__all__ = [
    "Bias", "Conversion", "GhostBatchNorm", "ResNetV2", "ResidualAddition", "ResidualBlock", "ResidualMLP", "ResidualNetwork",
    "Scale", "Shift", "WideResNet", "count_parameters", "to_fixup", "to_skipinit",
]  # fmt: skip
