"""Theory against hand calculation, brute force, the paper's numbers, and float64 simulations."""

import inspect
import itertools
import math
from dataclasses import dataclass, fields

import numpy as np
import pytest

from shallowpaths import theory

HALF = 1 / math.sqrt(2)
BATCHNORM = {"normalization": "branch"}
ON_SKIP = {"normalization": "branch and skip"}
SEEDS = range(5)


@dataclass
class Simulation:
    """What numpy measured: moments by block, tangent spectrum, gradients at each block's input."""

    skip_second_moment: np.ndarray
    skip_variance: np.ndarray
    branch_second_moment: np.ndarray
    branch_variance: np.ndarray
    path_lengths: np.ndarray
    gradients: list[np.ndarray]
    inputs: list[np.ndarray]


def layer(rng, x, lanes, width, activation, normalized):
    """(BN ->) activation -> He weights on x [B, w] and on tangents [K, B, w]; and the way back."""
    scale = x.std(axis=0) if normalized else np.ones(width)
    x = (x - x.mean(axis=0)) / scale if normalized else x
    gate = x > 0 if activation == "relu" else np.ones_like(x)
    weights = rng.standard_normal((width, width)) * math.sqrt((2 if activation == "relu" else 1) / width)
    return (x * gate) @ weights, (lanes / scale * gate) @ weights, lambda g: (g @ weights.T) * gate / scale


def moments(x):
    """Second moment, and variance over the inputs averaged over channels."""
    return (x**2).mean(), x.var(axis=0, ddof=1).mean()


def gradients_by_block(gradient, backward, alpha, output_scale, skip_path):
    """The gradient at the input of each block, first block first, from that at the last output."""
    gradients = []
    for steps, deviation in reversed(backward):
        gradient = gradient / deviation * output_scale
        through = alpha * gradient
        for step in reversed(steps):
            through = step(through)
        gradient = gradient * skip_path + through
        gradients.insert(0, gradient)
    return gradients


