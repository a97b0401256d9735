import json
import math

import pytest
import torch
from click.testing import CliRunner

from shallowpaths.bench import rows as bench
from shallowpaths.bench import steps
from shallowpaths.bench.rows import Row
from shallowpaths.cli import main

CPU = torch.device("cpu")


def row(**bounds):
    return Row("row", lambda device: (1.5, str(device)), **bounds)


@pytest.mark.parametrize(
    ("bounds", "value", "target", "holds"),
    [
        ({"at_most": 1.5}, 1.5, "at most 1.5", True),
        ({"at_most": 1.4}, 1.5, "at most 1.4", False),
        ({"at_least": 25}, 25.1, "at least 25", True),
        ({"at_least": 25}, 24.9, "at least 25", False),
        ({"at_least": 1}, math.nan, "at least 1", False),
        ({"at_most": 1}, math.nan, "at most 1", False),
        ({}, 7.0, None, None),
    ],
)
def test_a_row_holds_within_its_bound(bounds, value, target, holds):
    assert (row(**bounds).target, row(**bounds).holds(value)) == (target, holds)


def test_results_are_written_as_a_list(tmp_path):
    results = bench.run(device="cpu", rows=[row(at_least=1), row()])
    bench.write(results, tmp_path / "bench.json")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [entry["holds"] for entry in written] == [True, None]
    assert set(written[0]) == {"name", "device", "value", "target", "holds", "detail"}


def test_an_unknown_row_lists_the_known_ones():
    with pytest.raises(ValueError, match="step_over_bare"):
        bench.run(["step"])
    with pytest.raises(ValueError, match="row for cpu 'depth_1000_over_eager' is unknown"):
        bench.run(["depth_1000_over_eager"], "cpu")


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_names_are_unique_on_a_device_and_bounds_are_single(kind):
    names = [r.name for r in bench.ROWS if kind in r.kinds]
    assert len(set(names)) == len(names)
    assert all(r.at_most is None or r.at_least is None for r in bench.ROWS)


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
    data = steps.random_images(CPU)
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
