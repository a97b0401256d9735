"""The Hessian's largest eigenvalues against dense Hessians and known spectra, on any module."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shallowpaths.measure import NotFinite, hessian_eigenvalues
from shallowpaths.networks import ResidualMLP, WideResNet


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def examples(count=24, features=6, classes=3):
    return torch.randn(count, features, generator=generator(1)).double(), torch.arange(count) % classes


def dense_eigenvalues(network, inputs, targets, batch_size, loss=F.cross_entropy):
    """By torch's own dense Hessian of the mean over batches, descending."""
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    buffers = dict(network.named_buffers())

    def mean_loss(flat):
        parts = flat.split([p.numel() for p in parameters.values()])
        weights = {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)}
        batches = zip(inputs.split(batch_size), targets.split(batch_size), strict=True)
        losses = [
            loss(torch.func.functional_call(network, (weights, {k: b.clone() for k, b in buffers.items()}), x), y)
            for x, y in batches
        ]
        return torch.stack(losses).mean()

    hessian = torch.autograd.functional.hessian(mean_loss, torch.cat([p.flatten() for p in parameters.values()]))
    return torch.linalg.eigvalsh(hessian).flip(0).numpy()


class Quadratic(nn.Module):
    """Outputs w - x for each example x; with `energy` as loss the Hessian is the matrix, whatever the examples."""

    def __init__(self, size):
        super().__init__()
        self.w = nn.Parameter(torch.randn(size, generator=generator(), dtype=torch.float64))

    def forward(self, x):
        return self.w - x


def energy(matrix):
    return lambda outputs, _: 0.5 * torch.einsum("ni,ij,nj->n", outputs, matrix, outputs).mean()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [24, 8])
@pytest.mark.parametrize("recipe", ["batchnorm", "skipinit-0.5"])
def test_eigenvalues_equal_those_of_the_dense_hessian(recipe, batch_size, training):
    network = ResidualMLP(6, 5, recipe, inputs=6, classes=3, generator=generator()).double().train(training)
    inputs, targets = examples()
    expected = dense_eigenvalues(network, inputs, targets, batch_size)
    options = {"count": 3, "batch_size": batch_size, "training": training}
    found = hessian_eigenvalues(network, inputs, targets, tolerance=1e-9, max_products=200, **options)
    assert found.values == pytest.approx(expected[:3], rel=1e-6)
    assert (found.residuals <= 1e-9 * found.values).all()
    rough = hessian_eigenvalues(network, inputs, targets, tolerance=0.1, **options)
    assert rough.products < found.products
    nearest = np.abs(expected[:, None] - rough.values).min(axis=0)
    assert (nearest <= rough.residuals + 1e-12).all()


def test_with_batch_normalization_the_batches_matter_and_without_they_do_not():
    inputs, targets = examples()
    found = {}
    for recipe in ("batchnorm", "skipinit-0.5"):
        network = ResidualMLP(6, 5, recipe, inputs=6, classes=3, generator=generator()).double()
        sizes = (None, 24, 8)
        found[recipe] = [hessian_eigenvalues(network, inputs, targets, batch_size=b, tolerance=1e-8).values[0] for b in sizes]
    whole, same, parts = found["skipinit-0.5"]
    assert whole == same == pytest.approx(parts, rel=1e-8)
    assert found["batchnorm"][0] != pytest.approx(found["batchnorm"][2], rel=1e-3)


def test_a_known_spectrum_is_found_whatever_its_signs():
    spectrum = torch.tensor([5.0, 3.0, 1.0, 0.0, -2.0, -40.0], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator(2), dtype=torch.float64))[0]
    loss = energy(turn @ spectrum.diag() @ turn.T)
    inputs, targets = examples()
    for count in (1, 6):
        found = hessian_eigenvalues(Quadratic(6), inputs, targets, loss, count, tolerance=1e-10)
        assert found.values == pytest.approx(spectrum[:count].numpy(), abs=1e-9)
        assert found.products <= 6


@pytest.mark.parametrize("matrix", [torch.eye(6).double(), torch.zeros(6, 6).double()])
def test_lanczos_goes_on_where_its_vectors_close(matrix):
    inputs, targets = examples()
    found = hessian_eigenvalues(Quadratic(6), inputs, targets, energy(matrix), count=3)
    assert found.values == pytest.approx([float(matrix[0, 0])] * 3, abs=1e-12)


def test_a_loss_without_curvature_has_eigenvalue_0():
    inputs, targets = examples()
    found = hessian_eigenvalues(nn.Linear(6, 1).double(), inputs, targets, lambda outputs, _: outputs.mean())
    assert found.values == [0.0]


