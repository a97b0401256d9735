"""Any network's residual additions, found in its traced graph: what the skip paths carry and what the branches add."""

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
from shallowpaths.measure.verdict import judge
from shallowpaths.networks.tracing import Flow, ResidualAddition, check_module, trace


@dataclasses.dataclass(frozen=True)
class InspectedBlock:
    """One residual addition, measured as its two operands meet. Variances are those of `signal_statistics`.

    Attributes:
        name: of the module in whose forward the addition stands.
        number: l, which starts anew where the skip path has gone through weights or a normalization since the addition
            before.
        skip_variance, branch_variance, output_variance: of the operands and of their sum.
        skip_second_moment, branch_second_moment, output_second_moment: means of squares.
        branch_share: branch_variance / output_variance. Batch normalization on the branch makes it 1 / (l + 1). [paper]
        gradient: squared norm of a gradient at the sum, over that at the last addition's sum, from which a random
            gradient is sent back; NaN if none arrives.
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

    @property
    def predicted_share(self) -> float:
        """1 / (l + 1)."""
        return 1 / (self.number + 1)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `inspect` found. Printed, it is a table; `to_dict` has the same for json.

    Attributes:
        network: its class's name.
        mode: "training", "evaluation", or "mixed" where modules differ.
        weights: "as they are" or "at initialization".
        blocks: one for each residual addition, in the order of the forward pass.
        mean_path_length: residual branches on a path from input to output, a path weighing what it carries of the
            variance: the sum of the branch shares where one block follows another.
        biased_path_length, even_path_length: the same with shares of 1 / (l + 1), and of 1/2.
        verdict: "identity-biased", "balanced", "exploding" or "collapsing"; reason and remedy: a sentence each.
        untraced: by name, the modules that could not be looked into, with the reason.
        kept: of weights at initialization, the parameters that kept their values as no module knows how to reset them.
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
        found = dataclasses.asdict(self) | {"untraced": dict(self.untraced), "kept": list(self.kept)}
        blocks = [dataclasses.asdict(block) | {"predicted_share": block.predicted_share} for block in self.blocks]
        found["blocks"] = [_finite(block) for block in blocks]
        return _finite(found)

    def __str__(self) -> str:
        rows = [
            (b.name, b.skip_variance, b.branch_variance, b.branch_share, b.predicted_share, b.skip_second_moment,
             b.branch_second_moment, b.gradient)
            for b in self.blocks
        ]  # fmt: skip
        headers = ("block", "skip var", "branch var", "branch share", "1/(l+1)", "skip square", "branch square", "gradient")
        return "\n".join([
            f"{self.network} in {self.mode} mode, weights {self.weights}: {len(self.blocks)} residual additions",
            tabulate(rows, headers=headers, floatfmt=".3g"),
            f"Mean path length {self.mean_path_length:.2f}; branch shares of 1/(l+1) give {self.biased_path_length:.2f},"
            f" of 1/2 give {self.even_path_length:.2f}.",
            f"{self.verdict}: {self.reason}\n{self.remedy}",
            *(f"Not looked into: {name} ({reason})." for name, reason in self.untraced.items()),
            *([f"Not at initialization, as no module resets them: {', '.join(self.kept)}."] if self.kept else []),
        ])  # fmt: skip


def inspect(
    model: nn.Module, batch: Tensor, *, training: bool | None = None, initialized: bool = False, seed: int = 0
) -> Inspection:
    """Find every residual addition of a network and measure it, in one forward and one backward pass.

    The additions come from the network's graph, never from the names of its classes; see `networks.tracing`. The model
    is left as it was.

    Args:
        model: any network that takes one batch.
        batch: [N, ...] with N >= 2, as the network takes it.
        training: True for training mode, False for evaluation, None for the modes as they are.
        initialized: measure a copy whose modules have drawn their weights anew (reset_parameters: torch's own
            initialization). False takes the weights as they are.
        seed: of those weights, and of the gradient that is sent back.

    Raises:
        ValueError: no residual addition, with a suggestion; a network that torch.fx cannot trace; a batch of one, NaN or
            infinity in it, or one that does not fit; a weight that is not finite.
    """
    check_module(model)
    check_inputs(batch)
    bad = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if bad and not initialized:
        raise ValueError(f"{bad[0]} has NaN or infinity in it: give a model with finite weights, or initialized=True")
    kept: tuple[str, ...] = ()
    with left_as_found(model, training):
        if initialized:
            model = copy.deepcopy(model)
            torch.manual_seed(seed)
            kept = _initialize(model)
        flow = Flow(trace(model, batch), batch)
        additions = flow.additions()
        measured, mode = _Look(flow, additions).measure(batch, seed), _mode(model)
        found = _collected(flow, additions, measured)
        if mode == "evaluation" and any(getattr(m, "num_batches_tracked", None) == 0 for m in model.modules()):
            found["remedy"] = "Batch normalization has gathered no statistics yet and does nothing: inspect in training mode."
    weights, untraced = "at initialization" if initialized else "as they are", flow.module.meta["untraced"]
    return Inspection(type(model).__name__, mode, weights, **found, untraced=untraced, kept=kept)


class _Look(fx.Interpreter):
    """Runs a traced network and measures at the moment of each addition, so that activations in place do no harm."""

    def __init__(self, flow: Flow, additions: Sequence[ResidualAddition]):
        super().__init__(flow.module)
        self.flow, self.additions = flow, {addition.node: addition for addition in additions}
        self.found: list[dict[str, float]] = []

    def measure(self, batch: Tensor, seed: int) -> list[dict[str, float]]:
        """The measured fields of an InspectedBlock, for each addition."""
        source = batch.detach().clone().requires_grad_()
        with torch.enable_grad():
            self.run(source.clone())
            torch.autograd.grad(self.last, source, random_like(self.last, seed))
        last = self.found[-1]["gradient"]
        return [block | {"gradient": _ratio(block["gradient"], last)} for block in self.found]

    def run_node(self, n: fx.Node) -> Any:
        addition = self.additions.get(n)
        if addition is None:
            return super().run_node(n)
        axis, scale = self._channel_axis(addition), n.kwargs.get("alpha", 1)  # of torch.add's second operand
        scales = {operand: scale if operand is n.all_input_nodes[-1] else 1 for operand in (addition.skip, addition.branch)}
        block = _moments("skip", self.env[addition.skip] * scales[addition.skip], axis)
        block |= _moments("branch", self.env[addition.branch] * scales[addition.branch], axis)
        output = super().run_node(n)
        block |= _moments("output", output, axis)
        block |= {"branch_share": _ratio(block["branch_variance"], block["output_variance"]), "gradient": math.nan}
        output.register_hook(lambda gradient: block.update(gradient=float(in_float64(gradient).square().sum())))
        self.found.append(block)
        self.last = output.clone()  # what follows may change the output in place
        return output

    def _channel_axis(self, addition: ResidualAddition) -> int:
        """The axis that is as long as the branch's last layer is wide; where that is not one, torch's layers' own."""
        shape = self.flow.values[addition.node].shape
        axes = [axis for axis in range(1, len(shape)) if shape[axis] in self._widths(addition.branch)]
        return axes[0] if len(axes) == 1 else len(shape) - 1 if len(shape) == 3 else 1

    def _widths(self, node: fx.Node) -> set[int]:
        while parents := self.flow.parents[node]:
            if node.op == "call_module" and (weights := list(self.fetch_attr(node.target).parameters())):
                return {weight.shape[0] for weight in weights}
            node = parents[0]
        return set()


