"""The residual additions of torchvision's, timm's and torch's own networks, counted from each architecture's definition."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shallowpaths._torchvision import import_torchvision
from shallowpaths.networks import ResidualMLP, WideResNet
from shallowpaths.networks.tracing import Flow, trace

TORCHVISION = {  # blocks of each stage, as the papers and torchvision's builders list them
    "resnet50": 3 + 4 + 6 + 3,
    "wide_resnet50_2": 3 + 4 + 6 + 3,
    "resnext50_32x4d": 3 + 4 + 6 + 3,
    "regnet_y_400mf": 1 + 3 + 6 + 6,
    "mobilenet_v2": (1 - 1) + (2 - 1) + (3 - 1) + (4 - 1) + (3 - 1) + (3 - 1) + (1 - 1),  # a stage's first has no skip path
    "efficientnet_b0": (1 - 1) + (2 - 1) + (2 - 1) + (3 - 1) + (3 - 1) + (4 - 1) + (1 - 1),
    "convnext_tiny": 3 + 3 + 9 + 3,
    "vit_b_32": 2 * 12,  # attention and perceptron
    "swin_t": 2 * (2 + 2 + 6 + 2),
}
TIMM = {
    "resnetv2_50": 3 + 4 + 6 + 3,
    "nf_resnet50": 3 + 4 + 6 + 3,
    "dm_nfnet_f0": 1 + 2 + 6 + 3,
    "vit_tiny_patch16_224": 2 * 12,  # pre-norm
    "swinv2_cr_tiny_224": 2 * (2 + 2 + 6 + 2),  # post-norm
    "poolformer_s12": 2 * (2 + 2 + 6 + 2),
    "mobilevit_xxs": 1 + 2 + 2 * (2 + 4 + 3),  # decides by its input's shape
}


def count(make, size):
    """On tensors without data, which costs nothing."""
    device = "cpu" if make.__name__ == "regnet" else "meta"
    with torch.device(device):
        model, images = make(), torch.empty(2, 3, size, size)
        module = trace(model, images)
        assert module.meta["untraced"] == {}
        return len(Flow(module, images).additions())


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks(name):
    models = import_torchvision("models")

    def make():
        return models.get_model(name)

    make.__name__ = name.partition("_")[0]
    assert count(make, 224 if name == "vit_b_32" else 64) == TORCHVISION[name]


@pytest.mark.parametrize("name", TIMM)
def test_timms_networks(name):
    import_torchvision()
    timm = pytest.importorskip("timm")

    def make():
        return timm.create_model(name)

    assert count(make, 224) == TIMM[name]


@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_own_transformer(norm_first):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    model, tokens = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), torch.randn(2, 5, 16)
    found = Flow(trace(model, tokens), tokens).additions()
    assert [a.name for a in found] == [f"layers.{i}{second}" for i in range(3) for second in ("", ":2")]


@pytest.mark.parametrize("recipe", ["batchnorm", "skipinit", "fixup", "divide-sqrt2", "batchnorm-on-skip", "zero-gamma"])
def test_our_own_networks(recipe):
    for network, inputs in (
        (WideResNet(22, recipe=recipe), torch.empty(2, 3, 8, 8)),
        (ResidualMLP(22, 8, recipe), torch.empty(2, 64)),
    ):
        found = Flow(trace(network), inputs).additions()
        assert [a.name for a in found] == [f"blocks.{i}.addition" for i in range(9)]


class Zoo(nn.Module):
    """Every way to write an addition, residual or not, on activations of shape [N, 4, 8]."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(12))
        self.position = nn.Parameter(torch.randn(1, 4, 8))
        self.whole = nn.Parameter(torch.randn(4, 8))

    def forward(self, x, scale=None):
        a, b, c, d, e, f, g, h, i, j, k, _ = self.layers
        x = a(x) + self.position + 1.0 + x.new_ones(x.shape)  # no addition of two activations
        x = x + 0.044715 * x**3  # no weights on a branch
        x = x + self.whole.expand_as(x) if scale is None else x * scale
        x = x + b(x)
        x = torch.add(F.relu(c(x)), x)
        x = x.add(d(x))
        x = e(x).add_(x)
        y = f(x)
        y += x
        x = g(h(y)) + i(y)  # a skip path with weights
        z = j(x)
        x = x + F.gelu(z) + k(F.silu(z))  # two branches beside each other, from x
        return x + x.mean(1, keepdim=True)  # another shape


