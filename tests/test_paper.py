"""The paper's depth table, and what it and the batch-size study say of records."""

import itertools
import math

import pytest

from made_records import record
from shallowpaths.experiments import paper, tables
from shallowpaths.experiments.records import best_rate, group_by
from shallowpaths.experiments.store import SHIPPED, load_records, shipped_records
from shallowpaths.pages.tables import paper_table
from shallowpaths.training.train import train

TABLE = {(c.recipe, c.depth, c.l2): c for c in paper.TABLE}


def _unwrapped(text):
    return " ".join(text.split())


def cell_of(records, recipe, depth, l2=True):
    found = [c for c in paper.beside_paper(records) if c.published == TABLE[recipe, depth, l2]]
    assert len(found) == 1
    return found[0]


def test_the_table_is_the_papers():
    """Spot checks against the sheet of facts, cell by cell where a slip would be easy."""
    assert len(paper.TABLE) == 18
    untrained = {(c.recipe, c.depth) for c in paper.TABLE if c.accuracy is None}
    assert untrained == {("skipinit-1", 100), ("skipinit-1", 1000), ("divide-sqrt2", 1000)}
    divided = TABLE["divide-sqrt2", 100, True]
    assert (divided.accuracy, divided.deviation, divided.best, divided.lowest, divided.highest) == (0.889, 0.004, -5, -5, -5)
    deep = TABLE["skipinit", 1000, True]
    assert (deep.accuracy, deep.deviation, deep.best, deep.lowest, deep.highest) == (0.943, 0.002, -2, -3, -1)
    assert [TABLE["skipinit", n, False].accuracy for n in paper.DEPTHS] == [0.898, 0.917, 0.921]
    assert all(c.lowest <= c.best <= c.highest for c in paper.TABLE if c.accuracy is not None)


def test_outcomes_and_verdicts():
    runs = [
        record(recipe="skipinit", depth=100, loss=0.5, accuracy=0.80),
        record(recipe="divide-sqrt2", depth=100, loss=1.0, accuracy=0.74),
        record(recipe="skipinit-1/sqrt(d)", depth=100, loss=0.5, accuracy=0.76),
        record(recipe="skipinit-1", depth=100, loss=math.inf),
        record(recipe="batchnorm", depth=100, loss=2.2, accuracy=0.2),
    ]
    said = {c.published.recipe: (c.outcome, c.verdict) for c in paper.beside_paper(runs) if c.runs}
    assert said == {
        "skipinit": ("trains", "reproduced"),
        "divide-sqrt2": ("trains", "reproduced"),
        "skipinit-1/sqrt(d)": ("trains", "reproduced"),
        "skipinit-1": ("does not train", "reproduced"),
        "batchnorm": ("does not train", "differs"),
    }
    assert cell_of(runs, "skipinit", 100, l2=False).verdict == "not run"


def test_the_best_rate_is_chosen_and_seeds_are_averaged():
    runs = [record(rate, seed, loss, 1 - loss) for rate, loss in ((0.1, 0.3), (0.2, 0.5)) for seed in (0, 1)]
    chosen = cell_of(runs, "batchnorm", 16)
    assert chosen.best.effective_rate == pytest.approx(1.0)
    assert (chosen.point.accuracy, chosen.point.finished, len(chosen.runs)) == (pytest.approx(0.7), 2, 4)


def test_what_has_no_row_in_the_paper_is_left_aside():
    aside = [record(recipe="fixup"), record(alpha_rate=0.5), record(l2_on_scalars=False), record(depth=22)]
    assert [c for c in paper.beside_paper(aside) if c.runs] == []


def test_runs_of_two_settings_in_one_cell_are_refused():
    with pytest.raises(ValueError, match="choose one setting"):
        paper.beside_paper([record(), record(batch_size=8)])


def test_the_table_in_words_marks_an_edge():
    rows = {row[0]: row for row in tables.paper_rows([record(0.025, accuracy=0.7, loss=0.5)]) if row[1] == "16"}
    assert rows["batch normalization"][2:] == (
        "93.5 ± 0.1", "2^-1 (2^-1..2^-1)", "70.00", "2^-2*", "1", "trains", "reproduced",
    )  # fmt: skip
    assert rows["SkipInit, α = 1"][4:] == ("-", "-", "0", "not run", "not run")
    assert len(paper_table([record()]).plain.splitlines()) == 2 + 18


