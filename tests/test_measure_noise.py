"""Gradient noise against populations whose gradients, covariance and Hessian are known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shallowpaths.measure import GradientNoise, gradient_noise
from shallowpaths.networks import WideResNet
from test_measure_curvature import Quadratic, energy, generator

NAMES = ("gradient_square", "gradient_variance", "gradient_curvature", "noise_curvature")
SAMPLES = 40


def check(samples, truth):
    """Each estimate is unbiased, and its standard error is about its spread.

    The mean of 40 within 3.5 of its deviations, for 8 numbers. The error bar, root mean square, within 0.7 and 1.8 of the spread:
    that is known to 11 % from 40 Gaussian samples, and the jackknife may be 1.41 times too large, as its docstring says.
    """
    for name, expected in truth.items():
        found = np.array([getattr(sample, name) for sample in samples])
        spread = found.std(ddof=1)
        assert abs(found.mean() - expected) < 3.5 * spread / np.sqrt(SAMPLES), name
        errors = np.sqrt(np.mean([sample.standard_errors[name] ** 2 for sample in samples]))
        assert 0.7 < errors / spread < 1.8, name


def test_a_quadratic_loss_has_its_closed_form():
    """g = H (w - m), Sigma = H C H for examples of mean m and covariance C."""
    draw = generator(3)
    hessian = torch.diag(torch.tensor([8.0, 2.0, 1.0, 0.5])).double()
    root = torch.diag(torch.tensor([1.0, 3.0, 2.0, 4.0])).double()
    network, mean = Quadratic(4), torch.tensor([1.0, -2.0, 0.0, 3.0]).double()
    samples = []
    for _ in range(SAMPLES):
        examples = mean + torch.randn(64, 4, generator=draw).double() @ root
        samples.append(gradient_noise(network, examples, torch.zeros(64), 4, energy(hessian)))
    gradient = hessian @ (network.w.detach() - mean)
    sigma = hessian @ root @ root @ hessian
    truth = gradient @ gradient, sigma.trace(), gradient @ hessian @ gradient, (hessian @ sigma).trace()
    check(samples, dict(zip(NAMES, map(float, truth), strict=True)))


def test_a_network_against_the_gradients_of_every_example():
    """Samples, with replacement, of a population whose every example has its gradient taken by itself."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    inputs, targets = torch.randn(400, 4).double() + 1, torch.randint(3, (400,))
    parameters = tuple(p.detach() for p in network.parameters())
    names = [name for name, _ in network.named_parameters()]

    def loss(flat, x, y):
        parts = flat.split([p.numel() for p in parameters])
        weights = {n: part.view_as(p) for n, part, p in zip(names, parts, parameters, strict=True)}
        return F.cross_entropy(torch.func.functional_call(network, weights, x), y)

    at = torch.cat([p.flatten() for p in parameters])
    each = torch.stack([torch.func.grad(loss)(at, inputs[i : i + 1], targets[i : i + 1]) for i in range(400)])
    hessian = torch.autograd.functional.hessian(lambda flat: loss(flat, inputs, targets), at)
    gradient, sigma = each.mean(0), torch.cov(each.T, correction=0)
    samples = []
    for _ in range(SAMPLES):
        chosen = torch.randint(400, (128,))
        samples.append(gradient_noise(network, inputs[chosen], targets[chosen], 8))
    truth = gradient @ gradient, sigma.trace(), gradient @ hessian @ gradient, (hessian @ sigma).trace()
    check(samples, dict(zip(NAMES, map(float, truth), strict=True)))


def test_with_batch_normalization_it_is_the_covariance_of_a_batchs_gradient():
    """K batches by hand: mean square, and B times their variance."""
    network = WideResNet(10, 1, "batchnorm", generator=generator()).double()
    images, labels = torch.randn(32, 3, 8, 8, generator=generator()).double(), torch.arange(32) % 10
    gradients = []
    for x, y in zip(images.split(8), labels.split(8), strict=True):
        network.zero_grad()
        F.cross_entropy(network(x), y).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    gradients = torch.stack(gradients)
    found = gradient_noise(network, images, labels, 8)
    variance = float(gradients.var(0).sum())
    assert found.gradient_variance == pytest.approx(8 * variance)
    assert found.gradient_square == pytest.approx(float(gradients.mean(0).square().sum()) - variance / 4)


def test_the_scales_are_the_ratios():
    noise = GradientNoise(2.0, 64.0, 4.0, 100.0)
    assert (noise.simple_noise_scale, noise.noise_scale) == (32.0, 25.0)


def test_dropout_is_off():
    network = WideResNet(10, 1, "fixup-dropout", dropout=0.5, generator=generator())
    network.head[-1].weight.data.normal_(generator=generator())
    images, labels = torch.randn(8, 3, 8, 8, generator=generator()), torch.arange(8)
    first, again = (gradient_noise(network, images, labels, 2, training=training) for training in (True, False))
    assert first == again


def test_too_few_batches_are_refused():
    with pytest.raises(ValueError, match="12 inputs are 3 batches of 4: at least 4 are needed"):
        gradient_noise(nn.Linear(2, 2), torch.randn(12, 2), torch.zeros(12).long(), 4)
    with pytest.raises(ValueError, match="14 inputs do not fill batches of 4: give 12"):
        gradient_noise(nn.Linear(2, 2), torch.randn(14, 2), torch.zeros(14).long(), 4)


def test_a_ratio_to_exactly_nothing_is_nan_and_no_error():
    """A loss that is linear in the parameters has no curvature; one that does not move has no gradient either."""
    network = nn.Linear(3, 1, bias=False).double()
    inputs = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    linear = gradient_noise(network, inputs, inputs[:, :1], 2, lambda outputs, _: outputs.mean())
    assert math.isnan(linear.noise_scale)
    assert math.isnan(linear.noise_scale)
    assert math.isfinite(linear.simple_noise_scale)
    still = gradient_noise(network, inputs, inputs[:, :1], 2, lambda outputs, _: 0 * outputs.mean())
    assert math.isnan(still.simple_noise_scale)
    assert still.gradient_square == still.gradient_variance == 0
