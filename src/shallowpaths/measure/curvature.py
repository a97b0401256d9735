"""Any module's loss: its gradients and their noise, its Hessian's largest eigenvalues and products with vectors."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from shallowpaths.measure.guard import check_inputs, in_float64, left_as_found
from shallowpaths.theory import checks

_SHIFTS = (1, 2)
Loss = Callable[[Tensor, Tensor], Tensor]


class NotFinite(ValueError):
    """A loss, or a derivative of it, is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class HessianEigenvalues:
    """The largest eigenvalues of a loss's Hessian H, descending, shape [count], after so many products with vectors.

    residuals: |H v - value v| of each one's unit vector v, shape [count]: an eigenvalue of H is at most so far away.
    """

    values: np.ndarray
    residuals: np.ndarray
    products: int


@dataclasses.dataclass(frozen=True)
class GradientNoise:
    """Of a mean loss with gradient g and Hessian H, where an example's gradient has the covariance Sigma.

    gradient_square is |g|^2, gradient_variance tr Sigma, gradient_curvature g^T H g, noise_curvature tr(H Sigma):
    unbiased, so that they can be averaged before they are divided, and may come out negative. A ratio to zero is NaN.
    standard_errors has those of all six, by a jackknife over batches: of the curvatures up to sqrt(2) too large.
    """

    gradient_square: float
    gradient_variance: float
    gradient_curvature: float
    noise_curvature: float
    standard_errors: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def simple_noise_scale(self) -> float:
        """tr Sigma / |g|^2: examples a batch whose noise is as large as the gradient."""
        return self.gradient_variance / (self.gradient_square or math.nan)

    @property
    def noise_scale(self) -> float:
        """tr(H Sigma) / g^T H g: the same weighted by curvature."""
        return self.noise_curvature / (self.gradient_curvature or math.nan)


def hessian_eigenvalues(
    network: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss = F.cross_entropy, count: int = 1,
    batch_size: int | None = None, training: bool = True, tolerance: float = 1e-3, max_products: int = 100,
    seed: int = 0,
) -> HessianEigenvalues:  # fmt: skip
    """The algebraically largest eigenvalues of the Hessian of a mean loss with respect to all trainable parameters.

    Lanczos from a random vector (of `seed`), with full reorthogonalization. A repeated one may be found once.

    network: any module. Dropout is off, so that the loss is one function; other random layers must be off already.
    inputs, targets: N examples, [N, ...] each. loss: loss(outputs, targets) -> their mean, 0-dimensional.
    batch_size: the loss is the mean over consecutive batches of so many examples, which divides N; None takes all as
        one. It counts with batch normalization in training mode; a smaller one takes less memory.
    training: as in `signal_statistics`. tolerance, max_products: it ends where each residual is at most so much of its
        eigenvalue (in float32 not much below 1e-6), or after so many products.

    ValueError: no trainable parameter; more eigenvalues than parameters or products; examples that are no tensors of
    one length, not finite, or do not fill the batches; a loss that is no single number; NotFinite for its value or
    derivatives.
    """
    checks.whole("count", count)
    checks.whole("max_products", max_products, at_least=count)
    checks.number("tolerance", tolerance, above=0)
    checks.seed(seed)
    with _objective(network, inputs, targets, loss, batch_size, training) as mean_loss:
        if count > mean_loss.size:
            raise ValueError(f"count {count}: {type(network).__name__} has {mean_loss.size} trainable parameters")
        generator, product = torch.Generator().manual_seed(seed), None
        basis, diagonal, beside = [], [], []
        while True:
            if product is None:  # at first, and where what these vectors span is closed: the others are elsewhere
                drawn = torch.randn(mean_loss.size, generator=generator, dtype=torch.float64)
                product = _orthogonal(drawn.to(mean_loss.device), basis)
            basis.append(product / product.norm())
            products = (mean_loss.products(batch, basis[-1])[0] for batch in range(mean_loss.batches))
            product = sum(products) / mean_loss.batches
            diagonal.append(float(basis[-1] @ product))
            product = _orthogonal(product, basis)
            length = float(product.norm())
            ritz, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
            values, residuals = ritz[::-1][:count], length * np.abs(vectors[-1, ::-1][:count])
            good = len(values) == count and (residuals <= tolerance * np.abs(values)).all()
            if good or len(basis) == min(max_products, mean_loss.size):
                return HessianEigenvalues(values.copy(), residuals, len(basis))
            if length <= 1e-14 * np.abs(ritz).max():  # what is left of a vector after rounding
                product, length = None, 0.0
            beside.append(length)


