"""What many runs say together: mean and spread over seeds, and the best learning rate."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from shallowpaths.theory import checks
from shallowpaths.training.config import SETTINGS
from shallowpaths.training.record import RunRecord

Criterion = Callable[[RunRecord], float]  # infinite for a failed run
STABLE_ERROR = 0.81  # a validation error below this is that of a run that learned: 90 % of that of guessing one of ten


class Point(NamedTuple):
    """What the runs of one setting, over seeds, say together."""

    accuracy: float | None  # of the test, in 0 .. 1, over the runs that finished or the best of them
    accuracy_std: float | None  # None of a single one
    train_loss: float  # the last epoch's, infinite if any run diverged
    finished: int
    diverged: int


def summarise(records: Iterable[RunRecord], best: int | None = None) -> Point:
    """A setting's Point, its accuracy of all runs, or the `best` so many (5 of 7 [protocol]). ValueError: no record."""
    if not (runs := list(records)):
        raise ValueError("there is no record to summarise")
    if best is not None and best < 1:
        raise ValueError(f"best {best} must be at least 1")
    accuracies = [r.test_accuracy for r in runs if r.test_accuracy is not None]
    taken = sorted(accuracies, reverse=True)[:best]
    mean, deviation = statistics.fmean(taken) if taken else None, statistics.stdev(taken) if len(taken) > 1 else None
    train_loss = statistics.fmean(r.train_loss for r in runs)
    return Point(mean, deviation, train_loss, len(accuracies), len(runs) - len(accuracies))


def select(records: Iterable[RunRecord], **settings: Any) -> list[RunRecord]:
    """The records whose configs have these settings, in their order; of a list, set or range of values any one.

    Numbers may differ by rounding. Raises ValueError: a setting is unknown.
    """
    found = list(records)
    for name, value in settings.items():
        checks.one_of("setting", name, SETTINGS)
        values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        found = [r for r in found if any(_alike(getattr(r.config, name), value) for value in values)]
    return found


def _alike(found: Any, asked: Any) -> bool:
    numbers = isinstance(found, float) and isinstance(asked, (int, float))
    return math.isclose(found, asked) if numbers else found == asked


