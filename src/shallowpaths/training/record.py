"""What came of a run: RunRecord, and where and with what it was made."""

import dataclasses
import functools
import json
import math
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from shallowpaths import __version__
from shallowpaths.theory.checks import one_of
from shallowpaths.training.config import RunConfig


@dataclass(frozen=True)
class RunRecord:
    """What came of a run, with everything needed to repeat it.

    A point of the curve has epoch, learning_rate (of its last step), train_loss, train_accuracy, and with a validation
    split validation_loss and validation_accuracy; on an imagefolder of more than five classes also their top5_accuracy;
    with `curvature_images` also what `epochs.curvature` finds. The test set is read once, after the last epoch.
    """

    config: RunConfig  # with the device resolved
    outcome: str  # "finished" or "diverged"
    curve: list[dict[str, float]]  # a point an epoch
    diverged_step: int | None = None  # the first, from 0, whose loss was not finite
    test_accuracy: float | None = None
    test_loss: float | None = None
    test_top5_accuracy: float | None = None
    parameters: int = 0  # that are trained
    data_checksum: str = ""  # SHA-256 of the data set's tensors, of an imagefolder's file names and sizes
    train_images: int = 0
    seconds: float = 0.0  # of training, evaluation and curvature, loading excluded
    lanes: int = 1  # runs that were trained as one, this among them; `seconds` is then its share
    device_name: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None  # None outside a checkout

    def __post_init__(self) -> None:
        one_of("outcome", self.outcome, ("finished", "diverged"))
        if (self.outcome == "diverged") != (self.diverged_step is not None):
            raise ValueError("a diverged run has a diverged_step, a finished one has none")
        if self.outcome == "finished" and (not self.curve or self.test_accuracy is None):
            raise ValueError("a finished run has a curve and a test accuracy")
        self._check_kinds()

    def _check_kinds(self) -> None:
        """Raise a ValueError where a value is not of its kind: records are read from files that anyone may write."""
        points = self.curve if isinstance(self.curve, list) else [None]
        if not all(isinstance(p, dict) and "train_loss" in p and all(map(_is_number, p.values())) for p in points):
            raise ValueError("a curve is a list of dicts of finite numbers, each with a train_loss")
        tests = ("test_accuracy", "test_loss", "test_top5_accuracy")
        for name in ("diverged_step", *tests, "parameters", "train_images", "seconds", "lanes"):
            value = getattr(self, name)
            if not (_is_number(value) or (value is None and getattr(type(self), name) is None)):
                raise ValueError(f"{name} {value!r} must be a finite number")
        for name, kind in (("data_checksum", str), ("device_name", str), ("versions", dict)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} {getattr(self, name)!r} must be a {kind.__name__}")

    @property
    def train_loss(self) -> float:
        """Mean training loss over the last epoch; infinite if the run diverged."""
        return math.inf if self.outcome == "diverged" else self.curve[-1]["train_loss"]

    @property
    def validation_accuracy(self) -> float | None:
        """Accuracy on the validation split after the last epoch, if there is one."""
        return self.curve[-1].get("validation_accuracy") if self.outcome == "finished" else None

    def result(self) -> dict[str, Any]:
        """What must be equal when the same config runs again on the same device."""
        circumstances = {"seconds", "lanes", "device_name", "versions", "commit"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in circumstances}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The inverse of `to_json`; raises ValueError for a line that is no record."""
        try:
            values = json.loads(line)
            return cls(RunConfig.from_dict(values.pop("config")), **values)
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a run record: {error}") from error


def _is_number(value: object) -> bool:
    """Whether it is a finite number; a whole one beyond the largest float is none, a bool neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, torch and this package."""
    import torch  # records are read without it

    return {"python": platform.python_version(), "torch": str(torch.__version__), "shallowpaths": __version__}


@functools.cache
def commit() -> str | None:
    """The commit that the package's source stands at, with "+" if it was changed since; None outside a checkout."""
    here = Path(__file__).parents[1]
    if not any((parent / ".git").exists() for parent in here.parents[1:3]):
        return None
    commands = ("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", ".")
    ask = functools.partial(subprocess.check_output, cwd=here, stderr=subprocess.DEVNULL, text=True)
    try:
        head, changed = (ask(["git", *command]).strip() for command in commands)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
