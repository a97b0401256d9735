"""What was asked (RunConfig) and what came out (RunRecord), both validated where they are made."""

import dataclasses
import hashlib
import json
import math
import sys
from dataclasses import dataclass, field
from typing import Any, Self

from shallowpaths.recipes import get_recipe

NETWORKS = ("wide-resnet", "residual-mlp")
DATA = ("digits", "cifar10")
PRECISIONS = ("float32", "bfloat16")
SCHEDULES = ("paper", "constant")
DEVICES = ("auto", "cpu", "cuda", "mps")
OUTCOMES = ("finished", "diverged")
DEFAULT_EPOCHS = 5
FLOAT32_ALMOST_LARGEST = 3e38
LARGEST = {"depth": 10**5, "width": 10**6, "batch_size": 10**6, "ghost_batch": 10**6, "epochs": 10**6, "steps": 10**9}


def one_of(what: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise a ValueError that lists the allowed values if `value` is none of them."""
    if value not in allowed:
        raise ValueError(f"{what} {value!r} is unknown: choose from {', '.join(allowed)}")


def check_seed(seed: object) -> None:
    """Raise a ValueError if torch's generators cannot be seeded with `seed`."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed!r} must be a whole number of at least 0 and below 2**63")


def blocks_of(depth: int, network: str = "wide-resnet") -> int:
    """The number d = (n - 4) / 2 of residual blocks in a network of depth n (the paper's n-k Wide-ResNet).

    Raises:
        ValueError: a Wide-ResNet's depth must be 6 m + 4 with m >= 1, a ResidualMLP's an even number >= 6.
    """
    one_of("network", network, NETWORKS)
    whole = isinstance(depth, int) and not isinstance(depth, bool)
    if network == "wide-resnet" and not (whole and depth >= 10 and (depth - 4) % 6 == 0):
        raise ValueError(
            f"depth {depth!r}: a Wide-ResNet's depth is 6 m + 4, for example 10, 16, 22, 28, 40, 100 or 1000"
        )
    if network == "residual-mlp" and not (whole and depth >= 6 and depth % 2 == 0):
        raise ValueError(
            f"depth {depth!r}: a ResidualMLP's depth is an even number of at least 6, for example 16, 100 or 1000"
        )
    return (depth - 4) // 2


@dataclass(frozen=True)
class RunConfig:
    """One training run, completely: `train` is a function of this.

    Attributes:
        recipe: what stands on the residual branches (`shallowpaths recipes` lists them).
        network: "wide-resnet" or "residual-mlp".
        depth: n, which gives d = (n - 4) / 2 residual blocks.
        width: the Wide-ResNet's width factor k, or the ResidualMLP's number of units.
        data: "digits" (8 x 8 grey, ships with scikit-learn) or "cifar10".
        epochs: the budget, as passes over the training split; 5 if neither epochs nor steps is given.
        steps: the budget, as optimizer steps, instead of epochs.
        batch_size: images per step.
        ghost_batch: images over which batch normalization takes its statistics in training; None takes the whole batch.
        learning_rate: the optimizer's own rate, not the effective one (see `effective_learning_rate`).
        momentum: heavy-ball momentum of SGD.
        l2: coefficient of the L2 penalty that is added to the gradient.
        l2_on_scalars: whether it also acts on alpha, biases and normalization parameters.
        schedule: "paper" (constant, then halved every tenth of the second half) or "constant".
        dropout: rate before the classifier, for recipes that have dropout.
        augment: random crop and, on CIFAR-10, flip.
        validation: fraction of the training set held out to choose rates on; 0 trains on everything.
        seed: initialization, order, augmentation and dropout all follow from it.
        precision: "float32" or "bfloat16" (autocast; weights and statistics stay float32).
        device: "auto" takes CUDA where it is, then MPS, then the CPU.
    """

    recipe: str = "batchnorm"
    network: str = "wide-resnet"
    depth: int = 16
    width: int = 1
    data: str = "digits"
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 64
    ghost_batch: int | None = None
    learning_rate: float = 0.05
    momentum: float = 0.9
    l2: float = 5e-4
    l2_on_scalars: bool = True
    schedule: str = "paper"
    dropout: float = 0.6
    augment: bool = True
    validation: float = 0.0
    seed: int = 0
    precision: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "recipe", get_recipe(self.recipe).name)  # one name, one key
        blocks_of(self.depth, self.network)
        one_of("data", self.data, DATA)
        one_of("precision", self.precision, PRECISIONS)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("device", self.device, DEVICES)
        self._settle_budget()
        for name in ("depth", "width", "batch_size"):
            _whole(name, getattr(self, name), at_least=1)
        if self.ghost_batch is not None:
            _whole("ghost_batch", self.ghost_batch, at_least=2)  # one image has no variance
        check_seed(self.seed)
        _number("learning_rate", self.learning_rate, above=0)
        _number("l2", self.l2, at_least=0)
        for name in ("momentum", "dropout", "validation"):
            _number(name, getattr(self, name), at_least=0, below=1)
        for name in ("l2_on_scalars", "augment"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} {getattr(self, name)!r} must be True or False")
        for name in ("learning_rate", "l2", "momentum", "dropout", "validation"):
            object.__setattr__(self, name, float(getattr(self, name)) + 0.0)  # 1 is 1.0 and -0.0 is 0.0: one key

    def _settle_budget(self) -> None:
        """Exactly one of epochs and steps is set afterwards."""
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"epochs {self.epochs} and steps {self.steps} are both given: set one of them to None")
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", DEFAULT_EPOCHS)
        name = "epochs" if self.steps is None else "steps"
        _whole(name, getattr(self, name), at_least=1)

    def total_steps(self, images: int) -> int:
        """Optimizer steps of the whole run on a training split of `images` images."""
        return self.steps if self.epochs is None else self.epochs * images // self.batch_size

    def total_epochs(self, images: int) -> int:
        """Epochs that the run enters; a budget in steps may end within the last one."""
        return -(-self.steps * self.batch_size // images) if self.epochs is None else self.epochs

    @property
    def blocks(self) -> int:
        """d, the number of residual blocks."""
        return blocks_of(self.depth, self.network)

    @property
    def effective_learning_rate(self) -> float:
        """learning_rate / (1 - momentum): the step that a constant gradient ends up making."""
        return self.learning_rate / (1 - self.momentum)

    @classmethod
    def at_effective_rate(cls, effective_learning_rate: float, **settings: Any) -> Self:
        """A config whose rate is given as the effective one; every other setting as in RunConfig."""
        if "learning_rate" in settings:
            raise ValueError("give either learning_rate or effective_learning_rate, not both")
        momentum = settings.get("momentum", cls.momentum)
        _number("momentum", momentum, at_least=0, below=1)
        _number("effective_learning_rate", effective_learning_rate, above=0)
        return cls(learning_rate=effective_learning_rate * (1 - momentum), **settings)

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every setting, as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; a setting that does not exist is an error."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"settings {', '.join(unknown)} are unknown: choose from {', '.join(sorted(known))}")
        return cls(**values)

    @property
    def key(self) -> str:
        """A short name that two configs share exactly if all their settings agree."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunRecord:
    """What came of a run, with everything needed to repeat it.

    Attributes:
        config: the run's settings, with the device resolved.
        outcome: "finished", or "diverged" at step `diverged_step` (first step, from 0, whose loss was not finite).
        curve: one dict an epoch: epoch, learning_rate (of its last step), train_loss, train_accuracy, and with a validation split
            validation_loss and validation_accuracy.
        test_accuracy, test_loss: read once, after the last epoch; None if the run diverged.
        parameters: number of trainable parameters.
        data_checksum: SHA-256 of the data set's tensors.
        train_images: images that were trained on.
        seconds: wall time of training, evaluation included, loading excluded.
        lanes: how many runs were trained as one, this among them; `seconds` is then its share.
        device_name, versions, commit: where it ran and with what; commit is None outside a checkout.
    """

    config: RunConfig
    outcome: str
    curve: list[dict[str, float]]
    diverged_step: int | None = None
    test_accuracy: float | None = None
    test_loss: float | None = None
    parameters: int = 0
    data_checksum: str = ""
    train_images: int = 0
    seconds: float = 0.0
    lanes: int = 1
    device_name: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None

    CIRCUMSTANCES = ("seconds", "lanes", "device_name", "versions", "commit")

    def __post_init__(self) -> None:
        one_of("outcome", self.outcome, OUTCOMES)
        if (self.outcome == "diverged") != (self.diverged_step is not None):
            raise ValueError("a diverged run has a diverged_step, a finished one has none")
        if self.outcome == "finished" and (not self.curve or self.test_accuracy is None):
            raise ValueError("a finished run has a curve and a test accuracy")
        self._check_kinds()

    def _check_kinds(self) -> None:
        """Raise a ValueError where a value is not of its kind: records are read from files that anyone may write."""
        good = isinstance(self.curve, list) and all(isinstance(point, dict) for point in self.curve)
        if not good or not all(_is_number(value) for point in self.curve for value in point.values()):
            raise ValueError("a curve is a list of dicts of finite numbers")
        if not all("train_loss" in point for point in self.curve):
            raise ValueError("each point of a curve has a train_loss")
        for name in ("diverged_step", "test_accuracy", "test_loss", "parameters", "train_images", "seconds", "lanes"):
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
        """What must be equal when the same config runs again on the same device: all but CIRCUMSTANCES."""
        return {k: v for k, v in self.to_dict().items() if k not in self.CIRCUMSTANCES}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """The inverse of `to_json`; raises ValueError for a line that is no record."""
        try:
            values = json.loads(line)
            config = RunConfig.from_dict(values.pop("config"))
            return cls(config=config, **values)
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a run record: {error}") from error


def _whole(name: str, value: object, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= LARGEST[name]:
        raise ValueError(f"{name} {value!r} must be a whole number of at least {at_least} and at most {LARGEST[name]}")


def _is_number(value: object) -> bool:
    """Whether it is a finite number; a whole one beyond the largest float is none, a bool neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _number(
    name: str,
    value: object,
    above: float | None = None,
    at_least: float | None = None,
    below: float = FLOAT32_ALMOST_LARGEST,
) -> None:
    bounds = " and ".join(
        f"{word} {bound}"
        for word, bound in (("above", above), ("at least", at_least), ("below", below))
        if bound is not None
    )
    good = _is_number(value) and value < below and (above is None or value > above)
    if not good or (at_least is not None and value < at_least):
        raise ValueError(f"{name} {value!r} must be a finite number {bounds}")
