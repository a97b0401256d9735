import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from shallowpaths.measure import predicted_signal, signal_statistics
from shallowpaths.networks import ResidualMLP, Scale, Shift, WideResNet, count_parameters
from shallowpaths.recipes import NAMES, get_recipe
from shallowpaths.training.config import RunConfig
from shallowpaths.training.runs import build

SEEDS = range(5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_parameters_of_a_wide_resnet_counted_by_hand():
    # 16-2 on colour: 3x3x3x16; stages of 32, 64, 128 channels, two blocks each; 1x1 shortcuts; a classifier
    convs = 432
    for inputs, outputs in ((16, 32), (32, 64), (64, 128)):
        convs += 9 * inputs * outputs + 3 * 9 * outputs * outputs + inputs * outputs
    classifier = 128 * 10 + 10
    assert count_parameters(WideResNet(16, 2, "unnormalized")) == convs + classifier
    assert count_parameters(WideResNet(16, 2, "skipinit")) == convs + classifier + 6
    normalized_channels = (16 + 32) + 2 * 32 + (32 + 64) + 2 * 64 + (64 + 128) + 2 * 128 + 128
    assert count_parameters(WideResNet(16, 2, "batchnorm")) == convs + classifier + 2 * normalized_channels
    biases = 16 + 3 * (32 + 64 + 128) + 2 * (32 + 64 + 128)  # input; two convolutions and a shortcut; two convolutions
    assert count_parameters(WideResNet(16, 2, "skipinit-biases")) == convs + classifier + 6 + biases


def test_parameters_of_an_mlp_counted_by_hand():
    assert count_parameters(ResidualMLP(16, 32, "unnormalized", inputs=64)) == 64 * 32 + 12 * 32 * 32 + 32 * 10 + 10
    fixup = 6 * (1 + 4) + 2  # a multiplier and four shifts a block, two shifts before the classifier
    assert count_parameters(ResidualMLP(16, 32, "fixup", inputs=64)) == 64 * 32 + 12 * 32 * 32 + 32 * 10 + 10 + fixup


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 13)])
def test_every_recipe_runs_forward_and_backward(name, channels, size):
    network = WideResNet(10, 1, name, channels=channels, classes=7, dropout=0.5)
    logits = network(torch.randn(4, channels, size, size))
    assert logits.shape == (4, 7)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_a_wide_resnet_computes_what_its_formula_says():
    """Against the network written out by hand in float64, with torch's functions only."""
    network = WideResNet(10, 2, "skipinit-0.25", channels=3, generator=generator()).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=generator(1))
    x = F.conv2d(images, network.input_layer.weight, padding=1)
    for block, stride in zip(network.blocks, (1, 2, 2), strict=True):
        activation = F.relu(x)
        branch = F.conv2d(activation, block.layers[0].weight, stride=stride, padding=1)
        branch = F.conv2d(F.relu(branch), block.layers[1].weight, padding=1)
        x = F.conv2d(activation, block.shortcut.weight, stride=stride) + 0.25 * branch
    logits = F.relu(x).mean((2, 3)) @ network.head[-1].weight.T + network.head[-1].bias
    torch.testing.assert_close(network(images), logits, rtol=1e-12, atol=1e-12)


def test_batch_normalization_stands_where_the_formula_has_it():
    network = ResidualMLP(8, 16, "batchnorm-on-skip", inputs=12, generator=generator()).double()
    x0 = torch.randn(32, 12, dtype=torch.float64, generator=generator(1))

    def normalized(x):  # by hand, torch's default epsilon
        return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()

    x = x0 @ network.input_layer[-1].weight.T
    for block in network.blocks:
        branch = F.relu(normalized(x)) @ block.layers[0].weight.T
        branch = F.relu(normalized(branch)) @ block.layers[1].weight.T
        x = normalized(x + branch)
    logits = F.relu(normalized(x)) @ network.head[-1].weight.T + network.head[-1].bias
    torch.testing.assert_close(network(x0), logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["skipinit", "fixup", "zero-gamma", "fixup-zero-last-only"])
def test_alpha_zero_is_exactly_the_identity_chain(name):
    network = ResidualMLP(100, 32, name, inputs=32)
    x = torch.randn(8, 32)
    assert torch.equal(network.blocks(x), x)


@pytest.mark.parametrize("name", ["skipinit", "zero-gamma", "fixup", "fixup-zero-last-only"])
def test_an_identity_chain_can_leave_the_identity(name):
    """The number or the weights that start at 0 get a gradient, so training moves them."""
    network = ResidualMLP(10, 32, name, inputs=32)
    network.head[-1].reset_parameters()  # Fixup's classifier starts at 0 too, and moves first
    network(torch.randn(8, 32)).logsumexp(1).sum().backward()
    for block in network.blocks:
        zeros = [p for p in block.parameters() if p.ndim != 1 or p is getattr(block.scale, "weight", None)]
        assert any(not p.any() and p.grad.any() for p in zeros)


