import subprocess

import pytest
import torch

from shallowpaths import _device as device
from shallowpaths.training import record


def test_auto_takes_the_best_there_is():
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device.resolve_device().type == device.resolve_device(None).type == best


def test_cpu_is_always_there():
    assert device.resolve_device("cpu") == torch.device("cpu")
    assert "threads" in device.device_name(torch.device("cpu"))


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(ValueError, match="auto, cpu, cuda, mps"):
        device.resolve_device("gpu")


def test_the_commit_is_gits_own():
    result = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=record.__file__.rpartition("/")[0],
    )
    found = record.commit()
    assert found is None if result.returncode else result.stdout.startswith(found.rstrip("+"))
