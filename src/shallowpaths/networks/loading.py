"""A reader's network by its name: one of torchvision's or timm's, or what a function in a file makes."""

import difflib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from shallowpaths._torchvision import import_torchvision


def load_model(target: str, **settings: Any) -> nn.Module:
    """A new network, with random weights from torch's random state.

    target: "torchvision:resnet50", "timm:resnetv2_50", or "path/to/file.py:factory" for what the file's function
    `factory`, or a class, makes. The file may import what lies beside it. settings: what that function, or the network
    of that name, takes, as num_classes=10.

    Raises:
        ValueError: another form; timm not installed; what is not there, with names near it; a file or a factory that
            fails, with its error, or that makes no torch.nn.Module.
    """
    source, _, name = target.rpartition(":")
    if source == "torchvision":
        models = import_torchvision("models")
        builder = models.get_model_builder(_known(name, models.list_models(), source))
        takes = inspect.signature(builder).parameters
        ours = {"weights_backbone": None} if "weights_backbone" in takes else {}  # else it downloads them
        return builder(**ours | settings)
    if source == "timm":
        import_torchvision()  # timm imports it, too
        try:
            import timm
        except ImportError as error:
            raise ValueError("timm is not installed: pip install 'shallowpaths[timm]'") from error
        return timm.create_model(_known(name, timm.list_models(), source), **settings)
    if source.endswith(".py"):
        return _from_file(Path(source), name, settings)
    raise ValueError(f"model {target!r}: give torchvision:NAME, timm:NAME or path/to/file.py:factory")


def _from_file(path: Path, name: str, settings: dict[str, Any]) -> nn.Module:
    if not path.is_file():
        raise ValueError(f"model file {path} is not there")
    specification = importlib.util.spec_from_file_location(f"{__name__}.{path.stem}", path)
    module = sys.modules[specification.name] = importlib.util.module_from_spec(specification)
    sys.path.insert(0, folder := str(path.parent.resolve()))
    try:
        specification.loader.exec_module(module)
        made = {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
        model = made[name](**settings) if name in made else None
    except (Exception, SystemExit) as error:  # whatever a reader's file raises
        raise ValueError(f"{path}:{name}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.remove(folder)
    _known(name, list(made), str(path))
    if not isinstance(model, nn.Module):
        raise ValueError(f"{path}:{name} makes a {type(model).__name__}, no torch.nn.Module")
    return model


def _known(name: str, names: Sequence[str], source: str) -> str:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[:5]
        raise ValueError(f"{source} has no model {name!r}; near it: {', '.join(near) or 'nothing'}")
    return name