def simulate(
    seed, blocks, width=256, batch=128, layers=2, activation="linear", normalization="none", alpha=1.0,
    output_scale=1.0, longest=0, pair=None, skip_path=True,
):  # fmt: skip
    """A network in numpy, tangents split by path length up to ``longest``, backward with BN frozen."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, width))
    if pair is not None:
        x[1::2] = pair * x[::2] + math.sqrt(1 - pair**2) * x[1::2]
    lanes = np.zeros((longest + 1, batch, width))
    lanes[0] = rng.standard_normal((batch, width))
    rows, backward, inputs = [], [], []
    for _ in range(blocks):
        inputs.append(x)
        branch, taken, steps = x, lanes, []
        for _ in range(layers):
            branch, taken, step = layer(rng, branch, taken, width, activation, normalization.startswith("branch"))
            steps.append(step)
        skip, branch, taken = x * skip_path, alpha * branch, alpha * taken
        rows.append([*moments(skip), *moments(branch)])
        x, lanes = (skip + branch) * output_scale, lanes * skip_path * output_scale
        lanes[1:] += taken[:-1] * output_scale
        deviation = np.ones(width)
        if normalization == "branch and skip":
            deviation = x.std(axis=0)
            x, lanes = (x - x.mean(axis=0)) / deviation, lanes / deviation
        backward.append((steps, deviation))
    gradient = rng.standard_normal((batch, width))
    if pair is not None:
        gradient[1::2] = gradient[::2]
    gradients = gradients_by_block(gradient, backward, alpha, output_scale, skip_path)
    squares = (lanes**2).mean(axis=(1, 2))
    q, v, branch_q, branch_v = np.array(rows).T
    return Simulation(q, v, branch_q, branch_v, squares / squares.sum(), gradients, inputs)


def log_mean(simulations, name):
    return np.exp(np.mean([np.log(getattr(simulation, name)) for simulation in simulations], axis=0))


# By hand, and the closed forms


def test_unnormalized_linear_doubles_at_each_block_by_hand():
    signal = theory.signal(3)
    assert signal.skip_variance == pytest.approx([1, 2, 4])
    assert signal.branch_variance == pytest.approx([1, 2, 4])
    assert signal.output_variance == pytest.approx([2, 4, 8])
    assert signal.branch_share == pytest.approx([0.5] * 3)
    assert signal.gradient_second_moment == pytest.approx([8, 4, 2])
    assert theory.scaled_skip_second_moment(3) == pytest.approx([1, 2, 4])


def test_batchnorm_linear_by_hand():
    signal = theory.signal(4, **BATCHNORM)
    assert signal.skip_variance == pytest.approx([1, 2, 3, 4])
    assert signal.branch_variance == pytest.approx([1] * 4)
    assert signal.branch_share == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert signal.downscaling == pytest.approx(np.sqrt([1, 2, 3, 4]))
    assert signal.gradient_second_moment == pytest.approx([5, 5 / 2, 5 / 3, 5 / 4])  # product of 1 + 1/l


@pytest.mark.parametrize("activation", theory.ACTIVATIONS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_batchnorm_recursion_equals_its_closed_forms(activation, layers):
    signal = theory.signal(1000, **BATCHNORM, activation=activation, layers_per_block=layers)
    near = {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(signal.skip_second_moment, theory.batchnorm_skip_second_moment(1000), **near)
    np.testing.assert_allclose(signal.branch_second_moment_share, theory.batchnorm_branch_share(1000), **near)
    np.testing.assert_allclose(signal.input_variance, theory.batchnorm_moving_variance(1000, activation), **near)
    np.testing.assert_allclose(signal.input_squared_mean, theory.batchnorm_squared_mean(1000, activation), **near)
    probability = theory.batchnorm_path_probability(1000, activation, layers)
    np.testing.assert_allclose(signal.path_probability, probability, **near)


@pytest.mark.parametrize("activation", theory.ACTIVATIONS)
@pytest.mark.parametrize("alpha", [1.0, -0.3, 0.1, 0.0])
def test_skipinit_grows_by_one_plus_alpha_squared(alpha, activation):
    signal = theory.signal(100, alpha=alpha, activation=activation)
    growth = 1 + alpha**2
    np.testing.assert_allclose(signal.skip_second_moment, theory.scaled_skip_second_moment(100, alpha), rtol=1e-11)
    np.testing.assert_allclose(signal.branch_second_moment_share, alpha**2 / growth, rtol=1e-11)
    np.testing.assert_allclose(signal.path_probability, alpha**2 / growth, rtol=1e-11)
    np.testing.assert_allclose(signal.gradient_second_moment, growth ** np.arange(100, 0, -1.0), rtol=1e-11)


def test_one_over_sqrt_d_stays_below_e():
    signal = theory.signal(1000, alpha=1000**-0.5)
    assert 2.71 < signal.output_second_moment[-1] < math.e
    assert signal.branch_share == pytest.approx(np.full(1000, 1 / 1001))


@pytest.mark.parametrize("mechanism", [{"alpha": 0.0}, {"alpha": 0.0, **BATCHNORM}])
def test_identity_chains_change_nothing(mechanism):
    signal = theory.signal(50, activation="relu", pair_correlation=0.9, **mechanism)
    for name in ("skip_variance", "output_second_moment", "gradient_second_moment", "gradient_correlation"):
        assert (getattr(signal, name) == 1).all(), name
    for name in ("branch_variance", "branch_share", "path_probability"):
        assert (getattr(signal, name) == 0).all(), name
    assert (signal.pair_correlation == 0.9).all()


def test_batchnorm_on_skip_gives_equal_parts_everywhere():
    signal = theory.signal(30, **ON_SKIP)
    for name in ("skip_variance", "branch_variance", "output_variance", "gradient_second_moment"):
        assert getattr(signal, name) == pytest.approx(np.ones(30)), name
    assert signal.branch_share == pytest.approx(np.full(30, 0.5))
    assert theory.signal(30, **ON_SKIP, activation="relu").branch_second_moment_share == pytest.approx(np.full(30, 0.5))


def test_batchnorm_at_the_end_changes_nothing_before_it():
    plain, end = theory.signal(9, activation="relu"), theory.signal(9, activation="relu", normalization="end")
    for field in fields(plain)[3:]:
        np.testing.assert_array_equal(getattr(plain, field.name), getattr(end, field.name), err_msg=field.name)


@pytest.mark.parametrize("layers", [1, 2])
def test_without_skip_path_batchnorm_gradients_explode(layers):
    signal = theory.signal(10, **BATCHNORM, skip_path=False, activation="relu", layers_per_block=layers)
    assert (signal.path_probability == 1).all()
    growth = (math.pi / (math.pi - 1)) ** layers  # 1.47 a layer, as Yang et al. 2019 have it
    assert signal.gradient_second_moment[1:-1] / signal.gradient_second_moment[2:] == pytest.approx(np.full(8, growth))


def test_projections_reset_the_skip_path_of_batchnorm_and_only_it():
    signal = theory.signal(6, **BATCHNORM, projections={4})
    assert signal.skip_second_moment == pytest.approx([1, 2, 3, 1, 2, 3])
    assert signal.input_second_moment == pytest.approx([1, 2, 3, 4, 2, 3])
    assert signal.path_probability[3] == pytest.approx(0.5)
    plain = theory.signal(6, activation="relu", projections={4})
    assert plain.skip_second_moment == pytest.approx([1, 2, 4, 8, 16, 32])
    assert plain.skip_correlation[3] == pytest.approx(float(theory.relu_correlation(1 - plain.input_variance[3] / 8)))


def test_moments_split_and_shares_survive_overflow():
    signal = theory.signal(2000, activation="relu")
    assert np.isinf(signal.output_second_moment[-1])
    assert signal.branch_second_moment_share == pytest.approx(np.full(2000, 0.5))
    assert np.isfinite(signal.branch_share).all()
    short = theory.signal(50, activation="relu", alpha=0.7, correlation=0.2)
    for place in ("input", "skip", "branch", "output"):
        parts = getattr(short, f"{place}_variance") + getattr(short, f"{place}_squared_mean")
        np.testing.assert_allclose(parts, getattr(short, f"{place}_second_moment"), rtol=1e-12)


def test_fixup_rescaling_alone_is_skipinit_at_one_over_sqrt_d():
    for blocks, layers in ((100, 2), (48, 3)):
        assert theory.fixup_layer_scale(blocks, layers) ** (layers - 1) == pytest.approx(blocks**-0.5)


def test_relu_kernels_against_numerical_integration():
    nodes, weights = np.polynomial.hermite_e.hermegauss(300)
    weights = weights / weights.sum()
    for c in (-0.5, 0.0, 0.3, 0.9):
        x, y = nodes[:, None], c * nodes[:, None] + math.sqrt(1 - c**2) * nodes[None, :]
        average = lambda values: weights @ values @ weights  # noqa: E731
        expected = average(2 * np.maximum(x, 0) * np.maximum(y, 0))
        assert float(theory.relu_correlation(c)) == pytest.approx(expected, abs=2e-3)
        assert float(theory.odd_covariance(c)) == pytest.approx(average(x * abs(x) * y * abs(y)), abs=2e-3)
    grid, step = np.linspace(-0.9, 0.9, 19), 1e-6
    slope = (theory.relu_correlation(grid + step) - theory.relu_correlation(grid - step)) / (2 * step)
    np.testing.assert_allclose(slope, theory.relu_gate_correlation(grid), atol=1e-8)
    assert theory.relu_correlation([0.0, 1.0]) == pytest.approx([theory.RELU_MEAN_SHARE, 1.0])


# Paths


def test_path_lengths_equal_brute_force_over_all_paths():
    probability = np.random.default_rng(0).uniform(size=8)
    expected = np.zeros(9)
    for path in itertools.product([0, 1], repeat=8):
        expected[sum(path)] += np.prod(np.where(path, probability, 1 - probability))
    np.testing.assert_allclose(theory.path_length_distribution(probability), expected, atol=1e-12, rtol=0)


def test_path_lengths_at_a_thousand_blocks_are_exact():
    lengths = np.arange(1001)
    shares = theory.path_length_distribution(np.full(1000, 0.5))
    binomial = [math.comb(1000, k) / 2**1000 for k in lengths]
    np.testing.assert_allclose(shares, binomial, rtol=1e-11)
    probability = theory.signal(1000, **BATCHNORM, activation="relu").path_probability
    shares = theory.path_length_distribution(probability)
    mean = theory.mean_path_length(probability)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert (shares * lengths).sum() == pytest.approx(mean, rel=1e-11)
    assert (shares * (lengths - mean) ** 2).sum() == pytest.approx(theory.path_length_variance(probability), rel=1e-11)


@pytest.mark.parametrize(
    ("blocks", "mechanism", "mean", "tolerance"),
    [
        (100, {}, 50, 1e-9),
        (100, {"output_scale": HALF, "activation": "relu"}, 50, 1e-9),
        (100, BATCHNORM, 4.2, 0.05),
        (1000, BATCHNORM, 6.5, 0.05),
        (100, {**BATCHNORM, "activation": "relu", "layers_per_block": 1}, 5.5, 0.05),
        (100, {**BATCHNORM, "activation": "relu", "layers_per_block": 2}, 7.5, 0.05),
        (100, {"alpha": 0.1, "activation": "relu"}, 1, 0.02),
        (100, {"alpha": 0.0}, 0, 0),
    ],
)
def test_mean_path_lengths_of_the_fact_sheet(blocks, mechanism, mean, tolerance):
    assert theory.mean_path_length(theory.signal(blocks, **mechanism).path_probability) == pytest.approx(
        mean, abs=tolerance
    )


def test_harmonic_mean_and_its_logarithm():
    for blocks in (1, 100, 1000):
        assert theory.harmonic_mean_path_length(blocks) == pytest.approx(theory.batchnorm_branch_share(blocks).sum())
    assert theory.harmonic_mean_path_length(1000) == pytest.approx(theory.logarithmic_mean_path_length(1000), abs=2e-3)
    assert theory.logarithmic_mean_path_length(1) == pytest.approx(-0.42, abs=0.005)


# Simulated networks


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("activation", theory.ACTIVATIONS)
@pytest.mark.parametrize("mechanism", [{}, BATCHNORM, ON_SKIP, {"alpha": 0.3}, {"output_scale": HALF}])
def test_signals_and_gradients_of_simulated_networks(mechanism, activation, layers):
    """Geometric means over seeds stay within four standard errors and a part for order 1 / width."""
    blocks, width, batch = 12, 256, 128
    kind = {"activation": activation, **mechanism}
    predicted = theory.signal(blocks, layers_per_block=layers, **kind)
    runs = [simulate(seed, blocks, width, batch, layers, **kind) for seed in SEEDS]
    corrections = theory.finite_width(predicted, width, batch)
    deviation = corrections.relative_deviation
    allowed = 4 * (deviation + 2 / width) / math.sqrt(len(SEEDS)) + 2 / batch + deviation**2
    variance = predicted.skip_variance + corrections.variance_excess * predicted.skip_second_moment
    for name, expected in [("skip_second_moment", predicted.skip_second_moment), ("skip_variance", variance),
                           ("branch_second_moment", predicted.branch_second_moment)]:  # fmt: skip
        error = np.abs(np.log(log_mean(runs, name) / expected))
        assert (error < allowed + (0.06 if name.startswith("branch") else 0)).all(), (name, error / allowed)
    measured = np.exp(np.mean([[np.log((g**2).mean()) for g in run.gradients] for run in runs], axis=0))
    steps = np.arange(blocks, 0, -1)
    error = np.abs(np.log(measured / predicted.gradient_second_moment))
    # E[1 / v] of a BN channel exceeds 1 / E[v] by the relative variance of v, a few times 1 / batch
    channel_noise = (8 if mechanism == ON_SKIP else 2) / batch
    assert (error < 0.05 + steps * (0.01 + channel_noise)).all(), error


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("mechanism", "longest"),
    [({**BATCHNORM, "activation": "relu"}, 14), (BATCHNORM, 11), ({"alpha": 0.2}, 8)],
)
def test_path_spectrum_of_simulated_networks(mechanism, longest, layers):
    blocks = 20
    predicted = theory.signal(blocks, layers_per_block=layers, **mechanism).path_probability
    shares = theory.path_length_distribution(predicted)
    runs = [simulate(seed, blocks, 160, 96, layers, longest=longest, **mechanism).path_lengths for seed in SEEDS]
    measured = np.mean(runs, axis=0)
    # a BN divides by noisy variances (E[1 / v] > 1 / E[v]), so a little more goes through each branch
    assert measured @ np.arange(longest + 1) == pytest.approx(theory.mean_path_length(predicted), rel=0.08)
    np.testing.assert_allclose(measured, shares[: longest + 1], atol=0.025)


@pytest.mark.parametrize("mechanism", [{}, BATCHNORM, {"alpha": 0.3}])
def test_gradients_of_nearby_inputs_decorrelate_as_predicted(mechanism):
    predicted = theory.signal(10, activation="relu", pair_correlation=0.9, **mechanism)
    correlations = {"gradients": [], "inputs": []}
    for seed in SEEDS:
        run = simulate(seed, 10, 256, 160, activation="relu", pair=0.9, **mechanism)
        for name, rows in correlations.items():
            pairs = [(values[::2], values[1::2]) for values in getattr(run, name)]
            rows.append([(a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum()) for a, b in pairs])
    np.testing.assert_allclose(np.mean(correlations["gradients"], axis=0), predicted.gradient_correlation, atol=0.05)
    np.testing.assert_allclose(np.mean(correlations["inputs"], axis=0), predicted.pair_correlation, atol=0.03)
    assert (np.diff(predicted.gradient_correlation) > 0).all()


def test_without_skip_path_simulated_gradients_explode():
    mechanism = {**BATCHNORM, "activation": "relu", "skip_path": False}
    predicted = theory.signal(8, layers_per_block=1, **mechanism).gradient_second_moment
    runs = [simulate(seed, 8, 256, 256, layers=1, longest=8, **mechanism) for seed in SEEDS]
    measured = np.mean([[(g**2).mean() for g in run.gradients] for run in runs], axis=0)
    np.testing.assert_allclose(np.log(measured), np.log(predicted), atol=0.15)


# Finite width


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("activation", theory.ACTIVATIONS)
@pytest.mark.parametrize("mechanism", [{}, BATCHNORM, {"alpha": 0.3}])
def test_finite_width_predicts_the_spread_over_seeds(mechanism, activation, layers):
    """A deviation from 40 seeds is itself uncertain by 11 percent; the formula is good to about 30."""
    kind = {"activation": activation, **mechanism}
    predicted = theory.finite_width(theory.signal(16, layers_per_block=layers, **kind), 48, 48)
    runs = [simulate(seed, 16, 48, 48, layers, **kind) for seed in range(40)]
    ratio = np.std([np.log(run.skip_second_moment) for run in runs], axis=0, ddof=1) / predicted.relative_deviation
    assert (ratio > 0.5).all(), ratio
    assert (ratio < 1.5).all(), ratio


def test_divide_sqrt2_makes_inputs_alike_down_to_what_the_width_leaves():
    """The fact sheet's 0.05 after 100 blocks is what width 512 leaves; wide layers go to 0.013."""
    signal = theory.signal(101, activation="relu", layers_per_block=1, output_scale=HALF)
    assert signal.skip_second_moment == pytest.approx(np.ones(101))
    assert signal.skip_variance[100] == pytest.approx(0.0129, abs=1e-4)
    excess = {width: theory.finite_width(signal, width, 256).variance_excess[100] for width in (128, 512, 2048)}
    assert signal.skip_variance[100] + excess[512] == pytest.approx(0.05, abs=0.005)
    assert excess[128] == pytest.approx(16 * excess[2048], rel=0.02)
    runs = [simulate(seed, 101, 128, 64, 1, "relu", output_scale=HALF) for seed in range(8)]
    measured = np.mean([run.skip_variance / run.skip_second_moment for run in runs], axis=0)[100]
    assert measured == pytest.approx(signal.skip_variance[100] + excess[128], rel=0.4)
    assert measured > 4 * signal.skip_variance[100]


