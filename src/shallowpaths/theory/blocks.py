"""The recursion over blocks: second moments, variances, tangents and gradients of any recipe of the book."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from shallowpaths.theory.checks import Array, flag, number, numbers, one_of, whole
from shallowpaths.theory.moments import ACTIVATIONS, block_index, relu_correlation, relu_gate_correlation

NORMALIZATIONS = ("none", "branch", "branch and skip", "end")


@dataclass(frozen=True)
class Signal:
    """What theory predicts at each block; every array has shape [d] and entry l - 1 belongs to block l.

    Variances are over the inputs, per channel, then averaged. *input* is x^l as it enters block l, which the branch's
    first BN sees. *skip* and *branch* are the terms of the addition, alpha included; the skip differs from the input
    only where a shortcut is a projection. *output* is x^{l+1}, after ``output_scale`` or a BN.

    branch_share, branch_second_moment_share: the branch's part in the variance, and second moment, of skip + branch.
    downscaling: what the first BN of the branch divides by, sqrt(Var x^l) [paper]; 1 without BN on the branch.
    path_probability: p_l, the share of a tangent's second moment that goes through the branch of block l.
    gradient_second_moment: at the input of block l over that at the last addition; gradients independent between
        inputs.
    skip_correlation: of any two inputs. pair_correlation, gradient_correlation: of two chosen ones, and of their
        gradients of one output, at the input of block l.
    """

    normalization: str
    activation: str
    layers_per_block: int
    block: Array
    input_second_moment: Array
    input_variance: Array
    input_squared_mean: Array
    skip_second_moment: Array
    skip_variance: Array
    skip_squared_mean: Array
    branch_second_moment: Array
    branch_variance: Array
    branch_squared_mean: Array
    output_second_moment: Array
    output_variance: Array
    output_squared_mean: Array
    branch_share: Array
    branch_second_moment_share: Array
    downscaling: Array
    path_probability: Array
    gradient_second_moment: Array
    skip_correlation: Array
    pair_correlation: Array
    gradient_correlation: Array


class _Point(NamedTuple):
    """The signal at one point: log2 of its second moment, the correlation of any two inputs, of one pair."""

    log2_moment: float
    common: float
    pair: float

    @property
    def log2_variance(self) -> float:
        return self.log2_moment + math.log2(1 - self.common)

    def standardized(self) -> "_Point":
        """After BN over a large batch: variance 1, no mean, so two inputs are uncorrelated."""
        return _Point(0.0, 0.0, (self.pair - self.common) / (1 - self.common))

    def times(self, log2_factor: float) -> "_Point":
        return self._replace(log2_moment=self.log2_moment + log2_factor)


def _share(log2_skip: float, log2_branch: float) -> float:
    """branch / (skip + branch) from logarithms, which do not overflow."""
    return float(np.exp2(log2_branch - np.logaddexp2(log2_skip, log2_branch)))


class _Network(NamedTuple):
    """What all blocks of a network have in common."""

    normalization: str
    activation: str
    layers_per_block: int
    log2_alpha: float
    output_scale: float
    skip_path: bool

    def layers(self, point: _Point, count: int, gain: float) -> tuple[_Point, float, float]:
        """Pass layers of (BN ->) activation -> He weights: the end, log2 of a tangent's gain, gates' correlation.

        ReLU passes half of a tangent's second moment and He's factor 2 restores it, up to ``gain``; BN divides it by
        the variance that it finds. The batch is large, so that a BN's statistics are constants.
        """
        log2_tangent, gates = 0.0, 1.0
        for _ in range(count):
            if self.normalization.startswith("branch"):
                log2_tangent -= point.log2_variance
                point = point.standardized()
            if self.activation == "relu":
                gates *= float(relu_gate_correlation(point.pair))
                point = _Point(point.log2_moment, *map(float, relu_correlation([point.common, point.pair])))
            point = point.times(math.log2(gain))
            log2_tangent += math.log2(gain)
        return point, log2_tangent, gates

    def block(self, x: _Point, projected: bool, gain: float) -> dict[str, Any]:
        """One step of the recursion: a block's four points, and what a tangent and a pair of gradients meet in it."""
        skip, skip_tangent, skip_gates = self.layers(x, int(projected), 1.0)
        if not self.skip_path:
            skip, skip_tangent = skip._replace(log2_moment=-math.inf), -math.inf
        branch, branch_tangent, branch_gates = self.layers(x, self.layers_per_block, gain)
        branch, branch_tangent = branch.times(2 * self.log2_alpha), branch_tangent + 2 * self.log2_alpha
        probability, log2_scale = _share(skip_tangent, branch_tangent), 2 * math.log2(self.output_scale)
        share = _share(skip.log2_moment, branch.log2_moment)  # independent weights: moments and covariances add
        alike = (min((1 - share) * s + share * b, 1.0) for s, b in zip(skip[1:], branch[1:], strict=True))
        output = _Point(float(np.logaddexp2(skip.log2_moment, branch.log2_moment)) + log2_scale, *alike)
        log2_gradient = float(np.logaddexp2(skip_tangent, branch_tangent)) + log2_scale
        if self.normalization == "branch and skip":
            log2_gradient -= output.log2_variance
            output = output.standardized()
        return {
            "input": x, "skip": skip, "branch": branch, "output": output, "log2_gradient": log2_gradient,
            "gates": (1 - probability) * skip_gates + probability * branch_gates, "path_probability": probability,
            "branch_share": _share(skip.log2_variance, branch.log2_variance), "branch_second_moment_share": share,
            "skip_correlation": skip.common, "pair_correlation": x.pair,
        }  # fmt: skip


