"""A run that is killed goes on where it stood, and ends as if nothing had happened."""

import logging
import math
import os
import pickle
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from shallowpaths import data
from shallowpaths.training import checkpoints
from shallowpaths.training.checkpoints import Position
from shallowpaths.training.config import RunConfig
from shallowpaths.training.epochs import Timetable
from shallowpaths.training.lanes import Lanes
from shallowpaths.training.record import RunRecord
from shallowpaths.training.runs import Run
from shallowpaths.training.steps import Step
from shallowpaths.training.train import train, train_lanes

RUN = RunConfig(
    recipe="regularized-skipinit", network="residual-mlp", depth=10, width=16, epochs=4, validation=0.1, device="cpu"
)


RESULT = {"outcome": "running", "curve": [{"epoch": 1, "train_loss": 2.0}]}
TAKEN = [  # of two steps of the second epoch
    (torch.tensor(2.25), torch.tensor(0.125)),
    (torch.tensor(1.75), torch.tensor(0.5)),
]


def path_of(folder, configs):
    return checkpoints.path_of(folder, [config.key for config in configs])


class Killed(BaseException):
    """What ends the first process; a class of its own, so that nothing catches it by chance."""


def interrupt(monkeypatch, config, folder, after, train=train):
    """Train until `after` checkpoints are written, then stop dead."""
    saved, save = [], checkpoints.save

    def save_and_stop(*arguments):
        save(*arguments)
        saved.append(arguments)
        if len(saved) == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", save_and_stop)
        with pytest.raises(Killed):
            train(config, progress=False, checkpoint_folder=folder, checkpoint_every=0)


@pytest.mark.parametrize("recipe", ["batchnorm", "regularized-skipinit", "fixup-dropout"])
@pytest.mark.parametrize("after", [1, 20, 45])  # of 80 steps: early in an epoch, at the end of one, amid the third
def test_a_resumed_run_ends_bitwise_as_the_uninterrupted_one(tmp_path, monkeypatch, recipe, after):
    config = RUN.replace(recipe=recipe)
    whole = train(config, progress=False)
    interrupt(monkeypatch, config, tmp_path, after)
    assert [p.suffix for p in tmp_path.iterdir()] == [".checkpoint"]
    rates, take = [], Step.take
    monkeypatch.setattr(Step, "take", lambda *a: rates.append(a[-1]) or take(*a))
    resumed = train(config, progress=False, checkpoint_folder=tmp_path)
    assert len(rates) == config.total_steps(whole.train_images) - after, "no step is taken twice"
    assert resumed.result() == whole.result()
    assert list(tmp_path.iterdir()) == []


def test_a_convolutional_run_resumes_too(tmp_path, monkeypatch):
    config = RunConfig(depth=10, epochs=2, batch_size=256, device="cpu")
    interrupt(monkeypatch, config, tmp_path, 7)
    resumed = train(config, progress=False, checkpoint_folder=tmp_path)
    assert resumed.result() == train(config, progress=False).result()


LANES = [RUN.replace(recipe="batchnorm", learning_rate=rate, seed=s) for rate, s in ((0.02, 0), (0.1, 0), (0.02, 1))]


