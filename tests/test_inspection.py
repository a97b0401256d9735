"""Any network inspected: against our own networks' measurement, against hand-made hooks, against closed forms."""

import copy
import json
import math
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

import shallowpaths as sp
from shallowpaths import theory
from shallowpaths._torchvision import import_torchvision
from shallowpaths.cli import main
from shallowpaths.measure.inspection import judge
from shallowpaths.networks.loading import load_model


def resnet18():
    return import_torchvision("models").resnet18()


def column(found, name):
    return np.array([getattr(block, name) for block in found.blocks])


NETWORKS = {
    "wide-resnet": lambda recipe: (sp.WideResNet(16, recipe=recipe), torch.randn(8, 3, 8, 8)),
    "residual-mlp": lambda recipe: (sp.ResidualMLP(16, 32, recipe), torch.randn(32, 64)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", ["batchnorm", "unnormalized", "skipinit-1", "fixup-biases-only"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_our_own_networks_equal_their_exact_measurement(kind, recipe, training):
    network, inputs = NETWORKS[kind](recipe)
    found = sp.inspect(network, inputs, training=training, seed=3)
    exact = sp.measure.signal_statistics(network, inputs, training)
    for name in ("skip_variance", "branch_variance", "output_variance", "skip_second_moment", "branch_second_moment", "branch_share"):
        np.testing.assert_allclose(column(found, name), getattr(exact, name), rtol=1e-5)
    gradient = sp.measure.gradient_statistics(network, inputs, training=training, seed=3)
    np.testing.assert_allclose(column(found, "gradient")[:-1], gradient.relative[1:], rtol=1e-4)
    assert found.mean_path_length == pytest.approx(theory.mean_path_length(exact.branch_share), rel=1e-5)
    assert found.even_path_length == 3
    assert found.mode == ("training" if training else "evaluation")


def test_paths_and_predictions_start_anew_where_the_skip_path_has_weights():
    found = sp.inspect(*NETWORKS["wide-resnet"]("batchnorm"))
    assert [block.number for block in found.blocks] == [1, 2] * 3
    assert found.biased_path_length == pytest.approx(3 * theory.harmonic_mean_path_length(2))
    found = sp.inspect(*NETWORKS["residual-mlp"]("batchnorm-on-skip"))
    assert [block.number for block in found.blocks] == [1] * 6


class InPlace(nn.Module):
    """Tokens [N, T, 6] whose activations work in place, with one skip path around all others."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        y = F.relu_(self.first(x))
        y += x
        z = self.second(y * 1.0)
        F.relu_(y)  # the skip path, too
        z += y
        return z + x


def test_activations_in_place_and_nested_skip_paths():
    model, x = InPlace(), torch.randn(16, 5, 6)
    found = sp.inspect(model, x)
    with torch.no_grad():
        branches, skips = [F.relu(model.first(x))], [x]
        y = skips[0] + branches[0]
        branches, skips = [*branches, model.second(y)], [*skips, F.relu(y)]
        branches, skips = [*branches, skips[1] + branches[1]], [*skips, x]
    for name, values in (("skip_variance", skips), ("branch_variance", branches)):
        expected = [float(v.double().var((0, 1), correction=0).mean()) for v in values]
        np.testing.assert_allclose(column(found, name), expected, rtol=1e-5)
    p, q, r = column(found, "branch_share")
    assert found.mean_path_length == pytest.approx(r * (1 + p + q))


def test_the_channels_of_images_and_of_tokens_are_told_apart():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.tokens = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)

        def forward(self, x):
            x = x + self.image(x)
            x = x.permute(0, 2, 3, 1)
            return x + self.tokens(x)  # channels last, as in a Swin Transformer

    torch.manual_seed(0)
    images = torch.randn(4, 3, 5, 7) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + torch.arange(3.0)[:, None, None]
    model = Both()
    first, second = sp.inspect(model, images).blocks
    assert first.skip_variance == pytest.approx(float(images.var((0, 2, 3), correction=0).mean()), rel=1e-5)
    with torch.no_grad():
        x = images + model.image(images)
    assert second.skip_variance == pytest.approx(float(x.var((0, 2, 3), correction=0).mean()), rel=1e-5)


@pytest.mark.parametrize("initialized", [False, True])
@pytest.mark.parametrize("training", [True, False, None])
def test_the_model_is_left_bitwise_as_it_was(training, initialized):
    model = nn.Sequential(resnet18(), nn.Dropout(0.5))
    model[0].layer2.eval()
    model[0].fc.weight.grad = torch.ones_like(model[0].fc.weight)
    handle = model[0].layer3.register_forward_hook(lambda *_: None)
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    attributes = {name: list(vars(m)) for name, m in model.named_modules()}
    random = torch.get_rng_state()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = sp.inspect(model, images, training=training, initialized=initialized)
    assert found.mode == {True: "training", False: "evaluation", None: "mixed"}[training]
    assert found.weights == ("at initialization" if initialized else "as they are")
    assert len(found.blocks) == 2 + 2 + 2 + 2
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    assert attributes == {name: list(vars(m)) for name, m in model.named_modules()}
    assert torch.equal(model[0].fc.weight.grad, torch.ones_like(model[0].fc.weight))
    assert all(p.grad is None for name, p in model.named_parameters() if name != "0.fc.weight")
    handle.remove()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x + self.scale * self.layer(x)


def test_at_initialization_the_weights_that_the_model_has_do_not_count():
    network, inputs = NETWORKS["residual-mlp"]("unnormalized")
    expected = sp.inspect(network, inputs, initialized=True, seed=5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(7)
    again = sp.inspect(network, inputs, initialized=True, seed=5)
    assert again.blocks == expected.blocks
    assert sp.inspect(network, inputs).blocks != expected.blocks
    assert sp.inspect(Scaled(), torch.randn(8, 4), initialized=True).kept == ("scale",)


Block = namedtuple("Block", "name output_variance output_second_moment")


def verdict(variances, shares, part=1.0):
    parts = np.geomspace(1, part, len(variances))
    trunk = [Block(f"{i}", float(v), float(v / p)) for i, (v, p) in enumerate(zip(variances, parts, strict=True), start=1)]
    d = len(trunk)
    return judge(trunk, float(np.sum(shares)), theory.harmonic_mean_path_length(d), d / 2)


@pytest.mark.parametrize("blocks", [3, 6, 48])
def test_the_verdict_on_closed_forms(blocks):
    number = np.arange(1, blocks + 1)
    even = np.full(blocks, 0.5)
    assert verdict(number + 1.0, 1 / (number + 1))["verdict"] == "identity-biased"
    assert verdict(np.ones(blocks), 0 * even)["verdict"] == "identity-biased"
    assert verdict(2.0**number, even)["verdict"] == "exploding"
    assert verdict(np.ones(blocks), even)["verdict"] == "balanced"
    assert verdict(np.ones(blocks), even, part=0.05)["verdict"] == "collapsing"
    assert verdict(np.full(blocks, math.inf), even)["verdict"] == "exploding"


def test_the_block_of_the_overflow_is_theorys():
    found = verdict(2.0 ** np.arange(1, 25), np.full(24, 0.5))
    assert f"block {theory.overflow_depth('float32').values}" in found["reason"]
    network, inputs = sp.ResidualMLP(300, 8, "unnormalized", activation="linear"), torch.randn(16, 64)
    found = sp.inspect(network, inputs)
    assert found.verdict == "exploding"
    assert "second moment overflows in blocks." in found.reason
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_pre_norm_transformer_grows_and_a_post_norm_one_does_not():
    tokens = torch.randn(16, 8, 32)
    moments = {}
    for norm_first in (True, False):
        layer = nn.TransformerEncoderLayer(32, 2, 128, dropout=0.0, batch_first=True, norm_first=norm_first)
        found = sp.inspect(nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), tokens)
        assert len(found.blocks) == 12
        moments[norm_first] = column(found, "skip_second_moment")
        assert [b.number for b in found.blocks] == (list(range(1, 13)) if norm_first else [1] * 12)
    assert moments[True][-1] > 1.3 * moments[True][0]
    np.testing.assert_allclose(moments[False][1:], 1, atol=1e-3)


def test_what_is_printed_and_what_goes_to_json():
    found = sp.inspect(*NETWORKS["residual-mlp"]("skipinit"))
    text = str(found)
    assert "ResidualMLP in training mode, weights as they are: 6 residual additions" in text
    assert "blocks.5.addition" in text
    assert "Mean path length 0.00; branch shares of 1/(l+1) give 1.59, of 1/2 give 3.00." in text
    assert "identity-biased: " in text
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["blocks"][2]["predicted_share"] == pytest.approx(1 / 4)
    assert values["blocks"][0]["name"] == "blocks.0.addition"
    assert values["verdict"] == "identity-biased"


def test_evaluation_before_any_training_says_so():
    network, inputs = NETWORKS["residual-mlp"]("batchnorm")
    assert "inspect in training mode" in sp.inspect(network, inputs, training=False).remedy
    assert "inspect in training mode" not in sp.inspect(network, inputs).remedy


def test_mistakes_are_named():
    network, inputs = NETWORKS["residual-mlp"]("skipinit")
    with pytest.raises(ValueError, match="at least two examples"):
        sp.inspect(network, inputs[:1])
    with pytest.raises(ValueError, match="NaN or infinity"):
        sp.inspect(network, inputs * math.nan)
    with pytest.raises(ValueError, match="no residual addition: give a network with skip paths"):
        sp.inspect(nn.Sequential(nn.Linear(64, 3)), inputs)


FACTORY = """
import shallowpaths as sp

def small():
    return sp.WideResNet(10)

def number():
    return 3

def wide(width):
    return sp.WideResNet(10, width)
"""
WITH_SIBLING = """
from __future__ import annotations
from dataclasses import dataclass

from mine import small

@dataclass
class Config:
    depth: int = 10

def made():
    assert Config().depth == 10
    return small()
"""


def command(*arguments):
    return CliRunner().invoke(main, ["inspect", *arguments])


def test_the_command(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(FACTORY)
    options = ("--batch-size", "4", "--image-size", "8")
    values = json.loads(command(f"{file}:small", "--json", *options).stdout)
    assert [block["name"] for block in values["blocks"]] == [f"blocks.{i}.addition" for i in range(3)]
    assert values["mode"] == "training"
    shown = command(f"{file}:small", "--evaluation", *options).stdout
    assert "WideResNet in evaluation mode" in shown
    assert shown == command(f"{file}:small", "--evaluation", *options).stdout
    (tmp_path / "other.py").write_text(WITH_SIBLING)
    before = list(sys.path)
    assert "WideResNet in training mode" in command(f"{tmp_path / 'other.py'}:made", *options).stdout
    assert sys.path == before
    shown = command("torchvision:resnet18", "--batch-size", "2", "--image-size", "32").stdout
    assert "ResNet in training mode, weights as they are: 8 residual additions" in shown


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torchvision:resnet51", "torchvision has no model 'resnet51'; near it: resnet50"),
        ("resnet50", "model 'resnet50': give torchvision:NAME, timm:NAME or path/to/file.py:factory"),
        ("no_such_file.py:net", "model file no_such_file.py is not there"),
        ("FILE:smal", "has no model 'smal'; near it: small"),
        ("FILE:number", "makes a int, no torch.nn.Module"),
        ("FILE:wide", "mine.py:wide: TypeError: wide() missing 1 required positional argument: 'width'"),
        ("broken.py:net", "broken.py:net: SyntaxError: invalid syntax (broken.py, line 1)"),
    ],
)
def test_a_wrong_target_is_named(target, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(FACTORY)
    (tmp_path / "broken.py").write_text("def net(:")
    result = command(target.replace("FILE", str(file)).replace("broken.py:", f"{tmp_path / 'broken.py'}:"))
    assert result.exit_code == 2
    assert message in result.stderr


def test_timm_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"pip install 'shallowpaths\[timm\]'"):
        load_model("timm:resnetv2_50")


def test_an_unknown_model_of_timm():
    import_torchvision()
    pytest.importorskip("timm")
    with pytest.raises(ValueError, match=r"timm has no model 'resnetv2_5o'; near it: .*resnetv2_50"):
        load_model("timm:resnetv2_5o")


def test_the_figure_draws_the_shares_beside_their_prediction():
    found = sp.inspect(*NETWORKS["residual-mlp"]("batchnorm"))
    figure = sp.plots.inspection(found)
    signal, share = figure.light.axes
    assert np.array_equal(signal.get_lines()[0].get_ydata(), column(found, "skip_variance"))
    measured, predicted, half = (line.get_ydata() for line in share.get_lines())
    assert np.array_equal(measured, column(found, "branch_share"))
    np.testing.assert_allclose(predicted, theory.batchnorm_branch_share(6))
    assert list(half) == [0.5] * 6
    assert "Verdict: identity-biased." in figure.alt


def test_the_factor_of_torchs_addition_is_seen():
    class Added(torch.nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.layer, self.inside = torch.nn.Linear(16, 16), inside

        def forward(self, x):
            return torch.add(x, self.layer(x), alpha=0.1) if self.inside else x + 0.1 * self.layer(x)

    inside, outside = Added(True), Added(False)
    inside.load_state_dict(outside.state_dict())
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    (block,), (same,) = sp.inspect(inside, x).blocks, sp.inspect(outside, x).blocks
    assert block.branch_variance == pytest.approx(same.branch_variance, rel=1e-5)
    assert block.branch_share == pytest.approx(same.branch_share, rel=1e-5)
    assert block.branch_share < 0.02


@pytest.mark.parametrize("model", [torch.nn.Linear, "resnet50"])
def test_what_is_no_module_is_named(model):
    with pytest.raises(ValueError, match=r"model is (type|str): give a torch\.nn\.Module"):
        sp.inspect(model, torch.randn(4, 3))


def test_a_weight_that_is_not_finite_is_named():
    network, batch = NETWORKS["residual-mlp"]("batchnorm")
    torch.nn.init.constant_(next(network.parameters()), float("nan"))
    with pytest.raises(ValueError, match="weight has NaN or infinity in it"):
        sp.inspect(network, batch)
