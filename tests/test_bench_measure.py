import json
from functools import partial

import pytest
import torch
from click.testing import CliRunner

from shallowpaths.bench import rows as bench
from shallowpaths.cli import main

CPU = torch.device("cpu")
SMALL = (
    bench.Row("measure_time_over_forward", partial(bench.measure_time_over_forward, depth=10, pairs=3), "at most 1e9"),
    bench.Row("measure_memory_over_forward", partial(bench.measure_memory_over_forward, depth=64), "at most 1e-9"),
)


def test_time_is_a_ratio_of_two_passes():
    value, detail = bench.measure_time_over_forward(CPU, depth=16, pairs=3)
    assert 0.1 < value < 100
    assert "WRN-16-2, 16 images" in detail
    assert "3 pairs" in detail


@pytest.mark.slow
def test_memory_counts_the_weights_and_the_measurement_adds_little():
    """In fresh processes, so that what this one holds does not count. Keeping every block's signal would take 2.9 times."""
    weights = 4 * sum(p.numel() for p in bench.WideResNet(304, 2).parameters()) / bench.MEBIBYTE
    value, detail = bench.measure_memory_over_forward(CPU, depth=304)
    assert value < 1.5
    assert weights < float(detail.split("; ")[1].split()[0]) < weights + 200


def test_the_command_writes_the_rows_and_prints_them(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.run, "__defaults__", ((), None, SMALL))
    path = tmp_path / "_build" / "bench.json"
    result = CliRunner().invoke(main, ["bench", "--device", "cpu", "--output", str(path)])
    assert result.exit_code == 0, result.output
    rows = json.loads(path.read_text())
    assert [list(row) for row in rows] == [["name", "device", "value", "target", "holds", "detail"]] * 2
    assert [row["holds"] for row in rows] == [True, False]
    assert [p.name for p in path.parent.iterdir()] == ["bench.json"]
    for row in rows:
        assert row["name"] in result.stdout
        assert f"{row['value']:.3f}" in result.stdout
    assert "row/s" in result.stderr or "s/row" in result.stderr
    assert "row/s" not in result.stdout


def test_one_row_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.run, "__defaults__", ((), None, SMALL))
    path = tmp_path / "bench.json"
    CliRunner().invoke(main, ["bench", "--only", "measure_time_over_forward", "--output", str(path)])
    assert [row["name"] for row in json.loads(path.read_text())] == ["measure_time_over_forward"]


def test_an_unknown_row_is_refused(tmp_path):
    path = tmp_path / "bench.json"
    result = CliRunner().invoke(main, ["bench", "--only", "measure_tme", "--output", str(path)])
    assert result.exit_code == 2
    assert "measure_time_over_forward" in result.output
    assert not path.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="has none"):
        bench.run(device="cuda")