@pytest.mark.parametrize("alpha_rate", [0.25, 0.0])
@pytest.mark.parametrize("recipe", ["skipinit-0.5", "fixup"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_alphas_own_rate_outlives_an_interruption(tmp_path, monkeypatch, lanes, recipe, alpha_rate):
    def train_all(configs, **more):
        return [record.result() for record in train_lanes(configs, **{"progress": False} | more)]

    configs = [RUN.replace(recipe=recipe, alpha_rate=alpha_rate, epochs=2, seed=seed) for seed in range(lanes)]
    interrupt(monkeypatch, configs, tmp_path, 25, train_lanes)
    resumed = train_all(configs, checkpoint_folder=tmp_path)
    assert resumed == train_all(configs)
    other = train_all([config.replace(alpha_rate=1.0) for config in configs])
    assert resumed[0]["curve"] != other[0]["curve"], "the rate matters"


@pytest.mark.parametrize("after", [1, 20, 45])
def test_interrupted_lanes_end_bitwise_as_uninterrupted_ones(tmp_path, monkeypatch, after):
    configs = [*LANES, LANES[0].replace(learning_rate=1e30)]  # one that diverges
    whole = train_lanes(configs, progress=False)
    assert [record.outcome for record in whole] == ["finished"] * 3 + ["diverged"]
    interrupt(monkeypatch, configs, tmp_path, after, train_lanes)
    (file,) = tmp_path.iterdir()
    assert file == path_of(tmp_path, configs)
    steps, take = [], Lanes.take
    monkeypatch.setattr(Lanes, "take", lambda *a: steps.append(a) or take(*a))
    resumed = train_lanes(configs, progress=False, checkpoint_folder=tmp_path)
    assert len(steps) == RUN.total_steps(1293) - after
    assert [record.result() for record in resumed] == [record.result() for record in whole]
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_amid_a_save_left_goes_with_the_checkpoint(tmp_path):
    left = path_of(tmp_path, [RUN]).with_suffix(".checkpoint.12345.unfinished")
    left.write_bytes(b"half")
    train(RUN, progress=False, checkpoint_folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_lanes_have_a_checkpoint_of_their_own_and_refuse_anothers(tmp_path, monkeypatch):
    files = {path_of(tmp_path, some) for some in (LANES, LANES[:2], LANES[:1], LANES[::-1])}
    assert len(files) == 4
    interrupt(monkeypatch, LANES, tmp_path, 1, train_lanes)
    (file,) = tmp_path.iterdir()
    for others, message in ((LANES[:2], "other runs differ"), (LANES[::-1], "config: seed differ")):
        file = file.rename(path_of(tmp_path, others))
        with pytest.raises(ValueError, match=message):
            train_lanes(others, progress=False, checkpoint_folder=tmp_path)
    content = torch.load(file, weights_only=True)
    name, stack = next(iter(content["states"]["weights"].items()))
    content["states"]["weights"][name] = stack[:1]
    file.unlink()
    torch.save(content | {"configs": [c.to_dict() for c in LANES]}, path_of(tmp_path, LANES))
    with pytest.raises(ValueError, match=f"another architecture: weights of {name} have shape"):
        train_lanes(LANES, progress=False, checkpoint_folder=tmp_path)


def test_a_diverged_run_resumes_to_the_same_step(tmp_path, monkeypatch):
    config = RUN.replace(recipe="skipinit", learning_rate=0.4, epochs=10, depth=20, width=32, validation=0.0, seed=1)
    whole = train(config, progress=False)
    assert whole.outcome == "diverged"
    assert whole.curve
    interrupt(monkeypatch, config, tmp_path, whole.diverged_step)
    assert train(config, progress=False, checkpoint_folder=tmp_path).result() == whole.result()


def test_a_step_that_diverged_is_not_saved(tmp_path, monkeypatch):
    config = RUN.replace(recipe="skipinit", learning_rate=1e6)
    steps, save = [], checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *a: steps.append(len(a[-1].taken)) or save(*a))
    record = train(config, progress=False, checkpoint_folder=tmp_path, checkpoint_every=0)
    assert steps == list(range(1, record.diverged_step + 1))


def _train_in_folder(config, folder, ready, sender):
    torch.set_num_threads(1)
    os.fsync = lambda _: None  # it is for a loss of power, and takes most of the time where others use the disk
    train(config.replace(epochs=1), progress=False)  # so that the kills fall into training, not into imports
    ready.set()
    record = train(config, progress=False, checkpoint_folder=folder, checkpoint_every=0)
    sender.send(record.to_json())


def _kill_and_resume(
    context, config: RunConfig, folder: Path, kills: int, longest: float
) -> tuple[RunRecord, list[tuple[int, int]]]:
    """The run's record, and after each SIGKILL the position on disk; moments of 0 to `longest` seconds."""
    moments, positions = random.Random(0), []
    while True:
        receiver, sender = context.Pipe(duplex=False)
        ready = context.Event()
        process = context.Process(target=_train_in_folder, args=(config, folder, ready, sender))
        process.start()
        sender.close()
        assert ready.wait(60)
        if len(positions) == kills:
            line = receiver.recv()
            process.join()
            return RunRecord.from_json(line), positions
        process.join(moments.uniform(0, longest))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        path = path_of(folder, [config])
        found = torch.load(path, weights_only=True)["position"] if path.exists() else {"epoch": 0, "taken": []}
        positions.append((found["epoch"], len(found["taken"])))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_twenty_kills_at_random_moments_change_nothing(tmp_path, forkserver):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = RUN.replace(recipe="fixup-dropout", batch_size=480, epochs=400)
        whole = train(config, progress=False)
    finally:
        torch.set_num_threads(threads)
    record, positions = _kill_and_resume(forkserver, config, tmp_path, kills=20, longest=0.15)
    assert len(set(positions)) > 10, "most of the processes got somewhere before they were killed"
    assert positions == sorted(positions)
    assert max(positions) < (400, 0)
    assert record.result() == whole.result()
    assert not path_of(tmp_path, [config]).exists()


def started(config):
    return Run(config, data.load(config.data))


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoint of RUN after two steps of its second epoch, as `train` would have left it."""
    path = path_of(tmp_path, [RUN])
    checkpoints.save(path, started(RUN), Position([RESULT], 1, 3.5, TAKEN))
    return path


def resume(path, config=RUN):
    return checkpoints.restore(path, started(config))


def test_a_checkpoint_says_how_far_the_run_was(saved):
    assert resume(saved) == Position([RESULT], 1, 3.5, TAKEN)


def test_a_checkpoint_of_another_config_is_refused(saved):
    other = RUN.replace(seed=5, l2=0.0)
    saved.rename(path_of(saved.parent, [other]))
    with pytest.raises(ValueError, match="another config: l2, seed differ"):
        train(other, progress=False, checkpoint_folder=saved.parent)


def test_a_checkpoint_of_another_version_is_refused(saved):
    content = torch.load(saved, weights_only=True)
    content["versions"]["torch"] = "1.0"
    torch.save(content, saved)
    with pytest.raises(ValueError, match=r"another version, .*'torch': '1\.0'.*Delete it"):
        train(RUN, progress=False, checkpoint_folder=saved.parent)


@pytest.mark.parametrize("change", ["shape", "missing", "optimizer"])
def test_a_checkpoint_of_another_architecture_is_refused(saved, change):
    content = torch.load(saved, weights_only=True)
    states = content["states"]
    name, weight = next(iter(states["network"].items()))
    if change == "shape":
        states["network"][name] = weight[:3]
    elif change == "missing":
        del states["network"][name]
    else:
        states["optimizer"]["param_groups"][0]["params"].pop()
    torch.save(content, saved)
    with pytest.raises(ValueError, match="another architecture"):
        train(RUN, progress=False, checkpoint_folder=saved.parent)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_is_refused_and_not_run(saved, tmp_path, wrapped):
    bomb = Bomb(tmp_path / "exploded")
    if wrapped:
        torch.save({"format": checkpoints.FORMAT, "states": bomb}, saved)
    else:
        saved.write_bytes(pickle.dumps(bomb))
    with pytest.raises(ValueError, match="holds code"):
        train(RUN, progress=False, checkpoint_folder=saved.parent)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(saved, part):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError, match="no checkpoint of this package"):
        resume(saved)


def test_a_damaged_checkpoint_is_refused(saved):
    whole = bytearray(saved.read_bytes())
    place = whole.index(b"data.pkl") + 100
    whole[place : place + 50] = bytes(50)
    saved.write_bytes(whole)
    with pytest.raises(ValueError, match="is damaged"):
        resume(saved)


@pytest.mark.parametrize("part", ["configs", "versions", "position", "states", "generators"])
def test_a_checkpoint_without_one_of_its_parts_is_refused(saved, part):
    content = torch.load(saved, weights_only=True)
    torch.save({name: value for name, value in content.items() if name != part}, saved)
    with pytest.raises(ValueError, match="no checkpoint of this package"):
        resume(saved)


def test_a_checkpoint_with_any_byte_flipped_is_refused_or_the_same(saved):
    """torch itself reads a flipped weight as if nothing were wrong; the check sums of the archive's parts find it."""
    whole, places = saved.read_bytes(), random.Random(0)
    expected, refused = started(RUN), 0
    checkpoints.restore(saved, expected)
    for place in places.sample(range(len(whole)), 60):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        found = started(RUN)
        try:
            checkpoints.restore(saved, found)
        except ValueError:
            refused += 1
            continue
        for a, b in zip(found.network.state_dict().values(), expected.network.state_dict().values(), strict=True):
            assert torch.equal(a, b), place
    assert refused > 10


def test_a_file_of_other_weights_is_refused(saved):
    torch.save({"weight": torch.zeros(3)}, saved)
    with pytest.raises(ValueError, match="no checkpoint of this package"):
        resume(saved)


def test_a_folder_that_cannot_be_written_is_refused_before_any_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"checkpoint folder .* cannot be written"):
        train(RUN, progress=False, checkpoint_folder=tmp_path / "file" / "checkpoints")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write, root included")
def test_a_read_only_folder_is_refused():
    with pytest.raises(ValueError, match=r"checkpoint folder .* cannot be written"):
        train(RUN, progress=False, checkpoint_folder="/proc/self")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, caplog):
    """The unfinished file is a link to a device that is always full, so that every write to it fails."""
    path = path_of(tmp_path, [RUN])
    path.with_name(f"{path.name}.{os.getpid()}.unfinished").symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        record = train(RUN, progress=False, checkpoint_folder=tmp_path, checkpoint_every=0)
    assert "no checkpoint this time, the run goes on" in caplog.text
    assert record.outcome == "finished"
    assert math.isfinite(record.train_loss)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers that send signals")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file opened, and not yet in its with
