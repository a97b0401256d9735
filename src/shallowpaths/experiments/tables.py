"""Tables of records, as text: one run, every point, and the best rate of every setting."""

import contextlib
import math
import textwrap
from collections.abc import Iterable

from tabulate import tabulate

from shallowpaths.experiments.paper import beside_paper
from shallowpaths.experiments.records import Point, best_rate, by_rate, by_setting, summarise, validation_error
from shallowpaths.training.config import RunConfig
from shallowpaths.training.record import RunRecord

STAR = "* the best of the rates that were tried is the smallest or the largest of them"
PAPER_COLUMNS = ("method", "depth", "paper: accuracy %", "rates",
                 "here: accuracy %", "rate", "runs", "outcome here", "verdict")  # fmt: skip


def describe(records: Iterable[RunRecord], best: int | None = None) -> str:
    """Every point, each setting's best rate, a warning of optima on an edge; the paper's table beside a study of it.

    `best` as in `summarise`. Raises ValueError: there is no record.
    """
    if not (records := list(records)):
        raise ValueError("the store holds no record yet")
    groups, points, choices, on_edge = by_setting(records), [], [], 0
    configs = [group[0].config.to_dict() for group in groups]
    differ = {s for s in configs[0] if len({str(c[s]) for c in configs}) > 1} - {"learning_rate", "seed"}
    accuracy = "accuracy %" if best is None else f"accuracy %, best {best}"
    for group, config in zip(groups, configs, strict=True):
        name = {s: str(value) for s, value in config.items() if s in differ | {"recipe", "depth"}}
        at_rates = {rate: summarise(runs, best) for rate, runs in by_rate(group).items()}
        for rate, point in at_rates.items():
            row = {"effective rate": f"{rate:.4g}", accuracy: _percent(point), "train loss": f"{point.train_loss:.4f}"}
            points.append(name | row | {"runs": point.finished + point.diverged, "diverged": point.diverged})
        chosen, by = best_rate(group), "training loss"
        if config["validation"]:
            chosen, by = best_rate(group, validation_error), "validation accuracy"
        choice = "-", "-", "-", "-", "every rate diverged"
        if (rate := chosen.effective_rate) is not None:
            good = "{:.4g} .. {:.4g}".format(*chosen.as_good)
            choice = f"{rate:.4g}", good, chosen.on_edge or "no", _percent(at_rates[rate]), by
        columns = "best effective rate", "as good", "on edge", accuracy, "chosen by"
        choices.append(name | dict(zip(columns, choice, strict=True)))
        on_edge += chosen.on_edge is not None
    parts = [tabulate(rows, "keys", disable_numparse=True) for rows in (points, choices)]
    if on_edge:
        said = f"warning: {on_edge} of {len(groups)} best rates lie on their grid's edge. The optimum may lie beyond: "
        parts.append(f"{said}try larger rates than a high edge, smaller ones than a low edge, both beside an only rate")
    with contextlib.suppress(ValueError):  # some cell of the paper's table has runs of several settings
        rows = paper_rows(records)
        if len({method for method, *_, outcome, _ in rows if outcome != "not run"}) > 1:
            parts.append(f"{tabulate(rows, PAPER_COLUMNS, disable_numparse=True)}\n{STAR}")
    return "\n\n".join(parts)


def paper_rows(records: Iterable[RunRecord]) -> list[tuple[str, ...]]:
    """The paper's depth table beside the records', a row of PAPER_COLUMNS for each cell; see `paper.beside_paper`.

    Rates are effective ones. One on the edge of the grid that was tried has a star.
    """
    rows = []
    for cell in beside_paper(records):
        paper, best = cell.published, cell.best
        theirs = rates = ours = rate = "-"
        if paper.accuracy is not None:
            theirs = f"{100 * paper.accuracy:.1f} ± {100 * paper.deviation:.1f}"
            rates = f"2^{paper.best} (2^{paper.lowest}..2^{paper.highest})"
        if cell.point is not None:
            ours = _percent(cell.point)
            power = math.log2(best.effective_rate)
            whole = math.isclose(power, round(power), abs_tol=1e-6)
            rate = f"2^{power:.0f}" if whole else f"{best.effective_rate:.3g}"
            rate += "*" * bool(best.on_edge)
        row = paper.method, str(paper.depth), theirs, rates, ours, rate, str(len(cell.runs)), cell.outcome, cell.verdict
        rows.append(row)
    return rows


def stands_on(records: Iterable[RunRecord]) -> str:
    """On what results stand: data, networks, budgets, seeds, devices, time. Raises ValueError: there is no record."""
    if not (listed := list(records)):
        raise ValueError("there is no record to tell of")
    depths = sorted({r.config.depth for r in listed})
    networks = "; ".join(sorted({f"{r.config.data}, {r.config.network} of width {r.config.width}" for r in listed}))
    sizes = " and ".join(map(str, sorted({r.config.batch_size for r in listed})))
    seeds = " and ".join(map(str, sorted({r.config.seed for r in listed})))
    epochs = ", ".join(f"{_budgets(r for r in listed if r.config.depth == n)} at {n} layers" for n in depths)
    runs = f"{len(listed)} runs of {sum(r.seconds for r in listed) / 3600:.1f} hours in all"
    devices = "; ".join(sorted({r.device_name for r in listed}))
    sentence = f"{networks}, batch {sizes}, {epochs}, seed {seeds}, {runs} on {devices}"
    return textwrap.fill(sentence, 88)  # a page has room for so much


def describe_run(record: RunRecord) -> str:
    """One run, line by line."""
    config = record.config
    shape = f"depth {config.depth} ({config.blocks} blocks), width {config.width}, {record.parameters:,} parameters"
    images = f"{record.train_images:,} training images"
    rows = [
        ("network", f"{config.network}, {shape}"),
        ("recipe", config.recipe),
        ("data", f"{config.data}, {images}, {_budget(config)}, batch {config.batch_size}"),
        ("learning rate", f"{config.learning_rate:g} (effective {config.effective_learning_rate:g})"),
        ("outcome", record.outcome if record.diverged_step is None else f"diverged at step {record.diverged_step}"),
    ]
    if record.outcome == "finished":
        rows.append(("training loss", f"{record.train_loss:.4f}"))
    tests = ("test accuracy", record.test_accuracy), ("test top-5 accuracy", record.test_top5_accuracy)
    rows += [(name, f"{100 * share:.2f} %") for name, share in tests if share is not None]
    rows += [("seed, device", f"{config.seed}, {record.device_name}"), ("seconds", f"{record.seconds:.1f}")]
    return tabulate(rows, tablefmt="plain")


def _budgets(runs: Iterable[RunRecord]) -> str:
    """Every budget that some of the runs have, the longest first."""
    configs = sorted((r.config for r in runs), key=lambda c: (c.steps is not None, -(c.steps or c.epochs)))
    return " or ".join(dict.fromkeys(map(_budget, configs)))


def _budget(config: RunConfig) -> str:
    count, unit = (config.epochs, "epoch") if config.steps is None else (config.steps, "step")
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _percent(point: Point) -> str:
    if point.accuracy is None:
        return "-"
    spread = "" if point.accuracy_std is None else f" ± {100 * point.accuracy_std:.2f}"
    return f"{100 * point.accuracy:.2f}{spread}"
