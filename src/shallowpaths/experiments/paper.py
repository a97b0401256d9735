"""The paper's depth table, as published, and a reader's records beside it."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from shallowpaths.experiments.records import BestRate, Point, best_rate, final_train_loss, summarise, validation_error
from shallowpaths.training.record import RunRecord

TRAINS_BELOW = 0.9 * math.log(10)  # the training loss below which a run trains: 90 % of guessing one of ten classes


class Published(NamedTuple):
    """A cell of the table: CIFAR-10, Wide-ResNets of width 2, 200 epochs [paper]; no numbers where none trained."""

    method: str  # in words
    recipe: str
    l2: bool  # whether there is a penalty
    depth: int
    accuracy: float | None = None  # of the test, in 0 .. 1
    deviation: float | None = None
    best: int | None = None  # of the rates, as a power of 2; we read it as an effective one, an inference
    lowest: int | None = None  # and highest: of those that are as good
    highest: int | None = None


DEPTHS = (16, 100, 1000)
_ROWS = (  # method, recipe, L2; for each depth accuracy, deviation, best, lowest and highest power
    ("batch normalization", "batchnorm", True,
     (0.935, 0.001, -1, -1, -1), (0.947, 0.001, -1, -2, 0), (0.946, 0.001, -2, -3, 0)),
    ("SkipInit, α = 1/√d", "skipinit-1/sqrt(d)", True,
     (0.930, 0.001, -2, -2, -1), (0.942, 0.001, -1, -2, -1), (0.942, 0.000, -1, -2, -1)),
    ("SkipInit, α = 0", "skipinit", True,
     (0.933, 0.001, -2, -2, -2), (0.942, 0.001, -2, -2, -2), (0.943, 0.002, -2, -3, -1)),
    ("SkipInit, α = 1", "skipinit-1", True, (0.930, 0.001, -2, -2, -1), (), ()),
    ("divide by √2", "divide-sqrt2", True, (0.924, 0.001, -2, -2, -1), (0.889, 0.004, -5, -5, -5), ()),
    ("SkipInit, α = 0, no L2", "skipinit", False,
     (0.898, 0.002, -3, -3, -3), (0.917, 0.002, -2, -2, -2), (0.921, 0.001, -2, -2, -2)),
)  # fmt: skip
TABLE: tuple[Published, ...] = tuple(
    Published(*name, n, *cell) for *name, a, b, c in _ROWS for n, cell in zip(DEPTHS, (a, b, c), strict=True)
)


class Comparison(NamedTuple):
    """A published cell, and what a reader's runs of that method at that depth, at every rate and seed, came to."""

    published: Published
    runs: tuple[RunRecord, ...]
    best: BestRate | None  # chosen on the validation split where there is one; None without runs
    point: Point | None  # what the runs at the best rate say together, if they train
    outcome: str  # "trains", "does not train" (at no rate with all its seeds) or "not run"
    verdict: str  # "reproduced" if our outcome is the paper's, "differs" or "not run"


def trains(record: RunRecord) -> bool:
    """Whether a run ended with a training loss below TRAINS_BELOW."""
    return final_train_loss(record) < TRAINS_BELOW


def beside_paper(records: Iterable[RunRecord]) -> list[Comparison]:
    """Every cell of the paper's table with its records. Raises ValueError: those differ in more than rate and seed.

    Records without a row, or whose scalars have a rate or a penalty of their own, are left aside.
    """
    usual = [r for r in records if r.config.alpha_rate == 1 and r.config.l2_on_scalars]
    return [_compared(cell, usual) for cell in TABLE]


def _compared(cell: Published, records: list[RunRecord]) -> Comparison:
    own = cell.recipe, cell.l2, cell.depth
    runs = tuple(r for r in records if (r.config.recipe, r.config.l2 > 0, r.config.depth) == own)
    if not runs:
        return Comparison(cell, runs, None, None, "not run", "not run")
    best = best_rate(runs, validation_error if all(r.config.validation for r in runs) else final_train_loss)
    at_best = [r for r in runs if r.config.effective_learning_rate == best.effective_rate]
    point = summarise(at_best) if at_best else None
    trained = point is not None and point.train_loss < TRAINS_BELOW
    verdict = "reproduced" if trained == (cell.accuracy is not None) else "differs"
    return Comparison(cell, runs, best, point if trained else None, "trains" if trained else "does not train", verdict)