def group_by(records: Iterable[RunRecord], *settings: str) -> dict[tuple, list[RunRecord]]:
    """Records by the values of some of their config's settings, in order of first appearance."""
    groups: dict[tuple, list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[tuple(getattr(record.config, s) for s in settings)].append(record)
    return dict(groups)


def by_rate(records: Iterable[RunRecord]) -> dict[float, list[RunRecord]]:
    """Records by their effective learning rate, from the smallest to the largest. Raises ValueError: there is none."""
    if not (groups := group_by(records, "effective_learning_rate")):
        raise ValueError("there is no record to choose a rate from")
    return {rate: groups[rate,] for (rate,) in sorted(groups)}


def by_setting(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Records in groups that differ in learning rate and seed only, in order of first appearance."""
    shared = [name for name in SETTINGS if name not in ("learning_rate", "effective_learning_rate", "seed")]
    return list(group_by(records, *shared).values())


class BestRate(NamedTuple):
    """The best learning rate of a grid; rates are effective ones, None if no rate trained.

    `as_good` are the smallest and the largest within one standard error of the best: of the mean over seeds, or of a
    run's validation error, sqrt(p (1 - p) / n) of n images. `between_rates` is the minimum of a parabola through the
    best rate and its neighbours, in the logarithms of rate and criterion; on an edge or beside failure, the best rate.
    """

    effective_rate: float | None
    loss: float  # the criterion's mean there
    as_good: tuple[float, float] | None = None
    largest_stable: float | None = None  # going up from the best, the last before the first that is not stable
    on_edge: str | None = None  # "low" or "high" if the best is the grid's end, "only" if it is all of the grid
    between_rates: float | None = None


def final_train_loss(record: RunRecord) -> float:
    """The training loss over the last epoch, infinite for a diverged run: the default criterion of `best_rate`."""
    return record.train_loss


def validation_error(record: RunRecord) -> float:
    """The wrong share of the validation split, infinite for a diverged run. Raises ValueError: there is no split."""
    if record.outcome == "finished" and record.validation_accuracy is None:
        raise ValueError("the run has no validation split to choose a rate on: set validation above 0")
    return math.inf if record.outcome == "diverged" else 1 - record.validation_accuracy


def best_rate(
    records: Iterable[RunRecord], criterion: Criterion = final_train_loss, stable_below: float = math.inf
) -> BestRate:
    """The rate with the smallest mean criterion; records that differ in more than rate and seed are a ValueError.

    A run is stable if its criterion is below `stable_below`, for example 90 % of what guessing has: 0.9 ln(10) of the
    training loss, STABLE_ERROR of the validation error.
    """
    runs_at = by_rate(records)
    if len(by_setting(itertools.chain(*runs_at.values()))) > 1:
        raise ValueError("the records differ in more than learning rate and seed: choose one setting first")
    rates, values_at = list(runs_at), {rate: [criterion(r) for r in runs] for rate, runs in runs_at.items()}
    stable = {rate: all(value < stable_below for value in values) for rate, values in values_at.items()}
    means = {rate: statistics.fmean(values) for rate, values in values_at.items() if stable[rate]}
    if not means:
        return BestRate(None, math.inf)
    best = min(means, key=means.__getitem__)
    margin = _standard_error(values_at[best], runs_at[best][0] if criterion is validation_error else None)
    as_good = [rate for rate, mean in means.items() if mean <= means[best] + margin]
    from_best_up = itertools.takewhile(stable.__getitem__, (rate for rate in rates if rate >= best))
    edge = "only" if len(rates) == 1 else "high" if best == rates[-1] else "low" if best == rates[0] else None
    return BestRate(best, means[best], (as_good[0], as_good[-1]), max(from_best_up), edge, _vertex(means, best, rates))


def _standard_error(values: list[float], counted: RunRecord | None) -> float:
    """Of the mean over seeds; or of a single error, from the number of images on which the run `counted` it."""
    if len(values) > 1:
        return statistics.stdev(values) / len(values) ** 0.5
    share = counted.config.validation if counted else 0.0
    held_out = counted and round(counted.train_images * share / (1 - share))
    return math.sqrt(values[0] * (1 - values[0]) / held_out) if held_out else 0.0


def _vertex(means: dict[float, float], best: float, rates: list[float]) -> float:
    """The minimum of the parabola through the best mean and its neighbours, in logarithms."""
    around = rates[max(rates.index(best) - 1, 0) : rates.index(best) + 2]
    if best in (rates[0], rates[-1]) or not all(means.get(rate) for rate in around):
        return best
    steps, heights = np.log(around) - math.log(best), np.log([means[rate] for rate in around])
    bend, slope, _ = np.polyfit(steps, heights, 2)
    return best * math.exp(-slope / (2 * bend)) if bend > 0 and np.ptp(heights) else best


def rate_reaching(records: Iterable[RunRecord], loss: float) -> float:
    """The smallest effective rate whose final training loss is `loss`, interpolated in the logarithms of both.

    Raises ValueError: the grid's smallest rate is below that loss already, or none reaches it; no record; a loss of 0.
    """
    runs_at, level = by_rate(records), math.log(checks.number("loss", loss, above=0))
    means = {rate: statistics.fmean(map(final_train_loss, runs)) for rate, runs in runs_at.items()}
    found = _first_down_to(level, [(math.log(x), math.log(max(mean, math.ulp(0)))) for x, mean in means.items()])
    if math.isinf(found):
        raise ValueError(f"no rate between {min(means):g} and {max(means):g} brings the training loss down to {loss:g}")
    return math.exp(found)


def steps_to_loss(record: RunRecord, loss: float) -> float:
    """Optimizer steps after which the training loss has come down to `loss`; infinite if it never does, or diverges.

    An epoch's mean stands for the middle of its steps; in between the loss, of augmented images, is taken as linear.
    Raises ValueError: the first epoch's mean is not above `loss`, or `loss` not above 0.
    """
    checks.number("loss", loss, above=0)
    if record.outcome == "diverged":
        return math.inf
    images, total = record.train_images, record.config.total_steps(record.train_images)
    ends = [min(epoch * images // record.config.batch_size, total) for epoch in range(len(record.curve) + 1)]
    middles = [(start + end) / 2 for start, end in itertools.pairwise(ends)]
    losses = [point["train_loss"] for point in record.curve]
    if losses[0] <= loss:
        said = f"is reached within the first epoch, whose mean is {losses[0]:.4g}: choose a smaller one"
        raise ValueError(f"loss {loss:g} {said}")
    return _first_down_to(loss, zip(middles, losses, strict=True))


def _first_down_to(level: float, curve: Iterable[tuple[float, float]]) -> float:
    """Where a curve, linear between its points, first comes down to a level; infinite where it never does."""
    for (start, above), (end, below) in itertools.pairwise(curve):
        if above >= level >= below and math.isfinite(above):
            return start if above == level else start + (end - start) * (above - level) / (above - below)
    return math.inf


def fewest_steps(records: Iterable[RunRecord], loss: float) -> BestRate:
    """`best_rate` by `steps_to_loss`: its `loss` is the steps, infinite where no rate gets there with all seeds."""
    return best_rate(records, lambda record: steps_to_loss(record, loss))


def step_costs(records: Iterable[RunRecord]) -> tuple[float, float]:
    """(a, b), where a step on a batch of B images takes a B + b seconds, evaluation after the epochs included.

    Least squares of the relative errors over the finished runs, neither cost below 0. Raises ValueError: fewer than two
    batch sizes; several recipes, networks, depths, widths or data sets; no seconds, or with measurements of curvature.
    """
    runs = [r for r in records if r.outcome == "finished"]
    for name in ("recipe", "network", "depth", "width", "data", "curvature_images"):
        if len(values := {getattr(r.config, name) for r in runs}) > 1:
            raise ValueError(f"the runs differ in {name}, {', '.join(map(str, sorted(values)))}: choose one")
    if any(r.config.curvature_images or r.seconds <= 0 for r in runs):
        raise ValueError("the seconds of a run must be those of its steps: above 0, without measurements of curvature")
    if len({r.config.batch_size for r in runs}) < 2:
        raise ValueError("two costs need finished runs of at least two batch sizes")
    seconds = [[r.seconds / r.config.total_steps(r.train_images)] for r in runs]
    parts = np.array([(r.config.batch_size, 1.0) for r in runs]) / seconds
    costs = np.linalg.lstsq(parts, np.ones(len(runs)), rcond=None)[0]
    if costs.min() < 0:  # then the other one alone
        costs = (costs > 0) * parts.sum(0) / np.square(parts).sum(0)
    return float(costs[0]), float(costs[1])