def test_bands_shrink_with_width():
    signal = theory.signal(20, **BATCHNORM)
    wide, narrow = theory.finite_width(signal, 1024, 64), theory.finite_width(signal, 64, 64)
    assert (wide.relative_deviation < narrow.relative_deviation).all()
    low, high = narrow.band(signal.skip_second_moment, deviations=2)
    assert (low < signal.skip_second_moment).all()
    assert (high > signal.skip_second_moment).all()
    assert np.log(high / low) == pytest.approx(4 * narrow.relative_deviation)


# Limits


@pytest.mark.parametrize(
    ("precision", "kind"), [("float16", np.float16), ("float32", np.float32), ("float64", np.float64)]
)
def test_overflow_depth_is_where_doubling_overflows(precision, kind):
    predicted = theory.overflow_depth(precision)
    with np.errstate(over="ignore"):
        squares = next(n for n in itertools.count(1) if np.isinf(np.prod(np.full(n, 2, kind), dtype=kind)))
        values = next(n for n in itertools.count(1) if math.log2(float(np.finfo(kind).max)) <= n / 2)
    assert predicted == (values, squares)


def test_overflow_of_bfloat16_and_of_extremes():
    assert theory.overflow_depth("bfloat16") == theory.overflow_depth("float32") == (256, 128)
    assert theory.overflow_depth("float32", values=10**5) == (252, 124)


