import math

import pytest

from made_records import record
from shallowpaths.experiments.records import best_rate, by_setting, group_by, rate_reaching, summarise, validation_error


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


def test_settings_are_all_but_rate_and_seed():
    runs = [record(), record(0.1), record(seed=1), record(batch_size=32), record(0.1, batch_size=32)]
    assert by_setting(runs) == [runs[:3], runs[3:]]


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
    assert "the rate 0.1 is all of the grid: try smaller and larger rates too" in best.warning


@pytest.mark.parametrize(
    ("losses", "edge"), [((1.0, 2.0, 3.0), "low"), ((3.0, 2.0, 1.0), "high"), ((2.0, 1.0, 3.0), None)]
)
def test_an_optimum_on_the_grids_edge_is_reported(losses, edge):
    best = best_rate([record(0.01 * 2**i, loss=x) for i, x in enumerate(losses)])
    assert best.on_edge == edge
    beyond = {"low": "0.1, is the grid's low edge: try smaller", "high": "0.4, is the grid's high edge: try larger"}
    assert best.warning is None if edge is None else beyond[edge] in best.warning


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
    assert rate_reaching([record(0.01, loss=2.0), record(0.02, loss=0.0)], 1.0) == pytest.approx(0.2)