def test_he_initialization_in_float64():
    """Weights have variance 2 / fan_in after a ReLU, 1 / fan_in at the input: chi-squared bands of 5 deviations."""
    network = WideResNet(16, 4, "unnormalized").double()
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            gain = 1.0 if module is network.input_layer else 2.0
            count = module.weight.numel()
            ratio = module.weight.square().sum().item() / count * module.weight[0].numel() / gain
            assert abs(ratio - 1) < 5 * math.sqrt(2 / count)


FIXUP_NETWORKS = {  # with d, m, and Fixup's factor d^(-1/(2m-2)) on all but a branch's last layer
    "convolutional": (lambda recipe: WideResNet(28, 2, recipe, generator=generator(3)), 12, 2, 12**-0.5),
    "two layers": (lambda recipe: ResidualMLP(36, 64, recipe, generator=generator(3)), 16, 2, 16**-0.5),
    "three layers": (
        lambda recipe: ResidualMLP(36, 64, recipe, layers_per_block=3, generator=generator(3)), 16, 3, 16**-0.25,
    ),
}  # fmt: skip


def shifts(module):
    return [part for part in module.modules() if isinstance(part, Shift)]


@pytest.mark.parametrize("which", FIXUP_NETWORKS)
def test_fixup_is_what_its_authors_define(which):
    """Zhang et al. 2019, section 4: rules 1, 2 and 3."""
    make, blocks, layers, factor = FIXUP_NETWORKS[which]
    network = make("fixup")
    assert len(network.blocks) == blocks
    assert not any(p.any() for p in network.head[-1].parameters())
    for block in network.blocks:
        assert len(block.layers) == layers
        assert not block.layers[-1].weight.any()
        for layer in block.layers[:-1]:
            count, fan_in = layer.weight.numel(), layer.weight[0].numel()
            ratio = layer.weight.double().square().mean().item() / (2 / fan_in * factor**2)
            assert abs(ratio - 1) < 5 * math.sqrt(2 / count)  # chi-squared, 5 deviations
        assert block.scale.alpha.shape == ()
        assert block.scale.alpha.item() == 1
        assert len(shifts(block)) == 2 * layers  # before each ReLU and before each layer; the shortcut reads the second
        for preactivation in block.preactivations:
            assert [type(part).__name__ for part in preactivation] == ["Shift", "ReLU", "Shift"]
    assert len(shifts(network.head)) == 2  # before the last ReLU and before the classifier
    assert len(shifts(network)) == 2 * layers * blocks + 2
    assert all(shift.bias.shape == () and shift.bias.item() == 0 for shift in shifts(network))


@pytest.mark.parametrize("which", FIXUP_NETWORKS)
@pytest.mark.parametrize("part", ["zero-last", "rescaling", "multiplier", "biases"])
def test_a_part_of_fixup_alone_is_unnormalized_but_for_that_part(which, part):
    make, blocks, layers, factor = FIXUP_NETWORKS[which]
    plain, network = make("unnormalized"), make(f"fixup-{part}-only")
    added = {"multiplier": blocks, "biases": 2 * layers * blocks + 2}.get(part, 0)
    assert count_parameters(network) == count_parameters(plain) + added
    expected = dict(plain.named_parameters())
    if part == "zero-last":
        zeros = [network.head[-1], *(block.layers[-1] for block in network.blocks)]
        assert not any(layer.weight.any() for layer in zeros)
        changed = {id(layer.weight): 0.0 for layer in zeros}
    elif part == "rescaling":
        changed = {id(layer.weight): factor for block in network.blocks for layer in block.layers[:-1]}
    else:
        changed = {}
    unlike = {"multiplier": ("alpha", 1.0), "biases": ("bias", 0.0)}
    for name, parameter in network.named_parameters():
        if name in expected:
            assert torch.equal(parameter, expected.pop(name) * changed.get(id(parameter), 1.0)), name
        else:
            last, value = unlike[part]
            assert name.endswith(last)
            assert parameter.item() == value
    assert not expected


@pytest.mark.parametrize("which", FIXUP_NETWORKS)
@pytest.mark.parametrize("recipe", ["fixup-multiplier-only", "fixup-biases-only"])
def test_multipliers_and_biases_alone_begin_as_unnormalized(which, recipe):
    """To the bit, as they start at 1 and at 0; `test_measure` holds both against the closed form."""
    make = FIXUP_NETWORKS[which][0]
    inputs = torch.randn(16, *((3, 8, 8) if which == "convolutional" else (64,)))
    for of in (lambda network: signal_statistics(network, inputs), predicted_signal):
        ours, theirs = of(make(recipe)), of(make("unnormalized"))
        for name, value in vars(ours).items():
            np.testing.assert_equal(value, getattr(theirs, name), err_msg=name)