def test_padding_gain_is_the_exact_mean_of_he_convolutions():
    image = np.ones((4, 4))
    for _ in range(2):
        padded = np.pad(image, 1)
        image = sum(padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)) / 9
    assert theory.padding_gain(4, layers=2) == pytest.approx(image.mean())
    assert theory.padding_gain(2) == pytest.approx(4 / 9)
    grown = theory.signal(3, layer_gain=[1.0, 0.25, 0.5], layers_per_block=1)
    assert grown.output_second_moment == pytest.approx([2, 2.5, 3.75])


def test_largest_stable_rate_separates_decay_from_growth():
    for momentum, eigenvalue in itertools.product((0.0, 0.5, 0.9), (0.3, 40.0)):
        ends = []
        for factor in (0.99, 1.01):
            rate, weight, velocity = (
                factor * float(theory.largest_stable_rate(eigenvalue, momentum)),
                1.0,
                0.0,
            )
            for _ in range(3000):
                velocity = momentum * velocity + eigenvalue * weight
                weight -= rate * velocity
            ends.append(abs(weight))
        assert ends[0] < 0.1
        assert ends[1] > 10


def test_learning_rate_regimes_meet_at_the_crossover():
    rates = theory.optimal_learning_rate([64, 2.56 / 0.01, 1024], 0.01, 2.56)
    assert rates == pytest.approx([0.64, 2.56, 2.56])
    assert float(theory.effective_learning_rate(0.05)) == pytest.approx(0.5)
    assert theory.effective_learning_rate([0.1, 0.2], 0.7) == pytest.approx([1 / 3, 2 / 3])


