"""What is asked of a run: RunConfig, validated where it is made. Importing it does not load torch."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from shallowpaths.recipes import get_recipe
from shallowpaths.theory import checks
from shallowpaths.theory.depth import NETWORKS, blocks_of

CHOICES = {
    "network": NETWORKS, "schedule": ("paper", "constant"), "precision": ("float32", "bfloat16"),
    "data": ("digits", "cifar10", "cifar10-16x16", "imagefolder"), "bad_images": ("refuse", "skip"),
    "device": ("auto", "cpu", "cuda", "mps"),
}  # fmt: skip
FEWEST_BATCHES = 4  # from which the noise of gradients is measured
WHOLE = {  # least and largest; one image has no variance
    "width": (1, 10**6), "batch_size": (1, 10**6), "ghost_batch": (2, 10**6), "epochs": (1, 10**6), "steps": (1, 10**9),
    "depth": (1, 10**5), "warmup_epochs": (0, 10**6), "curvature_images": (0, None), "image_size": (8, 4096),
}  # fmt: skip
LARGEST = 3e38  # of float32's numbers, almost: a GPU takes no rate beyond
RATE, SIZE, PART = {"above": 0, "below": LARGEST}, {"at_least": 0, "below": LARGEST}, {"at_least": 0, "below": 1}
REAL = {"learning_rate": RATE, "l2": SIZE, "alpha_rate": SIZE, "momentum": PART, "dropout": PART, "validation": PART}


@dataclass(frozen=True)
class RunConfig:
    """One training run, completely: `train` is a function of this.

    Attributes:
        recipe: what stands on the residual branches (`shallowpaths recipes` lists them).
        network: "wide-resnet", "residual-mlp", or "resnet50-v2" (of depth 50).
        depth: n, which gives d = (n - 4) / 2 residual blocks.
        width: factor k on a ResNet's channels, or the ResidualMLP's number of units.
        data: "digits" (8 x 8 grey, of scikit-learn), "cifar10", "cifar10-16x16" (2 x 2 pixels averaged), "imagefolder".
        image_size: pixels that an imagefolder is resized and cropped to; 224 if not given. Other data has its own.
        bad_images: "refuse" or "skip" an imagefolder's images that cannot be read as colours, and empty classes.
        epochs: the budget, as passes over the training split; 5 if neither epochs nor steps is given.
        steps: the budget, as optimizer steps, instead of epochs.
        batch_size: images per step.
        ghost_batch: images over which batch normalization takes its statistics in training; None takes the whole batch.
        learning_rate: the optimizer's own rate, not the effective one (see `effective_learning_rate`).
        momentum: heavy-ball momentum of SGD.
        l2: coefficient of the L2 penalty that is added to the gradient.
        l2_on_scalars: whether it also acts on alpha, biases and normalization parameters.
        alpha_rate: factor on the learning rate of the branches' scalars, SkipInit's alpha and Fixup's multiplier.
        schedule: "paper" (constant, then halved every tenth of the second half) or "constant".
        warmup_epochs: epochs at the start over which the rate rises in equal steps to the schedule's.
        dropout: rate before the classifier, for recipes that have dropout.
        augment: random crop and, but for digits, flip.
        curvature_images: training images on which each epoch first measures curvature and gradient noise; 0: none.
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
    image_size: int | None = None
    bad_images: str = "refuse"
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 64
    ghost_batch: int | None = None
    learning_rate: float = 0.05
    momentum: float = 0.9
    l2: float = 5e-4
    l2_on_scalars: bool = True
    alpha_rate: float = 1.0
    schedule: str = "paper"
    warmup_epochs: int = 0
    dropout: float = 0.6
    augment: bool = True
    curvature_images: int = 0
    validation: float = 0.0
    seed: int = 0
    precision: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        for name, value in self.to_dict().items():
            if isinstance(value, np.generic):
                put(name, value.item())  # numpy's numbers are Python's: JSON knows no others
        put("recipe", get_recipe(self.recipe).name)  # one name, one key
        if self.epochs is not None and self.steps is not None:
            raise ValueError(f"epochs {self.epochs} and steps {self.steps} are both given: set one of them to None")
        if self.epochs is None and self.steps is None:
            put("epochs", 5)
        if self.data == "imagefolder" and self.image_size is None:
            put("image_size", 224)  # ImageNet's
        self._check()
        for name, bounds in REAL.items():
            put(name, checks.number(name, getattr(self, name), **bounds) + 0.0)  # 1 is 1.0 and -0.0 is 0.0: one key
        checks.number("learning_rate * alpha_rate", self.learning_rate * self.alpha_rate, **SIZE)

    def _check(self) -> None:
        """Refuse a bad setting that is no real number."""
        blocks_of(self.depth, self.network)
        for name, allowed in CHOICES.items():
            checks.one_of(name, getattr(self, name), allowed)
        if self.data != "imagefolder" and self.image_size is not None:
            own = f"the data {self.data!r} has its own, give it for imagefolder only"
            raise ValueError(f"image_size {self.image_size!r}: {own}")
        for name, bounds in WHOLE.items():
            if getattr(self, name) is not None or getattr(type(self), name) is not None:
                checks.whole(name, getattr(self, name), *bounds)
        batches, rest = divmod(self.curvature_images, self.batch_size)
        if rest or 0 < batches < FEWEST_BATCHES:
            wanted = f"0, or {FEWEST_BATCHES} or more whole batches of {self.batch_size}"
            raise ValueError(f"curvature_images {self.curvature_images} must be {wanted}")
        checks.seed(self.seed)
        for name in ("l2_on_scalars", "augment"):
            checks.flag(name, getattr(self, name))

    def total_steps(self, images: int) -> int:
        """Optimizer steps of the whole run on a training split of `images` images."""
        return self.steps if self.epochs is None else self.epochs * images // self.batch_size

    def split(self, images: int) -> int:
        """How many of `images` training images are trained on; a ValueError says why the run does not fit so many."""
        held = round(self.validation * images)
        left = images - held
        if self.validation > 0 and not 0 < held < images:
            why = f"of {images} training images that leaves {held} to validate on"
            raise ValueError(f"validation {self.validation}: {why}")
        for name, verb in (("batch_size", "is larger"), ("curvature_images", "are more")):
            if (value := getattr(self, name)) > left:
                raise ValueError(f"{name} {value} {verb} than the training split, {left} images of {self.data}")
        chunk = self.batch_size if self.ghost_batch is None else self.batch_size % self.ghost_batch
        single = self.network == "residual-mlp" or (self.network == "resnet50-v2" and (self.image_size or 0) <= 32)
        if chunk == 1 and single and get_recipe(self.recipe).normalizes_end:
            ghosts = "" if self.ghost_batch is None else f" in ghost batches of {self.ghost_batch}"
            said = f"recipe {self.recipe!r} has batch normalization, and in this {self.network}"
            said = f"{said} an image's one value has no variance: take at least 2 images together"
            raise ValueError(f"batch_size {self.batch_size}{ghosts}: {said}")
        return left

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
        momentum = checks.number("momentum", settings.get("momentum", cls.momentum), **PART)
        rate = checks.number("effective_learning_rate", effective_learning_rate, **RATE)
        return cls(learning_rate=rate * (1 - momentum), **settings)

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Every setting, as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; a setting that does not exist is an error."""
        for name in values:
            checks.one_of("setting", name, cls.__dataclass_fields__)
        return cls(**values)

    @property
    def key(self) -> str:
        """A short name that two configs share exactly if all their settings agree."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


SETTINGS = (*(f.name for f in dataclasses.fields(RunConfig)), "effective_learning_rate")


def only_configs(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """The configs as a list; a TypeError names what is none."""
    listed = list(configs)
    if wrong := [config for config in listed if not isinstance(config, RunConfig)]:
        raise TypeError(f"{wrong[0]!r} is no RunConfig: give RunConfig(recipe=...), or several in a list")
    return listed
