"""What a run's record keeps of the loss's curvature and of its gradients' noise, epoch by epoch."""

from torch import nn

from shallowpaths.data import Dataset
from shallowpaths.measure import NotFinite, gradient_noise, hessian_eigenvalues

KEPT = ("gradient_square", "gradient_variance", "gradient_curvature", "noise_curvature")
TOLERANCE, MOST_PRODUCTS = 0.05, 20  # a few in a hundred: less than from one epoch to the next


def curvature(network: nn.Module, data: Dataset, images: int, batch_size: int) -> dict[str, float]:
    """Of the network as it stands, on the first `images` of the training split, as they are, in batches of the run's size.

    In training mode and float32, of the cross entropy alone: without augmentation, dropout and L2 penalty.

    Returns:
        The Hessian's largest_eigenvalue, and KEPT of GradientNoise. Nothing, where one of them is not finite.
    """
    batch = next(data.plain("train", images))
    try:
        options = {"batch_size": batch_size, "tolerance": TOLERANCE, "max_products": MOST_PRODUCTS}
        (largest,) = hessian_eigenvalues(network, *batch, **options).values
        noise = gradient_noise(network, *batch, batch_size)
    except NotFinite:
        return {}
    return {"largest_eigenvalue": float(largest)} | {name: getattr(noise, name) for name in KEPT}