def test_a_network_and_a_loss_of_the_readers_own():
    """Mean squared error of a linear layer: the Hessian is 2 X^T X / N, in float32."""
    inputs, _ = examples()
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 1, bias=False), nn.ReLU(inplace=True), nn.Flatten(0))
    nn.init.constant_(network[1].weight, 1.0)
    inputs = inputs.float().abs()  # the ReLU is open
    found = hessian_eigenvalues(network, inputs, torch.zeros(24), F.mse_loss, tolerance=1e-5)
    expected = torch.linalg.eigvalsh(2 * inputs.T @ inputs / 24)[-1]
    assert found.values[0] == pytest.approx(float(expected), rel=1e-5)


def test_only_what_is_trained_counts():
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 1)).double()
    network[0].requires_grad_(False)
    inputs, targets = examples()
    found = hessian_eigenvalues(network, inputs, targets[:, None].double(), F.mse_loss, count=7, tolerance=1e-8)
    seen = torch.cat([network[0](inputs), torch.ones(24, 1)], dim=1).detach()
    assert found.values == pytest.approx(torch.linalg.eigvalsh(2 * seen.T @ seen / 24).flip(0).numpy(), rel=1e-6)
    with pytest.raises(ValueError, match="count 8: Sequential has 7 trainable parameters"):
        hessian_eigenvalues(network, inputs, targets, count=8)


def test_the_products_are_bounded_and_the_residual_says_how_far_it_came():
    network = ResidualMLP(8, 5, "skipinit-0.5", inputs=6, classes=3, generator=generator()).double()
    found = hessian_eigenvalues(network, *examples(), tolerance=1e-12, max_products=3)
    assert found.products == 3
    assert found.residuals[0] > 1e-6 * found.values[0]


def test_the_same_seed_finds_the_same_and_another_the_same_to_the_residuals():
    network = ResidualMLP(8, 16, "batchnorm", inputs=6, generator=generator())
    inputs, targets = examples()
    first, again, other = (hessian_eigenvalues(network, inputs.float(), targets, seed=s) for s in (0, 0, 1))
    assert (first.values == again.values).all()
    assert first.values != other.values
    assert first.values == pytest.approx(other.values, rel=2e-3)


def test_ghost_batches_in_a_batch_are_batches_of_their_size():
    images, labels = torch.randn(12, 3, 8, 8, generator=generator()).double(), torch.arange(12) % 10
    ghosts = WideResNet(10, 1, "batchnorm", ghost_batch=4, generator=generator()).double()
    network = WideResNet(10, 1, "batchnorm", generator=generator()).double()
    found = hessian_eigenvalues(ghosts, images, labels, max_products=4)
    assert found.values == pytest.approx(hessian_eigenvalues(network, images, labels, batch_size=4, max_products=4).values, rel=1e-9)


def test_gradients_may_be_off_around_it():
    inputs, targets = examples()
    network = nn.Linear(6, 3).double()
    with torch.no_grad():
        found = hessian_eigenvalues(network, inputs, targets)
    assert found.values == hessian_eigenvalues(network, inputs, targets).values > 0


def test_what_cannot_be_measured_is_refused():
    network, (inputs, targets) = nn.Linear(6, 3).double(), examples()
    for message, change in {
        "count 0": {"count": 0},
        "max_products 2 must be .* at least 3": {"count": 3, "max_products": 2},
        "tolerance 0": {"tolerance": 0},
        "24 inputs do not fill batches of 7: give 21": {"batch_size": 7},
        "batch_size 25 must be .* at most 24": {"batch_size": 25},
        r"loss is of shape \(24,\)": {"loss": lambda outputs, _: outputs.sum(1)},
        "loss is of type float": {"loss": lambda outputs, _: outputs.sum().item()},
        "depends on the parameters": {"loss": lambda outputs, _: outputs.detach().sum()},
    }.items():
        with pytest.raises(ValueError, match=message):
            hessian_eigenvalues(network, inputs, targets, **change)
    for message, arguments in {
        "Flatten has no trainable parameter": (nn.Flatten(), inputs, targets),
        r"targets of shape \(23,\).* 24 inputs": (network, inputs, targets[:23]),
        "targets of type list": (network, inputs, list(targets)),
        "NaN or infinity": (network, inputs / 0, targets),
        "inputs are torch.int64": (network, inputs.long(), targets),
    }.items():
        with pytest.raises(ValueError, match=message):
            hessian_eigenvalues(*arguments)
    with pytest.raises(NotFinite, match="the loss is NaN"):
        hessian_eigenvalues(network, inputs, targets, lambda outputs, _: (outputs - outputs.detach() - 1).log().mean())
    with pytest.raises(NotFinite, match="derivative of the loss is NaN"):
        hessian_eigenvalues(network, inputs, targets, lambda outputs, _: (outputs - outputs.detach()).abs().sqrt().mean())
