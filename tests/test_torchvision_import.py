import subprocess
import sys

import pytest

from shallowpaths import _torchvision as torchvision_import
from shallowpaths._torchvision import import_torchvision


def run(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_torchvision_imports_here():
    assert hasattr(import_torchvision("datasets"), "CIFAR10")
    assert import_torchvision().__name__ == "torchvision"


def test_inert_where_torchvision_imports_normally():
    """With the operators there, as in a matched pair of builds, nothing is declared."""
    code = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from shallowpaths import _torchvision as torchvision_import
torchvision_import.import_torchvision("transforms")
assert not torchvision_import._declared
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_works_in_a_fresh_interpreter():
    result = run("from shallowpaths._torchvision import import_torchvision as i; i('models').resnet18()")
    assert result.returncode == 0, result.stderr


def test_other_errors_are_not_swallowed():
    error = RuntimeError("operator torchvision::roi_align does not exist")
    with pytest.raises(RuntimeError, match="roi_align"):
        torchvision_import._declare_missing(error)


def test_importing_the_package_touches_nothing():
    code = "import sys, shallowpaths; assert not {'torch', 'torchvision', 'matplotlib'} & set(sys.modules)"
    assert run(code).returncode == 0
