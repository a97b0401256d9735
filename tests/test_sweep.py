import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from shallowpaths.experiments import sweep as sweeping
from shallowpaths.experiments.execution import _without_interrupts, in_processes
from shallowpaths.experiments.store import Store, load_records
from shallowpaths.training import checkpoints
from shallowpaths.training.config import RunConfig
from shallowpaths.training.steps import Step
from shallowpaths.training.train import train, train_lanes

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

    def interrupted(job, *rest, **more):
        calls.append(job[0].seed)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train_lanes(job, *rest, **more)

    monkeypatch.setattr(sweeping, "train_lanes", interrupted)
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


MANY = [c.replace(seed=s) for s in range(12) for c in GRID[:1]]


def test_a_second_sweep_into_a_store_that_is_in_use_is_refused_at_once(tmp_path):
    with (
        Store(tmp_path),
        pytest.raises(ValueError, match=r"records.jsonl is in use by another process, a sweep perhaps"),
    ):
        sweeping.sweep(GRID, tmp_path, progress=False)
    assert len(sweeping.sweep(GRID, tmp_path, progress=False)) == 3


def test_a_run_whose_record_was_damaged_is_repeated(tmp_path, caplog):
    path = tmp_path / "runs.jsonl"
    whole = sweeping.sweep(GRID, path, progress=False)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:50] + b"\n" + lines[2])
    again = sweeping.sweep(GRID, path, progress=False)
    assert "line 2 is passed over" in caplog.text
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
        patch.setattr(sweeping, "train_lanes", functools.partial(train_lanes, checkpoint_every=0))
        with pytest.raises(KeyboardInterrupt):
            sweeping.sweep([config], tmp_path, progress=False)
    assert saves == [1]
    assert [p.stem for p in store.checkpoint_folder.iterdir()] == [config.key]
    (record,) = sweeping.sweep([config], tmp_path, progress=False)
    assert record.result() == train(config, progress=False).result()
    assert list(store.checkpoint_folder.iterdir()) == []


def test_progress_counts_runs_and_shows_the_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    sweeping.sweep(GRID[:1], tmp_path, progress=False)
    sweeping.sweep(GRID, tmp_path)
    shown = capsys.readouterr().err
    assert "sweep: 1 of 3 runs" in shown
    assert "sweep: 3 of 3 runs 100%" in shown
    assert "left" in shown


