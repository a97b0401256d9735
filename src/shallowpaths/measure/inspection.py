"""Any network's residual additions, found in its traced graph: what skip paths carry, what branches add, a verdict."""

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, fx, nn

from shallowpaths.measure.gradients import random_like
from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found
from shallowpaths.measure.signals import channel_moments
from shallowpaths.networks.tracing import Flow, ResidualAddition, check_module, trace
from shallowpaths.theory.limits import LARGEST_VALUE

_REMEDIES = {
    "identity-biased": "Nothing to repair: near the identity, deep networks train. A scalar of 0 at the end of each"
    " branch (SkipInit) keeps that without normalization.",
    "exploding": "End each branch in a scalar of 0 (SkipInit) or 1/sqrt(d) = {:.2g}, in a normalization with gamma 0,"
    " or put normalization on the branch.",
    "collapsing": "Put batch normalization on each branch, which subtracts what all inputs have in common.",
    "balanced": "Fine while the network is shallow. Deeper: normalize on the branch and not on the skip path"
    " (pre-norm), or end each branch in gamma 0, in a scalar of 0 (SkipInit) or of 1/sqrt(d) = {:.2g}.",
    "ungathered": "Batch normalization has gathered no statistics yet and does nothing: inspect in training mode.",
}
_COLUMNS = {
    "block": "name", "skip var": "skip_variance", "branch var": "branch_variance", "branch share": "branch_share",
    "1/(l+1)": "predicted_share", "skip square": "skip_second_moment", "branch square": "branch_second_moment",
    "gradient": "gradient",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class InspectedBlock:
    """One residual addition, measured as its two operands meet. Variances are those of `signal_statistics`.

    number: l, which starts anew where the skip path went through weights or a normalization since the last addition.
    branch_share: branch_variance / output_variance. predicted_share: 1 / (l + 1), which BN on the branch makes it
        [paper].
    gradient: its squared norm at the sum over that at the last sum, whence a random one is sent back; or NaN.
    """

    name: str
    number: int
    skip_variance: float
    branch_variance: float
    output_variance: float
    skip_second_moment: float
    branch_second_moment: float
    output_second_moment: float
    branch_share: float
    gradient: float
    predicted_share: float


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `inspect` found, in the order of the forward pass. Printed, it is a table.

    mode: "training", "evaluation", or "mixed". weights: "as they are" or "at initialization".
    mean_path_length: residual branches on a path from input to output, a path weighing what it carries of the variance;
        the sum of the branch shares where one block follows another. biased, even: with shares of 1 / (l + 1), of 1/2.
    verdict, reason, remedy: as in `judge`. untraced: modules that could not be looked into, and why. kept: parameters
        that are not at initialization, as no module resets them.
    """

    network: str
    mode: str
    weights: str
    blocks: tuple[InspectedBlock, ...]
    mean_path_length: float
    biased_path_length: float
    even_path_length: float
    verdict: str
    reason: str
    remedy: str
    untraced: Mapping[str, str]
    kept: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; a number that is not finite is None."""
        blocks = [_finite(vars(block)) for block in self.blocks]
        return _finite(vars(self) | {"blocks": blocks, "untraced": dict(self.untraced), "kept": list(self.kept)})

    def __str__(self) -> str:
        rows = [[getattr(block, name) for name in _COLUMNS.values()] for block in self.blocks]
        return "\n".join([
            f"{self.network} in {self.mode} mode, weights {self.weights}: {len(self.blocks)} residual additions",
            tabulate(rows, headers=list(_COLUMNS), floatfmt=".3g"),
            f"Mean path length {self.mean_path_length:.2f}; branch shares of 1/(l+1) give"
            f" {self.biased_path_length:.2f}, of 1/2 give {self.even_path_length:.2f}.",
            f"{self.verdict}: {self.reason}\n{self.remedy}",
            *(f"Not looked into: {name} ({reason})." for name, reason in self.untraced.items()),
            *([f"Not at initialization, as no module resets them: {', '.join(self.kept)}."] if self.kept else []),
        ])  # fmt: skip


def inspect(
    model: nn.Module, batch: Tensor, *, training: bool | None = None, initialized: bool = False, seed: int = 0
) -> Inspection:
    """Find every residual addition of a network's graph and measure it, in one forward and one backward pass.

    model: any network that takes one batch, [N, ...] with N >= 2; it is left as it was.
    training: True for training mode, False for evaluation, None for the modes as they are.
    initialized: measure a copy whose modules have drawn their weights anew, by reset_parameters.
    seed: of those weights, and of the gradient that is sent back.

    Raises ValueError: no residual addition; a network that torch.fx cannot trace; a batch of one, with NaN or infinity,
    or one that does not fit; a weight that is not finite.
    """
    check_module(model)
    check_inputs(batch)
    bad = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if bad and not initialized:
        raise ValueError(f"{bad[0]} has NaN or infinity in it: give a model with finite weights, or initialized=True")
    with left_as_found(model, training):
        if initialized:
            model = copy.deepcopy(model)
            torch.manual_seed(seed)
        kept = _initialize(model) if initialized else ()
        flow = Flow(trace(model, batch), batch)
        found = _collected(flow, _Look(flow).measure(batch, seed))
        modes = {module.training for module in model.modules()}
        mode = "mixed" if len(modes) == 2 else "training" if True in modes else "evaluation"
        if mode == "evaluation" and any(getattr(m, "num_batches_tracked", None) == 0 for m in model.modules()):
            found["remedy"] = _REMEDIES["ungathered"]
    found |= {"untraced": flow.module.meta["untraced"], "kept": kept}
    return Inspection(type(model).__name__, mode, "at initialization" if initialized else "as they are", **found)


class _Look(fx.Interpreter):
    """Runs a traced network and measures at the moment of each addition, so that activations in place do no harm."""

    def __init__(self, flow: Flow):
        super().__init__(flow.module)
        self.flow, self.additions = flow, {addition.node: addition for addition in flow.additions()}
        self.found: dict[ResidualAddition, dict[str, float]] = {}

    def measure(self, batch: Tensor, seed: int) -> dict[ResidualAddition, dict[str, float]]:
        """The measured fields of an InspectedBlock, for each addition."""
        source = batch.detach().clone().requires_grad_()
        with torch.enable_grad():
            self.run(source.clone())
            torch.autograd.grad(self.last, source, random_like(self.last, seed))
        last = list(self.found.values())[-1]["gradient"]
        return {key: block | {"gradient": _ratio(block["gradient"], last)} for key, block in self.found.items()}

    def run_node(self, n: fx.Node) -> Any:
        addition = self.additions.get(n)
        if addition is None:
            return super().run_node(n)
        axis, block = self._channel_axis(addition), {}
        for name, operand in (("skip", addition.skip), ("branch", addition.branch)):
            scale = n.kwargs.get("alpha", 1) if operand is n.all_input_nodes[-1] else 1  # of torch.add's second operand
            block |= _moments(name, self.env[operand] * scale, axis)
        output = super().run_node(n)
        block |= _moments("output", output, axis)
        block |= {"branch_share": _ratio(block["branch_variance"], block["output_variance"]), "gradient": math.nan}
        output.register_hook(lambda gradient: block.update(gradient=float(in_float64(gradient).square().sum())))
        self.found[addition] = block
        self.last = output.clone()  # what follows may change the output in place
        return output

    def _channel_axis(self, addition: ResidualAddition) -> int:
        """The axis that is as long as the branch's last layer is wide; where that is not one, torch's layers' own."""
        shape, node, widths = self.flow.values[addition.node].shape, addition.branch, set()
        while not widths and (parents := self.flow.parents[node]):
            if node.op == "call_module":
                widths = {weight.shape[0] for weight in self.fetch_attr(node.target).parameters()}
            node = parents[0]
        axes = [axis for axis in range(1, len(shape)) if shape[axis] in widths]
        return axes[0] if len(axes) == 1 else len(shape) - 1 if len(shape) == 3 else 1


@torch.no_grad()
def _moments(name: str, x: Tensor, axis: int) -> dict[str, float]:
    variance, squared_mean = (float(moment) for moment in channel_moments(x.detach().movedim(axis, 1)))
    return {f"{name}_variance": variance, f"{name}_second_moment": variance + squared_mean}


def _ratio(part: float, whole: float, of_nothing: float = math.nan) -> float:
    return part / whole if whole else of_nothing


def _collected(flow: Flow, measured: dict[ResidualAddition, dict[str, float]]) -> dict[str, Any]:
    """Blocks, path lengths and verdict, the fields of an Inspection."""
    numbers = _numbers(flow, {addition.node: addition.skip for addition in measured})
    predicted = {addition: 1 / (numbers[addition.node] + 1) for addition in measured}
    shares = {addition: block["branch_share"] for addition, block in measured.items()}
    lengths = [_mean_length(flow, each) for each in (shares, predicted, dict.fromkeys(measured, 0.5))]
    blocks = [InspectedBlock(a.name, numbers[a.node], **measured[a], predicted_share=predicted[a]) for a in measured]
    end = list(flow.parents)[-1]
    trunk = [block for a, block in zip(measured, blocks, strict=True) if flow.common(a.node, end) is a.node] or blocks
    names = ("mean_path_length", "biased_path_length", "even_path_length")
    return {"blocks": tuple(blocks), **dict(zip(names, lengths, strict=True)), **judge(trunk, *lengths)}


def _numbers(flow: Flow, skips: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, int]:
    """Each addition's place on its trunk: since a skip path came from a sum before it by a way without weights."""
    latest: dict[fx.Node, tuple[int, int]] = {}  # of the sums that such a way leads back to, the last: place, number
    for place, (node, parents) in enumerate(flow.parents.items()):
        if node in skips:
            latest[node] = place, latest[skips[node]][1] + 1
        else:
            led = flow.weights[node][:2] == (0, 0)
            latest[node] = max((latest[parent] for parent in parents if led), default=(-1, 0))
    return {node: number for node, (_, number) in latest.items()}


def _mean_length(flow: Flow, shares: Mapping[ResidualAddition, float]) -> float:
    """Mean number of branches on a path to the output: an addition chooses its branch with the given probability."""
    additions, lengths = {addition.node: addition for addition in shares}, {}
    for node, parents in flow.parents.items():
        if addition := additions.get(node):
            share = shares[addition]
            lengths[node] = (1 - share) * lengths[addition.skip] + share * (lengths[addition.branch] + 1)
        else:
            lengths[node] = math.fsum(lengths[parent] for parent in parents) / max(1, len(parents))
    return lengths[node]


def _initialize(model: nn.Module) -> tuple[str, ...]:
    """Draw all weights anew, a module's after its parts'; the names of those that no module resets."""
    found = reversed(list(model.named_modules()))
    resets = {n: getattr(m, "reset_parameters", getattr(m, "_reset_parameters", None)) for n, m in found}
    for reset in filter(None, resets.values()):
        reset()
    return tuple(name for name, _ in model.named_parameters() if resets[name.rpartition(".")[0]] is None)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def judge(trunk: Sequence[InspectedBlock], length: float, biased: float, even: float) -> dict[str, str]:
    """A word on blocks that follow one another, the reason and a remedy, by the first rule that holds. [derived]

    exploding: an output's second moment is not finite.
    identity-biased: the mean path length is nearer, as a ratio, to `biased`, that of branch shares 1/(l+1), which BN on
        the branch gives, than to `even`, that of shares 1/2, and below 0.9 of the latter.
    exploding: the variance more than doubles over the second half of the blocks. One that grows as l + 1 does not.
    collapsing: the variance's part in the second moment falls to a tenth from the first output to the last.
    balanced: none of these.
    """
    blocks, half = len(trunk), max(1, len(trunk) // 2)
    overflowed = [block.name for block in trunk if not math.isfinite(block.output_second_moment)]
    before, after = trunk[half - 1].output_variance, trunk[-1].output_variance
    growth = _ratio(after, before, math.inf if after else 1.0)
    first, last = (_ratio(block.output_variance, block.output_second_moment, 1.0) for block in (trunk[0], trunk[-1]))
    if overflowed:
        verdict, reason = "exploding", f"the second moment overflows in {overflowed[0]}"
    elif length < min(math.sqrt(biased * even), 0.9 * even):
        verdict, said = "identity-biased", "if skip paths and branches weighed the same"
        reason = f"a path takes {length:.2f} branches on average, of {even:.2f} {said}"
    elif growth > 2:
        verdict, rate = "exploding", growth ** (1 / (blocks - half))
        room = 2 * math.log2(LARGEST_VALUE["float32"]) - math.log2(trunk[-1].output_second_moment)
        overflow = blocks + math.ceil(room / math.log2(rate))
        reason = f"the variance grows by {rate:.3g} a block; float32 would overflow at block {overflow}"
    elif last <= 0.1 * first:
        verdict = "collapsing"
        reason = f"the variance's part in the second moment falls from {first:.2g} to {last:.2g}: inputs become alike"
    else:
        verdict = "balanced"
        reason = f"a path takes {length:.2f} branches on average, and the variance does not explode"
    return {"verdict": verdict, "reason": reason, "remedy": _REMEDIES[verdict].format(1 / math.sqrt(blocks))}
