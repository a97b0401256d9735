"""Every measurement leaves the network as it found it, and refuses what cannot be measured."""

import math

import pytest
import torch
from torch import nn

from shallowpaths import measure
from shallowpaths.networks import ResidualMLP, WideResNet

LABELS = torch.tensor([0, 1, 2, 3])
OF_BLOCKS = {
    "signal_statistics": measure.signal_statistics,
    "moving_statistics": lambda network, inputs: measure.moving_statistics(network, [inputs, inputs]),
    "gradient_statistics": measure.gradient_statistics,
    "gradient_correlation": measure.gradient_correlation,
    "input_correlation": measure.input_correlation,
    "path_spectrum": measure.path_spectrum,
}
MEASUREMENTS = OF_BLOCKS | {
    "hessian_eigenvalues": lambda network, inputs: measure.hessian_eigenvalues(network, inputs, LABELS, count=2),
    "gradient_noise": lambda network, inputs: measure.gradient_noise(network, inputs, LABELS, 1),
}
every_measurement = pytest.mark.parametrize("name", MEASUREMENTS)


def images(seed=0):
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def state(network):
    """Everything that a measurement might leave changed."""
    return {
        "tensors": {k: v.clone() for k, v in network.state_dict().items()},
        "gradients": [(p.grad, None if p.grad is None else p.grad.clone()) for p in network.parameters()],
        "requires": [p.requires_grad for p in network.parameters()],
        "modes": [m.training for m in network.modules()],
        "momenta": [getattr(m, "momentum", None) for m in network.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()],
        "random": torch.get_rng_state(),
    }


def assert_same(before, after):
    for key in ("requires", "modes", "momenta", "hooks"):
        assert before[key] == after[key], key
    assert before["tensors"].keys() == after["tensors"].keys()
    for key, value in before["tensors"].items():
        assert torch.equal(value, after["tensors"][key]), key
    for (old, old_value), (new, _) in zip(before["gradients"], after["gradients"], strict=True):
        assert old is new
        assert old is None or torch.equal(old_value, new)
    assert torch.equal(before["random"], after["random"])


def used_network(recipe="batchnorm", dropout=0.0):
    """With gradients, gathered averages, a hook of its owner's and modules in different modes."""
    network = WideResNet(10, 1, recipe, dropout=dropout)
    network(images(1)).sum().backward()
    network.blocks[1].eval()
    network.blocks[0].register_forward_hook(lambda *_: None)
    return network


@every_measurement
def test_the_network_is_left_as_it_was_found(name):
    network = used_network()
    before = state(network)
    MEASUREMENTS[name](network, images())
    assert_same(before, state(network))


@every_measurement
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_it_is_also_when_the_forward_pass_raises(name, error):
    network = used_network()

    def fail(*_):
        torch.rand(1)
        raise error("in the middle")

    handle = network.blocks[1].layers[0].register_forward_hook(fail)
    before = state(network)
    with pytest.raises(error, match="in the middle"):
        MEASUREMENTS[name](network, images())
    assert_same(before, state(network))
    handle.remove()


def make_in_place(network):
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True


@every_measurement
def test_activations_in_place_after_a_normalization_change_nothing(name):
    network = WideResNet(16, 1, "batchnorm", generator=torch.Generator().manual_seed(0)).double()
    expected = MEASUREMENTS[name](network, images().double())
    make_in_place(network)
    found = MEASUREMENTS[name](network, images().double())
    for key, value in vars(expected).items():
        assert vars(found)[key] == pytest.approx(value, rel=1e-9), key


@pytest.mark.parametrize("name", ["signal_statistics", "input_correlation"])
def test_activations_in_place_on_the_skip_path_are_measured_as_the_network_computes_them(name):
    """Without a normalization before it, an activation in place changes the skip path itself.

    The same network without activations in place, given each block's input after a ReLU, says what must come out.
    Gradients and tangents of such networks are tested beside the others.
    """
    network = WideResNet(16, 1, "skipinit-0.5", generator=torch.Generator().manual_seed(0)).double()
    handles = [
        block.register_forward_pre_hook(lambda _, arguments: (torch.relu(arguments[0]),)) for block in network.blocks
    ]
    expected = MEASUREMENTS[name](network, images().double())
    for handle in handles:
        handle.remove()
    make_in_place(network)
    found = MEASUREMENTS[name](network, images().double())
    for key, value in vars(expected).items():
        assert vars(found)[key] == pytest.approx(value, rel=1e-9), key


@every_measurement
def test_a_training_step_can_be_interrupted_to_measure(name):
    """Between a forward pass and its backward pass; the gradients stay what they would have been."""
    gradients = []
    for interrupted in (False, True):
        network = WideResNet(10, 1, "batchnorm", generator=torch.Generator().manual_seed(0))
        loss = network(images()).square().sum()
        if interrupted:
            MEASUREMENTS[name](network, images(1))
        loss.backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@every_measurement
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(1, 64), "at least two"),
        (torch.full((4, 64), math.nan), "NaN"),
        (torch.full((4, 64), math.inf), "infinity"),
    ],
)
def test_bad_inputs_are_refused(name, inputs, message):
    with pytest.raises(ValueError, match=message):
        MEASUREMENTS[name](ResidualMLP(), inputs)


@pytest.mark.parametrize("name", OF_BLOCKS)
def test_a_network_without_residual_blocks_is_refused(name):
    with pytest.raises(ValueError, match="Linear has no residual block"):
        OF_BLOCKS[name](nn.Linear(2, 2), torch.randn(4, 2))


def test_other_bad_arguments_are_refused():
    network, inputs = ResidualMLP(), torch.randn(4, 64)
    for longest in (-1, 1.5, True):
        with pytest.raises(ValueError, match="longest"):
            measure.path_spectrum(network, inputs, longest=longest)
    with pytest.raises(ValueError, match=r"correlation 1\.5"):
        measure.gradient_correlation(network, inputs, correlation=1.5)
    with pytest.raises(ValueError, match="no batch normalization"):
        measure.moving_statistics(ResidualMLP(recipe="skipinit"), [inputs])
    with pytest.raises(ValueError, match="empty"):
        measure.moving_statistics(network, [])


def test_a_signal_that_overflows_has_no_paths():
    network = ResidualMLP(1004, 64, "unnormalized")  # at width 16 one in six grows too slowly
    with pytest.raises(ValueError, match=r"overflows torch\.float32 in block"):
        measure.path_spectrum(network, torch.randn(4, 64), longest=2)