def test_what_interrupts_a_save_is_not_taken_for_a_full_disk(tmp_path):
    config = RUN.replace(depth=40, width=200)
    path, runs, position = tmp_path / "a.checkpoint", started(config), Position([RESULT])
    begun = time.perf_counter()
    checkpoints.save(path, runs, position)
    whole = time.perf_counter() - begun
    before = path.read_bytes()

    def interrupt_now(*_):
        raise Killed

    earlier, interrupted = signal.signal(signal.SIGALRM, interrupt_now), 0
    try:
        for part in range(1, 16):
            try:
                signal.setitimer(signal.ITIMER_REAL, whole * part / 20)
                checkpoints.save(path, runs, position)  # an OSError here would end in a warning, and go on
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Killed:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert interrupted > 3
    assert len(path.read_bytes()) == len(before)


def test_checkpoints_are_not_written_more_often_than_asked(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(checkpoints, "save", lambda *a: saves.append((a[-1].epoch, len(a[-1].taken))))
    train(RUN, progress=False, checkpoint_folder=tmp_path, checkpoint_every=1000)
    assert saves == []
    train(RUN, progress=False, checkpoint_folder=tmp_path, checkpoint_every=0)
    times = Timetable(RUN, 1293)
    assert saves == [(epoch, step + 1) for epoch in range(4) for step in range(len(times.rates(epoch)))]