def test_parallel_seconds_in_closed_form():
    assert theory.parallel_seconds(100, 64, 1, 0.01, 0.5) == pytest.approx(100 * (0.64 + 0.5))
    assert theory.parallel_seconds(100, 64, 16, 0.01, 0.5) == pytest.approx(100 * (0.04 + 0.5))
    assert theory.parallel_seconds(100, 64, [64, 128, 4096], 0.01, 0.5) == pytest.approx([51.0] * 3), "one image at least"
    fixed_epochs = theory.parallel_seconds(1000 / np.array([1, 10, 100]), [1, 10, 100], 1, 0.01, 0.0)
    assert fixed_epochs == pytest.approx([10.0] * 3), "on one device, without a cost per step, no batch saves time"
    assert theory.parallel_seconds(1000 / 8, 8, 8, 0.01, 0.5) == pytest.approx(theory.parallel_seconds(1000, 1, 1, 0.01, 0.5) / 8)


# Bad input


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: theory.signal(0), "blocks 0"),
        (lambda: theory.signal(2.5), "blocks 2.5"),
        (lambda: theory.signal(3, alpha=math.nan), "alpha nan"),
        (lambda: theory.signal(3, alpha=math.inf), "alpha inf"),
        (lambda: theory.signal(3, alpha="1/sqrt(d)"), "alpha '1/sqrt"),
        (lambda: theory.signal(3, normalization="layer"), "'layer'.*branch and skip"),
        (lambda: theory.signal(3, activation="tanh"), "'tanh'.*linear, relu"),
        (lambda: theory.signal(3, output_scale=0), "output_scale 0"),
        (lambda: theory.signal(3, correlation=1.0), "correlation 1.0"),
        (lambda: theory.signal(3, layers_per_block=0), "layers_per_block 0"),
        (lambda: theory.signal(3, projections=[4]), r"projections \[4\].*1 to 3"),
        (lambda: theory.signal(3, layer_gain=[1, 1]), "layer_gain has shape"),
        (lambda: theory.signal(3, alpha=0.0, skip_path=False), "alpha 0.0.*nothing passes"),
        (lambda: theory.scaled_skip_second_moment(3, math.nan), "alpha nan"),
        (lambda: theory.batchnorm_moving_variance(3, "gelu"), "'gelu'"),
        (lambda: theory.path_length_distribution([0.5, 1.2]), "path_probability"),
        (lambda: theory.path_length_distribution([]), "path_probability has shape"),
        (lambda: theory.finite_width(theory.signal(3), -4, 8), "width -4"),
        (lambda: theory.finite_width(theory.signal(3), 4, 1), "batch 1"),
        (lambda: theory.overflow_depth("int8"), "'int8'.*bfloat16"),
        (lambda: theory.largest_stable_rate(-1.0), "largest_eigenvalue -1.0"),
        (lambda: theory.effective_learning_rate(0.1, 1.0), "momentum 1.0"),
        (lambda: theory.optimal_learning_rate(0, 1.0, 1.0), "batch_size 0"),
        (lambda: theory.parallel_seconds(1, 8, 0, 1.0, 1.0), "devices 0"),
        (lambda: theory.fixup_layer_scale(10, 1), "layers_per_block 1"),
    ],
)
def test_bad_input_is_named_and_what_is_allowed_is_said(call, says):
    with pytest.raises(ValueError, match=says):
        call()