def signal(
    blocks: int, *, normalization: str = "none", alpha: float = 1.0, output_scale: float = 1.0, skip_path: bool = True,
    activation: str = "linear", layers_per_block: int = 2, correlation: float = 0.0,
    pair_correlation: float | None = None, projections: Collection[int] = (), layer_gain: ArrayLike = 1.0,
) -> Signal:  # fmt: skip
    """Everything theory says about a residual network at initialization, block by block. [paper], [derived]

    normalization: "none"; "branch" (a BN before each activation of the branch); "branch and skip" (and one after each
        addition); "end" (one BN after the last block, which changes nothing before it).
    alpha: what multiplies the branch; 0 too where it ends in a zero. output_scale: what multiplies the sum. skip_path:
        False removes the skip connections, so that every path takes every branch.
    correlation: between any two inputs at x^1, in [0, 1); 0 for centred data. pair_correlation: between two chosen
        ones.
    projections: the blocks (1 ... d) whose shortcut is a He layer that reads the branch's first activation.
    layer_gain: factor on the second moment in each layer of the branch, one number or one a block, as ``padding_gain``.

    It runs in logarithms: moments beyond float64 come out as inf, and shares stay right. ValueError for other values.
    """
    index = block_index(blocks)
    one_of("normalization", normalization, NORMALIZATIONS)
    one_of("activation", activation, ACTIVATIONS)
    whole("layers_per_block", layers_per_block)
    flag("skip_path", skip_path)
    alpha, scale = number("alpha", alpha), number("output_scale", output_scale, above=0)
    if not skip_path and alpha == 0:
        raise ValueError(f"alpha {alpha!r} without a skip path: nothing passes")
    each, gains = range(1, blocks + 1), numbers("layer_gain", layer_gain, above=0)
    if not isinstance(projections, Collection) or any(block not in each for block in projections):
        raise ValueError(f"projections {projections!r} must hold block numbers from 1 to {blocks}")
    if gains.shape not in ((), (blocks,)):
        raise ValueError(f"layer_gain has shape {gains.shape}; it must be one number, or [{blocks}]")
    common = number("correlation", correlation, at_least=0, below=1)
    pair = common if pair_correlation is None else number("pair_correlation", pair_correlation, at_least=-1, at_most=1)
    if normalization.startswith("branch") and pair < 2 * common - 1:
        beside = f"beside a correlation of {common!r} between any two inputs"
        raise ValueError(f"pair_correlation {pair!r} must be at least {2 * common - 1:g}, {beside}")
    log2_alpha = -math.inf if alpha == 0 else math.log2(abs(alpha))
    network = _Network(normalization, activation, layers_per_block, log2_alpha, scale, skip_path)
    x, rows = _Point(0.0, common, pair), []
    for block, gain in zip(each, np.broadcast_to(gains, (blocks,)), strict=True):
        rows.append(network.block(x, block in projections, float(gain)))
        x = rows[-1]["output"]
    return Signal(normalization, activation, layers_per_block, index, **_arrays(rows, normalization))


def _arrays(rows: list[dict[str, Any]], normalization: str) -> dict[str, Array]:
    """The recursion's rows as the arrays of a Signal."""
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    arrays: dict[str, Array] = {}
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for place in ("input", "skip", "branch", "output"):
            points = columns.pop(place)
            common = np.array([point.common for point in points])
            arrays[f"{place}_second_moment"] = moment = np.exp2([point.log2_moment for point in points])
            arrays[f"{place}_variance"] = np.exp2([point.log2_variance for point in points])
            arrays[f"{place}_squared_mean"] = np.where(common > 0, common * moment, 0.0)
        arrays["gradient_second_moment"] = np.exp2(np.cumsum(columns.pop("log2_gradient")[::-1])[::-1])
    arrays["gradient_correlation"] = np.cumprod(columns.pop("gates")[::-1])[::-1]
    arrays["downscaling"] = np.sqrt(arrays["input_variance"]) if "branch" in normalization else np.ones(len(rows))
    arrays |= {name: np.array(values) for name, values in columns.items()}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays
