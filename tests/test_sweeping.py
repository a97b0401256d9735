import functools
import os
import signal
import time
import types

import pytest
import torch

from shallowpaths.experiments import sweep as sweeping
from shallowpaths.experiments.store import Store, load_records
from shallowpaths.training import checkpoints
from shallowpaths.training.config import RunConfig
from shallowpaths.training.train import train

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

    def interrupted(config, *rest, **more):
        calls.append(config.seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(config, *rest, **more)

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


def _sweep_in_process(path, log, configs, gate):
    train_here = sweeping.train

    def noted(config, *rest, **more):
        with log.open("a") as file:
            file.write(f"{config.seed}\n")
        return train_here(config, *rest, **more)

    sweeping.train = noted
    if gate:
        gate.wait(60)
    records = sweeping.sweep(configs, path, progress=False)
    assert [r.config.seed for r in records] == [c.seed for c in configs]


MANY = [c.replace(seed=s) for s in range(12) for c in GRID[:1]]


def start(context, path, log, configs=MANY, gate=None):
    process = context.Process(target=_sweep_in_process, args=(path, log, configs, gate))
    process.start()
    return process


def test_two_processes_share_a_store_and_no_run_is_lost_or_done_twice(tmp_path, forkserver):
    logs = [tmp_path / f"{name}.log" for name in "ab"]
    gate = forkserver.Barrier(2)
    processes = [start(forkserver, tmp_path / "store", log, gate=gate) for log in logs]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    seeds = [[int(x) for x in log.read_text().split()] for log in logs]
    assert sorted(seeds[0] + seeds[1]) == list(range(12))
    assert all(seeds), "both processes worked"
    stored = load_records(tmp_path / "store" / "records.jsonl")
    assert sorted(r.config.seed for r in stored) == list(range(12))
    assert stored[0].result() == train(stored[0].config, progress=False).result()
    assert list((tmp_path / "store" / "records.jsonl.claims").iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_what_a_killed_process_left_another_takes_over(tmp_path, forkserver):
    long = [MANY[0], MANY[1].replace(epochs=3000)]
    log, store = tmp_path / "a.log", Store(tmp_path)
    process = start(forkserver, tmp_path, log, long)
    while len(store.load()) < 1 or len(log.read_text().split()) < 2:
        time.sleep(0.05)
    with store.claim(long[1].key) as mine:
        assert not mine
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with store.claim(long[1].key) as mine:
        assert mine
    records = sweeping.sweep(MANY[:2], tmp_path, progress=False)
    assert [r.config.seed for r in records] == [0, 1]


def test_a_run_whose_record_was_damaged_is_repeated(tmp_path, caplog):
    path = tmp_path / "runs.jsonl"
    whole = sweeping.sweep(GRID, path, progress=False)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2])
    again = sweeping.sweep(GRID, path, progress=False)
    assert "line 2 is set aside" in caplog.text
    assert [r.result() for r in again] == [r.result() for r in whole]
    assert [r.config.seed for r in load_records(path)] == [0, 2, 1]


def test_a_sweep_goes_on_in_the_middle_of_a_run(tmp_path, monkeypatch):
    config = GRID[0].replace(epochs=4)
    store, saves, save = Store(tmp_path), [], checkpoints.save

    def save_and_stop(*arguments):
        save(*arguments)
        saves.append(len(arguments[-1].taken))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_stop)
        patch.setattr(sweeping, "train", functools.partial(train, checkpoint_every=0))
        with pytest.raises(KeyboardInterrupt):
            sweeping.sweep([config], tmp_path, progress=False)
    assert saves == [1]
    assert [p.stem for p in store.checkpoint_folder.iterdir()] == [config.key]
    (record,) = sweeping.sweep([config], tmp_path, progress=False)
    assert record.result() == train(config, progress=False).result()
    assert list(store.checkpoint_folder.iterdir()) == []


