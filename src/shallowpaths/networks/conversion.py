"""Another author's residual network without normalization: a copy of it with SkipInit or Fixup.

The copy keeps its classes and their code; some modules are replaced: each normalization by a bias, and what ends a residual
branch by itself and a scalar. Which these are is read off the network's graph, never off its names.
"""

import copy
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from shallowpaths.networks.residual import Bias, ResidualNetwork, Scale, Shift
from shallowpaths.networks.tracing import Flow, ResidualAddition, trace
from shallowpaths.recipes import FLOAT32, ONE_OVER_SQRT_BLOCKS
from shallowpaths.theory.checks import number

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMALIZATIONS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
ACTIVATIONS = {"relu", "relu6", "leakyrelu", "prelu", "elu", "selu", "celu", "silu", "swish", "mish", "gelu", "hardswish"}
NORMALIZING_FUNCTIONS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm")
EXAMPLE_PIXELS = 32


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        recipe: "skipinit" or "fixup".
        blocks: d, the residual branches. `scalar` is the initial value of the scalar at the end of each.
        normalizations, biases, layers: how many were removed, were put in and learn, were drawn anew.
        kept: classes of other modules with weights of their own, which stayed as they were.
    """

    recipe: str
    blocks: int
    scalar: float
    normalizations: int
    biases: int
    layers: int
    kept: tuple[str, ...]

    def __str__(self) -> str:
        zeros = ", 0 in the last of each branch and in the classifier" if self.recipe == "fixup" else ""
        kept = f"\nweights kept as they were: {', '.join(self.kept)}" if self.kept else ""
        return (
            f"{self.recipe}: {self.blocks} scalars that start at {self.scalar:g}, one at the end of each residual branch\n"
            f"{self.normalizations} normalizations removed, {self.biases} biases put in\n"
            f"{self.layers} layers initialized anew (He et al. 2015{zeros}){kept}"
        )


def to_skipinit(
    model: nn.Module, alpha: float | str = 0.0, *, example: Tensor | None = None, generator: torch.Generator | None = None
) -> nn.Module:
    """A copy of a residual network without normalization and with a scalar at the end of each residual branch [paper].

    Each batch or group normalization becomes a bias per channel. Every convolution and linear layer is drawn anew: He's
    normal initialization, biases 0. Trained weights are of no use without the normalization that they were trained with.

    Args:
        model: torchvision's, timm's or your own. It is left as it is.
        alpha: the scalars' initial value, at least 0, or "1/sqrt(d)" with d the number of residual branches.
        example: a batch that the model takes; by default of what its first layer takes, images of 32 x 32 pixels.
        generator: source of the initial weights; None uses torch's own random state.

    Returns:
        The copy, in the model's mode, with its precision and device. Its attribute `conversion` says what was done.

    Raises:
        ValueError: for a bad alpha, and with its reason for what cannot be converted safely: no residual branch, or one that
            does not end in a module of its own; a normalization of another kind, or of the network's inputs; frozen layers;
            a model that cannot be traced, is one of this package, or is converted already.
    """
    if alpha != ONE_OVER_SQRT_BLOCKS:
        number(f"alpha (a number, or {ONE_OVER_SQRT_BLOCKS!r})", alpha, at_least=0, below=FLOAT32["below"])
    plan = _Plan(model, example)
    plan.initialize(generator)
    scalar = 1 / math.sqrt(len(plan.additions)) if alpha == ONE_OVER_SQRT_BLOCKS else float(alpha)
    channels = {old: getattr(old, "num_features", None) or old.num_channels for old in plan.of(NORMALIZATIONS)}
    biases = {old: Bias(count) for old, count in channels.items()}
    return plan.carried_out("skipinit", scalar, biases, before={})


def to_fixup(model: nn.Module, *, example: Tensor | None = None, generator: torch.Generator | None = None) -> nn.Module:
    """A copy of a residual network without normalization, as Fixup starts it (Zhang et al. 2019) [paper].

    The classifier and the last layer of each branch are 0, the other m - 1 layers of a branch are He's times d^(-1/(2m-2)).
    A multiplier that starts at 1 ends each branch. A bias of one number that starts at 0 takes each normalization's place,
    and one more stands before each layer of a branch and before the classifier.

    Args, Returns, Raises:
        As of `to_skipinit`; it also refuses a branch that is no chain of two layers or more, and a model without classifier.
    """
    plan = _Plan(model, example)
    branches = [plan.chain(addition) for addition in plan.additions]
    classifier = plan.classifier()
    plan.initialize(generator)
    with torch.no_grad():
        for *others, last in branches:
            for layer in others:
                layer.weight.mul_(len(branches) ** (-1 / (2 * len(others))))
            nn.init.zeros_(last.weight)
        nn.init.zeros_(classifier.weight)
    before = {layer: Shift() for branch in (*branches, [classifier]) for layer in branch}
    return plan.carried_out("fixup", 1.0, {old: Shift() for old in plan.of(NORMALIZATIONS)}, before)


class _Plan:
    """A copy of a network, what stands where in it, and how it is changed."""

    def __init__(self, model: nn.Module, example: Tensor | None):
        if not isinstance(model, nn.Module):
            raise ValueError(f"model {model!r} must be a torch.nn.Module")
        self.model = copy.deepcopy(model)
        traced = trace(self.model, example := _example(self.model) if example is None else example)
        _check_modules(self.model, traced.meta["untraced"])
        self.nodes = list(traced.graph.nodes)
        self.around = {node: [name for name, _ in node.meta.get("nn_module_stack", {}).values()] for node in self.nodes}
        self.modules = {node: traced.get_submodule(node.target) for node in self.nodes if node.op == "call_module"}
        self.layers = {node: module for node, module in self.modules.items() if isinstance(module, LAYERS)}
        self._check_graph()
        self.additions = Flow(traced, example).additions()
        self.sums = {addition.node for addition in self.additions}
        self.ends = [self._end(addition) for addition in self.additions]

    def of(self, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
        """The network's modules of these kinds."""
        return [module for module in self.model.modules() if isinstance(module, kinds)]

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None) -> None:
        """He's normal initialization: weights of variance 2 / fan_in behind an activation, else 1 / fan_in; biases 0."""
        behind = {layer for node, layer in self.layers.items() if self._reads_activation(node)}
        for layer in self.of(LAYERS):
            gain = 2.0 if layer in behind else 1.0
            nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.weight[0].numel()), generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def carried_out(self, recipe: str, scalar: float, biases: dict, before: dict) -> nn.Module:
        """The copy with `biases` for its normalizations, a module before some layers, and a scalar at the branches' ends."""
        scales = {end: Scale(scalar) for end in self.ends}
        parts = {layer: [shift, layer] for layer, shift in before.items()}
        parts |= {old: [bias, *_applied_by(old)] for old, bias in biases.items()}
        for end, scale in scales.items():
            parts[end] = [*parts.get(end, [] if type(end) is nn.Identity else [end]), scale]
        layers, put_in = self.of(LAYERS), [*biases.values(), *before.values()]
        kept = {type(m).__name__ for m in {*self.of((nn.Module,))} - {*layers, *biases} if [*m.parameters(recurse=False)]}
        instead = {old: new[0] if len(new) == 1 else nn.Sequential(*new) for old, new in parts.items()}
        for parent in list(self.model.modules()):
            parent._modules.update({name: instead[old] for name, old in parent._modules.items() if old in instead})
        for new in (*scales.values(), *put_in):
            new.to(layers[0].weight).reset_parameters()
        for new in (*scales.values(), *put_in, *instead.values()):
            new.training = self.model.training
        counts = len(biases), sum(new.bias.requires_grad for new in put_in), len(layers)
        self.model.conversion = Conversion(recipe, len(self.additions), scalar, *counts, tuple(sorted(kept)))
        return self.model

    def chain(self, addition: ResidualAddition) -> list[nn.Module]:
        """The layers of a branch in order, if it is a chain of two or more."""
        way = list(_way(addition.branch, addition.source))
        layers = [self.layers[node] for node in reversed(way) if node in self.layers]
        if len(layers) < 2 or any(len(node.all_input_nodes) > 1 for node in way):
            raise ValueError(f"the branch at {addition.name} is no chain of two layers or more, as Fixup needs: use to_skipinit")
        return layers

    def classifier(self) -> nn.Module:
        """The last layer, if it comes after the last addition."""
        last = next((node for node in _way(self.nodes[-1]) if node in self.layers or node in self.sums), None)
        if last not in self.layers:
            raise ValueError(f"{type(self.model).__name__} has no classifier behind its branches, which Fixup sets to 0")
        return self.layers[last]

    def _end(self, addition: ResidualAddition) -> nn.Module:
        """The innermost module whose output is the branch, and nothing else."""
        ways = _way(addition.skip, addition.source), _way(addition.branch, addition.source)
        skip, branch = (sum(node in self.layers for node in way) for way in ways)
        if skip and skip >= branch:
            raise ValueError(f"{addition.name} adds two branches, of {skip} and {branch} layers, and neither is a skip path")
        own = [name for name in self.around[addition.branch] if name not in self.around[addition.node]]
        if not own:
            end = addition.branch.name
            raise ValueError(f"the branch at {addition.name} ends in {end!r}, no module: let it end in an nn.Identity() of its own")
        inside = {node for node in self.nodes if own[-1] in self.around[node]}
        ends = {(other.branch, other.node) for other in self.additions}
        if {(node, user) for node in inside for user in node.users if user not in inside} - ends:
            raise ValueError(f"{own[-1]} ends the branch at {addition.name}, and has other uses, which a scalar would change")
        return self.model.get_submodule(own[-1])

    def _check_graph(self) -> None:
        """Refuse normalization that no bias can replace."""
        for node in self.nodes:
            if (function := getattr(node.target, "__name__", "")) in NORMALIZING_FUNCTIONS:
                raise ValueError(f"{node.name}: a forward calls {function} itself; make it a module, which can be replaced")
            if isinstance(self.modules.get(node), NORMALIZATIONS) and self.layers.keys().isdisjoint(_way(node)):
                raise ValueError(f"{node.target} normalizes the network's inputs: standardize the data, and leave it out")

    def _reads_activation(self, node: fx.Node) -> bool:
        """Whether there is an activation before a layer, and no addition and no other layer in between."""
        for earlier in itertools.islice(_way(node), 1, None):
            module = self.modules.get(earlier)
            names = [type(part).__name__ for part in (module, *_applied_by(module))]
            names.append(getattr(earlier.target, "__name__", str(earlier.target)))
            if any(name.replace("_", "").lower() in ACTIVATIONS for name in names):
                return True
            if earlier in self.layers or earlier in self.sums:
                return False
        return False


