"""Conversions against networks written out by hand from the converted network's own layers."""

import copy
import functools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import shallowpaths as sp
from shallowpaths._torchvision import import_torchvision
from shallowpaths.networks import Bias, Scale, Shift

models = import_torchvision("models")


def images(count=2, dtype=torch.float32):
    return torch.randn(count, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(1))


@functools.cache
def resnet(name="resnet18"):
    return getattr(models, name)(num_classes=10)


def small(**settings):
    """Torchvision's ResNet with four blocks."""
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10, **settings)


def blocks_of(network):
    return [block for stage in (network.layer1, network.layer2, network.layer3, network.layer4) for block in stage]


def shortcut_chain(network, x):
    """Torchvision's ResNet without its branches."""
    x = network.maxpool(F.relu(network.conv1(x)))
    for block in blocks_of(network):
        x = F.relu(x if block.downsample is None else block.downsample[0](x))
    return network.fc(network.avgpool(x).flatten(1))


class Block(nn.Module):
    """relu-conv twice behind normalizations of any kind; the activations work in place."""

    def __init__(self, channels=4, norm=nn.BatchNorm2d, end=None):
        super().__init__()
        self.norm1, self.norm2 = norm(channels), norm(channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.act, self.end = nn.ReLU(inplace=True), end or nn.Identity()

    def forward(self, x):
        return x + self.end(self.conv2(self.act(self.norm2(self.conv1(self.act(self.norm1(x)))))))


def network(*blocks, before=(), after=()):
    return nn.Sequential(
        *before, nn.Conv2d(3, 4, 3), *blocks, *after, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d"])
def test_at_alpha_0_a_torchvision_network_is_its_shortcut_chain(name):
    model = resnet(name)
    converted = sp.to_skipinit(model)
    assert type(converted) is type(model)
    assert not any("Norm" in type(module).__name__ for module in converted.modules())
    for mode in (True, False):
        converted.train(mode)
        assert torch.equal(converted(images()), shortcut_chain(converted, images()))
    nn.init.constant_(blocks_of(converted)[-1].get_submodule("bn2" if name == "resnet18" else "bn3")[1].alpha, 0.5)
    assert not torch.allclose(converted(images()), shortcut_chain(converted, images()))


@pytest.mark.parametrize("name", ["resnetv2_50", "resnetv2_50d_gn"])
def test_at_alpha_0_a_timm_network_is_its_shortcut_chain(name):
    timm = pytest.importorskip("timm")
    converted = sp.to_skipinit(timm.create_model(name, num_classes=10))
    assert not any("Norm" in type(module).__name__ for module in converted.modules())
    stem = converted.stem
    x = images()
    for conv in [stem.conv] if name == "resnetv2_50" else [stem.conv1, stem.conv2]:
        x = conv(x) if name == "resnetv2_50" else F.relu(conv(x))
    x = stem.pool(x if name == "resnetv2_50" else stem.conv3(x))
    for stage in converted.stages:
        for block in stage.blocks:
            if block.downsample is not None:
                x = F.relu(x)
                x = block.downsample.conv(block.downsample.pool(x) if hasattr(block.downsample, "pool") else x)
    assert torch.equal(converted(images()), converted.head(F.relu(x)))
    assert converted.conversion.blocks == 16


def test_a_converted_block_computes_its_formula():
    """relu(x + alpha (W2 relu(W1 x + b1) + b2)), in float64."""
    converted = sp.to_skipinit(small().double(), alpha=0.3)
    for parameter in converted.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
    block, x = converted.layer1[0], torch.randn(2, 64, 8, 8, dtype=torch.float64).relu()
    b1, b2 = (bias.bias.view(-1, 1, 1) for bias in (block.bn1, block.bn2[0]))
    branch = F.conv2d(F.relu(F.conv2d(x, block.conv1.weight, padding=1) + b1), block.conv2.weight, padding=1) + b2
    torch.testing.assert_close(block(x.clone()), F.relu(x + 0.3 * branch), rtol=1e-12, atol=1e-12)


def test_a_conversion_says_what_it_did():
    """Counted by hand: a stem, 8 blocks of 2, 3 shortcuts, a classifier."""
    report = sp.to_skipinit(resnet(), "1/sqrt(d)").conversion
    assert (report.recipe, report.blocks, report.normalizations, report.layers) == ("skipinit", 8, 20, 21)
    assert report.biases == 20
    assert report.scalar == pytest.approx(8**-0.5)
    assert report.kept == ()
    assert sp.to_fixup(resnet()).conversion.biases == 20 + 16 + 1
    for word in ("8 scalars", "0.353553", "20 normalizations", "21 layers"):
        assert word in str(report)
    assert "PReLU" in str(sp.to_skipinit(network(Block(), after=[nn.PReLU()])).conversion)


@pytest.mark.parametrize("convert", [sp.to_skipinit, sp.to_fixup])
def test_the_model_stays_as_it_is_and_the_copy_is_a_module_like_any(convert):
    model = small().eval()
    before = copy.deepcopy(model.state_dict())
    converted = convert(model, generator=torch.Generator().manual_seed(0))
    assert not model.training
    assert not any(module.training for module in converted.modules())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in converted.parameters()}
    nn.init.normal_(next(m for m in converted.modules() if isinstance(m, Scale)).alpha)
    expected = converted(images())
    other = convert(model.double()).float()
    other.load_state_dict(converted.state_dict())
    for copied in (other, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(copied(images()), expected)
        assert copied.conversion == converted.conversion
    again = convert(small(), generator=torch.Generator().manual_seed(0)).state_dict()
    drawn = [name for name, value in converted.state_dict().items() if value.ndim > 1]
    assert len(drawn) == 13
    assert all(torch.equal(again[name], converted.state_dict()[name]) for name in drawn)
    assert all(p.dtype == torch.float64 for p in convert(model.double()).parameters())


def he_ratio(layer):
    """Mean square of the weights times fan_in, and the deviation that chance gives it, relative."""
    return layer.weight.double().square().mean().item() * layer.weight[0].numel(), math.sqrt(2 / layer.weight.numel())


def test_he_initialization_by_what_a_layer_reads():
    converted = sp.to_skipinit(resnet("resnext50_32x4d"))
    for name, layer in converted.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            ratio, deviation = he_ratio(layer)
            assert abs(ratio / (1 if name == "conv1" else 2) - 1) < 5 * deviation, name
    assert not converted.fc.bias.any()
    mobile = sp.to_skipinit(models.mobilenet_v2(num_classes=10))  # its blocks end without activation
    for layer, gain in ((mobile.features[3].conv[0][0], 1), (mobile.features[3].conv[1][0], 2)):
        ratio, deviation = he_ratio(layer)
        assert abs(ratio / gain - 1) < 5 * deviation


@pytest.mark.parametrize(("name", "blocks", "layers"), [("resnet18", 8, 2), ("resnet50", 16, 3)])
def test_fixup_is_what_its_authors_define(name, blocks, layers):
    converted = sp.to_fixup(resnet(name))
    assert not any(p.any() for p in converted.fc.parameters())
    for block in blocks_of(converted):
        branch = [block.get_submodule(f"conv{index + 1}") for index in range(layers)]
        assert not branch[-1][1].weight.any()
        for _, layer in branch[:-1]:
            ratio, deviation = he_ratio(layer)
            assert abs(ratio / (2 * blocks ** (-1 / (layers - 1))) - 1) < 5 * deviation
        assert block.get_submodule(f"bn{layers}")[1].alpha.item() == 1
        assert all(isinstance(shift, Shift) for shift, _ in branch)
    shifts = [module for module in converted.modules() if isinstance(module, Shift)]
    assert len(shifts) == resnet_normalizations(blocks, layers) + blocks * layers + 1
    assert all(shift.bias.item() == 0 for shift in shifts)
    nn.init.normal_(converted.fc[1].weight)
    assert torch.equal(converted(images()), shortcut_chain(converted, images()))


def resnet_normalizations(blocks, layers):
    return blocks * layers + 1 + (3 if layers == 2 else 4)


@pytest.mark.parametrize(
    ("convert", "rate"),
    [(sp.to_skipinit, 0.02), (functools.partial(sp.to_skipinit, alpha="1/sqrt(d)"), 0.01), (sp.to_fixup, 0.02)],
)
def test_a_converted_network_learns_the_digits(convert, rate):
    data = sp.data.load("digits")
    pixels = F.interpolate(data.standardize(data.train_images[:1280]), size=32).expand(-1, 3, -1, -1)
    converted = convert(small())
    optimizer = torch.optim.SGD(converted.parameters(), lr=rate, momentum=0.9)
    losses = []
    for images, labels in zip(pixels.split(32), data.train_labels[:1280].split(32), strict=True):
        loss = F.cross_entropy(converted(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert sum(losses[-5:]) < 0.9 * 5 * math.log(10)  # better than knowing nothing
    assert all(module.alpha.item() not in (0, 1) for module in converted.modules() if isinstance(module, Scale))


@pytest.mark.parametrize("norm", [functools.partial(nn.BatchNorm2d, affine=False), functools.partial(nn.GroupNorm, 2)])
def test_activations_that_work_in_place_leave_the_skip_path_alone(norm):
    converted = sp.to_skipinit(network(Block(norm=lambda channels: norm(channels)), Block()))
    x = converted[0](images())
    assert (x < 0).any()
    assert torch.equal(converted[1:3](x.clone()), x)
    assert sum(isinstance(module, Bias) for module in converted[1].modules()) == 2 * (norm.func is nn.GroupNorm)


def test_a_block_that_is_used_twice_has_one_scalar_and_counts_twice():
    block = Block()
    converted = sp.to_skipinit(network(block, block), "1/sqrt(d)")
    assert converted.conversion.scalar == pytest.approx(2**-0.5)
    assert converted[1] is converted[2]
    assert sum(isinstance(module, Scale) for module in converted.modules()) == 1


def test_a_branch_that_ends_in_a_gate_is_scaled_behind_it():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return x * torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))

    converted = sp.to_skipinit(network(Block(end=Gate())))
    x = converted[0](images())
    assert torch.equal(converted[1](x.clone()), x)
    assert isinstance(converted[1].end[1], Scale)
    with pytest.raises(ValueError, match="no chain"):
        sp.to_fixup(network(Block(end=Gate())))


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (5, 3, 7, 6)])
def test_a_bias_stands_on_the_channels(shape):
    bias, x = Bias(3), torch.randn(shape)
    bias.reset_parameters()
    assert torch.equal(bias(x), x)
    nn.init.normal_(bias.bias)
    torch.testing.assert_close(bias(x), F.batch_norm(x, torch.zeros(3), torch.ones(3), None, bias.bias, eps=0.0))
    if len(shape) == 4:
        assert bias(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("convert", "biases"), [(sp.to_skipinit, 0), (sp.to_fixup, 2 + 2 + 1)])
