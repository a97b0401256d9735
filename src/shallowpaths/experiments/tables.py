"""Tables of records, as text: one run, every point, and the best rate of every setting."""

from collections.abc import Iterable

from tabulate import tabulate

from shallowpaths.experiments.records import (
    BestRate,
    best_rate,
    by_setting,
    final_train_loss,
    group_by,
    summarise,
    validation_error,
)
from shallowpaths.training.record import RunRecord

SETTINGS = {
    "recipe": "recipe",
    "network": "network",
    "depth": "depth",
    "width": "width",
    "batch_size": "batch",
    "l2": "L2",
}
EDGE_WARNING = (
    "{} of {} best rates lie on their grid's edge. The optimum may lie beyond: "
    "try larger rates than a high edge, smaller ones than a low edge"
)


def describe(records: Iterable[RunRecord], best: int | None = None) -> str:
    """Both tables, and a warning if an optimum lies on its grid's edge.

    Args:
        best: as in `summarise`.

    Raises:
        ValueError: there is no record.
    """
    records = list(records)
    if not records:
        raise ValueError("the store holds no record yet")
    groups = by_setting(records)
    settings = _telling(groups)
    points, choices, on_edge = [], [], 0
    for group in groups:
        name = tuple(str(getattr(group[0].config, s)) for s in settings)
        points += [(*name, *_point(runs, best)) for runs in _rising(group)]
        chosen = _choose(group)
        choices.append((*name, *_choice(chosen, group, best)))
        on_edge += chosen.on_edge is not None
    names = [SETTINGS.get(s, s) for s in settings]
    accuracy = "accuracy %" if best is None else f"accuracy %, best {best}"
    tables = (
        (points, ("effective rate", accuracy, "train loss", "runs", "diverged")),
        (choices, ("best effective rate", "as good", "on edge", accuracy, "chosen by")),
    )
    text = "\n\n".join(tabulate(rows, [*names, *more], disable_numparse=True) for rows, more in tables)
    return text + (f"\n\nwarning: {EDGE_WARNING.format(on_edge, len(groups))}" if on_edge else "")


def describe_run(record: RunRecord) -> str:
    """One run, line by line."""
    config = record.config
    budget = f"{config.epochs} epochs" if config.steps is None else f"{config.steps} steps"
    rows = [
        (
            "network",
            f"{config.network}, depth {config.depth} ({config.blocks} blocks), width {config.width}, {record.parameters:,} parameters",
        ),
        ("recipe", config.recipe),
        (
            "data",
            f"{config.data}, {record.train_images:,} training images, {budget}, batch {config.batch_size}",
        ),
        ("learning rate", f"{config.learning_rate:g} (effective {config.effective_learning_rate:g})"),
        ("outcome", record.outcome if record.diverged_step is None else f"diverged at step {record.diverged_step}"),
    ]
    if record.test_accuracy is not None:
        rows += [
            ("training loss", f"{record.train_loss:.4f}"),
            ("test accuracy", f"{100 * record.test_accuracy:.2f} %"),
        ]
    rows += [("seed, device", f"{config.seed}, {record.device_name}"), ("seconds", f"{record.seconds:.1f}")]
    return tabulate(rows, tablefmt="plain")


def _telling(groups: list[list[RunRecord]]) -> list[str]:
    """The settings to show: recipe and depth, and whatever else is not the same everywhere."""
    configs = [group[0].config.to_dict() for group in groups]
    order = [*SETTINGS, *(s for s in configs[0] if s not in SETTINGS)]
    differ = [s for s in order if len({str(c[s]) for c in configs}) > 1 and s not in ("learning_rate", "seed")]
    return [s for s in order if s in differ or s in ("recipe", "depth")]


def _rising(group: list[RunRecord]) -> list[list[RunRecord]]:
    return [runs for _, runs in sorted(group_by(group, "effective_learning_rate").items())]


def _point(runs: list[RunRecord], best: int | None) -> tuple[str, ...]:
    point = summarise(runs, best)
    rate = runs[0].config.effective_learning_rate
    return f"{rate:.4g}", _accuracy(runs, best), f"{point.train_loss:.4f}", str(len(runs)), str(point.diverged)


def _accuracy(runs: list[RunRecord], best: int | None) -> str:
    point = summarise(runs, best)
    if point.accuracy is None:
        return "-"
    spread = "" if point.accuracy_std is None else f" +- {100 * point.accuracy_std:.2f}"
    return f"{100 * point.accuracy:.2f}{spread}"


def _choose(group: list[RunRecord]) -> BestRate:
    return best_rate(group, validation_error if group[0].config.validation else final_train_loss)


def _choice(chosen: BestRate, group: list[RunRecord], best: int | None) -> tuple[str, ...]:
    by = "validation accuracy" if group[0].config.validation else "training loss"
    if chosen.effective_rate is None:
        return "-", "-", "-", "-", "every rate diverged"
    runs = [r for r in group if r.config.effective_learning_rate == chosen.effective_rate]
    low, high = chosen.as_good
    return f"{chosen.effective_rate:.4g}", f"{low:.4g} .. {high:.4g}", chosen.on_edge or "no", _accuracy(runs, best), by