def _check_modules(model: nn.Module, untraced: dict[str, str]) -> None:
    """Refuse modules that cannot be converted."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        inside = any(isinstance(part, (*LAYERS, *NORMALIZATIONS)) for part in module.modules())
        if isinstance(module, ResidualNetwork):
            raise ValueError(f"{kind} is one of this package: build it with recipe='skipinit' or recipe='fixup'")
        if isinstance(module, Scale):
            raise ValueError(f"{type(model).__name__} is converted already: {name} is a scalar")
        if re.search("Norm(?!al)", kind) and not inside:
            raise ValueError(f"{name} is a {kind}: only batch and group normalization can be left out safely; attention needs its size")
        if inside and name in untraced:
            raise ValueError(f"{name} has layers, and torch.fx cannot trace it: {untraced[name]}")
        if isinstance(module, LAYERS) and not type(module).__module__.startswith("torch.nn.modules."):
            raise ValueError(f"{name} is a {kind}, which may normalize its weights: put torch's own layer in its place")
        if isinstance(module, LAYERS) and not module.weight.requires_grad:
            raise ValueError(f"{name} is frozen, and its new weights would stay random: unfreeze it")


def _way(node: fx.Node, source: fx.Node | None = None) -> Iterator[fx.Node]:
    """The node, the first activation that it reads, the first that this one reads, and so on; ends before the source."""
    while node is not source:
        yield node
        node = next((other for other in node.all_input_nodes if other.op != "get_attr"), source)


def _applied_by(normalization: nn.Module | None) -> list[nn.Module]:
    """What timm's normalizations apply to their result: dropout, activation."""
    parts = [getattr(normalization, name, None) for name in ("drop", "act")]
    return [part for part in parts if isinstance(part, nn.Module) and type(part) is not nn.Identity]


def _example(model: nn.Module) -> Tensor:
    """Two zeros of what the first layer takes."""
    first = next((module for module in model.modules() if isinstance(module, LAYERS)), nn.Linear(1, 1))
    inputs = first.in_features if isinstance(first, nn.Linear) else first.in_channels
    return first.weight.new_zeros(2, inputs, *[EXAMPLE_PIXELS] * (first.weight.ndim - 2))