@pytest.fixture
def two_threads():
    """Two processes then have one thread each, and a run the same bits in either."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_processes_share_the_work_and_no_bit_of_the_result_differs(tmp_path):
    configs = [*MANY[:6], RunConfig(depth=10, epochs=1, batch_size=256, device="cpu")]
    records = sweeping.sweep(configs, tmp_path, progress=False, processes=2)
    assert torch.get_num_threads() == 2
    assert [r.config for r in records] == configs
    assert len(load_records(tmp_path / "records.jsonl")) == 7
    torch.set_num_threads(1)
    alone = sweeping.sweep(configs, progress=False)
    assert [r.result() for r in records] == [r.result() for r in alone]


def test_processes_need_no_store():
    assert [r.config for r in sweeping.sweep(GRID, progress=False, processes=2)] == GRID


def _dies_once(job, folder):
    """A worker that is killed the first time it meets the job of seed 2; each job that is done leaves a line."""
    mark = folder / "died"
    if job[0].seed == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with (folder / "done").open("a") as file:
        file.write(f"{job[0].seed}\n")
    return train_lanes(job, progress=False)


def _dies_always(_job):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_worker_that_dies_is_reported_and_its_run_done_again(tmp_path, caplog):
    jobs = [[config] for config in MANY[:5]]
    done = [r for records in in_processes(functools.partial(_dies_once, folder=tmp_path), jobs, 2) for r in records]
    assert sorted(r.config.seed for r in done) == [0, 1, 2, 3, 4]
    assert caplog.text.count("a worker process died") == 1
    finished = [int(line) for line in (tmp_path / "done").read_text().split()]
    assert finished.count(2) == 1
    assert len(finished) <= 6, "at most the other one under way was begun again"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_workers_that_die_again_and_again_end_the_sweep():
    with pytest.raises(
        ValueError, match=r"3 worker processes died one after the other.*batchnorm, depth 6, batch_size 256"
    ):
        list(in_processes(_dies_always, [[MANY[0]]], 2))


def test_what_training_refuses_ends_the_sweep_and_its_workers(tmp_path):
    (tmp_path / "file").write_text("")
    configs = [config.replace(data="cifar10") for config in GRID]
    with pytest.raises(ValueError, match="CIFAR-10"):
        sweeping.sweep(configs, tmp_path / "store", tmp_path / "file", progress=False, processes=2)
    assert len(sweeping.sweep(GRID, tmp_path / "store", progress=False)) == 3, "the store is free again"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of children")
def test_whatever_ends_a_sweep_ends_its_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    long = [MANY[0], *(config.replace(epochs=100_000) for config in MANY[1:3])]
    with pytest.raises(KeyboardInterrupt) as caught:
        sweeping.sweep(long, tmp_path, progress=False, processes=2)
    children = [Path(f"/proc/{child}/cmdline") for child in Path("/proc/thread-self/children").read_text().split()]
    assert not [c for c in children if b"popen_loky" in c.read_bytes()], caught  # the traceback still holds every frame


def test_jobs_are_taken_only_when_there_is_room_for_them():
    taken = []

    def jobs():
        for config in MANY[:6]:
            taken.append(config.seed)
            yield [config]

    results = in_processes(functools.partial(train_lanes, progress=False), jobs(), 2)
    next(results)
    assert len(taken) == 2
    next(results)
    assert len(taken) == 3 or len(taken) == 4
    results.close()


def test_a_checkpoint_stays_until_the_record_is_on_the_disk(tmp_path, monkeypatch):
    config = GRID[0].replace(epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr(sweeping, "train_lanes", functools.partial(train_lanes, checkpoint_every=0))
        patch.setattr(Store, "append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweeping.sweep([config], tmp_path, progress=False)
    steps, take = [], Step.take
    monkeypatch.setattr(Step, "take", lambda *a: steps.append(a) or take(*a))
    (record,) = sweeping.sweep([config], tmp_path, progress=False)
    assert len(steps) == 0, "the run had taken its last step"
    assert record.result() == train(config, progress=False).result()
    assert list(Store(tmp_path).checkpoint_folder.iterdir()) == []


@pytest.mark.parametrize("number", [{"processes": 0}, {"lanes": 0}, {"processes": 1.5}])
def test_how_many_at_a_time_is_a_whole_number(number):
    with pytest.raises(ValueError, match=f"{next(iter(number))} .* must be a whole number of at least 1"):
        sweeping.sweep(GRID, progress=False, **number)


def test_a_cluster_without_ray_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'shallowpaths\[cluster\]'"):
        sweeping.sweep(GRID, progress=False, cluster="local")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 2}, "processes 2 and the cluster local"),
        ({"gpu_share": 0}, "gpu_share 0 must be a finite number above 0"),
        ({"gpu_share": 2}, "gpu_share 2 must be a finite number .*at most 1"),
    ],
)
def test_a_cluster_has_its_own_processes_and_at_most_one_gpu_a_run(options, message):
    with pytest.raises(ValueError, match=message):
        sweeping.sweep(GRID, progress=False, cluster="local", **options)


def test_a_device_elsewhere_need_not_be_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    configs = [GRID[0].replace(device="cuda"), GRID[1].replace(device="auto")]
    assert [c.device for c in sweeping.check(configs, elsewhere=True)] == ["cuda", sweeping.resolve_device("auto").type]
    with pytest.raises(ValueError, match="'cuda'"):
        sweeping.check(configs)


def test_a_worker_that_does_not_see_the_stores_folder_makes_none(tmp_path):
    (record,) = sweeping._trained(GRID[:1], data_folder=None, progress=False, folder=tmp_path / "elsewhere", workers=0)
    assert record.config == GRID[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system sends no signal to one thread")
@pytest.mark.parametrize("taker", ["this thread", "another"])
def test_ctrl_c_waits_for_a_worker_that_starts(taker):
    """Whichever thread the system gives the signal to, Python answers it in the main one, masked or not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    other = threading.Thread(target=time.sleep, args=(2,), daemon=True)
    other.start()  # before the mask, which it would inherit
    thread = other if taker == "another" else threading.main_thread()
    done = []

    def start():
        with _without_interrupts():
            signal.pthread_kill(thread.ident, signal.SIGINT)
            time.sleep(1)  # in which the signal comes
            done.append("started")

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["started"]


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


def test_a_batch_that_is_too_large_is_refused_before_any_training(tmp_path):
    with pytest.raises(ValueError, match="batch_size 1400 is larger than the training split, 1293 images of digits"):
        sweeping.sweep([*GRID, GRID[0].replace(batch_size=1400, validation=0.1)], tmp_path, progress=False)
    assert not (tmp_path / "records.jsonl").exists()
