"""Where an interrupted run stands, on disk: weights and numbers only, never code, so that loading one runs nothing."""

import contextlib
import hashlib
import os
import pickle
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from shallowpaths.training import distributed
from shallowpaths.training.epochs import Taken
from shallowpaths.training.record import versions
from shallowpaths.training.runs import Trainable

FORMAT = "shallowpaths checkpoint 2"
UNFINISHED = ".unfinished"
BAD = (RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, zipfile.BadZipFile, TypeError)


@dataclass
class Position:
    """How far a run has come, or several that are trained together."""

    results: list[dict[str, Any]]  # of each one's record what is known; its outcome is "running" until it has one
    epoch: int = 0  # under way, from 0
    seconds: float = 0.0  # of training so far
    measured: dict[str, float] = field(default_factory=dict)  # at the start of this epoch, for its point of the curve
    taken: Taken = field(default_factory=list)  # what this epoch's steps came to


def path_of(folder: str | os.PathLike, keys: Sequence[str]) -> Path:
    """The file of a run's checkpoint, or of several runs' that are trained together, by their RunConfig.key."""
    name = keys[0] if len(keys) == 1 else f"{hashlib.sha256(' '.join(keys).encode()).hexdigest()[:16]}-lanes"
    return Path(folder).expanduser() / f"{name}.checkpoint"


def prepare(folder: str | os.PathLike) -> None:
    """Make the folder and write to it once: a ValueError now, and not after an hour, where it cannot be written."""
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"the checkpoint folder {folder} cannot be written: {error.strerror or error}") from error


def save(path: Path, runs: Trainable, position: Position) -> None:
    """Write a checkpoint. Until it is whole the old one stands. OSError: the disk is full or cannot be written."""
    taken = [torch.stack(step) for step in position.taken]  # as one tensor, for an epoch may have thousands
    generators = {"cpu": torch.get_rng_state()}  # for dropout; order and augmentation follow from seed and epoch
    if runs.device.type != "cpu":
        generators[runs.device.type] = getattr(torch, runs.device.type).get_rng_state()
    position = vars(position) | {"taken": torch.stack(taken) if taken else torch.empty(0, 2)}
    content = {
        "format": FORMAT, "configs": [times.config.to_dict() for times in runs.timetables], "versions": _versions(),
        "position": position, "states": runs.states(), "generators": generators,
    }  # fmt: skip
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        torch.save(content, unfinished)  # by name: torch would make its own error of a Ctrl-C amid Python's writes
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except RuntimeError as error:  # what torch's zip writer makes of a full disk
        raise OSError(f"the checkpoint {path} could not be written: {str(error).splitlines()[0]}") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some systems cannot open a folder, and there a rename lasts anyway
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def discard(path: Path) -> None:
    """Delete a checkpoint, and what a process that was killed while it wrote one left behind."""
    for file in (path, *path.parent.glob(f"{path.name}.*{UNFINISHED}")):
        file.unlink(missing_ok=True)


def restore(path: Path, runs: Trainable) -> Position:
    """Put runs and torch's generators where the checkpoint has them. ValueError: it is damaged, or not these runs'."""
    content = distributed.from_first(_read(path) if distributed.is_first() else None)
    configs = [times.config.to_dict() for times in runs.timetables]
    if content["configs"] != configs:
        pairs = zip(configs, content["configs"], strict=False)
        differ = sorted({k for mine, found in pairs for k, v in mine.items() if found.get(k) != v})
        raise ValueError(f"the checkpoint {path} is of another config: {', '.join(differ) or 'other runs'} differ")
    if content["versions"] != _versions():
        found = f"of another version, {content['versions']}; this is {_versions()}"
        raise ValueError(f"the checkpoint {path} is {found}. Delete it to start afresh, or resume it with those")
    try:
        runs.load(content["states"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the checkpoint {path} is of another architecture: {reason}") from error
    for device, state in content["generators"].items():
        (torch if device == "cpu" else getattr(torch, device)).set_rng_state(state)
    taken = [tuple(step) for step in content["position"]["taken"].to(runs.device)]
    return Position(**content["position"] | {"taken": taken})


def _read(path: Path) -> dict[str, Any]:
    """The file's content; nothing in the file is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch writes each part's check sum, and does not look at it
                raise ValueError("a part is damaged")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT or {"configs", "versions", "position", "states", "generators"} - content.keys():
            raise ValueError("another format")
    except BAD as error:
        reasons = "is no checkpoint of this package and version, or is damaged, or holds code, which none ever does"
        raise ValueError(f"{path} {reasons}: delete it to start afresh") from error
    return content


def _versions() -> dict[str, str]:
    """What must be the same for the rest of the run to come out bit for bit."""
    return {name: versions()[name] for name in ("shallowpaths", "torch")}
