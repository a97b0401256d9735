import math

import pytest

from shallowpaths.experiments.tables import describe
from shallowpaths.training.config import RunConfig
from shallowpaths.training.record import RunRecord


def record(rate, seed=0, accuracy=0.5, validation_accuracy=None, **settings):
    config = RunConfig.at_effective_rate(rate, seed=seed, validation=0.1 if validation_accuracy else 0.0, **settings)
    if not math.isfinite(accuracy):
        return RunRecord(config, "diverged", [], diverged_step=3)
    point = {"epoch": 1, "learning_rate": rate, "train_loss": 2 * (1 - accuracy), "train_accuracy": accuracy}
    if validation_accuracy:
        point["validation_accuracy"] = validation_accuracy
    return RunRecord(config, "finished", [point], test_accuracy=accuracy, test_loss=1.0)


def cells(part):
    return [line.split() for line in part.splitlines()[2:]]


def test_points_and_choice_by_hand():
    runs = [
        record(rate, seed, accuracy)
        for rate, pair in {0.5: (0.7, 0.9), 0.25: (0.5, 0.6)}.items()
        for seed, accuracy in enumerate(pair)
    ]
    runs.append(record(1.0, accuracy=math.inf))
    points, choice = map(cells, describe(runs).split("\n\n"))
    assert points == [
        ["batchnorm", "16", "0.25", "55.00", "±", "7.07", "0.9000", "2", "0"],
        ["batchnorm", "16", "0.5", "80.00", "±", "14.14", "0.4000", "2", "0"],
        ["batchnorm", "16", "1", "-", "inf", "1", "1"],
    ]
    assert choice == [["batchnorm", "16", "0.5", "0.5", "..", "0.5", "no", "80.00", "±", "14.14", "training", "loss"]]


def test_the_validation_split_decides_where_there_is_one():
    runs = [record(0.25, accuracy=0.9, validation_accuracy=0.5), record(0.5, accuracy=0.6, validation_accuracy=0.7)]
    text = describe(runs)
    choice = cells(text.split("\n\n")[1])[0]
    assert choice[2:] == ["0.5", "0.5", "..", "0.5", "high", "60.00", "validation", "accuracy"]
    assert "warning: 1 of 1 best rates lie on their grid's edge" in text


def test_a_setting_that_differs_gets_a_column_and_one_that_does_not_gets_none():
    text = describe([record(0.25), record(0.25, ghost_batch=32), record(0.25, depth=100)])
    assert text.split()[:3] == ["recipe", "depth", "ghost_batch"]
    assert "momentum" not in text


def test_nothing_but_diverged_runs_is_a_result():
    text = describe([record(0.25, accuracy=math.inf), record(0.5, accuracy=math.inf)])
    assert "every rate diverged" in text
    assert "warning" not in text


def test_best_of_is_named_in_the_heading():
    text = describe([record(0.25, s, a) for s, a in enumerate((0.5, 0.6, 0.8))], best=2)
    assert "accuracy %, best 2" in text
    assert "70.00 ± 14.14" in text


def test_an_empty_store_is_said_to_be_empty():
    with pytest.raises(ValueError, match="no record yet"):
        describe([])


def test_records_may_come_from_a_generator():
    runs = [record(0.25), record(0.5, accuracy=0.6)]
    assert describe(r for r in runs) == describe(runs)
    with pytest.raises(ValueError, match="no record"):
        describe(r for r in ())