SIGNAL = theory.signal(3)
GOOD = {
    "blocks": 3, "signal": SIGNAL, "width": 8, "batch": 8, "correlation": 0.5, "path_probability": [0.5], "size": 8,
    "precision": "float16", "largest_eigenvalue": 1.0, "learning_rate": 0.1, "batch_size": 8, "rate_per_example": 0.1,
    "largest_stable": 1.0, "gradient": 0.3, "inputs": 8, "steps": 10, "devices": 2,
    "seconds_per_image": 0.1, "seconds_per_step": 0.1,
}  # fmt: skip
FUNCTIONS = [value for name in theory.__all__ if inspect.isfunction(value := getattr(theory, name))]
ARGUMENTS = [(function, name) for function in FUNCTIONS for name in inspect.signature(function).parameters]


@pytest.mark.parametrize(
    "value", ["text", None, ["a"], [[1], [1, 2]], object()], ids=["text", "none", "list", "ragged", "object"]
)
@pytest.mark.parametrize(("function", "name"), ARGUMENTS, ids=lambda part: getattr(part, "__name__", part))
def test_a_value_of_a_wrong_type_is_refused_by_name(function, name, value):
    parameters = inspect.signature(function).parameters
    if value is None and parameters[name].default is None:
        pytest.skip("None is an answer here")
    good = {p.name: GOOD[p.name] for p in parameters.values() if p.default is p.empty}
    function(**good)
    with pytest.raises((ValueError, TypeError), match=rf"^{name} "):
        function(**good | {name: value})


@pytest.mark.parametrize("name", ["alpha", "output_scale", "correlation", "pair_correlation"])
def test_a_list_is_refused_where_one_number_is_meant(name):
    with pytest.raises(ValueError, match=rf"^{name} \[0.5, 0.5\] must be a finite number"):
        theory.signal(2, **{name: [0.5, 0.5]})