@pytest.mark.parametrize("stored", [True, False])
def test_after_the_limit_no_run_is_started(tmp_path, stored, monkeypatch):
    store, clock = tmp_path if stored else None, [0.0]

    def train_for_a_second(*arguments, **options):
        clock[0] += 1
        return train(*arguments, **options)

    monkeypatch.setattr(sweeping, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(sweeping, "train", train_for_a_second)
    assert sweeping.sweep(GRID, store, progress=False, limit_seconds=0) == []
    some = sweeping.sweep(MANY, store, progress=False, limit_seconds=1.5)
    assert [r.config.seed for r in some] == [0, 1]


def test_progress_counts_runs_and_shows_the_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    sweeping.sweep(GRID[:1], tmp_path, progress=False)
    sweeping.sweep(GRID, tmp_path)
    shown = capsys.readouterr().err
    assert "sweep: 1 of 3 runs" in shown
    assert "sweep: 3 of 3 runs 100%" in shown
    assert "left" in shown


def test_processes_share_the_work_and_the_result_is_the_same(tmp_path):
    threads = torch.get_num_threads()
    configs = [c.replace(epochs=40) for c in MANY[:6]]
    records = sweeping.sweep(configs, tmp_path, progress=False, processes=2)
    assert torch.get_num_threads() == threads
    assert [r.config for r in records] == configs
    assert len(load_records(tmp_path / "records.jsonl")) == 6
    alone = sweeping.sweep(configs[:2], progress=False)
    for together, single in zip(records, alone, strict=False):
        assert together.train_loss == pytest.approx(single.train_loss, rel=1e-3)


def test_processes_need_a_store_and_a_number(tmp_path):
    for store, processes in ((None, 2), (tmp_path, 0)):
        with pytest.raises(ValueError, match=f"processes {processes}"):
            sweeping.sweep(GRID, store, progress=False, processes=processes)


def test_one_process_per_thread_on_a_cpu():
    assert sweeping.processes_for(GRID) == torch.get_num_threads()


@pytest.mark.parametrize("stored", [True, False])
def test_lanes_give_the_runs_that_one_after_the_other_gives(tmp_path, stored):
    """Two architectures, a run with dropout, which no lane can take, and a rate at which the run diverges."""
    few = [c.replace(batch_size=b, learning_rate=rate) for b in (128, 256) for c in GRID[:2] for rate in (0.05, 0.1)]
    few += [few[0].replace(recipe="regularized-skipinit", dropout=0.2), few[0].replace(learning_rate=1e30)]
    together = sweeping.sweep(few, tmp_path if stored else None, progress=False, lanes=3)
    assert [r.config for r in together] == few
    assert together[-1].outcome == "diverged"
    assert [r.lanes for r in together] == [3, 3, 3, 2, 3, 3, 3, 1, 1, 2], "each batch size by itself, dropout alone"
    for lane, alone in zip(together, sweeping.sweep(few, progress=False), strict=True):
        assert alone.lanes == 1
        assert (lane.outcome, lane.diverged_step) == (alone.outcome, alone.diverged_step)
        if lane.outcome == "finished":
            assert lane.train_loss == pytest.approx(alone.train_loss, rel=1e-4)
    if stored:
        assert len(load_records(tmp_path / "records.jsonl")) == len(few)
        assert list((tmp_path / "records.jsonl.claims").iterdir()) == []


def test_a_lane_that_another_process_has_claimed_is_left_to_it(tmp_path):
    store = Store(tmp_path)
    with store.claim(GRID[1].key) as mine:
        assert mine
        records = sweeping.sweep(GRID, tmp_path, progress=False, lanes=3, limit_seconds=5)
    assert [r.config.seed for r in records] == [0, 2]


def test_a_batch_that_is_too_large_is_refused_before_any_training(tmp_path):
    with pytest.raises(ValueError, match="batch_size 1400 is larger than the training split, 1293 images of digits"):
        sweeping.sweep([*GRID, GRID[0].replace(batch_size=1400, validation=0.1)], tmp_path, progress=False)
    assert not (tmp_path / "records.jsonl").exists()


def test_fewer_than_one_lane_is_refused():
    with pytest.raises(ValueError, match="lanes 0: give at least 1"):
        sweeping.sweep(GRID, progress=False, lanes=0)
