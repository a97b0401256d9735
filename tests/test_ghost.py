import pytest
import torch
from torch import nn

from shallowpaths.networks.ghost import GhostBatchNorm, normalize_chunks

SHAPES = [(8, 5), (12, 3, 7), (9, 3, 4, 6), (10, 2, 3, 3), (6, 4, 2, 2, 2)]


def reference(x, norm, size):
    """A loop of torch's own batch normalization over the chunks."""
    return torch.cat([norm(chunk) for chunk in x.split(size)])


def pair(channels, size, dimensions, momentum=0.1):
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    ours, theirs = GhostBatchNorm(channels, size).double(), kinds[dimensions](channels).double()
    generator = torch.Generator().manual_seed(0)
    for norm in (ours, theirs):
        norm.momentum = momentum
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(torch.randn(channels, generator=generator))
            b.copy_(a)
    return ours, theirs


def draw(shape, seed=1):
    return 3 + 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_printed_it_says_its_ghost_batch():
    assert repr(GhostBatchNorm(4, 2)).endswith("ghost_batch=2)")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [2, 3, 4, 64])
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_equals_a_loop_of_torchs_own_over_the_chunks(shape, size, momentum):
    if len(shape) == 2 and shape[0] % size == 1:
        pytest.skip("a chunk of one: torch refuses it too")
    ours, theirs = pair(shape[1], size, len(shape), momentum)
    x, gradient = draw(shape), draw(shape, 2)
    for step in range(2):
        leaves = [(x + step).requires_grad_() for _ in range(2)]
        outputs = ours(leaves[0]), reference(leaves[1], theirs, size)
        close(*outputs)
        for output in outputs:
            output.backward(gradient)
        close(*(leaf.grad for leaf in leaves))
    for a, b in zip([*ours.parameters()], [*theirs.parameters()], strict=True):
        close(a.grad, b.grad)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        close(a, b)
    close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("layout", ["channels last", "every other column", "transposed", "expanded"])
def test_any_memory_format(layout):
    x = {
        "channels last": draw((10, 4, 6, 6)).to(memory_format=torch.channels_last),
        "every other column": draw((10, 4, 6, 12))[..., ::2],
        "transposed": draw((6, 4, 10, 6)).transpose(0, 2),
        "expanded": draw((10, 4, 6, 1)).expand(10, 4, 6, 6),
    }[layout]
    ours, theirs = pair(4, 4, 4)
    leaves = [x.detach().requires_grad_() for _ in range(2)]
    outputs = ours(leaves[0]), reference(leaves[1], theirs, 4)
    if layout == "channels last":
        assert outputs[0].is_contiguous(memory_format=torch.channels_last)
    close(*outputs)
    for output in outputs:
        (output**3).sum().backward()
    close(*(leaf.grad for leaf in leaves))
    close(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("shape", [(8, 3, 4, 4), (7, 3, 4, 4), (9, 3)])
def test_lanes_equal_separate_layers(shape):
    """vmap of a gradient over stacked weights and stacked moving averages."""
    size, lanes = 3, 4
    layers = [pair(3, size, 4)[0] for _ in range(lanes)]
    for i, layer in enumerate(layers):
        nn.init.constant_(layer.weight, 1.0 + i)
    x = draw((lanes, *shape))
    if shape == (7, 3, 4, 4):
        assert len(x[0]) % size == 1  # a ragged chunk of a single image
    parameters, buffers = torch.func.stack_module_state(layers)

    def loss(p, b, images):
        return (torch.func.functional_call(layers[0], (p, b), images) ** 3).sum()

    gradients, into = torch.vmap(torch.func.grad(loss, argnums=(0, 2)))(parameters, buffers, x)
    for i, layer in enumerate(layers):
        leaf = x[i].clone().requires_grad_()
        (layer(leaf) ** 3).sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(gradients[name][i], parameter.grad, rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(into[i], leaf.grad, rtol=1e-12, atol=1e-10)
        for name, buffer in layer.named_buffers():
            close(buffers[name][i], buffer)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_formula_of_other_devices_equals_the_loop(shape, size):
    ours, theirs = pair(shape[1], size, len(shape), momentum=1.0)
    if len(shape) == 2 and shape[0] % size == 1:
        pytest.skip("a chunk of one: torch refuses it too")
    leaves = [draw(shape).requires_grad_() for _ in range(2)]
    normalized, means, variances = normalize_chunks(leaves[0], ours.weight, ours.bias, size, ours.eps)
    expected = reference(leaves[1], theirs, size)
    close(normalized, expected)
    for output in (normalized, expected):
        output.backward(draw(shape, 2))
    close(*(leaf.grad for leaf in leaves))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(a.grad, b.grad)
    close(means[-1], theirs.running_mean)
    close(variances[-1], theirs.running_var)
    assert not means.requires_grad
    assert not variances.requires_grad


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_the_formulas_moving_averages_equal_the_loops(momentum):
    ours, theirs = pair(3, 4, 4, momentum)
    for step in range(2):
        x = draw((10, 3, 4, 4), step)
        _, means, variances = normalize_chunks(x, ours.weight, ours.bias, 4, ours.eps)
        ours._move_averages(means, variances)
        reference(x, theirs, 4)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_keeps_float32_statistics(dtype):
    ours, theirs = (norm.float() for norm in pair(3, 4, 4))
    x = draw((10, 3, 4, 4)).to(dtype)
    output = ours(x)
    assert output.dtype == dtype
    assert ours.running_mean.dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(output, reference(x, theirs, 4), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-5, atol=1e-5)


def test_compiled_it_equals_the_loop():
    ours, theirs = pair(3, 4, 4)
    x = draw((10, 3, 5, 5))
    close(torch.compile(ours, backend="aot_eager", dynamic=False)(x), reference(x, theirs, 4))
    close(ours.running_mean, theirs.running_mean)


@pytest.mark.parametrize("ghost_batch", [0, -1, 1.5, True])
def test_bad_sizes(ghost_batch):
    with pytest.raises(ValueError, match="ghost_batch"):
        GhostBatchNorm(3, ghost_batch)


def test_a_chunk_without_variance_is_refused():
    with pytest.raises(ValueError, match="cuts a batch of 9"):
        GhostBatchNorm(3, 4)(torch.randn(9, 3))
    with pytest.raises(ValueError, match="no channels"):
        GhostBatchNorm(3, 4).eval()(torch.randn(9))


def test_autocast_rounds_no_moving_average():
    x = torch.randn(50, 6, 4, 4)
    exact, cast = (GhostBatchNorm(6, 16) for _ in range(2))
    exact(x)
    with torch.autocast("cpu", torch.bfloat16):
        cast(x)
    assert torch.equal(cast.running_mean, exact.running_mean)
    assert torch.equal(cast.running_var, exact.running_var)
