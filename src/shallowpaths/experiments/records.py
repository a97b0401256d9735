"""What many runs say together: mean and spread over seeds, and the best learning rate."""

import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shallowpaths.theory import checks
from shallowpaths.training.config import SETTINGS
from shallowpaths.training.record import RunRecord

STABLE_ERROR = 0.81
"""A validation error below this is that of a run that learned: 90 % of the error of guessing one of ten classes. On 5000 images
guessing stays above it by 20 standard errors."""


@dataclass(frozen=True)
class Point:
    """What the runs of one setting, over seeds, say together.

    Attributes:
        accuracy, accuracy_std: test accuracy in 0 .. 1 over the runs that finished, or the best of them; None if none
            did, and no standard deviation of a single one.
        train_loss: mean training loss over the last epoch; infinite if any run diverged.
        finished, diverged: number of runs.
    """

    accuracy: float | None
    accuracy_std: float | None
    train_loss: float
    finished: int
    diverged: int


def summarise(records: Iterable[RunRecord], best: int | None = None) -> Point:
    """One Point from the runs of one setting.

    Args:
        best: take the accuracy's mean and standard deviation over this many of the finished runs, those with the highest
            test accuracy (the protocol's "best 5 of 7"); None takes all. It flatters every method alike.

    Raises:
        ValueError: no record was given, or `best` is below 1.
    """
    runs = list(records)
    if not runs:
        raise ValueError("there is no record to summarise")
    if best is not None and best < 1:
        raise ValueError(f"best {best} must be at least 1")
    all_accuracies = [r.test_accuracy for r in runs if r.test_accuracy is not None]
    accuracies = sorted(all_accuracies, reverse=True)[:best]
    return Point(
        accuracy=statistics.fmean(accuracies) if accuracies else None,
        accuracy_std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        train_loss=statistics.fmean(r.train_loss for r in runs),
        finished=len(all_accuracies),
        diverged=len(runs) - len(all_accuracies),
    )


def select(records: Iterable[RunRecord], **settings: Any) -> list[RunRecord]:
    """The records whose configs have all of these settings, in their order.

    Args:
        settings: of RunConfig, or `effective_learning_rate`; several values, in a list, a set or a range, stand for any of them.
            Numbers may differ by rounding.

    Raises:
        ValueError: a setting that a config does not have; it lists those that there are.
    """
    for name in settings:
        checks.one_of("setting", name, SETTINGS)
    several = {name: isinstance(value, Iterable) and not isinstance(value, str) for name, value in settings.items()}
    asked = {name: list(value) if several[name] else [value] for name, value in settings.items()}
    return [r for r in records if all(_is_any(getattr(r.config, name), values) for name, values in asked.items())]


def _is_any(found: Any, values: Iterable[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, (int, float))]
    return found in values or (isinstance(found, float) and any(math.isclose(found, number) for number in numbers))


