"""A reader's network by its name: one of torchvision's or timm's, or what a function in a file makes."""

import difflib
import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from shallowpaths._torchvision import import_torchvision

FORMS = "torchvision:NAME, timm:NAME or path/to/file.py:factory"


def load_model(target: str, **settings: Any) -> nn.Module:
    """A new network, with random weights from torch's random state.

    target: "torchvision:resnet50", "timm:resnetv2_50", or "path/to/file.py:factory" for the network that the file's
    function `factory`, or a class, makes. settings: what that function, or the network of that name, takes: num_classes=10.

    Raises:
        ValueError: another form; an unknown name, with those near it; timm not installed; a file or a factory that is
            not there, or that makes no torch.nn.Module.
    """
    source, _, name = target.rpartition(":")
    if source == "torchvision":
        models = import_torchvision("models")
        known = _known(name, models.list_models(), source)
        takes = inspect.signature(models.get_model_builder(known)).parameters
        ours = {"weights_backbone": None} if "weights_backbone" in takes else {}  # else it downloads them
        return models.get_model(known, **ours | settings)
    if source == "timm":
        return _from_timm(name, settings)
    if source.endswith(".py"):
        return _from_file(Path(source), name, settings)
    raise ValueError(f"model {target!r}: give {FORMS}")


def _from_timm(name: str, settings: dict[str, Any]) -> nn.Module:
    import_torchvision()  # timm imports it, too
    try:
        import timm
    except ImportError as error:
        raise ValueError("timm is not installed: pip install 'shallowpaths[timm]'") from error
    return timm.create_model(_known(name, timm.list_models(), "timm"), **settings)


def _from_file(path: Path, name: str, settings: dict[str, Any]) -> nn.Module:
    if not path.is_file():
        raise ValueError(f"model file {path} is not there")
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    model = made[_known(name, list(made), str(path))](**settings)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{path}:{name} makes a {type(model).__name__}, no torch.nn.Module")
    return model


def _known(name: str, names: Sequence[str], source: str) -> str:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[:5]
        raise ValueError(f"{source} has no model {name!r}; near it: {', '.join(near) or 'nothing'}")
    return name
