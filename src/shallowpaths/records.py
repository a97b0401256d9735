"""The record store: one JSON line a run, appended safely, read back whole; and what many runs say together."""

import json
import logging
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from shallowpaths.runs import RunRecord

log = logging.getLogger(__name__)


class Store:
    """A file of run records, one JSON line each. `pandas.read_json(path, lines=True)` reads it too.

    Args:
        path: the file; it and its folder are made when first needed.

    Raises:
        ValueError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).expanduser()
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, self.path.open("a"):
                pass
        except OSError as error:
            raise ValueError(f"the record store {self.path} cannot be written: {error.strerror or error}") from error

    def append(self, record: RunRecord) -> None:
        """Add a record; when this returns, it is on the disk."""
        with self._lock, self.path.open("rb+") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() and not _ends_with_newline(file):
                file.write(b"\n")  # a line that was cut short stays one damaged line
            file.write(record.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def load(self) -> list[RunRecord]:
        """Every record that can be read, in order; each line that cannot is reported in a warning and passed over."""
        return load_records(self.path)


def load_records(path: str | os.PathLike) -> list[RunRecord]:
    """The records of one file (see Store.load)."""
    records = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(RunRecord.from_json(line.decode()))
        except ValueError as error:  # json's and unicode's errors are ValueErrors too
            log.warning("%s, line %d is damaged and passed over: %s", path, number, error)
    return records


@dataclass(frozen=True)
class Point:
    """What the runs of one setting, over seeds, say together.

    Attributes:
        accuracy, accuracy_std: test accuracy in 0 .. 1 over the runs that finished; None if none did.
        train_loss: mean training loss over the last epoch; infinite if any run diverged.
        finished, diverged: number of runs.
    """

    accuracy: float | None
    accuracy_std: float | None
    train_loss: float
    finished: int
    diverged: int


def summarise(records: Iterable[RunRecord]) -> Point:
    """One Point from the runs of one setting.

    Raises:
        ValueError: no record was given.
    """
    runs = list(records)
    if not runs:
        raise ValueError("there is no record to summarise")
    accuracies = [r.test_accuracy for r in runs if r.test_accuracy is not None]
    return Point(
        accuracy=statistics.fmean(accuracies) if accuracies else None,
        accuracy_std=statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        train_loss=statistics.fmean(r.train_loss for r in runs),
        finished=len(accuracies),
        diverged=len(runs) - len(accuracies),
    )


def group_by(records: Iterable[RunRecord], *settings: str) -> dict[tuple, list[RunRecord]]:
    """Records by the values of some of their config's settings, in order of first appearance."""
    groups: dict[tuple, list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[tuple(getattr(record.config, s) for s in settings)].append(record)
    return dict(groups)


@dataclass(frozen=True)
class BestRate:
    """The best learning rate of a grid.

    Attributes:
        effective_rate: the best effective learning rate; None if no rate trained.
        loss: the criterion's mean there.
        as_good: smallest and largest effective rate whose mean lies within one standard error of the best.
        largest_stable: the largest effective rate below which every run of the grid is stable; None if there is none.
        on_edge: "low" or "high" if the best rate is the grid's end: the true optimum may lie beyond it.
    """

    effective_rate: float | None
    loss: float
    as_good: tuple[float, float] | None
    largest_stable: float | None
    on_edge: str | None


def final_train_loss(record: RunRecord) -> float:
    """The training loss over the last epoch, infinite for a diverged run: the default criterion of `best_rate`."""
    return record.train_loss


def best_rate(
    records: Sequence[RunRecord],
    criterion: Callable[[RunRecord], float] = final_train_loss,
    stable_below: float = float("inf"),
) -> BestRate:
    """The rate with the smallest mean criterion, among records that differ in learning rate and seed only.

    Args:
        criterion: what shall be small; infinite for a failed run.
        stable_below: a run is stable if its criterion is finite and below this, for example the loss of guessing.

    Raises:
        ValueError: no record, or records that differ in another setting.
    """
    if not records:
        raise ValueError("there is no record to choose a rate from")
    settings = {json.dumps({**r.config.to_dict(), "learning_rate": 0, "seed": 0}, sort_keys=True) for r in records}
    if len(settings) > 1:
        raise ValueError("the records differ in more than learning rate and seed: choose one setting first")
    by_rate = {
        rate: [criterion(r) for r in runs]
        for (rate,), runs in sorted(group_by(records, "effective_learning_rate").items())
    }
    stable = {rate: all(value < stable_below for value in values) for rate, values in by_rate.items()}
    largest_stable = None
    for rate in by_rate:
        if not stable[rate]:
            break
        largest_stable = rate
    means = {rate: statistics.fmean(values) for rate, values in by_rate.items() if stable[rate]}
    if not means:
        return BestRate(None, float("inf"), None, largest_stable, None)
    best = min(means, key=means.__getitem__)
    margin = statistics.stdev(by_rate[best]) / len(by_rate[best]) ** 0.5 if len(by_rate[best]) > 1 else 0.0
    as_good = [rate for rate, mean in means.items() if mean <= means[best] + margin]
    rates = list(by_rate)
    edge = "high" if best == rates[-1] else "low" if best == rates[0] else None
    return BestRate(best, means[best], (as_good[0], as_good[-1]), largest_stable, edge)


def _ends_with_newline(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
