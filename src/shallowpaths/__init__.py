"""Shallow Paths: why batch normalization makes deep residual networks trainable, and what does the same without it.

The package behind the book of the same name, a reproduction of De and Smith, arXiv 2002.10444:

>>> import shallowpaths as sp
>>> record = sp.train(sp.RunConfig(recipe="skipinit", depth=100))

This is the front door: every name in `__all__`, loaded when it is first used, so that importing the package is fast and
loads nothing heavy. Rooms, each of which imports only from those after it: `cli`, `bench`, `pages`, `experiments`,
`training`, `measure`, `networks`, `data`, `recipes`, `theory`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "training.config": ("RunConfig",),
    "training.record": ("RunRecord",),
    "training.train": ("train", "train_lanes"),
    "training.runs": ("Run",),
    "training.steps": ("StepOptions",),
    "experiments.sweep": ("sweep",),
    "experiments.plans": ("Plan", "read_plan"),
    "experiments.store": ("Store", "load_records", "shipped_records"),
    "experiments.records": (
        "best_rate", "fewest_steps", "final_train_loss", "group_by", "rate_reaching", "select", "step_costs", "steps_to_loss",
        "summarise", "validation_error",
    ),
    "experiments.paper": ("beside_paper", "trains"),
    "experiments.tables": ("describe", "stands_on"),
    "measure": ("inspect",),
    "networks": (
        "GhostBatchNorm", "ResNetV2", "ResidualMLP", "WideResNet", "count_parameters", "to_fixup", "to_skipinit",
    ),
    "networks.loading": ("load_model",),
    "recipes": ("Recipe", "get_recipe"),
    "theory.depth": ("blocks_of",),
    "pages.chapter": ("start_chapter",),
    "pages.tables": ("paper_table", "table"),
}
_WHERE = {name: room for room, names in _ROOMS.items() for name in names}
_WHOLE = {"plots": "pages.plots", "explorers": "pages.explorers"} | {
    room: room for room in ("bench", "data", "measure", "networks", "recipes", "theory")
}
__all__ = [*_WHERE, *_WHOLE]


def __getattr__(name: str) -> Any:
    """Load a name of the front door."""
    if name in _WHOLE:
        return importlib.import_module(f"{__name__}.{_WHOLE[name]}")
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
