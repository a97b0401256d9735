"""Another author's residual network without normalization: a copy of it with SkipInit or Fixup.

The copy keeps its classes and their code. What is replaced is read off the network's graph, never off its names.
"""

import copy
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from shallowpaths.networks.residual import LAYERS, Bias, ResidualNetwork, Scale, Shift, draw_he
from shallowpaths.networks.tracing import Flow, ResidualAddition, check_module, trace
from shallowpaths.recipes import FLOAT32, ONE_OVER_SQRT_BLOCKS
from shallowpaths.theory.checks import number
from shallowpaths.theory.moments import fixup_layer_scale

NORMALIZATIONS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
ACTIVATIONS = {"relu", "relu6", "leakyrelu", "prelu", "elu", "selu", "celu", "silu", "swish", "mish", "gelu", "hardswish"}
NORMALIZING_FUNCTIONS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm", "rms_norm")


@dataclass(frozen=True)
class Conversion:
    """What a conversion did; printed, it says so."""

    recipe: str  # "skipinit" or "fixup"
    blocks: int  # d, the residual branches
    scalar: float  # initial value of the scalar at the end of each
    normalizations: int  # removed
    biases: int  # put in
    layers: int  # drawn anew
    kept: tuple[str, ...]  # classes of other modules with weights of their own, which stayed as they were
    unhooked: tuple[str, ...]  # names of the modules that had hooks and were removed

    def __str__(self) -> str:
        zeros = ", 0 in the last of each branch and in the classifier" if self.recipe == "fixup" else ""
        also = {"weights kept as they were": self.kept, "hooks removed with their modules": self.unhooked}
        return "\n".join([
            f"{self.recipe}: {self.blocks} scalars that start at {self.scalar:g}, one at the end of each residual branch",
            f"{self.normalizations} normalizations removed, {self.biases} biases put in",
            f"{self.layers} layers initialized anew (He et al. 2015{zeros})",
            *(f"{what}: {', '.join(names)}" for what, names in also.items() if names),
        ])  # fmt: skip


def to_skipinit(
    model: nn.Module, alpha: float | str = 0.0, *, example: Tensor | None = None, generator: torch.Generator | None = None
) -> nn.Module:
    """A copy of a residual network without normalization and with a scalar at the end of each residual branch [paper].

    Each batch or group normalization becomes a bias per channel, if its own bias learns. Each convolution and linear
    layer is drawn anew: He's normal initialization, biases 0. The model stays as it is. The copy has its mode,
    precision and device; its attribute `conversion` says what was done.

    Args:
        alpha: the scalars' initial value, at least 0, or "1/sqrt(d)" with d the number of residual branches.
        example: a batch that the model takes; by default of what its first layer takes, images of 32 x 32 pixels.
        generator: source of the initial weights; None uses torch's own random state.

    Raises:
        ValueError: a bad alpha; with its reason, what cannot be converted safely: no residual branch, or one that ends
            in no module of its own; a normalization of another kind, of the network's inputs, or that a forward reads
            from; frozen layers; a model that cannot be traced, is one of this package, or is converted already.
    """
    if alpha != ONE_OVER_SQRT_BLOCKS:
        number(f"alpha (a number, or {ONE_OVER_SQRT_BLOCKS!r})", alpha, at_least=0, below=FLOAT32["below"])
    plan = _Plan(model, example, generator)
    scalar = 1 / math.sqrt(len(plan.additions)) if alpha == ONE_OVER_SQRT_BLOCKS else float(alpha)
    return plan.carried_out("skipinit", scalar, Bias, before={})


@torch.no_grad()
def to_fixup(model: nn.Module, *, example: Tensor | None = None, generator: torch.Generator | None = None) -> nn.Module:
    """A copy of a residual network without normalization, as Fixup starts it (Zhang et al. 2019) [paper].

    The classifiers and the last layer of each branch are 0, the other m - 1 layers of a branch He's times
    d^(-1/(2m-2)). A multiplier that starts at 1 ends each branch. A bias of one number that starts at 0 takes the place
    of a normalization whose bias learns, and one more stands before each layer of a branch and before a classifier. All
    else is as in `to_skipinit`. It also refuses a branch that is no chain of two layers or more, and a model without
    classifier.
    """
    plan = _Plan(model, example, generator)
    branches, classifiers = [plan.chain(addition) for addition in plan.additions.values()], plan.classifiers()
    for branch in branches:
        for layer in branch[:-1]:
            layer.weight.mul_(fixup_layer_scale(len(branches), len(branch)))
    for layer in (*(branch[-1] for branch in branches), *classifiers):
        nn.init.zeros_(layer.weight)
    before = {layer: Shift() for branch in (*branches, classifiers) for layer in branch}
    return plan.carried_out("fixup", 1.0, lambda _channels: Shift(), before)


