"""The explorer of what trains: depth and learning rate, recipe by recipe."""

from collections.abc import Iterable

from shallowpaths.experiments.records import group_by
from shallowpaths.pages.explorers.explorer import Explorer, menu, slider
from shallowpaths.pages.explorers.pictures import Picture, Series, spoken
from shallowpaths.pages.plots.drawing import all_records
from shallowpaths.pages.plots.rates import Lines
from shallowpaths.training.record import RunRecord

ACCURACIES = (20, 30, 40, 50, 60, 70, 80, 90)
ROOM = 1.4  # factor by which the vertical axis is longer than the grid of rates, at both ends


def trainability_explorer(
    records: Iterable[RunRecord],
    predicted: Lines,
    start: str | None = None,
    title: str = "How deep, at which learning rate?",
) -> Explorer:
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
        words = f"{recipe}, at least {enough} % of test images right: {_words(sorted_out['measured'], groups[recipe])}"
        return Picture("depth n", "effective learning rate", tuple(series), words, True, True, y_limits=limits)

    controls = [menu("recipe", "recipe", list(groups), start), slider("enough", "test accuracy of at least, %", ACCURACIES, 50)]
    return Explorer(title, controls, compute)


def _kind(record: RunRecord, enough: int) -> str:
    if record.test_accuracy is None:
        return "cross"
    return "measured" if 100 * record.test_accuracy >= enough else "open"


def _words(good: list[tuple[int, float]], group: list[RunRecord]) -> str:
    """Up to which rate, depth by depth."""
    said = []
    for depth in sorted({r.config.depth for r in group}):
        rates = [rate for n, rate in good if n == depth]
        said.append(f"at depth {depth} " + (f"from {spoken(min(rates))} to {spoken(max(rates))}" if rates else "at no rate"))
    return f"{', '.join(said)}."