def test_every_way_to_write_an_addition():
    model, x = Zoo(), torch.randn(3, 4, 8)
    module = trace(model)
    found = Flow(module, x).additions()
    assert [a.name for a in found] == ["forward", *(f"forward:{n}" for n in range(2, 9))]
    branches = [a.branch.name for a in found]
    assert branches == ["layers_1", "relu", "layers_3", "layers_4", "layers_5", "layers_6", "gelu", "layers_10"]
    sources = [a.source.name for a in found]
    assert found[5].skip.name == "layers_8"
    assert sources[1:6] == [a.node.name for a in found[:5]]
    assert sources[6] == sources[7] == found[5].node.name == found[6].skip.name
    assert found[7].skip is found[6].node


def test_the_graph_is_the_network_in_both_modes_and_shares_its_weights():
    model = nn.Sequential(WideResNet(10, channels=3), nn.Dropout(0.5))
    images = torch.randn(4, 3, 8, 8)
    module = trace(model)
    for training in (True, False):
        twin = copy.deepcopy(model).train(training)
        torch.manual_seed(1)
        expected = twin(images)
        torch.manual_seed(1)
        assert torch.equal(module.train(training)(images), expected)
        assert torch.equal(model[0].blocks[0].preactivations[0][0].running_mean, twin[0].blocks[0].preactivations[0][0].running_mean)
    assert {id(p) for p in module.parameters()} == {id(p) for p in model.parameters()}


def test_finding_computes_nothing():
    model, images = WideResNet(10), torch.randn(4, 3, 8, 8)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    Flow(trace(model, images), images).additions()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


class DependsOnData(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.layer(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_is_named():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd, self.layer = DependsOnData(), nn.Linear(8, 8)

        def forward(self, x):
            x = self.odd(x)
            return x + self.layer(x)

    x = torch.randn(2, 8)
    module = trace(Both(), x)
    assert list(module.meta["untraced"]) == ["odd"]
    assert [a.name for a in Flow(module, x).additions()] == ["forward"]
    assert module(x).shape == x.shape
    with pytest.raises(ValueError, match=r"no residual addition outside of what could not be traced \(0\).*skip paths"):
        Flow(trace(nn.Sequential(DependsOnData())), x).additions()
    with pytest.raises(ValueError, match="DependsOnData's own forward cannot be traced"):
        trace(DependsOnData(), x)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"Sequential has no residual addition: give a network with skip paths"):
        Flow(trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU())), torch.randn(2, 8)).additions()
    with pytest.raises(ValueError, match=r"a batch of shape \(2, 7\) does not go through"):
        Flow(trace(ResidualMLP(8, 8, inputs=8)), torch.randn(2, 7)).additions()
    with pytest.raises(ValueError, match="model is int: give a torch"):
        trace(3)


def test_dominators_and_lightest_ways():
    """x -> a -> b and x -> c, joined: x is above the join; a way with no weights costs its steps alone."""

    class Join(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x):
            x = F.relu(x)
            return self.b(self.a(x)) + F.relu(self.c(x))

    module = trace(Join())
    flow = Flow(module, torch.randn(2, 8))
    node = {n.name: n for n in module.graph.nodes}
    assert flow.above[node["add"]] is node["relu"]
    assert flow.cost(node["relu"], node["b"]) == (1, 1, 2)
    assert flow.cost(node["batch"], node["relu"]) == (0, 0, 1)
    assert flow.cost(node["a"], node["c"]) is None