class _Copy(nn.Module):
    """In place of a normalization without a bias: what follows may work in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


class _Plan:
    """A copy of a network, what stands where in it, and how it is changed."""

    def __init__(self, model: nn.Module, example: Tensor | None, generator: torch.Generator | None):
        check_module(model)
        self.model = copy.deepcopy(model)
        if not self.of(LAYERS):
            raise ValueError(f"{type(model).__name__} has no convolution and no nn.Linear: there is nothing to convert")
        if example is None:  # two zeros of what the first layer takes
            first = self.of(LAYERS)[0]
            inputs = first.in_features if isinstance(first, nn.Linear) else first.in_channels
            example = first.weight.new_zeros(2, inputs, *[32] * (first.weight.ndim - 2))
        self.example, traced = example, trace(self.model, example)
        _check_modules(self.model, traced.meta["untraced"])
        self.nodes = list(traced.graph.nodes)
        self.around = {node: [name for name, _ in node.meta.get("nn_module_stack", {}).values()] for node in self.nodes}
        self.modules = {node: traced.get_submodule(node.target) for node in self.nodes if node.op == "call_module"}
        self.layers = {node: module for node, module in self.modules.items() if isinstance(module, LAYERS)}
        for node in self.nodes:  # refuse normalization that no bias can replace
            if (function := getattr(node.target, "__name__", "")) in NORMALIZING_FUNCTIONS:
                raise ValueError(f"{node.name}: a forward calls {function} itself; make it a module, which can be replaced")
            if isinstance(self.modules.get(node), NORMALIZATIONS) and self.layers.keys().isdisjoint(_way(node)):
                raise ValueError(f"{node.target} normalizes the network's inputs: standardize the data, and leave it out")
        self.additions = {addition.node: addition for addition in Flow(traced, example).additions()}
        self.ends = [self._end(addition) for addition in self.additions.values()]
        behind = {layer for node, layer in self.layers.items() if self._reads_activation(node)}
        for layer in self.of(LAYERS):
            draw_he(layer, 2.0 if layer in behind else 1.0, generator)

    def of(self, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
        return [module for module in self.model.modules() if isinstance(module, kinds)]

    def carried_out(self, recipe: str, scalar: float, bias: Callable[[int], Shift], before: dict) -> nn.Module:
        """The copy: biases for its normalizations, a module before some layers, a scalar at each branch's end."""
        scales, layers = {end: Scale(scalar) for end in self.ends}, self.of(LAYERS)
        biases = {old: _Copy() for old in self.of(NORMALIZATIONS)}
        biases |= {old: bias(len(old.bias)) for old in biases if getattr(old.bias, "requires_grad", False)}
        parts = {layer: [shift, layer] for layer, shift in before.items()}
        parts |= {old: [new, *_applied_by(old)] for old, new in biases.items()}
        for end, scale in scales.items():
            parts[end] = [*parts.get(end, [] if type(end) is nn.Identity else [end]), scale]
        kept = {type(m).__name__ for m in {*self.of((nn.Module,))} - {*layers, *biases} if [*m.parameters(recurse=False)]}
        hooked = {name: m for name, m in self.model.named_modules() if m._forward_hooks or m._forward_pre_hooks}
        unhooked = tuple(name for name, m in hooked.items() if m in parts and m not in parts[m])
        instead = {old: new[0] if len(new) == 1 else nn.Sequential(*new) for old, new in parts.items()}
        for parent in list(self.model.modules()):
            parent._modules.update({name: instead[old] for name, old in parent._modules.items() if old in instead})
        put_in = (*biases.values(), *before.values())
        for new in (*scales.values(), *put_in, *instead.values()):
            new.training = self.model.training
            if isinstance(new, (Scale, Shift)):
                new.to(layers[0].weight).reset_parameters()
        try:
            with torch.random.fork_rng(), torch.no_grad():
                copy.deepcopy(self.model)(self.example)
        except Exception as error:  # whatever a forward raises that reads what is gone
            raise ValueError(f"{type(self.model).__name__} does not run without its normalizations: {error}") from error
        counts = len(self.additions), scalar, len(biases), sum(isinstance(new, Shift) for new in put_in), len(layers)
        self.model.conversion = Conversion(recipe, *counts, tuple(sorted(kept)), unhooked)
        return self.model

    def chain(self, addition: ResidualAddition) -> list[nn.Module]:
        """The layers of a branch in order, if it is a chain of two or more."""
        way = list(_way(addition.branch, addition.source))
        layers = [self.layers[node] for node in reversed(way) if node in self.layers]
        if len(layers) < 2 or any(len(node.all_input_nodes) > 1 for node in way):
            raise ValueError(f"the branch at {addition.name} is no chain of two layers or more, as Fixup needs: use to_skipinit")
        return layers

    def classifiers(self) -> list[nn.Module]:
        """The layers behind an addition from which no other layer or addition is computed."""
        read = set()
        for node in reversed(self.nodes):
            if node in read or node in self.layers or node in self.additions:
                read.update(node.all_input_nodes)
        last = {node: layer for node, layer in self.layers.items() if node not in read}
        if found := [layer for node, layer in last.items() if not self.additions.keys().isdisjoint(_way(node))]:
            return found
        raise ValueError(f"{type(self.model).__name__} has no classifier behind its branches, which Fixup sets to 0")

    def _end(self, addition: ResidualAddition) -> nn.Module:
        """The innermost module whose output is the branch, and nothing else."""
        ways = _way(addition.skip, addition.source), _way(addition.branch, addition.source)
        skip, branch = (sum(node in self.layers for node in way) for way in ways)
        if skip and skip >= branch:
            raise ValueError(f"{addition.name} adds two branches, of {skip} and {branch} layers, and neither is a skip path")
        own = [name for name in self.around[addition.branch] if name not in self.around[addition.node]]
        if not own:
            end = f"the branch at {addition.name} ends in {addition.branch.name!r}"
            raise ValueError(f"{end}, no module: let it end in an nn.Identity() of its own")
        inside = {node for node in self.nodes if own[-1] in self.around[node]}
        ends = {(other.branch, other.node) for other in self.additions.values()}
        if {(node, user) for node in inside for user in node.users if user not in inside} - ends:
            raise ValueError(f"{own[-1]} ends the branch at {addition.name}, and has other uses, which a scalar would change")
        return self.model.get_submodule(own[-1])

    def _reads_activation(self, node: fx.Node) -> bool:
        """Whether there is an activation before a layer, and no addition and no other layer in between."""
        for earlier in _way(node.all_input_nodes[0]):
            if earlier in self.layers or earlier in self.additions:
                return False
            parts = [self.modules[earlier], *_applied_by(self.modules[earlier])] if earlier in self.modules else []
            names = [type(p).__name__ for p in parts] or [getattr(earlier.target, "__name__", str(earlier.target))]
            if any(name.replace("_", "").lower() in ACTIVATIONS for name in names):
                return True
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
        own = type(module).__module__.startswith("torch.nn.modules.") and "weight" in module._parameters
        if isinstance(module, LAYERS) and not own:
            raise ValueError(f"{name} is a {kind}, which may normalize its weights: put torch's own layer in its place")
        if isinstance(module, LAYERS) and not module.weight.requires_grad:
            raise ValueError(f"{name} is frozen, and its new weights would stay random: unfreeze it")


def _way(node: fx.Node, source: fx.Node | None = None) -> Iterator[fx.Node]:
    """The node, the first activation that it reads, the first that this one reads, and so on; ends before the source."""
    while node is not source:
        yield node
        node = next((other for other in node.all_input_nodes if other.op != "get_attr"), source)


def _applied_by(normalization: nn.Module) -> list[nn.Module]:
    """What timm's normalizations apply to their result: dropout, activation."""
    parts = [getattr(normalization, name, None) for name in ("drop", "act")]
    return [part for part in parts if isinstance(part, nn.Module) and type(part) is not nn.Identity]
