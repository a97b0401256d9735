"""One training step, made fast without changing what it computes; what a machine cannot do is left out, with a word."""

import contextlib
import functools
import gc
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shallowpaths._device import arithmetic, autocast
from shallowpaths.data import Batch, Dataset
from shallowpaths.networks import ResidualNetwork
from shallowpaths.training import distributed
from shallowpaths.training.config import RunConfig
from shallowpaths.training.epochs import answers

log = logging.getLogger(__name__)
announced: set[str] = set()
WARM_UP = 3  # steps before a graph is recorded, as torch's manual has it
VARIANTS = 4096  # compiled kinds of residual block that may live in one process; torch stops at 8, then says nothing


@dataclass(frozen=True)
class StepOptions:
    """What makes the step fast; the last three are of CUDA only."""

    channels_last: bool = True  # activations in torch.channels_last
    compiled: bool = False  # residual blocks go through torch.compile
    graph: bool = False  # by a process alone: the step is recorded once and replayed
    tf32: bool = False  # matrix products and convolutions in TF32, where the run's precision is float32
    deterministic: bool = True  # the same bits each time; of what is compiled with torch 2.11 or newer


def default_options(device: torch.device) -> StepOptions:
    """The fastest on this kind of device. On a CPU few runs win back the half minute that compiling takes."""
    return StepOptions(compiled=True, graph=True, tf32=True) if device.type == "cuda" else StepOptions()


def penalty_and_factor(config: RunConfig, name: str, dimensions: int) -> tuple[float, float]:
    """A parameter's L2 coefficient and the factor on its rate; alpha, biases and the like have below 2 dimensions."""
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


class Step:
    """A network's step of SGD on images of `data`. Nothing in it makes the host wait for the device."""

    def __init__(self, network: nn.Module, data: Dataset, options: StepOptions, config: RunConfig):
        self.network, self.data, self.device = network, data, data.device
        self.options, self.precision, self.make = options, config.precision, data.maker(config.augment)
        self.optimizer = make_optimizer(network, config)
        compiled = options.compiled and isinstance(network, ResidualNetwork)
        if compiled and (self.device.type, self.precision) == ("cuda", "bfloat16") and not torch.cuda.is_bf16_supported(False):
            _announce("the step runs without torch.compile", RuntimeError("this GPU has no bfloat16 of its own"))
            compiled = False  # tried, and refused, torch's compiler would compile nothing more in this process
        block_of = _compiled_block(options.deterministic) if compiled else None
        self.forward = functools.partial(_through_compiled_blocks, network, block_of) if compiled else network
        shared = distributed.joined()
        self.joint = DistributedDataParallel(distributed.Called(network, lambda x: self.forward(x))) if shared else None
        self.on_graph = options.graph and self.device.type == "cuda" and not shared
        self.recorded: Recorded | None = None
        self.tried = not (compiled or self.on_graph or shared)  # what was not asked for cannot fail

    def take(self, *inputs: Any) -> tuple[Tensor, ...]:
        """One step, on its part of the data's `feed`, and at a rate, the last argument.

        Returns the whole batch's mean loss before the step and its shares of right `answers`, on the device.
        """
        *fed, rate = inputs
        with arithmetic(self.device, self.options.tf32, self.options.deterministic):
            if not self.tried:
                self._try(*fed)
            for group in self.optimizer.param_groups:
                own = rate * group["rate_factor"]
                group["lr"] = group["lr"].fill_(own) if isinstance(group["lr"], Tensor) else own
            came_to = (self.recorded or self._step)(*fed)
            if self.joint is None:
                return came_to
            return distributed.total(torch.stack(came_to) / distributed.size(), self.device).unbind()

    def batch(self, *fed: Tensor) -> Batch:
        """Standardized float32 images [B, C, H, W] and labels [B]."""
        images, labels = self.make(*fed)
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout), labels

    def states(self) -> dict[str, Any]:
        """Weights, moving averages and the optimizer's velocities, for a checkpoint."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, states: dict[str, Any]) -> None:
        """Take over what `states` gave, before the first step."""
        self.network.load_state_dict(states["network"])
        self.optimizer.load_state_dict(states["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = float(group["lr"])  # a CUDA graph makes a tensor of it, and makes its own again

    def _step(self, *fed: Tensor) -> tuple[Tensor, ...]:
        images, labels = self.batch(*fed)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            logits = (self.joint or self.forward)(images)
        loss = F.cross_entropy(logits.float(), labels)
        loss.backward()
        self.optimizer.step()
        right = answers(logits.detach(), labels, self.data.counts_top5)
        return loss.detach(), *(each.float().mean() for each in right)

    def _try(self, *inputs: Tensor) -> None:
        """Compile, record, and order what processes send: a resumed run adds in the same order. All else is undone."""
        self.tried = True
        with unchanged(self._tensors):
            try:
                self._step(*inputs)
            except torch._dynamo.exc.TorchDynamoException as error:
                _announce("torch.compile does not work here, the step runs without it", error)
                self.forward = self.network
            if self.on_graph:
                for group in self.optimizer.param_groups:
                    group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)
                self.recorded = recorded(self._step, inputs)

    def _tensors(self) -> list[Tensor]:
        """What a step changes; a velocity is there after the first."""
        velocities = (state.get("momentum_buffer") for state in self.optimizer.state.values())
        return [*self.network.parameters(), *self.network.buffers(), *(v for v in velocities if v is not None)]


class Recorded:
    """A function of CUDA tensors as a graph, replayed on inputs of these shapes; recording it calls it a few times."""

    def __init__(self, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]):
        self.inputs = [value.clone() for value in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        gc.collect()  # a graph that is freed while another one is recorded would spoil it
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)


def recorded(function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Recorded | None:
    """The function as a graph; None, announced once, where that does not work."""
    try:
        return Recorded(function, inputs)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _announce("the step cannot be recorded as a CUDA graph, it runs without", error)
        return None


@contextlib.contextmanager
def unchanged(tensors: Callable[[], Sequence[Tensor]]) -> Iterator[None]:
    """What is done to these tensors, and torch's random state, is undone in place: a graph knows them by address."""
    before = {id(tensor): tensor.detach().clone() for tensor in tensors()}
    with torch.random.fork_rng({tensor.device for tensor in before.values() if tensor.device.type == "cuda"}):
        yield
    with torch.no_grad():
        for tensor in tensors():
            tensor.copy_(before.get(id(tensor), torch.zeros_like(tensor)))  # from 0 a new velocity goes on as from none


def _through_compiled_blocks(network: ResidualNetwork, block_of: Callable[..., Tensor], x: Tensor) -> Tensor:
    x = network.input_layer(x)
    for block in network.blocks:
        x = block_of(block, x)
    return network.head(x)


@functools.cache
def _compiled_block(deterministic: bool) -> Callable[..., Tensor]:
    """One compiled function for all blocks: torch compiles it once for each shape of block, however many there are."""
    import torch._inductor.config as inductor  # seconds, so only where it is used

    for limit in ("cache_size_limit", "accumulated_cache_size_limit"):
        setattr(torch._dynamo.config, limit, max(getattr(torch._dynamo.config, limit), VARIANTS))
    options = {"deterministic": True} if deterministic and hasattr(inductor, "deterministic") else None
    return torch.compile(lambda block, x: block(x), dynamic=False, options=options)


def _announce(message: str, error: Exception) -> None:
    """Once a process."""
    if message not in announced:
        announced.add(message)
        log.warning("%s: %s", message, str(error).strip().partition("\n")[0])
