import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from shallowpaths import recipes
from shallowpaths.cli import main
from shallowpaths.stores import load_records

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
