"""Import torchvision, also where its compiled part, made for CUDA, does not fit the installed torch.

Importing it then raises "operator torchvision::nms does not exist". Data sets, transforms and models need none of those
operators: declaring them is enough. Where torchvision imports normally, nothing is declared.
"""

import importlib
import re
import sys
from types import ModuleType

import torch

_declared: list[torch.library.Library] = []  # a declaration lasts as long as its library


def import_torchvision(submodule: str = "") -> ModuleType:
    """torchvision, or its submodule of that name (as in "datasets")."""
    try:
        return importlib.import_module(f"torchvision.{submodule}".rstrip("."))
    except RuntimeError as error:
        _declare_missing(error)
    return import_torchvision(submodule)


def _declare_missing(error: RuntimeError) -> None:
    match = re.search(r"operator torchvision::(q?nms) does not exist", str(error))
    if match is None:
        raise error
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"{match[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[module]  # what the failed import left behind
