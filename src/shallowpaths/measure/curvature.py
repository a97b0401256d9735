"""The curvature of a loss: the largest eigenvalues of its Hessian, by Lanczos with Hessian-vector products."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shallowpaths.measure.objective import Loss, objective
from shallowpaths.theory import checks

_NOTHING = 1e-14  # of the largest Ritz value: what is left of a vector after rounding


@dataclass(frozen=True)
class HessianEigenvalues:
    """The largest eigenvalues of a loss's Hessian H, descending, shape [count], after so many products with vectors.

    residuals: |H v - value v| of each one's unit vector v, shape [count]: an eigenvalue of H is at most so far away.
    """

    values: np.ndarray
    residuals: np.ndarray
    products: int


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
        one. With batch normalization in training mode the loss that SGD sees is that of its own batch size. Without, it
        is the same for any, and a smaller one takes less memory.
    training: whether batch normalization uses the batch's own statistics (True) or the gathered ones.
    tolerance: it ends where each residual is at most so much of its eigenvalue; in float32 not much below 1e-6.
    max_products: it ends here at the latest; the residuals then say how far it has come.

    Raises ValueError: no trainable parameter; more eigenvalues than parameters or products; examples that are no
    tensors of one length or do not fill the batches; NaN or infinity in them; a loss that is no single number;
    NotFinite, which is one, for NaN or infinity in the loss or its derivatives.
    """
    checks.whole("count", count)
    checks.whole("max_products", max_products, at_least=count)
    checks.number("tolerance", tolerance, above=0)
    checks.seed(seed)
    with objective(network, inputs, targets, loss, batch_size, training) as mean_loss:
        if count > mean_loss.size:
            raise ValueError(f"count {count}: {type(network).__name__} has {mean_loss.size} trainable parameters")
        generator = torch.Generator().manual_seed(seed)

        def draw() -> Tensor:
            return torch.randn(mean_loss.size, generator=generator, dtype=torch.float64).to(mean_loss.device)

        return _lanczos(mean_loss.mean_product, draw, count, tolerance, min(max_products, mean_loss.size))


def _lanczos(
    multiply: Callable[[Tensor], Tensor], draw: Callable[[], Tensor], count: int, tolerance: float, most: int
) -> HessianEigenvalues:
    """Of a symmetric matrix, given as what it makes of a vector. draw: a random vector."""
    start = draw()
    basis, diagonal, beside = [start / start.norm()], [], []
    while True:
        product = multiply(basis[-1])
        diagonal.append(float(basis[-1] @ product))
        product = _orthogonal(product, basis)
        length = float(product.norm())
        ritz, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        values, residuals = ritz[::-1][:count], length * np.abs(vectors[-1, ::-1][:count])
        good = len(values) == count and (residuals <= tolerance * np.abs(values)).all()
        if good or len(basis) == most:
            return HessianEigenvalues(values.copy(), residuals, len(basis))
        if length <= _NOTHING * np.abs(ritz).max():  # what these vectors span is closed: the others are elsewhere
            product, length = _orthogonal(draw(), basis), 0.0
        beside.append(length)
        basis.append(product / product.norm())


def _orthogonal(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """The vector, in place, made orthogonal to the basis; after the second time, to rounding."""
    for _ in range(2):
        for direction in basis:
            vector.add_(direction, alpha=-float(direction @ vector))
    return vector
