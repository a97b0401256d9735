"""The mean loss of a module over batches of examples: its gradients, and its Hessian times vectors."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found
from shallowpaths.theory.checks import whole

Loss = Callable[[Tensor, Tensor], Tensor]


class NotFinite(ValueError):
    """A loss, or a derivative of it, is NaN or infinite."""


class Objective:
    """The loss of each of K = `batches` batches, a function of all P = `size` trainable parameters, in their precision.

    Vectors are float64 [P] on `device`: the parameters', but the CPU for MPS, which has no float64.
    """

    def __init__(self, network: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, batch_size: int | None):
        self.network, self.loss = network, loss
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError(f"{type(network).__name__} has no trainable parameter: its loss has no curvature")
        check_inputs(inputs)
        count = len(inputs)
        if not isinstance(targets, Tensor) or targets.shape[:1] != inputs.shape[:1]:
            raise ValueError(f"targets of {_kind(targets)}: give a tensor with one for each of the {count} inputs")
        batch_size = count if batch_size is None else batch_size
        whole("batch_size", batch_size, at_most=count)
        batch_size = int(batch_size)  # torch splits by no other kind of number
        if count % batch_size:
            full = count // batch_size * batch_size
            raise ValueError(f"{count} inputs do not fill batches of {batch_size}: give {full}")
        self.size, self.batches = sum(p.numel() for p in self.parameters), count // batch_size
        self.device = in_float64(self.parameters[0].detach()[..., :0]).device
        self._parts = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))

    def gradient(self, batch: int) -> Tensor:
        """Of one batch's loss."""
        return self._flat(torch.autograd.grad(self._loss(batch), self.parameters, materialize_grads=True))

    def products(self, batch: int, *vectors: Tensor) -> list[Tensor]:
        """The Hessian of one batch's loss times each of the vectors."""
        slopes = torch.autograd.grad(self._loss(batch), self.parameters, create_graph=True, materialize_grads=True)
        return [self._flat(self._derivative(slopes, vector)) for vector in vectors]

    def mean_product(self, vector: Tensor) -> Tensor:
        """The Hessian of the mean loss over all batches times a vector."""
        return sum(self.products(batch, vector)[0] for batch in range(self.batches)) / self.batches

    def _derivative(self, slopes: Sequence[Tensor], vector: Tensor) -> Sequence[Tensor]:
        """Of the slopes, along the vector."""
        parts = zip(self.parameters, vector.split([p.numel() for p in self.parameters]), strict=True)
        directions = [part.view_as(p).to(p) for p, part in parts]
        sloping = [(s, d) for s, d in zip(slopes, directions, strict=True) if s.requires_grad]  # others are constant
        if not sloping:
            return [torch.zeros_like(p) for p in self.parameters]
        outputs, along = zip(*sloping, strict=True)
        return torch.autograd.grad(outputs, self.parameters, along, retain_graph=True, materialize_grads=True)

    def _loss(self, batch: int) -> Tensor:
        inputs, targets = (part.to(self.parameters[0].device) for part in self._parts[batch])
        value = self.loss(self.network(inputs), targets)
        if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
            wanted = "give a mean over the batch, one number that depends on the parameters"
            raise ValueError(f"the loss is of {_kind(value)}: {wanted}")
        return _finite("loss", value)

    def _flat(self, derivatives: Sequence[Tensor]) -> Tensor:
        return _finite("derivative of the loss", torch.cat([in_float64(part).flatten() for part in derivatives]))


@contextlib.contextmanager
def objective(
    network: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, batch_size: int | None, training: bool
) -> Iterator[Objective]:
    """The objective of a network in the mode asked for, but without dropout; the network is left as it was found."""
    made = Objective(network, inputs, targets, loss, batch_size)
    with left_as_found(network, training), torch.enable_grad():
        for module in network.modules():
            if isinstance(module, _DropoutNd):
                module.eval()
        yield made


def _kind(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"


def _finite(what: str, value: Tensor) -> Tensor:
    if not torch.isfinite(value).all():
        raise NotFinite(f"the {what} is NaN or infinite: there is no curvature to measure")
    return value
