import pytest

from shallowpaths import sweeping
from shallowpaths.records import Store
from shallowpaths.runs import RunConfig
from shallowpaths.training import train

GRID = [
    RunConfig(network="residual-mlp", depth=6, width=8, epochs=1, batch_size=256, seed=s, device="cpu")
    for s in range(3)
]


def test_a_sweep_is_its_runs_in_order():
    records = sweeping.sweep(GRID, progress=False)
    assert [r.result() for r in records] == [train(c, progress=False).result() for c in GRID]


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path, monkeypatch):
    path = tmp_path / "runs.jsonl"
    calls = []

    def interrupted(config, *rest):
        calls.append(config.seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(config, *rest)

    monkeypatch.setattr(sweeping, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweeping.sweep(GRID, path, progress=False)
    assert [r.config.seed for r in Store(path).load()] == [0]
    records = sweeping.sweep(GRID, path, progress=False)
    assert calls == [0, 1, 1, 2]
    assert [r.config.seed for r in records] == [0, 1, 2]
    sweeping.sweep(GRID, path, progress=False)
    assert len(calls) == 4


def test_a_config_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="same config twice"):
        sweeping.sweep([GRID[0], GRID[0]], progress=False)
