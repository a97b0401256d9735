"""Explorers of runs: what trains at which depth and rate, and how the best rate moves with the batch size."""

from collections.abc import Iterable, Mapping

from shallowpaths.experiments.records import STABLE_ERROR, BestRate, best_rate, group_by, validation_error
from shallowpaths.pages.explorers.explorer import Explorer, menu, slider
from shallowpaths.pages.explorers.pictures import Picture, Series, spoken
from shallowpaths.pages.plots.drawing import all_records
from shallowpaths.pages.plots.runs import Lines
from shallowpaths.training.record import RunRecord

ROOM = 1.4  # factor by which the axis of rates is longer than their grid, at both ends
ACCURACIES = (20, 30, 40, 50, 60, 70, 80, 90)
ROWS = 19.0  # per cent that the rows of all recipes share above 100; from 20 on the axis would have a tick there


def batch_size_explorer(
    records: Iterable[RunRecord], predicted: Mapping[str, Mapping[int, float]] | None = None, start: int | None = None
) -> Explorer:
    """Validation accuracy against effective learning rate for every recipe, with a slider for the batch size.

    Above 100 % each recipe has a row: its mark at the best rate, a band from there to the largest stable one, and a thin line
    at the best rate that theory predicts. Runs that diverged are crosses at the floor. The axes stay, so that what moves with
    the slider are the rates.

    Args:
        records: runs with a validation split that differ in recipe, batch size, learning rate and seed; of several seeds, each
            has its mark.
        predicted: by recipe and batch size, the best rate that theory expects.
        start: the batch size that is shown at first; None takes the smallest.

    Raises:
        ValueError: there is no record, one without a validation split, or none of the batch size to start with.
    """
    listed = all_records(records)
    groups = group_by(listed, "recipe", "batch_size")
    best = {key: best_rate(group, validation_error, STABLE_ERROR) for key, group in groups.items()}
    rates = [r.config.effective_learning_rate for r in listed]
    limits = (min(rates) / ROOM, max(rates) * ROOM), (0.0, 100 + ROWS)
    recipes = list(dict.fromkeys(r.config.recipe for r in listed))
    step = ROWS / (len(recipes) + 1)

    def compute(batch_size: int) -> Picture:
        here = [name for name in recipes if (name, batch_size) in groups]
        marks, crosses, bands, lines, words = [], [], [], [], []
        for row, name in enumerate(here):
            found, line = best[name, batch_size], (predicted or {}).get(name, {}).get(batch_size)
            height = 100 + step * (row + 1)
            marks += _marks(name, groups[name, batch_size], found, height)
            crosses += _crosses(name, groups[name, batch_size], 2.0 * row)  # those of several recipes lie above each other
            if found.effective_rate is not None:
                ends = [found.effective_rate, found.largest_stable]
                bands.append(Series("band", "best to largest stable", ends, [height - 0.3 * step] * 2, [height + 0.3 * step] * 2))
            if line is not None:
                lines.append(Series("theory", "best, predicted", [line] * 2, [height - 0.5 * step, height + 0.5 * step]))
            words.append(_words(name, found, line))
        drawn = (*bands, *marks, *crosses, *lines)
        said = f"Batch {batch_size}: {'; '.join(words)}."
        return Picture("effective learning rate", "validation accuracy, %", drawn, said, True, False, *limits)

    sizes = sorted({size for _, size in groups})
    return Explorer("Which learning rate, at which batch size?", [slider("batch_size", "batch size", sizes, start)], compute)


def _marks(name: str, group: list[RunRecord], best: BestRate, height: float) -> list[Series]:
    """A recipe's runs, and its mark at the best rate."""
    finished = [r for r in group if r.outcome == "finished"]
    at = [(r.config.effective_learning_rate, 100 * r.validation_accuracy) for r in finished]
    at += [(best.effective_rate, height)] if best.effective_rate is not None else []
    return [Series("measured", name, *zip(*at, strict=True), recipe=name)] if at else []


def _crosses(name: str, group: list[RunRecord], height: float) -> list[Series]:
    failed = [r.config.effective_learning_rate for r in group if r.outcome == "diverged"]
    return [Series("cross", "diverged", failed, [height] * len(failed), recipe=name)] if failed else []


def _words(name: str, best: BestRate, line: float | None) -> str:
    if best.effective_rate is None:
        return f"{name} trains at no rate"
    edge = " on the grid's edge" if best.on_edge else ""
    theory = "" if line is None else f" (predicted {spoken(line)})"
    accuracy = f"{100 * (1 - best.loss):.1f} %"
    return f"{name} best at {spoken(best.effective_rate)}{edge}{theory} with {accuracy}, stable up to {spoken(best.largest_stable)}"


def trainability_explorer(records: Iterable[RunRecord], predicted: Lines, start: str | None = None) -> Explorer:
    """Depth against effective learning rate for one recipe, with a slider for what counts as trained.

    Args:
        records: runs that differ in recipe, depth and learning rate; of several seeds, each has its mark.
        predicted: as for `plots.trainability_map`.
        start: the recipe that is shown at first; None takes that of the first record.

    Raises:
        ValueError: there is no record, or none of the recipe to start with.
    """
    runs = all_records(records)
    groups = {name: group for (name,), group in group_by(runs, "recipe").items()}
    rates = [r.config.effective_learning_rate for r in runs]

    def compute(recipe: str, enough: int) -> Picture:
        sorted_out = {kind: [] for kind in ("measured", "open", "cross")}
        for record in groups[recipe]:
            at = record.config.depth, record.config.effective_learning_rate
            sorted_out[_kind(record, enough)].append(at)
        names = {"measured": f"{recipe}: {enough} % or more", "open": "less", "cross": "diverged"}
        series = [Series("theory", label, list(line), list(line.values())) for label, line in predicted.get(recipe, {}).items()]
        series += [
            Series(kind, names[kind], *zip(*points, strict=True), recipe=recipe) for kind, points in sorted_out.items() if points
        ]
        limits = min(rates) / ROOM, max(rates) * ROOM
        words = f"{recipe}, at least {enough} % of test images right: {_edge_words(sorted_out['measured'], groups[recipe])}"
        return Picture("depth n", "effective learning rate", tuple(series), words, True, True, y_limits=limits)

    controls = [menu("recipe", "recipe", list(groups), start), slider("enough", "test accuracy of at least, %", ACCURACIES, 50)]
    return Explorer("How deep, at which learning rate?", controls, compute)


def _kind(record: RunRecord, enough: int) -> str:
    if record.test_accuracy is None:
        return "cross"
    return "measured" if 100 * record.test_accuracy >= enough else "open"


def _edge_words(good: list[tuple[int, float]], group: list[RunRecord]) -> str:
    """Up to which rate, depth by depth."""
    said = []
    for depth in sorted({r.config.depth for r in group}):
        rates = [rate for n, rate in good if n == depth]
        said.append(f"at depth {depth} " + (f"from {spoken(min(rates))} to {spoken(max(rates))}" if rates else "at no rate"))
    return f"{', '.join(said)}."