def group_by(records: Iterable[RunRecord], *settings: str) -> dict[tuple, list[RunRecord]]:
    """Records by the values of some of their config's settings, in order of first appearance."""
    groups: dict[tuple, list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[tuple(getattr(record.config, s) for s in settings)].append(record)
    return dict(groups)


def by_rate(records: Iterable[RunRecord]) -> dict[float, list[RunRecord]]:
    """Records by their effective learning rate, from the smallest to the largest."""
    return {rate: runs for (rate,), runs in sorted(group_by(records, "effective_learning_rate").items())}


def by_setting(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Records in groups that differ in learning rate and seed only, in order of first appearance."""
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        setting = {**record.config.to_dict(), "learning_rate": 0, "seed": 0}
        groups[json.dumps(setting, sort_keys=True)].append(record)
    return list(groups.values())


@dataclass(frozen=True)
class BestRate:
    """The best learning rate of a grid.

    Attributes:
        effective_rate: the best effective learning rate; None if no rate trained.
        loss: the criterion's mean there.
        as_good: smallest and largest effective rate whose mean lies within one standard error of the best: that of the mean
            over seeds. The validation error of a single run has the binomial one, sqrt(p (1 - p) / n) for n images held out;
            what another seed would change is not in it. Any other criterion of a single run has none.
        largest_stable: going up from the best rate, the last one before the first at which a run is not stable; None if
            no rate trained. Rates below the best are not asked: a run that is only slow is not unstable.
        on_edge: "low" or "high" if the best rate is the grid's end, "only" if it is all of the grid: the true optimum may lie beyond.
        between_rates: where a parabola through the best rate and its two neighbours, in the logarithms of rate and
            criterion, has its minimum; the best rate itself on an edge or beside a rate that is not stable. The neighbours may
            be at different distances.
    """

    effective_rate: float | None
    loss: float
    as_good: tuple[float, float] | None
    largest_stable: float | None
    on_edge: str | None
    between_rates: float | None


def final_train_loss(record: RunRecord) -> float:
    """The training loss over the last epoch, infinite for a diverged run: the default criterion of `best_rate`."""
    return record.train_loss


def validation_error(record: RunRecord) -> float:
    """The share of the validation split that is classified wrongly after the last epoch, infinite for a diverged run.

    Raises:
        ValueError: the run held nothing out to choose on.
    """
    if record.outcome == "diverged":
        return math.inf
    if record.validation_accuracy is None:
        raise ValueError("the run has no validation split to choose a rate on: set validation above 0")
    return 1 - record.validation_accuracy


def best_rate(
    records: Iterable[RunRecord],
    criterion: Callable[[RunRecord], float] = final_train_loss,
    stable_below: float = float("inf"),
) -> BestRate:
    """The rate with the smallest mean criterion, among records that differ in learning rate and seed only.

    Args:
        criterion: what shall be small; infinite for a failed run.
        stable_below: a run is stable if its criterion is finite and below this, for example 90 % of what guessing has:
            0.9 ln(10) of the training loss, STABLE_ERROR of the validation error.

    Raises:
        ValueError: no record, or records that differ in another setting.
    """
    records = list(records)
    if not records:
        raise ValueError("there is no record to choose a rate from")
    if len(by_setting(records)) > 1:
        raise ValueError("the records differ in more than learning rate and seed: choose one setting first")
    runs_at = by_rate(records)
    rates, values_at = list(runs_at), {rate: [criterion(r) for r in runs] for rate, runs in runs_at.items()}
    stable = {rate: all(value < stable_below for value in values) for rate, values in values_at.items()}
    means = {rate: statistics.fmean(values) for rate, values in values_at.items() if stable[rate]}
    if not means:
        return BestRate(None, float("inf"), None, None, None, None)
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
    held_out = round(counted.train_images * share / (1 - share)) if counted else 0
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
    """The smallest effective rate whose final training loss is `loss`, between the grid's rates.

    Interpolated in the logarithms of rate and loss, over records that differ in learning rate and seed only.

    Raises:
        ValueError: the smallest rate of the grid is below that loss already, or none reaches it; no record, or a loss
            that has no logarithm.
    """
    records = list(records)
    if not records:
        raise ValueError("there is no record to choose a rate from")
    if not 0 < loss < math.inf:
        raise ValueError(f"loss {loss!r} must be above 0 and finite: rates are interpolated in its logarithm")
    means = [(rate, statistics.fmean(map(final_train_loss, runs))) for rate, runs in by_rate(records).items()]
    for (rate, above), (next_rate, below) in itertools.pairwise(means):
        if above >= loss >= below and math.isfinite(above):
            if below <= 0:
                return next_rate  # no logarithm to interpolate in
            part = 0.0 if above == below else math.log(above / loss) / math.log(above / below)
            return rate * (next_rate / rate) ** part
    raise ValueError(f"no rate between {means[0][0]:g} and {means[-1][0]:g} brings the training loss down to {loss:g}")


def steps_to_loss(record: RunRecord, loss: float) -> float:
    """Optimizer steps after which the training loss has come down to `loss`; infinite if the run never gets there, or diverges.

    The curve has the mean over each epoch's steps, so a point stands for the middle of its epoch; between these middles the
    loss is taken as linear. It is the loss that is trained on, of augmented images, with dropout where there is any. The
    schedule spans the run's budget: runs of other budgets come down by another one.

    Raises:
        ValueError: the first epoch's mean is not above `loss`, so that the curve does not show when it was reached; or a loss
            that is not above 0.
    """
    checks.number("loss", loss, above=0)
    if record.outcome == "diverged":
        return math.inf
    total = record.config.total_steps(record.train_images)
    epochs = range(len(record.curve) + 1)
    ends = [min(epoch * record.train_images // record.config.batch_size, total) for epoch in epochs]
    middles = [(start + end) / 2 for start, end in itertools.pairwise(ends)]
    losses = [point["train_loss"] for point in record.curve]
    if losses[0] <= loss:
        raise ValueError(f"loss {loss:g} is reached within the first epoch, whose mean is {losses[0]:.4g}: choose a smaller one")
    for (start, above), (end, below) in itertools.pairwise(zip(middles, losses, strict=True)):
        if below <= loss:
            return start + (end - start) * (above - loss) / (above - below)
    return math.inf


def fewest_steps(records: Iterable[RunRecord], loss: float) -> BestRate:
    """The rate at which the training loss comes down to `loss` in the fewest steps: `best_rate` by `steps_to_loss`.

    The result's `loss` is that number of steps, infinite where at no rate all seeds get there.
    """
    return best_rate(records, lambda record: steps_to_loss(record, loss))


def seconds_per_step(record: RunRecord) -> float:
    """A finished run's wall time over its steps: the evaluation after each epoch is in it, and of lanes it is one's share."""
    return record.seconds / record.config.total_steps(record.train_images)


def step_costs(records: Iterable[RunRecord]) -> tuple[float, float]:
    """(a, b), where a step on a batch of B images takes a B + b seconds: what an image costs, and what a step costs besides.

    Least squares of the relative errors over the finished runs, neither cost below 0.

    Raises:
        ValueError: the finished runs have fewer than two batch sizes; records whose steps are not alike, of several recipes,
            depths or widths, or with curvature in their seconds; one that took no time.
    """
    runs = [r for r in records if r.outcome == "finished"]
    for name in ("recipe", "network", "depth", "width", "data", "curvature_images"):
        if len(values := {getattr(r.config, name) for r in runs}) > 1:
            raise ValueError(f"the runs differ in {name}, {', '.join(map(str, sorted(values)))}: a step costs what it does for one")
    if any(r.config.curvature_images or r.seconds <= 0 for r in runs):
        raise ValueError("the seconds of a run must be those of its steps: above 0, and without measurements of curvature")
    if len({r.config.batch_size for r in runs}) < 2:
        raise ValueError("two costs need finished runs of at least two batch sizes")
    parts = np.array([(r.config.batch_size, 1.0) for r in runs]) / [[seconds_per_step(r)] for r in runs]
    costs = np.linalg.lstsq(parts, np.ones(len(runs)), rcond=None)[0]
    if costs.min() < 0:
        kept = costs.argmax()
        costs = np.zeros(2)
        costs[kept] = parts[:, kept].sum() / np.square(parts[:, kept]).sum()
    return float(costs[0]), float(costs[1])
