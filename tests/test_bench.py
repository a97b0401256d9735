import json
import math
import re
import types

import pytest
import torch
from click.testing import CliRunner

from shallowpaths.bench import rows as bench
from shallowpaths.bench import steps
from shallowpaths.bench.rows import Row
from shallowpaths.cli import main
from shallowpaths.data import noise

CPU = torch.device("cpu")


def row(target=None):
    return Row("row", lambda device: (1.5, str(device)), target)


@pytest.mark.parametrize(
    ("target", "value", "holds"),
    [
        ("at most 1.5", 1.5, True),
        ("at most 1.4", 1.5, False),
        ("at least 25", 25.1, True),
        ("at least 25", 24.9, False),
        ("at least 1", math.nan, False),
        ("at most 1", math.nan, False),
        (None, 7.0, None),
    ],
)
def test_a_row_holds_within_its_target(target, value, holds):
    assert row(target).holds(value) == holds


def test_results_are_a_list():
    results = bench.run(device="cpu", rows=[row("at least 1"), row()])
    assert [entry["holds"] for entry in results] == [True, None]
    assert set(results[0]) == {"name", "device", "value", "target", "holds", "detail"}


def test_an_unknown_row_lists_the_known_ones():
    with pytest.raises(ValueError, match="step_over_bare"):
        bench.run(["step"])
    with pytest.raises(ValueError, match="row for cpu 'depth_1000_over_eager' is unknown"):
        bench.run(["depth_1000_over_eager"], "cpu")


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_names_are_unique_on_a_device_and_targets_are_bounds(kind):
    names = [r.name for r in bench.ROWS if kind in r.kinds]
    assert len(set(names)) == len(names)
    assert all(r.target is None or re.fullmatch(r"at (most|least) [\d.]+", r.target) for r in bench.ROWS)


def test_two_runs_are_compared_block_for_block(monkeypatch):
    """Steps that take a second for each block; without a graph in eager mode."""
    clock, graphs = [0.0], []

    def take(run):
        graphs.append(run.step.options.graph)
        clock[0] += run.config.blocks

    monkeypatch.setattr(steps, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(steps, "default_options", lambda _: steps.StepOptions(graph=True))
    monkeypatch.setattr(steps.StepRun, "take", take)
    above, below = {"depth": 22, "batch_size": 16}, {"depth": 16, "batch_size": 16}
    value, detail = steps.measure_two(CPU, above=above, below=below, pairs=3)
    assert value == pytest.approx(1.0)
    assert detail.startswith("WRN-22-1, batch 16; 9000.00 over 6000.00 ms; 3 pairs")
    assert graphs[0]
    steps.measure_two(CPU, above=above, below=below, pairs=1, eager=True)
    assert not graphs[10]


def test_a_ratio_is_of_seconds_and_pairs_take_turns():
    order = []

    def work(name, size):
        order.append(name)
        return torch.randn(size, size) @ torch.randn(size, size)

    value, detail = steps.ratio(lambda: work("a", 700), lambda: work("b", 50), CPU, "products", pairs=3)
    assert value > 1
    assert order == ["a", "b"] * 5
    assert "3 pairs" in detail


def test_the_usual_pictures_are_standardized_as_ours_are():
    data = noise("cifar10", 8)
    pictures = steps.Pictures(data, 4)
    pictures.transform.transforms = pictures.transform.transforms[2:]  # without crop and flip
    found = torch.stack([picture for picture, _ in pictures])
    torch.testing.assert_close(found, data.standardize(data.train_images[:4]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_augmentation_row_from_the_command_line(tmp_path):
    output = tmp_path / "bench.json"
    arguments = ["bench", "--device", "cpu", "--only", "augment_over_torchvision", "--output", str(output)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    (entry,) = json.loads(output.read_text())
    assert entry["holds"] == (entry["value"] >= 25)
