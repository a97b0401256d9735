"""The residual additions of any network, found in its graph as torch.fx traces it, never by the names of its classes."""

import contextlib
import copy
import functools
import operator
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils import _pytree as trees

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__iadd__", "__radd__"}
_SHAPE_READERS = ("new_", "zeros", "ones", "full", "empty", "rand")  # new_zeros, randn_like: they read no values

Cost = tuple[int, int, int]  # of a way: layers with a matrix of weights, layers with other weights, steps


@dataclass(frozen=True)
class ResidualAddition:
    """skip + branch: two activations of one shape that come from one source, at least one of them through weights."""

    name: str  # of the module in whose forward it stands; its second addition is "name:2"
    node: fx.Node  # the sum
    skip: fx.Node  # the operand with fewer layers of weights on its lightest way from the source
    branch: fx.Node  # the other operand
    source: fx.Node  # the nearest activation through which every way to either operand goes


def check_module(model: object) -> None:
    """Refuse what is no module, but its class or its name, say."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}: give a torch.nn.Module")


def trace(model: nn.Module, batch: Tensor | None = None, leaves: tuple[type[nn.Module], ...] = ()) -> fx.GraphModule:
    """The model's graph, which shares its parameters, buffers and layers, and runs in training and evaluation mode.

    Leaves are torch's own layers, classes derived from them, modules without weights that read one activation, and
    `leaves`. A module whose forward cannot be traced is left whole, too: its name and the reason are in
    `meta["untraced"]`. What a forward decides by its mode or by default arguments is decided as they stand, what by a
    shape as for the batch. Nothing is computed. A ValueError says why a model's own forward cannot be traced.
    """
    check_module(model)
    tracer = _Tracer(batch, leaves)
    try:
        module = fx.GraphModule(model, tracer.trace(model), type(model).__name__)
    except Exception as error:  # whatever a forward raises when it is given a proxy
        raise ValueError(f"{type(model).__name__}'s own forward cannot be traced by torch.fx: {error}") from error
    module.meta["untraced"] = tracer.untraced
    return module


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # a forward that changes a buffer changes none while it is traced

    def __init__(self, batch: Tensor | None, leaves: tuple[type[nn.Module], ...]):
        super().__init__()
        self.leaves, self.batch, self.untraced, self.shapes, self.evaluates = leaves, batch, {}, None, False

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args: Any = None) -> tuple:  # noqa: ARG002
        return root_fn, [self.root, self.create_proxy("placeholder", "batch", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002, torch's signature
        homes = {kind.__module__ for kind in type(m).__mro__ if kind is not nn.Module}
        if isinstance(m, (nn.Sequential, *self.leaves)) or nn.modules.transformer.__name__ in homes:
            return isinstance(m, self.leaves)
        derived = any(home.startswith("torch.nn.") for home in homes)
        return derived or (self.activations == 1 and not [*m.children(), *m.parameters()])

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if self.evaluates:
            return forward(*args, **kwargs)
        self.activations = sum(isinstance(value, fx.Proxy) for value in (*args, *kwargs.values()))
        last, stack = next(iter(reversed(self.graph.nodes))), OrderedDict(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:  # noqa: BLE001, whatever a forward raises when it is given a proxy
            while (node := next(iter(reversed(self.graph.nodes)))) is not last:
                self.graph.erase_node(node)
            self.module_stack, name = stack, self.path_of_module(m)
            self.untraced[name] = str(error)
            return self.create_proxy("call_module", name, args, kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return super().proxy(node) if self.batch is None else _Sized(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return super().to_bool(obj) if self.batch is None else bool(self.value(obj.node))

    def value(self, node: fx.Node) -> Any:
        self.evaluates = True  # torch.fx has replaced what modules do when they are called, and when a weight is read
        try:
            self.shapes = self.shapes or _Shapes(self.root, self.graph, self.batch)
            return self.shapes.so_far()[node]
        finally:
            self.evaluates = False

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.evaluates else super().getattr(attr, attr_val, parameter_proxy_cache)


class _Sized(fx.Proxy):
    def __len__(self) -> int:
        return len(self.tracer.value(self.node))


class Flow:
    """How activations flow through a graph from `trace`. Of the batch, values count only if a module is untraced.

    `values` is what each node gives, of the right shape and type, without data. In the order of the forward pass, each
    activation has its `parents`, from which it is computed; `above`, its immediate dominator, the nearest activation
    through which every way from the input goes; and `weights`, its own Cost. A batch that does not fit is a ValueError.
    """

    def __init__(self, module: fx.GraphModule, batch: Tensor):
        with torch.random.fork_rng():
            self.values = _Shapes(module, module.graph, batch, real=bool(module.meta["untraced"])).so_far()
        self.module = module
        self.parents: dict[fx.Node, list[fx.Node]] = {}
        self.above: dict[fx.Node, fx.Node | None] = {}
        self.depth: dict[fx.Node | None, int] = {None: 0}
        self.weights: dict[fx.Node, Cost] = {}
        of_weights: set[fx.Node] = set()  # parameters, and what is computed from nothing else
        for node in module.graph.nodes:
            like = node.op == "call_method" and node.target.endswith("_as")  # expand_as reads a shape alone
            inputs = node.all_input_nodes[:1] if like else node.all_input_nodes
            parents = [other for other in inputs if other in self.parents]
            if node.op == "placeholder" or (parents and self._is_activation(node)):
                self.parents[node] = parents
                self.above[node] = functools.reduce(self.common, parents) if parents else None
                self.depth[node] = self.depth[self.above[node]] + 1
                read = [self.values[other] for other in inputs if other in of_weights]
                if node.op == "call_module":
                    read += module.get_submodule(node.target).parameters()
                matrix = any(weight.numel() > max(weight.shape, default=1) for weight in read)
                self.weights[node] = (int(matrix), int(bool(read) and not matrix), 1)
            elif isinstance(self.values[node], nn.Parameter) or any(other in of_weights for other in inputs):
                of_weights.add(node)

    def additions(self) -> list[ResidualAddition]:
        """The residual additions, in the order of the forward pass; a ValueError if there is none.

        An addition counts if its operands are activations of one shape and have a source, and there are weights between
        the source and the branch. So a bias, a position's embedding, a mask or a scalar is none.
        """
        found, times = [], Counter()
        for node, operands in self.parents.items():
            shapes = {getattr(self.values[operand], "shape", None) for operand in operands}
            if node.target not in _ADDITIONS or len(operands) != 2 or len(shapes) != 1 or None in shapes:
                continue
            source = self.common(*operands)
            skip, branch = sorted(operands, key=functools.partial(self.cost, source))
            if self.cost(source, branch, max)[:2] != (0, 0):
                place = next((name for name, _ in reversed(node.meta.get("nn_module_stack", {}).values())), "forward")
                times[place] += 1
                name = place if times[place] == 1 else f"{place}:{times[place]}"
                found.append(ResidualAddition(name, node, skip, branch, source))
        if not found:
            whole = ", ".join(self.module.meta["untraced"])
            outside = f" outside of what could not be traced ({whole})" if whole else ""
            give = "give a network with skip paths, such as torchvision's resnet18, or add x + branch(x) to its forward"
            raise ValueError(f"{type(self.module).__name__} has no residual addition{outside}: {give}")
        return found

    def _is_activation(self, node: fx.Node) -> bool:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        reads_shape = node.op in ("call_function", "call_method") and name.startswith(_SHAPE_READERS)
        tensors = (leaf for leaf in trees.tree_leaves(self.values[node]) if isinstance(leaf, Tensor))
        return not reads_shape and any(tensor.is_floating_point() for tensor in tensors)

    def common(self, first: fx.Node, second: fx.Node) -> fx.Node:
        """The nearest activation that dominates both."""
        while first is not second:
            first, second = sorted((first, second), key=self.depth.get)
            second = self.above[second]
        return first

    def cost(self, source: fx.Node, node: fx.Node, choose: Callable = min) -> Cost | None:
        """Of the lightest way, or by `max` the heaviest, from one activation to another; None if there is no way."""
        costs, between = {source: (0, 0, 0)}, list(self.parents)
        for other in between[between.index(source) + 1 : between.index(node) + 1]:
            if known := [costs[parent] for parent in self.parents[other] if parent in costs]:
                costs[other] = tuple(a + b for a, b in zip(choose(known), self.weights[other], strict=True))
        return costs.get(node)


class _Shapes(fx.Interpreter):
    """Runs a copy of a graph, also while it grows. What a node gives has its shape and type; its data, if `real`."""

    def __init__(self, module: nn.Module, graph: fx.Graph, batch: Tensor, real: bool = False):
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.mode, self.given = contextlib.nullcontext() if real else mode, tuple(batch.shape)
        with contextlib.nullcontext() if real else FakeCopyMode(mode):
            module, batch = copy.deepcopy((module, batch.detach()))
        super().__init__(module, garbage_collect_values=False, graph=graph)
        self.args_iter = iter([batch])

    def so_far(self) -> dict[fx.Node, Any]:
        """What each node gives that the graph has by now."""
        for node in self.graph.nodes:
            if node not in self.env:
                try:
                    with self.mode, torch.no_grad():
                        self.env[node] = self.run_node(node)
                except (RuntimeError, TypeError, IndexError, AssertionError) as error:
                    raise ValueError(f"a batch of shape {self.given} does not go through {node.target}: {error}") from error
        return self.env
