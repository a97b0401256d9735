import dataclasses
import math
import random

import pytest

import shallowpaths as sp
from made_records import record, validated, with_curve
from shallowpaths.experiments.records import (
    STABLE_ERROR,
    best_rate,
    by_setting,
    fewest_steps,
    final_train_loss,
    group_by,
    rate_reaching,
    select,
    step_costs,
    steps_to_loss,
    summarise,
    validation_error,
)
from shallowpaths.training.epochs import Timetable


def test_summary_of_three_runs_by_hand():
    point = summarise(
        [record(seed=s, loss=x, accuracy=a) for s, (x, a) in enumerate([(1.0, 0.5), (2.0, 0.6), (3.0, 0.7)])]
    )
    assert (point.accuracy, point.train_loss, point.finished, point.diverged) == (pytest.approx(0.6), 2.0, 3, 0)
    assert point.accuracy_std == pytest.approx(0.1)
    assert summarise([record(), record(loss=math.inf, seed=1)]).train_loss == math.inf
    with pytest.raises(ValueError, match="no record"):
        summarise([])


def test_best_five_of_seven_by_hand():
    accuracies = [0.5, 0.9, 0.7, 0.8, 0.6, 0.1, 1.0]
    runs = [record(seed=s, accuracy=a) for s, a in enumerate(accuracies)]
    point = summarise([*runs, record(seed=7, loss=math.inf)], best=5)
    assert point.accuracy == pytest.approx(0.8)  # of 1.0, 0.9, 0.8, 0.7, 0.6
    assert point.accuracy_std == pytest.approx(math.sqrt(0.1 / 4))
    assert (point.finished, point.diverged) == (7, 1)
    assert summarise(runs[:2], best=5).accuracy == pytest.approx(0.7)
    assert summarise(runs, best=1).accuracy_std is None
    with pytest.raises(ValueError, match="best 0"):
        summarise(runs, best=0)


def test_rates_are_chosen_on_the_validation_split():
    def run(rate, train_loss, validation_accuracy):
        made = record(rate, loss=train_loss, validation=0.1)
        made.curve[-1]["validation_accuracy"] = validation_accuracy
        return made

    runs = [run(0.01, 1.0, 0.5), run(0.02, 2.0, 0.9), run(0.04, 3.0, 0.8), record(0.08, loss=math.inf, validation=0.1)]
    best = best_rate(runs, validation_error)
    assert (best.effective_rate, best.loss, best.largest_stable) == pytest.approx((0.2, 0.1, 0.4))
    with pytest.raises(ValueError, match="no validation split"):
        best_rate([record()], validation_error)


def test_a_single_seeds_validation_error_is_as_good_within_its_binomial_error():
    """5000 images held out, error 0.4: sqrt(0.4 x 0.6 / 5000) = 0.00693."""
    accuracies = {0.125: 0.592, 0.25: 0.5935, 0.5: 0.6, 1.0: 0.5932, 2.0: 0.593, 4.0: 0.15, 8.0: None}
    runs = [validated(rate, accuracy) for rate, accuracy in accuracies.items()]
    best = best_rate(runs, validation_error, STABLE_ERROR)
    assert (best.effective_rate, best.loss) == pytest.approx((0.5, 0.4))
    assert best.as_good == pytest.approx((0.25, 1.0))
    assert (best.largest_stable, best.on_edge) == (pytest.approx(2.0), None)
    assert best_rate(runs, validation_error).largest_stable == pytest.approx(4.0), "finite is stable, if not told otherwise"
    seeds = [validated(0.5, a, seed=s) for s, a in ((1, 0.598), (2, 0.602))]  # standard error 0.00115
    assert best_rate([*runs, *seeds], validation_error, STABLE_ERROR).as_good == pytest.approx((0.5, 0.5))
    fewer = [validated(rate, a, images=450) for rate, a in accuracies.items()]  # 50 held out
    assert best_rate(fewer, validation_error, STABLE_ERROR).as_good == pytest.approx((0.125, 2.0))
    losses = [validated(0.5, 0.5, loss=0.4), validated(1.0, 0.5, loss=0.401)]
    assert best_rate(losses).as_good == pytest.approx((0.5, 0.5)), "a training loss has no binomial error"


@pytest.mark.parametrize(("accuracies", "edge"), [((0.6, 0.5), "low"), ((0.5, 0.6), "high"), ((0.5, 0.6, None), None)])
def test_edges_are_told_for_accuracies_too(accuracies, edge):
    best = best_rate([validated(2.0**k, a) for k, a in enumerate(accuracies)], validation_error, STABLE_ERROR)
    assert best.on_edge == edge


def test_where_every_rate_only_guesses_none_is_best():
    guesses = [validated(2.0**k, 0.1 + 0.01 * k) for k in range(3)]
    assert best_rate(guesses, validation_error, STABLE_ERROR).effective_rate is None


def test_the_margin_below_guessing_is_far_beyond_chance():
    assert pytest.approx(0.9 * 0.9) == STABLE_ERROR
    assert (0.9 - STABLE_ERROR) / math.sqrt(0.9 * 0.1 / 5000) > 20


