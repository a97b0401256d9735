"""Import torchvision, also where its compiled part does not fit the installed torch.

torchvision's registry wheel is built for CUDA. Beside a CPU-only torch its operators are missing, and importing it
raises "operator torchvision::nms does not exist". Data sets, transforms and models need none of those operators, so
declaring them is enough. Where torchvision imports normally, nothing here does anything.
"""

import importlib
import re
import sys
from types import ModuleType

import torch

_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a declaration lasts as long as its library


def import_torchvision(submodule: str = "") -> ModuleType:
    """torchvision, or its submodule of that name (as in "datasets")."""
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    for _ in range(len(_OPERATORS) + 1):
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            _declare_missing(error)
    raise ImportError("torchvision does not import beside this torch: install versions of the two that belong together")


def _declare_missing(error: RuntimeError) -> None:
    match = re.search(r"operator torchvision::(\w+) does not exist", str(error))
    if match is None or match[1] not in _OPERATORS:
        raise error
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(_OPERATORS[match[1]])
    _declared.append(library)
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[module]  # what the failed import left behind