def test_two_recipes_share_their_weights_given_one_seed():
    a, b = (WideResNet(16, 1, name, generator=generator(5)) for name in ("batchnorm", "skipinit"))
    for x, y in zip(a.blocks, b.blocks, strict=True):
        assert torch.equal(x.layers[0].weight, y.layers[0].weight)


def test_construction_with_a_generator_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    WideResNet(16, 1, "batchnorm", generator=generator())
    assert torch.equal(before, torch.get_rng_state())


def test_without_skip_path_the_branch_is_all_there_is():
    network = ResidualMLP(6, 16, "plain", inputs=16)
    x = torch.randn(4, 16)
    branch = F.linear(
        F.relu(F.linear(F.relu(x), network.blocks[0].layers[0].weight)), network.blocks[0].layers[1].weight
    )
    torch.testing.assert_close(network.blocks(x), branch)


def test_build_follows_the_config():
    network = build(
        RunConfig(network="residual-mlp", depth=20, width=24, recipe="fixup-dropout", dropout=0.3), (1, 8, 8), 10
    )
    assert len(network.blocks) == 8
    assert network.head[-2].p == 0.3
    assert torch.equal(*(build(RunConfig(seed=4), (3, 32, 32), 10).input_layer.weight for _ in range(2)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Conv2d(3, 4, 3, 2, padding=1), (2, 3, 8, 8)),
        (torch.nn.Conv2d(4, 4, 3, groups=2, dilation=2, bias=False), (2, 4, 8, 8)),
        (torch.nn.Linear(5, 6), (7, 5)),
        (torch.nn.Linear(5, 6, bias=False), (7, 5)),
    ],
)
@pytest.mark.parametrize("alpha", [0.0, 0.3, -2.0])
def test_alpha_on_the_weights_equals_alpha_on_the_output(layer, shape, alpha):
    """Output and every gradient, in float64."""
    scale, layer = Scale(alpha).double(), layer.double()
    scale.reset_parameters()
    x = torch.randn(shape, dtype=torch.float64, generator=generator(), requires_grad=True)
    leaves = [x, scale.alpha, *layer.parameters()]
    branches = scale.after(layer, x), scale(layer(x))
    found = [(branch, *torch.autograd.grad((branch**2 + branch).sum(), leaves)) for branch in branches]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("recipe", ["skipinit-0.3", "skipinit-biases", "fixup"])
def test_the_addition_sees_the_branch_with_its_scalar(recipe):
    """The measurements' hooks stand at the addition."""
    block = ResidualMLP(6, 16, recipe, inputs=16).blocks[0]
    torch.nn.init.normal_(block.layers[-1].weight)
    torch.nn.init.constant_(block.scale.alpha, 0.3)
    seen = []
    block.addition.register_forward_hook(lambda _module, arguments, _output: seen.append(arguments[1]))
    x = torch.randn(4, 16)
    block(x)
    branch = x
    for preactivation, layer in zip(block.preactivations, block.layers, strict=True):
        branch = layer(preactivation(branch))
    torch.testing.assert_close(seen[0], 0.3 * branch)


@pytest.mark.parametrize("network", ["wide-resnet", "residual-mlp"])
def test_ghost_batches_separate_what_is_in_them(network):
    """With ghost batches of 4, the first four images are seen as if alone; the weights are those without ghosts."""
    config = RunConfig(network=network, depth=10, ghost_batch=4)
    ghost, alone = (build(c, (1, 8, 8), 10).double() for c in (config, config.replace(ghost_batch=None)))
    images = torch.randn(10, 1, 8, 8, dtype=torch.float64, generator=generator())
    torch.testing.assert_close(ghost(images)[:4], alone(images[:4]), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(ghost(images)[:4], alone(images)[:4])
    assert ghost.head[0][0].num_batches_tracked == 6  # two calls of three chunks


@pytest.mark.parametrize(
    "make",
    [
        lambda: WideResNet(15),
        lambda: WideResNet(16, 0),
        lambda: WideResNet(16, 1, "nothing"),
        lambda: WideResNet(16, 1, channels=0),
        lambda: WideResNet(16, 1, dropout=1.0),
        lambda: ResidualMLP(7),
        lambda: ResidualMLP(16, activation="tanh"),
        lambda: ResidualMLP(16, layers_per_block=0),
        lambda: ResidualMLP(16, recipe="fixup", layers_per_block=1),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(ValueError, match=r".+"):
        make()


def test_a_recipe_of_ones_own():
    recipe = get_recipe("skipinit-0.5")
    assert ResidualMLP(6, 8, recipe).blocks[0].scale.alpha.item() == 0.5