@pytest.mark.parametrize("criterion", [final_train_loss, validation_error])
def test_choosing_a_rate_reads_no_test_number(criterion):
    runs = [r for r in sp.shipped_records("cpu-depth") if r.config.validation]
    groups = by_setting([*runs, *(validated(2.0**k, 0.6 - 0.1 * abs(k)) for k in range(-2, 3))])
    assert max(len(group) for group in groups) > 4
    draw = random.Random(0)
    for group in groups:
        other = [dataclasses.replace(r, test_accuracy=draw.random(), test_loss=draw.random()) for r in group if r.test_accuracy]
        other += [r for r in group if r.test_accuracy is None]
        assert best_rate(other, criterion) == best_rate(group, criterion)


def test_settings_are_all_but_rate_and_seed():
    runs = [record(), record(0.1), record(seed=1), record(batch_size=32), record(0.1, batch_size=32)]
    assert by_setting(runs) == [runs[:3], runs[3:]]


def test_selection_by_settings():
    runs = [record(rate, seed, recipe=r) for rate in (0.03, 0.1) for seed in (0, 1) for r in ("batchnorm", "skipinit")]
    assert select(runs, recipe="skipinit", seed=0, learning_rate=0.1) == [runs[5]]
    assert select(runs, recipe=("skipinit", "batchnorm"), seed=[1]) == [runs[2], runs[3], runs[6], runs[7]]
    assert select(runs, recipe={"skipinit", "batchnorm"}, seed=range(1, 3)) == select(runs, recipe=("skipinit", "batchnorm"), seed=[1, 2])
    assert select(runs, effective_learning_rate=None) == []
    assert runs[0].config.effective_learning_rate != 0.3, "equal to rounding only"
    assert select(runs, effective_learning_rate=0.3) == runs[:4]
    assert select(runs, ghost_batch=None) == runs
    assert select(runs, ghost_batch=(64, 128), steps=3) == []
    with pytest.raises(ValueError, match=r"setting .rate. is unknown: choose from recipe, .*effective_learning_rate"):
        select(runs, rate=0.1)


def test_groups_keep_their_order():
    groups = group_by([record(seed=1), record(seed=0), record(seed=1, rate=0.1)], "seed")
    assert [(key, len(runs)) for key, runs in groups.items()] == [((1,), 2), ((0,), 1)]


def test_best_rate_by_hand():
    losses = {0.01: (3.0, 3.2), 0.02: (1.0, 1.4), 0.04: (1.1, 1.35), 0.08: (1.3, math.inf), 0.16: (math.inf, math.inf)}
    best = best_rate([record(rate, seed, loss) for rate, pair in losses.items() for seed, loss in enumerate(pair)])
    assert best.effective_rate == pytest.approx(0.2)
    assert best.loss == pytest.approx(1.2)
    assert best.as_good == pytest.approx((0.2, 0.4))  # 1.225 lies within 1.2 + one standard error, 0.2
    assert best.largest_stable == pytest.approx(0.4)
    assert best.on_edge is None


def test_a_single_rate_is_all_of_the_grid():
    best = best_rate([record(0.01)])
    assert best.on_edge == "only"


@pytest.mark.parametrize(
    ("losses", "edge"), [((1.0, 2.0, 3.0), "low"), ((3.0, 2.0, 1.0), "high"), ((2.0, 1.0, 3.0), None)]
)
def test_an_optimum_on_the_grids_edge_is_reported(losses, edge):
    best = best_rate([record(0.01 * 2**i, loss=x) for i, x in enumerate(losses)])
    assert best.on_edge == edge


def test_a_run_no_better_than_guessing_is_not_stable():
    best = best_rate([record(0.01, loss=1.0), record(0.02, loss=5.0)], stable_below=2.3)
    assert best.largest_stable == pytest.approx(0.1)


def test_no_rate_trained():
    best = best_rate([record(loss=math.inf)])
    assert (best.effective_rate, best.largest_stable, best.as_good) == (None, None, None)


def test_rates_of_different_settings_are_not_compared():
    with pytest.raises(ValueError, match="differ in more"):
        best_rate([record(), record(batch_size=32)])


def test_slow_rates_are_not_unstable_and_the_optimum_lies_between_rates():
    losses = (3.0, 1.2, 1.0, 1.2, math.inf, 1.0)
    best = best_rate([record(0.01 * 2**i, loss=x) for i, x in enumerate(losses)], stable_below=2.3)
    assert best.largest_stable == pytest.approx(0.8)
    assert best.between_rates == pytest.approx(best.effective_rate)  # equal neighbours
    lopsided = best_rate([record(0.01 * 2**i, loss=math.exp((i - 1.25) ** 2)) for i in range(4)])
    assert lopsided.between_rates == pytest.approx(0.1 * 2**1.25)  # the vertex of an exact parabola