def test_a_normalization_whose_bias_does_not_learn_gets_none(convert, biases):
    model = network(Block(), Block(norm=functools.partial(nn.BatchNorm2d, affine=False)))
    for norm in (model[1].norm1, model[1].norm2):
        norm.requires_grad_(False)
    converted = convert(model)
    assert (converted.conversion.normalizations, converted.conversion.biases) == (4, biases)
    assert not any("norm" in name for name, _ in converted.named_parameters())


def test_fixup_sets_every_head_to_0():
    heads = nn.ModuleDict({"a": nn.Linear(4, 10), "b": nn.Linear(4, 7)})
    body = nn.Sequential(Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.ReLU())
    model = Function(lambda m, x: tuple(head(m.body(x)) for head in m.heads.values()), body=body, heads=heads)
    converted = sp.to_fixup(model)
    assert [converted.heads[name][1].weight.any().item() for name in "ab"] == [False, False]
    assert converted.body[3].weight.any()


def test_hooks_that_went_are_reported():
    model = network(Block())
    for name in ("norm1", "conv1", "end"):
        model[1].get_submodule(name).register_forward_hook(lambda *_: None)
    report = sp.to_skipinit(model).conversion
    assert report.unhooked == ("1.norm1", "1.end")
    assert "hooks removed with their modules: 1.norm1, 1.end" in str(report)