def test_a_study_of_the_table_is_shown_beside_the_paper():
    assert "verdict" not in tables.describe([record()])
    assert "verdict" in tables.describe([record(), record(recipe="skipinit")])
    assert "verdict" not in tables.describe([record(), record(recipe="skipinit"), record(batch_size=8)])


def test_records_say_on_what_they_stand():
    said = _unwrapped(tables.stands_on([record(epochs=1), record(seed=1, epochs=1), record(depth=100, steps=7)]))
    assert "digits, wide-resnet of width 1, batch 64, 1 epoch at 16 layers, 7 steps at 100 layers, seed 0 and 1, 3 runs" in said
    with pytest.raises(ValueError, match="no record"):
        tables.stands_on([])


def test_runs_of_one_depth_with_several_budgets_are_all_told_of():
    runs = [record(epochs=2, recipe="fixup"), record(epochs=10), record(steps=7), record(depth=100, epochs=1)]
    for order in (runs, runs[::-1]):
        assert "10 epochs or 2 epochs or 7 steps at 16 layers, 1 epoch at 100 layers" in _unwrapped(tables.stands_on(order))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_records_belong_to_their_plan_and_are_whole(name):
    from shallowpaths.experiments.plans import read_plan

    records = shipped_records(name)
    planned = {config.key for config in read_plan(name).configs}
    assert {r.config.key for r in records} <= planned
    assert all(r.data_checksum and r.seconds > 0 and r.device_name and r.versions["torch"] for r in records)
    assert all(r.commit and not r.commit.endswith("+") for r in records), "made by code that was not committed"
    assert len({r.data_checksum for r in records}) == 1


def test_an_unknown_name_lists_what_is_shipped():
    with pytest.raises(ValueError, match=r"choose from .*quick-depth"):
        shipped_records("slow-depth")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_quick_table_agrees_with_the_paper(seed):
    """What trains and what does not, in every cell that the paper reports."""
    runs = [r for r in shipped_records("quick-depth") if r.config.seed == seed]
    verdicts = {(c.published.recipe, c.published.depth, c.published.l2): c.verdict for c in paper.beside_paper(runs)}
    assert len(verdicts) == 18
    assert set(verdicts.values()) == {"reproduced"}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_quick_batch_size_study_agrees_with_the_paper(seed):
    """By training loss. A step of the grid is a factor of 2, the batch sizes 8 to 512 are factors of 4 apart."""
    groups = group_by((r for r in shipped_records("quick-batch-size") if r.config.seed == seed), "recipe", "batch_size")
    found = {key: best_rate(runs, stable_below=paper.TRAINS_BELOW) for key, runs in groups.items()}
    assert len(found) == 12
    assert not any(best.on_edge for best in found.values())
    for recipe in ("batchnorm", "skipinit", "regularized-skipinit"):
        rates = [found[recipe, size].between_rates for size in (8, 32, 128, 512)]
        assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(rates)), "the best rate rises"
        assert 8 < rates[2] / rates[0] < 32, "as the batch, 16, within a step of the grid"
        assert rates[3] / rates[2] < 3.5, "and falls behind at the largest batch"
    for size in (8, 32):
        ratio = found["batchnorm", size].between_rates / found["skipinit", size].between_rates
        assert 1 / 4 < ratio < 4, "similar best rates at the smallest batches: within two steps of the grid"
    assert found["batchnorm", 512].largest_stable >= 4 * found["skipinit", 512].largest_stable


def test_a_shipped_record_is_what_its_config_gives_again():
    """The shortest that was trained to its end: the same curve, where torch and the processor's vector units are the same."""
    shipped = min((r for r in shipped_records("quick-depth") if r.outcome == "finished"), key=lambda r: r.seconds)
    again = train(shipped.config, progress=False)
    here = again.device_name.rpartition(",")[0], again.versions["torch"]
    if here != (shipped.device_name.rpartition(",")[0], shipped.versions["torch"]):
        pytest.skip(f"made by another kind of machine: {shipped.device_name}, torch {shipped.versions['torch']}")
    assert len(again.curve) == len(shipped.curve) > 1
    for ours, theirs in zip(again.curve, shipped.curve, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    assert again.test_accuracy == shipped.test_accuracy
    assert again.data_checksum == shipped.data_checksum


def test_load_records_reads_what_is_shipped(tmp_path):
    copied = tmp_path / "copy.jsonl"
    copied.write_text("".join(r.to_json() + "\n" for r in shipped_records("quick-depth")))
    assert load_records(copied) == shipped_records("quick-depth")
