"""Sweeps on a Ray cluster of this machine, with two workers; on more machines Ray is the same."""

import contextlib
import gc
import itertools
import os
import signal
import time
import warnings
from types import SimpleNamespace

import pytest
import torch

from shallowpaths.experiments import execution as cluster
from shallowpaths.experiments.plans import read_plan
from shallowpaths.experiments.store import load_records
from shallowpaths.experiments.sweep import sweep
from shallowpaths.training import checkpoints
from shallowpaths.training.config import RunConfig
from shallowpaths.training.train import train_lanes

ray = pytest.importorskip("ray", reason="needs Ray, the extra `cluster`")
needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
MANY = [
    RunConfig(network="residual-mlp", depth=6, width=8, epochs=2, batch_size=256, seed=s, device="cpu") for s in range(5)
]


@pytest.fixture(autouse=True, scope="module")
def two_workers():
    """Connected once for all tests; this process then computes on one thread, as each worker does."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with cluster.connected("local"):
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for what it ends
        gc.collect()


def test_a_cluster_gives_the_records_that_one_process_gives(tmp_path):
    """The quick plan's first runs of each recipe, cut short, and a run that diverges."""
    first = {c.recipe: c.replace(epochs=None, steps=8) for c in read_plan("quick-depth").configs if c.depth == 16}
    configs = [*first.values(), MANY[0].replace(learning_rate=1e30)]
    assert len(configs) == 6
    records = sweep(configs, tmp_path, progress=False, cluster="local")
    alone = sweep(configs, progress=False)
    assert [r.result() for r in records] == [r.result() for r in alone]
    assert {r.outcome for r in records} == {"finished", "diverged"}
    stored = [r.config.key for r in load_records(tmp_path / "records.jsonl")]
    assert sorted(stored) == sorted(c.key for c in configs)
    assert list((tmp_path / "records.jsonl.checkpoints").iterdir()) == []
    assert sweep(configs, tmp_path, progress=False, cluster="local") == records, "read from the store"


@needs_sigkill
def test_a_worker_that_is_killed_costs_the_rest_of_its_own_run_and_nothing_else(tmp_path):
    begun, save = tmp_path / "begun", checkpoints.save

    def train(job):
        with begun.open("a") as file:
            file.write(f"{job[0].seed}\n")
        if job[0].seed == 2 and begun.read_text().split().count("2") == 1:
            checkpoints.save = lambda *rest: (save(*rest), rest[-1].epoch == 1 and os.kill(os.getpid(), signal.SIGKILL))
        return train_lanes(job, progress=False, checkpoint_folder=tmp_path, checkpoint_every=0)

    records = list(itertools.chain(*cluster.in_cluster(train, [[config] for config in MANY], "local")))
    assert sorted(begun.read_text().split()) == ["0", "1", "2", "2", "3", "4"]
    assert [r.config.seed for r in sorted(records, key=lambda r: r.config.seed)] == [0, 1, 2, 3, 4]
    assert {r.config.seed: r.result() for r in records} == {r.config.seed: r.result() for r in sweep(MANY, progress=False)}


@needs_sigkill
def test_a_run_that_kills_its_workers_ends_the_sweep(monkeypatch):
    monkeypatch.setattr(cluster, "MOST_DEATHS", 1)
    with pytest.raises(ValueError, match="a run was lost 1 times, batchnorm, depth 6, batch_size 256: "):
        list(cluster.in_cluster(lambda _: os.kill(os.getpid(), signal.SIGKILL), [MANY[:1]], "local"))


def test_what_training_refuses_is_raised_as_it_is(tmp_path):
    (tmp_path / "file").write_text("")
    configs = [config.replace(data="cifar10") for config in MANY]
    with pytest.raises(ValueError, match=r"^CIFAR-10") as caught:
        sweep(configs, tmp_path / "store", tmp_path / "file", progress=False, cluster="local")
    assert caught.type is ValueError
    assert "Traceback" not in str(caught.value)


def test_jobs_are_taken_only_when_there_is_room_and_end_with_the_sweep(tmp_path):
    taken = []

    def jobs():
        for config in MANY[:1] + [c.replace(epochs=100_000) for c in MANY[1:]]:
            taken.append(config.seed)
            yield [config]

    def train(job):
        (tmp_path / f"{os.getpid()}").touch()
        return train_lanes(job, progress=False)

    results = cluster.in_cluster(train, jobs(), "local")
    assert [r.config.seed for r in next(results)] == [0]
    assert taken == [0, 1]
    workers = [int(path.name) for path in tmp_path.iterdir()]
    results.close()
    end = time.monotonic() + 60
    while sum(map(_alive, workers)) > 1 and time.monotonic() < end:
        time.sleep(0.1)
    assert sum(map(_alive, workers)) <= 1, "that of the job that had ended may serve the next sweep"


def _alive(process):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def test_runs_that_fit_on_no_machine_are_refused():
    if ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    configs = [config.replace(device="cuda") for config in MANY]
    with pytest.raises(ValueError, match=r"no room for a run on 1 processor and 0.5 GPUs: it has 2 processors and 0 GPUs"):
        sweep(configs, progress=False, cluster="local", gpu_share=0.5)


@pytest.mark.parametrize(
    ("processors", "gpus", "share", "room"),
    [(8, 2, 0, 8), (8, 2, 1, 2), (8, 2, 0.5, 4), (8, 2, 0.4, 4), (8, 2, 0.1, 8), (8, 0, 1, 0), (0, 0, 0, 0)],
)
def test_the_room_is_what_whole_runs_fit_into(processors, gpus, share, room):
    resources = {name: float(count) for name, count in (("CPU", processors), ("GPU", gpus)) if count}
    assert cluster._room(SimpleNamespace(cluster_resources=lambda: resources), share) == room
