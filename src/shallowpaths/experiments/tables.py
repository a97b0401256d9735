"""Tables of records, as text: one run, every point, and the best rate of every setting."""

import math
import textwrap
from collections.abc import Iterable

from tabulate import tabulate

from shallowpaths.experiments.paper import beside_paper
from shallowpaths.experiments.records import Point, best_rate, by_rate, by_setting, summarise, validation_error
from shallowpaths.training.config import RunConfig
from shallowpaths.training.record import RunRecord

FIRST = ("recipe", "network", "depth", "width", "batch_size", "l2")  # of the settings that are shown
HEADINGS = {"batch_size": "batch", "l2": "L2"}
STAR = "* the best of the rates that were tried is the smallest or the largest of them"
PAPER_COLUMNS = ("method", "depth", "paper: accuracy %", "rates", "here: accuracy %", "rate", "runs", "outcome here", "verdict")


def describe(records: Iterable[RunRecord], best: int | None = None) -> str:
    """Every point, the best rate of each setting, a warning if an optimum lies on its grid's edge; and, of runs of the paper's
    depth table, the table beside the paper. `best` as in `summarise`. Raises ValueError: there is no record.
    """
    if not (records := list(records)):
        raise ValueError("the store holds no record yet")
    groups = by_setting(records)
    settings = _telling(groups)
    points, choices, on_edge = [], [], 0
    for group in groups:
        name = tuple(str(getattr(group[0].config, s)) for s in settings)
        at_rates = {rate: summarise(runs, best) for rate, runs in by_rate(group).items()}
        for rate, point in at_rates.items():
            counts = str(point.finished + point.diverged), str(point.diverged)
            points.append((*name, f"{rate:.4g}", _percent(point), f"{point.train_loss:.4f}", *counts))
        chosen, by = best_rate(group), "training loss"
        if group[0].config.validation > 0:
            chosen, by = best_rate(group, validation_error), "validation accuracy"
        choice = "-", "-", "-", "-", "every rate diverged"
        if chosen.effective_rate is not None:
            rates = f"{chosen.effective_rate:.4g}", "{:.4g} .. {:.4g}".format(*chosen.as_good)
            choice = *rates, chosen.on_edge or "no", _percent(at_rates[chosen.effective_rate]), by
        choices.append((*name, *choice))
        on_edge += chosen.on_edge is not None
    names = [HEADINGS.get(s, s) for s in settings]
    accuracy = "accuracy %" if best is None else f"accuracy %, best {best}"
    tables = (
        (points, ("effective rate", accuracy, "train loss", "runs", "diverged")),
        (choices, ("best effective rate", "as good", "on edge", accuracy, "chosen by")),
    )
    text = "\n\n".join(tabulate(rows, [*names, *more], disable_numparse=True) for rows, more in tables)
    if on_edge:
        text += (
            f"\n\nwarning: {on_edge} of {len(groups)} best rates lie on their grid's edge. The optimum may lie beyond: "
            "try larger rates than a high edge, smaller ones than a low edge, both beside an only rate"
        )
    return text + _beside_paper(records)


def paper_rows(records: Iterable[RunRecord]) -> list[tuple[str, ...]]:
    """The paper's depth table beside the records', a row of PAPER_COLUMNS for each cell; see `paper.beside_paper`.

    Rates are effective ones. One on the edge of the grid that was tried has a star: a better one may lie beyond.
    """
    rows = []
    for cell in beside_paper(records):
        paper, best = cell.published, cell.best
        theirs = rates = ours = rate = "-"
        if paper.accuracy is not None:
            theirs = f"{100 * paper.accuracy:.1f} ± {100 * paper.deviation:.1f}"
            rates = f"2^{paper.best} (2^{paper.lowest}..2^{paper.highest})"
        if cell.point is not None:
            exponent = math.log2(best.effective_rate)
            whole = math.isclose(exponent, round(exponent), abs_tol=1e-6)
            ours = _percent(cell.point)
            rate = (f"2^{exponent:.0f}" if whole else f"{best.effective_rate:.3g}") + "*" * bool(best.on_edge)
        row = paper.method, str(paper.depth), theirs, rates, ours, rate, str(len(cell.runs)), cell.outcome, cell.verdict
        rows.append(row)
    return rows


