import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from shallowpaths import recipes
from shallowpaths.bench import rows as bench
from shallowpaths.cli import main
from shallowpaths.experiments.store import Store, load_records

QUICK = ["--network", "residual-mlp", "--depth", "6", "--width", "8", "--epochs", "1", "--device", "cpu"]


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_train_prints_its_record_and_stores_it(tmp_path):
    path = tmp_path / "runs.jsonl"
    result = invoke("train", *QUICK, "--recipe", "skipinit", "--effective-learning-rate", "0.25", "--store", str(path))
    assert result.exit_code == 0, result.output
    assert "test accuracy" in result.output
    (record,) = load_records(path)
    assert record.config.learning_rate == pytest.approx(0.025)
    assert f"{100 * record.test_accuracy:.2f} %" in result.output


def test_a_stored_run_is_not_run_again(tmp_path):
    path = tmp_path / "runs.jsonl"
    for _ in range(2):
        assert invoke("train", *QUICK, "--store", str(path)).exit_code == 0
    assert len(load_records(path)) == 1


def test_a_diverged_run_is_a_result():
    result = invoke("train", *QUICK, "--recipe", "unnormalized", "--depth", "300", "--width", "64")
    assert result.exit_code == 0
    assert "diverged at step" in result.output


BAD = [
    (["--depth", "15", "--network", "wide-resnet"], "6 m + 4"),
    (["--recipe", "skipnit"], "did you mean 'skipinit'"),
    (["--learning-rate", "0"], "learning_rate 0.0"),
    (["--learning-rate", "nan"], "learning_rate nan"),
    (["--effective-learning-rate", "-1"], "effective_learning_rate -1.0"),
    (["--learning-rate", "0.1", "--effective-learning-rate", "1"], "not both"),
    (["--batch-size", "5000"], "1437 images"),
    (["--data", "mnist"], "cifar10"),
    (["--momentum", "1"], "momentum"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message):
    result = invoke("train", *QUICK, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_no_cuda_here():
    result = invoke("train", *QUICK, "--device", "cuda")
    assert (result.exit_code, "has none" in result.output) == (2, True)


def test_an_unwritable_store_is_refused_before_any_training(tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke("train", *QUICK, "--store", str(tmp_path / "file" / "runs.jsonl"))
    assert (result.exit_code, "cannot be written" in result.output) == (2, True)


def test_help_tells_every_setting_its_meaning_and_default():
    text = invoke("train", "--help").output
    for word in ("--recipe", "shallowpaths recipes", "effective", "--no-augment", "[default: 16]", "--data-folder"):
        assert word in text


def test_recipes_are_listed():
    text = invoke("recipes").output
    assert all(name in text for name in recipes.NAMES)


def test_the_installed_command_answers_as_a_module_too():
    result = subprocess.run(
        [sys.executable, "-c", "from shallowpaths.cli import main; main()", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "0.1.0" in result.stdout


PLAN = """
[common]
network = "residual-mlp"
depth = 6
width = 8
epochs = 1
validation = 0.1
device = "cpu"
[[grid]]
recipe = ["batchnorm", "skipinit"]
effective_learning_rate = "2^-6..2^-4"
seed = [0, 1]
[[grid]]
recipe = "unnormalized"
depth = 300
width = 64
learning_rate = 0.5
"""


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "mine.toml").write_text(PLAN)
    return str(tmp_path / "mine.toml")


def test_sweep_runs_a_plan_once_and_records_shows_it(tmp_path, plan):
    store = tmp_path / "store"
    first = invoke("sweep", plan, "--store", str(store))
    assert first.exit_code == 0, first.output
    assert "13 of 13 runs are in" in first.output
    assert "1 of them diverged" in first.output
    before = (store / "records.jsonl").read_bytes()
    assert invoke("sweep", plan, "--store", str(store)).exit_code == 0
    assert (store / "records.jsonl").read_bytes() == before

    shown = invoke("records", str(store), "--best", "1").output
    points, choices, warning = (part.splitlines()[2:] or part for part in shown.split("\n\n"))
    assert len(points) == 7
    records = load_records(store / "records.jsonl")
    here = [r for r in records if (r.config.recipe, r.config.effective_learning_rate) == ("skipinit", 2**-4)]
    (line,) = (p.split() for p in points if "skipinit " in p and " 0.0625 " in p)
    assert line[-4:] == [
        f"{100 * max(r.test_accuracy for r in here):.2f}",
        f"{sum(r.train_loss for r in here) / 2:.4f}",
        "2",
        "0",
    ]
    assert sum("validation accuracy" in c for c in choices) == 2
    assert sum("every rate diverged" in c for c in choices) == 1
    assert warning.startswith("warning: ")
    assert "of 3 best rates lie on their grid's edge" in warning


def test_dry_run_predicts_and_runs_nothing(tmp_path, plan):
    result = invoke("sweep", plan, "--dry-run", "--store", str(tmp_path / "store"))
    assert result.exit_code == 0, result.output
    last = next(line for line in result.output.splitlines() if line.startswith("all"))
    assert last.split()[1] == "13"
    assert "measured just now" in result.output
    assert "10^13 operations a second" in result.output
    assert not (tmp_path / "store").exists()


def sweep_apart(plan, store, *options):
    """`shallowpaths sweep` in a process group of its own, as a terminal starts it, with its output in pipes."""
    # a shell's background job ignores the signal, and its children inherit that: a terminal's program does not
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from shallowpaths.cli import main; main()"
    command = [sys.executable, "-c", code, "sweep", plan, "--store", str(store), *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes)


def wait_for(file, process):
    """The store's file is made before the workers are; its checkpoint folder when the first of them starts to train."""
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.05)


@pytest.fixture
def long_plan(plan):
    Path(plan).write_text(PLAN.replace("epochs = 1", "epochs = 2000"))
    return plan


STARTING, TRAINING = "records.jsonl", "records.jsonl.checkpoints"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
@pytest.mark.parametrize("moment", [STARTING, TRAINING])
def test_ctrl_c_says_how_to_go_on(tmp_path, long_plan, moment):
    store = tmp_path / "store"
    with sweep_apart(long_plan, store, "--processes", "2") as process:
        try:
            wait_for(store / moment, process)
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, said
    (line,) = [line for line in said.splitlines() if not line.startswith("sweep:") and line.strip()]
    assert "the same command goes on from there" in line


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="this system has no process groups")
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.2])
def test_a_second_ctrl_c_is_no_traceback_either(tmp_path, long_plan, pause):
    with sweep_apart(long_plan, tmp_path / "store", "--processes", "2") as process:
        try:
            wait_for(tmp_path / "store" / TRAINING, process)
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(pause)
            with contextlib.suppress(ProcessLookupError):  # it may have ended
                os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (130, -signal.SIGINT), said  # the latter after the last line, in Python's own end
    assert "Traceback" not in said


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's list of processes")
@pytest.mark.parametrize("moment", [STARTING, TRAINING])
def test_workers_never_see_ctrl_c(tmp_path, long_plan, moment):
    """The signal is masked in all of the sweep's processes but the first, from their first moment."""
    store = tmp_path / "store"
    with sweep_apart(long_plan, store, "--processes", "2") as process:
        try:
            wait_for(store / moment, process)
            states = {}
            while len(states) < 2 and process.poll() is None:
                states = {child: status_of(child) for child in children_of(process.pid)}
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    masks = [int(line.split()[1], 16) for state in states.values() for line in state if line.startswith("SigBlk")]
    ignored = [int(line.split()[1], 16) for state in states.values() for line in state if line.startswith("SigIgn")]
    bit = 1 << (signal.SIGINT - 1)
    assert len(masks) >= 2
    assert all((mask | ignore) & bit for mask, ignore in zip(masks, ignored, strict=True))