def _orthogonal(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """The vector, in place, made orthogonal to the basis; after the second time, to rounding."""
    for direction in 2 * basis:
        vector.add_(direction, alpha=-float(direction @ vector))
    return vector


def gradient_noise(
    network: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int, loss: Loss = F.cross_entropy,
    training: bool = True,
) -> GradientNoise:  # fmt: skip
    """The gradient's square and variance, and the curvature along both, from the gradients of K batches.

    Each is a mean over products of different batches' gradients g_a and Hessians H_c, which makes it unbiased: g_a .
    g_b for |g|^2, g_a^T H_c g_b for g^T H g, and with g_b on both sides for g^T H g + tr(H Sigma) / B. H_c meets two
    g_b, those of the next batches, and every g_a. All gradients are held at once, in float64. With batch normalization
    in training mode Sigma is B times the covariance of a batch's gradient, and g its mean.

    batch_size: B, which divides the number of examples, in random order, into K >= 4 consecutive batches, or
    ValueError. Other arguments and errors as in `hessian_eigenvalues`.
    """
    checks.whole("batch_size", batch_size)
    with _objective(network, inputs, targets, loss, batch_size, training) as mean_loss:
        count = mean_loss.batches
        if count < 4:  # three that differ, and one for the jackknife to leave out
            raise ValueError(f"{len(inputs)} inputs are {count} batches of {batch_size}: at least 4 are needed")
        gradients = torch.stack([mean_loss.gradient(batch) for batch in range(count)])
        columns = []
        for c in range(count):
            products = mean_loss.products(c, *(gradients[(c + shift) % count] for shift in _SHIFTS))
            columns.append(gradients @ torch.stack(products, dim=1))  # [K, shifts]
        squares = (gradients @ gradients.T).cpu().numpy()  # g_a . g_b, [K, K]
        # for each shift g_a . H_c g_b of batch b = c + shift, in a circle, [shifts, K (a), K (c)]
        curvatures = torch.stack(columns).permute(2, 1, 0).cpu().numpy()
    kept = [*~np.eye(count, dtype=bool), np.ones(count, dtype=bool)]  # all but each batch in turn, then all
    *without, found = (_estimates(squares, curvatures, row, batch_size) for row in kept)
    names = (*list(GradientNoise.__annotations__)[:4], "simple_noise_scale", "noise_scale")
    values = {name: np.array([getattr(estimate, name) for estimate in without]) for name in names}
    errors = {name: float(np.sqrt((count - 1) * each.var())) for name, each in values.items()}
    return dataclasses.replace(found, standard_errors=errors)


def _estimates(squares: np.ndarray, curvatures: np.ndarray, kept: np.ndarray, batch_size: int) -> GradientNoise:
    """From the batches that are kept, [K]."""
    count, places = kept.sum(), np.arange(len(kept))
    same = squares.diagonal()[kept].mean()
    square = (kept @ squares @ kept / count - same) / (count - 1)  # mean over pairs of different batches
    both, different = [], []
    for shift, table in zip(_SHIFTS, curvatures, strict=True):
        other = (places + shift) % len(kept)
        used, own = kept & kept[other], table[other, places]
        both.append(own[used])
        different.append(((kept @ table - own - table.diagonal()) / (count - 2))[used])
    curvature = np.concatenate(different).mean()
    noise = np.concatenate(both).mean() - curvature
    return GradientNoise(*map(float, (square, batch_size * (same - square), curvature, batch_size * noise)))


class _Objective:
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
        checks.whole("batch_size", batch_size, at_most=count)
        batch_size = int(batch_size)  # torch splits by no other kind of number
        if count % batch_size:
            raise ValueError(f"{count} inputs do not fill batches of {batch_size}: give {count - count % batch_size}")
        self.size, self.batches = sum(p.numel() for p in self.parameters), count // batch_size
        self.device = in_float64(self.parameters[0].detach()[..., :0]).device
        self._parts = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))

    def gradient(self, batch: int) -> Tensor:
        """Of one batch's loss."""
        return _flat(torch.autograd.grad(self._loss(batch), self.parameters, materialize_grads=True))

    def products(self, batch: int, *vectors: Tensor) -> list[Tensor]:
        """The Hessian of one batch's loss times each of the vectors."""
        slopes = torch.autograd.grad(self._loss(batch), self.parameters, create_graph=True, materialize_grads=True)
        return [_flat(self._derivative(slopes, vector)) for vector in vectors]

    def _derivative(self, slopes: Sequence[Tensor], vector: Tensor) -> Sequence[Tensor]:
        parts = vector.split([p.numel() for p in self.parameters])
        triples = zip(slopes, self.parameters, parts, strict=True)
        sloping = [(s, part.view_as(p).to(p)) for s, p, part in triples if s.requires_grad]  # others are constant
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


@contextlib.contextmanager
def _objective(
    network: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, batch_size: int | None, training: bool
) -> Iterator[_Objective]:
    """The objective of a network in the mode asked for, but without dropout; the network is left as it was found."""
    made = _Objective(network, inputs, targets, loss, batch_size)
    with left_as_found(network, training), torch.enable_grad():
        for module in network.modules():
            if isinstance(module, _DropoutNd):
                module.eval()
        yield made


def _kind(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"


def _flat(derivatives: Sequence[Tensor]) -> Tensor:
    return _finite("derivative of the loss", torch.cat([in_float64(part).flatten() for part in derivatives]))


def _finite(what: str, value: Tensor) -> Tensor:
    if not torch.isfinite(value).all():
        raise NotFinite(f"the {what} is NaN or infinite: there is no curvature to measure")
    return value