class Function(nn.Module):
    """A network whose forward is given, behind one convolution."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.conv, self.run = nn.Conv2d(3, 4, 1), forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.run(self, self.conv(x))


class Reads(Block):
    """A block with a forward that reads from a normalization."""

    def forward(self, x):
        return super().forward(x) * (1 + self.norm1.eps)


def conv():
    return nn.Conv2d(4, 4, 1)


REFUSED = {
    "no addition": (lambda: models.vgg11_bn(num_classes=10), "VGG has no residual addition"),
    "a Transformer": (lambda: models.vit_b_16(num_classes=10), "ln_1 is a LayerNorm: only batch and group"),
    "layer normalization": (lambda: network(Block(norm=lambda _: nn.InstanceNorm2d(4))), "is a InstanceNorm2d"),
    "of the inputs": (lambda: network(Block(), before=[nn.BatchNorm2d(3)]), "standardize the data"),
    "converted": (lambda: sp.to_skipinit(network(Block())), "converted already"),
    "our own": (lambda: sp.WideResNet(10), "build it with recipe='skipinit'"),
    "no layer": (lambda: nn.Sequential(nn.ReLU()), "no convolution and no nn.Linear"),
    "normalized weights": (lambda: network(Block(end=nn.utils.spectral_norm(conv()))), "may normalize its weights"),
    "no module": (lambda: "resnet18", "torch.nn.Module"),
    "frozen": (lambda: network(Block()).requires_grad_(False), "unfreeze it"),
    "a function at the end": (lambda: Function(lambda m, x: x + 2 * m.a(x), a=conv()), "let it end in an nn.Identity"),
    "a branch with other uses": (
        lambda: Function(lambda m, x: (y := m.b(m.a(x))) + x + m.c(y), a=conv(), b=conv(), c=conv()), "has other uses"
    ),
    "two branches": (lambda: Function(lambda m, x: m.a(x) + m.b(x), a=conv(), b=conv()), "neither is a skip path"),
    "a forward that reads from a normalization": (
        lambda: network(Reads()), "Sequential does not run without its normalizations: .* has no attribute 'eps'"
    ),
    "a function that normalizes": (
        lambda: Function(lambda m, x: x + m.a(F.group_norm(x, 2)), a=conv()), "calls group_norm itself"
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", REFUSED)
@pytest.mark.parametrize("convert", [sp.to_skipinit, sp.to_fixup])
def test_what_cannot_be_converted_safely_is_refused_with_a_reason(which, convert):
    make, reason = REFUSED[which]
    with pytest.raises(ValueError, match=reason):
        convert(make())


def test_fixup_refuses_short_branches_and_networks_without_classifier():
    with pytest.raises(ValueError, match="no chain of two layers or more"):
        sp.to_fixup(Function(lambda m, x: x + m.a(x), a=conv()))
    with pytest.raises(ValueError, match="no classifier"):
        sp.to_fixup(nn.Sequential(nn.Conv2d(3, 4, 3), Block(), nn.ReLU()))


@pytest.mark.parametrize("alpha", [-0.5, math.nan, math.inf, "1/sqrt(n)", None, True])
def test_a_bad_alpha_is_refused_with_the_good_ones(alpha):
    with pytest.raises(ValueError, match=r"alpha \(a number, or '1/sqrt\(d\)'\).*must be a finite number"):
        sp.to_skipinit(network(Block()), alpha)
