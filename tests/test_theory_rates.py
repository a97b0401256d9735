"""Theory's bounds on the learning rate, against gradients that torch takes."""

import numpy as np
import pytest
import torch

from shallowpaths import theory
from shallowpaths.measure.prediction import signal_of_recipe
from shallowpaths.networks import ResidualMLP
from shallowpaths.recipes import get_recipe

BLOCKS, WIDTH, INPUTS = 4, 256, 32


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("recipe", ["unnormalized", "skipinit", "skipinit-1/sqrt(d)", "skipinit-0.5", "divide-sqrt2"])
def test_the_tangent_kernel_is_the_mean_squared_gradient_of_a_logit(recipe, activation):
    """float64, every weight; 10 networks of width 256: corrections of order d / width and sampling stay below 15 %."""
    squares = []
    for seed in range(10):
        draw = torch.Generator().manual_seed(seed)
        shape = {"depth": 2 * BLOCKS + 4, "width": WIDTH, "inputs": INPUTS, "activation": activation}
        network = ResidualMLP(recipe=recipe, generator=draw, **shape).double()
        logits = network(torch.randn(4, INPUTS, generator=draw).double())
        for logit in logits[:, 0]:
            gradients = torch.autograd.grad(logit, list(network.parameters()), retain_graph=True)
            squares.append(sum(float(g.square().sum()) for g in gradients))
    signal = signal_of_recipe(get_recipe(recipe), BLOCKS, activation=activation)
    predicted = theory.tangent_kernel(signal, WIDTH, INPUTS, scalars=recipe.startswith("skipinit"))
    assert np.mean(squares) == pytest.approx(predicted, rel=0.15)


def test_the_kernel_in_closed_form():
    def kernel(blocks, **options):
        signal = theory.signal(blocks, activation="relu", **options)
        return theory.tangent_kernel(signal, 32, 64, scalars="alpha" in options)

    assert kernel(10, alpha=0.0) == pytest.approx(16 + 1 + 64 + 10)
    assert kernel(10) == pytest.approx(2**10 * (16 + 64 + 32 * 10 / 2) + 1)
    assert kernel(10, output_scale=0.5**0.5) == pytest.approx(16 + 1 + 64 + 32 * 10 / 2)
    assert kernel(2000) == np.inf


@pytest.mark.parametrize("options", [{"alpha": 1e200}, {"alpha": 0.0, "output_scale": 2.0}])
def test_a_kernel_beyond_float64_is_infinite_and_not_nan(options):
    assert theory.tangent_kernel(theory.signal(2000, **options), 32, 64, scalars=True) == np.inf


def test_the_kernel_refuses_normalization_and_bad_sizes():
    with pytest.raises(ValueError, match="normalization 'branch'"):
        theory.tangent_kernel(theory.signal(4, normalization="branch"), 8, 8)
    with pytest.raises(ValueError, match="width 0"):
        theory.tangent_kernel(theory.signal(4), 0, 8)
    with pytest.raises(ValueError, match="scalars 1"):
        theory.tangent_kernel(theory.signal(4), 8, 8, 1)


def test_at_the_scalars_rate_the_growth_is_e():
    blocks, slope = 400, 0.3
    rate = theory.largest_rate_of_scalars(blocks, slope)
    assert (1 + (rate * slope) ** 2) ** blocks == pytest.approx(np.e, rel=0.01)
    assert theory.largest_rate_of_scalars(blocks, slope, 0.1) == pytest.approx(10 * rate)
    assert theory.largest_rate_of_scalars([100, 400], slope) == pytest.approx([2 * rate, rate])


@pytest.mark.parametrize("bad", [(0, 1.0, 1.0), (4, 0.0, 1.0), (4, 1.0, 0.0), (4, float("nan"), 1.0)])
def test_a_bad_argument_of_the_scalars_rate_is_named(bad):
    with pytest.raises(ValueError, match=r"blocks|gradient|factor"):
        theory.largest_rate_of_scalars(*bad)