@torch.no_grad()
def _moments(name: str, x: Tensor, axis: int) -> dict[str, float]:
    variance, squared_mean = (float(moment) for moment in channel_moments(x.detach().movedim(axis, 1)))
    return {f"{name}_variance": variance, f"{name}_second_moment": variance + squared_mean}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _collected(flow: Flow, additions: list[ResidualAddition], measured: list[dict[str, float]]) -> dict[str, Any]:
    """Blocks, path lengths and verdict, the fields of an Inspection."""
    blocks = tuple(
        InspectedBlock(addition.name, number, **block)
        for addition, number, block in zip(additions, _numbers(flow, additions), measured, strict=True)
    )
    lengths = [
        _mean_length(flow, {addition: share(block) for addition, block in zip(additions, blocks, strict=True)})
        for share in (lambda b: b.branch_share, lambda b: b.predicted_share, lambda _: 0.5)
    ]
    dominators, node = set(), list(flow.parents)[-1]
    while node is not None:
        dominators.add(node)
        node = flow.above[node]
    trunk = [block for addition, block in zip(additions, blocks, strict=True) if addition.node in dominators] or blocks
    names = ("mean_path_length", "biased_path_length", "even_path_length")
    return {"blocks": blocks, **dict(zip(names, lengths, strict=True)), **judge(trunk, *lengths)._asdict()}


def _numbers(flow: Flow, additions: list[ResidualAddition]) -> list[int]:
    """Each addition's place on its trunk: since a skip path came from a sum before it by a way without weights."""
    skips, numbers = {addition.node: addition.skip for addition in additions}, {}
    place: dict[fx.Node, int] = {}  # of the latest sum that such a way leads back to, among all sums; -1 without one
    for node, parents in flow.parents.items():
        if node in skips:
            before = place[skips[node]]
            numbers[len(numbers)] = numbers.get(before, 0) + 1
            place[node] = len(numbers) - 1
        else:
            place[node] = max((place[p] for p in parents), default=-1) if flow.weights[node][:2] == (0, 0) else -1
    return list(numbers.values())


def _mean_length(flow: Flow, shares: dict[ResidualAddition, float]) -> float:
    """Mean number of branches on a path to the output: an addition chooses its branch with the given probability."""
    additions, lengths = {addition.node: addition for addition in shares}, {}
    for node, parents in flow.parents.items():
        if addition := additions.get(node):
            share = shares[addition]
            lengths[node] = (1 - share) * lengths[addition.skip] + share * (lengths[addition.branch] + 1)
        else:
            lengths[node] = math.fsum(lengths[parent] for parent in parents) / max(1, len(parents))
    return lengths[node]


def _mode(model: nn.Module) -> str:
    modes = {module.training for module in model.modules()}
    return "mixed" if len(modes) == 2 else "training" if modes == {True} else "evaluation"


def _initialize(model: nn.Module) -> tuple[str, ...]:
    """Draw all weights anew; the names of those that no module resets."""
    kept: list[str] = []
    for prefix, module in reversed(list(model.named_modules())):  # a module after its parts: what it does counts
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if reset is not None:
            reset()
        else:
            kept += [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
    return tuple(reversed(kept))


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
