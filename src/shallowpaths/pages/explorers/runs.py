"""Explorers of runs: what trains at which depth and rate, and how the best rate moves with the batch size."""

from collections.abc import Iterable, Mapping

from shallowpaths.experiments.records import STABLE_ERROR, BestRate, best_rate, group_by, validation_error
from shallowpaths.pages.explorers.explorer import Control, Explorer
from shallowpaths.pages.explorers.pictures import Picture, Series, spoken
from shallowpaths.pages.plots.drawing import all_records
from shallowpaths.pages.plots.runs import Lines, edge_words, points_by
from shallowpaths.training.record import RunRecord

ROOM = 1.4  # factor by which the axis of rates is longer than their grid, at both ends
ROWS = 19.0  # per cent that the rows of all recipes share above 100; from 20 on the axis would have a tick there


def batch_size_explorer(
    records: Iterable[RunRecord], predicted: Mapping[str, Mapping[int, float]] | None = None, start: int | None = None
) -> Explorer:
    """Validation accuracy against effective learning rate for every recipe, with a slider for the batch size.

    Above 100 % each recipe has a row: its mark at the best rate, a band from there to the largest stable one and a thin
    line at the best rate that theory predicts. Runs that diverged are crosses at the floor. The axes stay.

    records: with a validation split, that differ in recipe, batch size, learning rate and seed; a ValueError if one has
    none, or none has the batch size `start`, shown at first (None: the smallest). predicted: by recipe and batch size.
    """
    listed = all_records(records)
    groups = group_by(listed, "recipe", "batch_size")
    best = {key: best_rate(group, validation_error, STABLE_ERROR) for key, group in groups.items()}
    rates = [r.config.effective_learning_rate for r in listed]
    limits = (min(rates) / ROOM, max(rates) * ROOM), (0.0, 100 + ROWS)
    recipes = list(dict.fromkeys(r.config.recipe for r in listed))
    step = ROWS / (len(recipes) + 1)

    def compute(batch_size: int) -> Picture:
        marks, crosses, bands, lines, words = [], [], [], [], []
        for row, name in enumerate(name for name in recipes if (name, batch_size) in groups):
            found, line = best[name, batch_size], (predicted or {}).get(name, {}).get(batch_size)
            height, group = 100 + step * (row + 1), groups[name, batch_size]
            finished = (r for r in group if r.outcome == "finished")
            at = [(r.config.effective_learning_rate, 100 * r.validation_accuracy) for r in finished]
            if found.effective_rate is not None:
                at.append((found.effective_rate, height))
                ends = [found.effective_rate, found.largest_stable]
                bands.append(Series("band", "best to largest stable", ends, [height - 0.3 * step] * 2, [height + 0.3 * step] * 2))
            if at:
                marks.append(Series("measured", name, *zip(*at, strict=True), recipe=name))
            if failed := [r.config.effective_learning_rate for r in group if r.outcome == "diverged"]:
                floor = [2.0 * row] * len(failed)  # those of several recipes lie above each other
                crosses.append(Series("cross", "diverged", failed, floor, recipe=name))
            if line is not None:
                lines.append(Series("theory", "best, predicted", [line] * 2, [height - 0.5 * step, height + 0.5 * step]))
            words.append(_words(name, found, line))
        drawn, said = (*bands, *marks, *crosses, *lines), f"Batch {batch_size}: {'; '.join(words)}."
        return Picture("effective learning rate", "validation accuracy, %", drawn, said, True, False, *limits)

    sizes = Control("batch_size", "batch size", sorted({size for _, size in groups}), start)
    return Explorer("Which learning rate, at which batch size?", [sizes], compute)


def trainability_explorer(records: Iterable[RunRecord], predicted: Lines, start: str | None = None) -> Explorer:
    """Depth against effective learning rate for one recipe, with a slider for what counts as trained.

    records: that differ in recipe, depth and learning rate; a ValueError if there is none, or none of the recipe
    `start`, which is shown at first (None: the first record's). predicted: as for `plots.trainability_map`.
    """
    runs = all_records(records)
    groups = {name: group for (name,), group in group_by(runs, "recipe").items()}
    rates = [r.config.effective_learning_rate for r in runs]
    limits = min(rates) / ROOM, max(rates) * ROOM

    def compute(recipe: str, enough: int) -> Picture:
        kinds = {None: "cross", True: "measured", False: "open"}
        found = points_by(groups[recipe], lambda r: kinds[r.test_accuracy and 100 * r.test_accuracy >= enough])
        names = {"measured": f"{recipe}: {enough} % or more", "open": "less", "cross": "diverged"}
        series = [Series("theory", label, list(line), list(line.values())) for label, line in predicted.get(recipe, {}).items()]
        series += [Series(k, names[k], *zip(*found[k], strict=True), recipe=recipe) for k in names if k in found]
        good, told = found.get("measured", []), lambda at: f"from {spoken(min(at))} to {spoken(max(at))}"
        words = f"{recipe}, at least {enough} % of test images right: {edge_words(groups[recipe], good, told)}."
        return Picture("depth n", "effective learning rate", tuple(series), words, True, True, y_limits=limits)

    least = Control("enough", "test accuracy of at least, %", range(20, 100, 10), 50)
    shown = Control("recipe", "recipe", [*groups], start)
    return Explorer("How deep, at which learning rate?", [shown, least], compute)


def _words(name: str, best: BestRate, line: float | None) -> str:
    if best.effective_rate is None:
        return f"{name} trains at no rate"
    said = f"{name} best at {spoken(best.effective_rate)}" + (" on the grid's edge" if best.on_edge else "")
    said += "" if line is None else f" (predicted {spoken(line)})"
    return f"{said} with {100 * (1 - best.loss):.1f} %, stable up to {spoken(best.largest_stable)}"