def stands_on(records: Iterable[RunRecord]) -> str:
    """On what results stand, in words: data, networks, budgets, seeds, devices, time. Raises ValueError: there is no record."""
    if not (listed := list(records)):
        raise ValueError("there is no record to tell of")
    depths = sorted({r.config.depth for r in listed})
    networks = sorted({f"{r.config.data}, {r.config.network} of width {r.config.width}" for r in listed})
    sizes, seeds = (" and ".join(map(str, sorted({getattr(r.config, name) for r in listed}))) for name in ("batch_size", "seed"))
    hours = sum(r.seconds for r in listed) / 3600
    epochs = ", ".join(f"{_budgets(r for r in listed if r.config.depth == n)} at {n} layers" for n in depths)
    devices = "; ".join(sorted({r.device_name for r in listed}))
    sentence = f"{'; '.join(networks)}, batch {sizes}, {epochs}, seed {seeds}, {len(listed)} runs of {hours:.1f} hours in all on {devices}"
    return textwrap.fill(sentence, 88)  # a page has room for so much


def describe_run(record: RunRecord) -> str:
    """One run, line by line."""
    config = record.config
    shape = f"depth {config.depth} ({config.blocks} blocks), width {config.width}, {record.parameters:,} parameters"
    rows = [
        ("network", f"{config.network}, {shape}"),
        ("recipe", config.recipe),
        ("data", f"{config.data}, {record.train_images:,} training images, {_budget(config)}, batch {config.batch_size}"),
        ("learning rate", f"{config.learning_rate:g} (effective {config.effective_learning_rate:g})"),
        ("outcome", record.outcome if record.diverged_step is None else f"diverged at step {record.diverged_step}"),
    ]
    if record.test_accuracy is not None:
        rows += [("training loss", f"{record.train_loss:.4f}"), ("test accuracy", f"{100 * record.test_accuracy:.2f} %")]
    if record.test_top5_accuracy is not None:
        rows.append(("test top-5 accuracy", f"{100 * record.test_top5_accuracy:.2f} %"))
    rows += [("seed, device", f"{config.seed}, {record.device_name}"), ("seconds", f"{record.seconds:.1f}")]
    return tabulate(rows, tablefmt="plain")


def _beside_paper(records: list[RunRecord]) -> str:
    """The paper's table beside the records, where they are a study of it: of several of its rows, one setting a cell."""
    try:
        rows = paper_rows(records)
    except ValueError:  # a cell has runs of several settings
        return ""
    several = len({method for method, *_, outcome, _ in rows if outcome != "not run"}) > 1
    return f"\n\n{tabulate(rows, PAPER_COLUMNS, disable_numparse=True)}\n{STAR}" if several else ""


def _budgets(runs: Iterable[RunRecord]) -> str:
    """Every budget that some of the runs have, the longest first."""
    configs = sorted((r.config for r in runs), key=lambda c: (c.steps is not None, -(c.steps or c.epochs)))
    return " or ".join(dict.fromkeys(map(_budget, configs)))


def _budget(config: RunConfig) -> str:
    count, unit = (config.epochs, "epoch") if config.steps is None else (config.steps, "step")
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _telling(groups: list[list[RunRecord]]) -> list[str]:
    """The settings to show: recipe and depth, and whatever else is not the same everywhere."""
    configs = [group[0].config.to_dict() for group in groups]
    differ = {s for s in configs[0] if len({str(c[s]) for c in configs}) > 1} - {"learning_rate", "seed"}
    return [s for s in dict.fromkeys((*FIRST, *configs[0])) if s in differ | {"recipe", "depth"}]


def _percent(point: Point) -> str:
    if point.accuracy is None:
        return "-"
    spread = "" if point.accuracy_std is None else f" ± {100 * point.accuracy_std:.2f}"
    return f"{100 * point.accuracy:.2f}{spread}"