def children_of(process):
    """Its child processes, by Linux's list."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if entry.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(process):
                found.append(int(entry.name))
    return found


def status_of(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/status").read_text().splitlines()
    return []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("death", ["SIGTERM", "SIGKILL"])
def test_a_killed_sweep_leaves_no_worker_behind(tmp_path, long_plan, death):
    """The workers hold the other ends of the pipes: they are read to their end only once all of them are gone."""
    store = tmp_path / "store"
    with sweep_apart(long_plan, store, "--processes", "2") as process:
        try:
            wait_for(store / TRAINING, process)
            process.send_signal(getattr(signal, death))
            process.communicate(timeout=30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -getattr(signal, death)


def test_what_stops_a_worker_is_told_without_a_traceback(tmp_path, plan):
    Path(plan).write_text(PLAN.replace("validation = 0.1", 'validation = 0.1\ndata = "cifar10"'))
    (tmp_path / "file").write_text("")
    with sweep_apart(plan, tmp_path / "store", "--processes", "2", "--data-folder", str(tmp_path / "file")) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("shallowpaths: ")


BAD_SWEEPS = [
    (["quick-dept", "--store", "STORE"], "Shipped are cpu-batch-size"),
    (["quick-depth"], "--store"),
    (["PLAN", "--store", "STORE/mine.toml/no"], "cannot be written"),
    (["PLAN", "--store", "STORE", "--device", "tpu"], "tpu"),
    (["TOO_LARGE", "--dry-run"], "batch_size 1400 is larger than the training split, 1293 images of digits"),
    (["TOO_LARGE", "--store", "STORE"], "batch_size 1400 is larger than the training split, 1293 images of digits"),
    (["PLAN", "--store", "STORE", "--lanes", "0"], "lanes"),
    (["PLAN", "--store", "STORE", "--cluster", "local", "--processes", "2"], "a cluster has its own"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_SWEEPS)
def test_bad_sweeps_are_refused(tmp_path, plan, arguments, message):
    (tmp_path / "large.toml").write_text(PLAN.replace("validation", "batch_size = 1400\nvalidation"))
    names = {"PLAN": plan, "TOO_LARGE": str(tmp_path / "large.toml")}
    result = invoke("sweep", *(names.get(a, a).replace("STORE", str(tmp_path)) for a in arguments))
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_store_in_use_is_refused_in_one_line(tmp_path, plan):
    with Store(tmp_path / "store"):
        result = invoke("sweep", plan, "--store", str(tmp_path / "store"))
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "is in use by another process" in result.output


def test_a_plans_mistake_is_one_line(tmp_path):
    (tmp_path / "bad.toml").write_text("[[grid]]\nsead = [0, 1]\n")
    result = invoke("sweep", str(tmp_path / "bad.toml"), "--dry-run")
    assert result.exit_code == 2
    assert "key 'sead' is unknown" in result.output
    assert "did you mean 'seed'" in result.output


def test_records_of_nothing_are_refused(tmp_path):
    assert invoke("records", str(tmp_path)).exit_code == 2
    (tmp_path / "records.jsonl").write_text("")
    result = invoke("records", str(tmp_path))
    assert (result.exit_code, "holds no record yet" in result.output) == (2, True)


def test_the_packages_own_records_are_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = invoke("records", "shipped").output
    for name in ("cpu-depth", "quick-depth"):
        assert f"{name}\n{'=' * len(name)}\n" in shown
    assert "cifar10-16x16, wide-resnet of width 1, batch 64, 10 epochs at 16 layers" in " ".join(shown.split())
    assert "verdict" in shown
    (tmp_path / "shipped").mkdir()  # a folder of the reader's comes first
    assert "shipped/records.jsonl is no file" in invoke("records", "shipped").output


def test_train_takes_a_budget_in_steps():
    result = invoke("train", *QUICK[:6], "--steps", "3", "--device", "cpu")
    assert (result.exit_code, " 3 steps" in result.output) == (0, True)
    assert invoke("train", *QUICK, "--steps", "3").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["train", "--depth", "abc"], "shallowpaths: Invalid value for '--depth'"),
        (["train", "--no-such-option"], "shallowpaths: No such option"),
        (["train", "--store", ""], "shallowpaths: the record store's path is empty"),
        (["sweep"], "shallowpaths: Missing argument 'PLAN'"),
        (["trian"], "shallowpaths: No such command 'trian'"),
        (["--no-such-option"], "shallowpaths: No such option"),
        (["records", "nowhere"], "shallowpaths: nowhere is no file: give a sweep's folder or file, or \"shipped\""),
        (["records", os.devnull], f"shallowpaths: {os.devnull} is no file"),
        (["bench", "--output", os.devnull], f"shallowpaths: --output {os.devnull} is no plain file"),
    ],
)
def test_what_is_misspelt_is_one_line(arguments, begins):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith(begins)
    assert result.output.count("\n") == 1


def test_help_is_still_shown():
    for arguments in (["--help"], ["train", "--help"]):
        result = invoke(*arguments)
        assert (result.exit_code, result.output.startswith("Usage:")) == (0, True)
    assert "Commands:" in invoke().output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("arguments", [["recipes"], ["--help"], ["train", "--help"]])
def test_output_that_cannot_be_written_is_one_line(arguments):
    command = [sys.executable, "-c", "from shallowpaths.cli import main; main()", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("shallowpaths")
    assert done.stderr.count("\n") == 1


def test_output_that_nobody_reads_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from shallowpaths.cli import main; main()", "recipes"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_is_one_line():
    @main.command("press-ctrl-c")
    def press() -> None:
        raise KeyboardInterrupt

    try:
        result = invoke("press-ctrl-c")
    finally:
        del main.commands["press-ctrl-c"]
    assert (result.exit_code, result.output.strip()) == (130, "shallowpaths: stopped")


def test_bench_is_refused_before_measuring_where_it_cannot_write(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "run", lambda *_, **__: pytest.fail("it measured"))
    (tmp_path / "file").write_text("")
    result = invoke("bench", "--output", str(tmp_path / "file" / "bench.json"))
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


def test_bench_shows_its_table_even_if_the_file_fails(tmp_path, monkeypatch):
    row = {"name": "a_row", "device": "cpu", "value": 1.5, "target": None, "holds": None, "detail": "by hand"}
    output = tmp_path / "bench.json"
    monkeypatch.setattr(bench, "run", lambda *_, **__: [row, output.mkdir()][:1])  # a folder, where it would write
    result = invoke("bench", "--output", str(output))
    assert result.exit_code == 1
    assert "a_row" in result.output
    assert "Traceback" not in result.output