@pytest.mark.parametrize("rates", [(0.1, 0.4, 0.8), (0.1, 0.2, 0.8), (0.2, 0.4, 0.8)])
def test_between_rates_of_different_distances_it_is_the_parabolas_vertex(rates):
    vertex = math.log(0.33)
    runs = [validated(rate, 0.5, loss=math.exp((math.log(rate) - vertex) ** 2)) for rate in rates]
    assert best_rate(runs).between_rates == pytest.approx(0.33)


def test_rate_reaching_interpolates_in_logarithms():
    runs = [record(0.01 * 2**i, loss=4.0 * 0.25**i) for i in range(3)]
    assert rate_reaching(runs, 2.0) == pytest.approx(0.1 * 2**0.5)
    with pytest.raises(ValueError, match="no rate between"):
        rate_reaching(runs, 0.01)


def test_records_may_come_from_a_generator_and_must_be_there():
    runs = [record(0.01 * 2**i, loss=4.0 * 0.25**i) for i in range(3)]
    assert best_rate(r for r in runs) == best_rate(runs)
    assert rate_reaching((r for r in runs), 2.0) == rate_reaching(runs, 2.0)
    for choose in (best_rate, lambda none: rate_reaching(none, 1.0)):
        with pytest.raises(ValueError, match="no record"):
            choose([])
        with pytest.raises(ValueError, match="no record"):
            choose(r for r in ())


@pytest.mark.parametrize("loss", [0, -1.0, math.nan, math.inf])
def test_a_loss_without_a_logarithm_is_refused(loss):
    with pytest.raises(ValueError, match="above 0"):
        rate_reaching([record(0.01, loss=2.0), record(0.02, loss=1.0)], loss)


def test_a_rate_whose_loss_is_zero_reaches_any_loss():
    assert 0.1 < rate_reaching([record(0.01, loss=2.0), record(0.02, loss=0.0)], 1.0) < 0.2


def test_steps_to_a_loss_by_hand():
    """Ten steps an epoch: the means stand at steps 5, 15 and 25."""
    run = with_curve([2.0, 1.0, 0.8])
    assert steps_to_loss(run, 1.5) == pytest.approx(10)
    assert steps_to_loss(run, 1.0) == pytest.approx(15)
    assert steps_to_loss(run, 0.9) == pytest.approx(20)
    assert steps_to_loss(run, 0.7) == math.inf
    assert steps_to_loss(with_curve([2.0, 1.0, 1.4, 0.5]), 1.2) == pytest.approx(13), "the first time counts"
    assert steps_to_loss(record(loss=math.inf), 1.0) == math.inf
    with pytest.raises(ValueError, match=r"loss 2 is reached within the first epoch, whose mean is 2: choose a smaller"):
        steps_to_loss(run, 2.0)
    with pytest.raises(ValueError, match="loss 0 must be"):
        steps_to_loss(run, 0)


@pytest.mark.parametrize("budget", [{"epochs": 3}, {"epochs": None, "steps": 13}])
def test_a_point_of_the_curve_stands_in_the_middle_of_its_epochs_steps(budget):
    """Five steps an epoch and a bit; the last epoch of a budget of steps is shorter."""
    run = with_curve([3.0, 2.0, 1.0], batch_size=30, images=167, **budget)
    times = Timetable(run.config, 167)
    for epoch in (1, 2):
        middle = (times.steps_before(epoch) + times.steps_before(epoch + 1)) / 2
        assert steps_to_loss(run, 3.0 - epoch) == pytest.approx(middle)


def test_the_fewest_steps_over_rates():
    runs = [with_curve([2.0, x, x / 2], rate=rate, seed=s) for rate, x in ((0.1, 1.8), (0.2, 1.0), (0.4, 1.2)) for s in (0, 1)]
    fewest = fewest_steps([*runs, record(0.8, loss=math.inf, batch_size=16, epochs=3)], 1.5)
    assert (fewest.effective_rate, fewest.loss, fewest.largest_stable) == pytest.approx((2.0, 10.0, 4.0))
    assert fewest.on_edge is None
    assert fewest_steps(runs, 0.1).effective_rate is None


def test_step_costs_are_found_again():
    """Twenty steps each, at 0.002 seconds an image and 0.05 seconds a step."""
    runs = [with_curve([2.0, 1.0], size, 10 * size, seconds=20 * (0.002 * size + 0.05)) for size in (16, 64, 256)]
    assert step_costs(runs) == pytest.approx((0.002, 0.05))
    superlinear = [with_curve([2.0, 1.0], size, 10 * size, seconds=20 * size**1.5) for size in (16, 64)]
    assert step_costs(superlinear) == pytest.approx(((1 / 4 + 1 / 8) / (1 / 16 + 1 / 64), 0.0)), "a step costs nothing besides"
    with pytest.raises(ValueError, match="at least two batch sizes"):
        step_costs([*runs[:1], record(loss=math.inf, batch_size=64)])
    with pytest.raises(ValueError, match="differ in recipe, batchnorm, skipinit"):
        step_costs([record(batch_size=16, recipe=name) for name in ("batchnorm", "skipinit")])
    with pytest.raises(ValueError, match="above 0"):
        step_costs([with_curve([2.0, 1.0], size, 10 * size, seconds=0.0) for size in (16, 64)])
