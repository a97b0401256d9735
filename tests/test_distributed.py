"""Two processes of torchrun train as one process does: the same weights, record and outcome, also after one of them died."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import distributed_runs
from distributed_runs import RUNS, KeptRun, trained
from image_folders import write_images
from pretended_cuda import pretended_cuda
from shallowpaths.experiments.store import load_records
from shallowpaths.training import distributed
from shallowpaths.training import train as training
from shallowpaths.training.runs import build

pytestmark = pytest.mark.slow
SCRIPT = Path(distributed_runs.__file__)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the two processes left behind, each of them started twice."""
    folder = tmp_path_factory.mktemp("distributed")
    write_images(folder / "images")
    torchrun = [sys.executable, "-W", "error", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    subprocess.run([*torchrun, SCRIPT, folder], env=environment, check=True, timeout=600)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """Each process's."""
    return [torch.load(folder / f"process-{rank}", weights_only=False) for rank in (0, 1)]


@pytest.fixture
def alone(monkeypatch):
    """Trains in this process, which is the whole of one."""
    monkeypatch.setattr(training, "Run", KeptRun)
    return trained


def approximately(result):
    """A record's result to rounding."""
    curve = [pytest.approx(point, rel=1e-5) for point in result["curve"]]
    rounded = {k: pytest.approx(v, rel=1e-5) for k, v in result.items() if isinstance(v, float)}
    return result | {"curve": curve} | rounded


def moved_far(config, weights):
    """Whether most have left their start: where they hardly move they would be equal whatever the gradients."""
    start = build(config, *(((3, 16, 16), 7) if config.image_size else ((1, 8, 8), 10))).state_dict()
    return sum((weights[name] - start[name]).abs().max() > 1e-3 for name in start) > len(start) / 2


@pytest.mark.parametrize("name", ["dropout", "convolutions", "images"])
def test_without_normalization_two_processes_are_one_with_the_whole_batch(folder, found, alone, name):
    one = alone(RUNS[name], data_folder=folder / "images")
    for process in found:
        for what in ("weights", "gradients"):
            torch.testing.assert_close(process[name][what], one[what], rtol=1e-5, atol=1e-6)
        assert process[name]["result"] == approximately(one["result"])
    assert moved_far(RUNS[name], one["weights"])


def test_batch_normalization_in_two_processes_is_that_of_ghost_batches_of_half_the_batch(found, alone):
    config = RUNS["normalized"]
    ghosts, whole = (alone(config.replace(ghost_batch=size)) for size in (config.batch_size // 2, None))
    for process in found:
        mine = process["normalized"]
        torch.testing.assert_close(mine["gradients"], ghosts["gradients"], rtol=0, atol=1e-6)
        for name, gradient in ghosts["gradients"].items():
            torch.testing.assert_close(mine["weights"][name], ghosts["weights"][name], rtol=0, atol=1e-6)
            assert (gradient - whole["gradients"][name]).abs().max() > 1e-4, f"{name} does not see its batch"
        (point,), (expected,) = mine["result"]["curve"], ghosts["result"]["curve"]
        assert point == pytest.approx(expected, rel=1e-5)


def test_the_moving_averages_are_the_first_process_s(found):
    first, second = (process["normalized"]["weights"] for process in found)
    averages = [name for name in first if "running" in name]
    assert averages
    for name in averages:
        assert torch.equal(first[name], second[name])


def test_all_processes_return_one_record_which_counts_them(found):
    first, second = found
    for name in RUNS:
        assert first[name]["record"] == second[name]["record"]
        assert first[name]["device"].startswith("2 x ")


def test_processes_see_together_that_a_run_diverges(found, alone):
    one = alone(RUNS["diverging"])["result"]
    assert one["outcome"] == "diverged"
    assert 0 < one["diverged_step"] < RUNS["diverging"].steps - 1
    assert [process["diverging"]["result"]["diverged_step"] for process in found] == [one["diverged_step"]] * 2


def test_a_run_of_which_a_process_was_killed_ends_as_if_none_had_been(found, folder):
    for process in found:
        whole, resumed = process["killed"], process["resumed"]
        assert resumed["result"] == whole["result"]
        for name, weight in whole["weights"].items():
            assert torch.equal(resumed["weights"][name], weight)
    starts = [(folder / f"process-{rank}.starts").read_text().split() for rank in (0, 1)]
    assert starts == [["0", "1"]] * 2, "each process started twice, and found a checkpoint the second time"
    assert list((folder / "checkpoints").iterdir()) == []


def test_the_command_keeps_and_prints_one_record(found, folder):
    (record,) = load_records(folder / "store" / "records.jsonl")
    assert record.device_name.startswith("2 x ")
    (trained, skipped), nothing = (process["printed"] for process in found)
    assert trained == skipped
    assert f"{100 * record.test_accuracy:.2f} %" in trained
    assert nothing == ["", ""]


def test_what_several_processes_cannot_do_is_refused(found):
    for process in found:
        words = process["refusals"]
        for what in ("batch", "plan"):
            assert "batch_size 33 cannot be shared among 2 processes" in words[what], "before anything is read or trained"
        assert "one run on many" in words["lanes"]
        assert "processes 2, cluster None: torchrun" in words["sweep"]
        assert "mps" in words["mps"]


@pytest.mark.parametrize(
    ("environment", "named"),
    [({"RANK": "0"}, "WORLD_SIZE"), ({"WORLD_SIZE": "2"}, "RANK"), ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE=two")],
)
def test_half_an_environment_of_torchrun_is_refused(monkeypatch, environment, named):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{named}.*torchrun"):
        training.train(RUNS["killed"])


def test_processes_that_start_again_do_not_wait_for_the_dead():
    store = torch.distributed.HashStore()  # torchrun's, which outlives the processes

    def meet():
        with ThreadPoolExecutor() as pool:
            second = pool.submit(distributed._shared_name, store, 1, 2)
            time.sleep(0.3)  # in which it finds the name of those before
            return distributed._shared_name(store, 0, 2), second.result()

    (before, also_before), (now, also_now) = meet(), meet()
    assert (before, now) == (also_before, also_now)
    assert before != now


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(distributed, "joined", lambda: True)
    with pretended_cuda(monkeypatch):  # a machine of two
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert distributed.own_device(torch.device("cuda")) == torch.device("cuda", 1)
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(ValueError, match=r"LOCAL_RANK 2.*has 2 GPUs"):
            distributed.own_device(torch.device("cuda"))
    assert chosen == [1]


def test_the_package_runs_as_a_module():
    run = [sys.executable, "-m", "shallowpaths", "recipes"]
    assert "skipinit" in subprocess.run(run, check=True, capture_output=True, text=True).stdout
