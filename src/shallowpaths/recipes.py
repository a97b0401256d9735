"""Recipes: what stands on a residual branch, as data. One network class per architecture reads it."""

import contextlib
import difflib
import math
from dataclasses import dataclass, replace

from shallowpaths.theory import NORMALIZATIONS
from shallowpaths.theory.checks import number, one_of, whole

FIXUP_PARTS = ("zero last layer", "depth rescaling", "scalar multiplier", "scalar biases")
ONE_OVER_SQRT_BLOCKS = "1/sqrt(d)"
FLOAT32 = {"above": -3.4e38, "below": 3.4e38}


@dataclass(frozen=True)
class Recipe:
    """How a residual block ``x -> (x + alpha * branch(x)) * output_scale`` is normalized, scaled and initialized.

    normalization: where batch normalization stands: "none"; "branch" (before each layer of the branch and before the
        classifier); "branch and skip" (also after each addition); "end" (before the classifier only).
    alpha: initial value of SkipInit's scalar at the end of each branch: a number, "1/sqrt(d)" with d the number of
        residual blocks, or None for no scalar at all.
    zero_gamma: end each branch in one more batch normalization, its last operation, whose scale starts at 0.
    biases: a bias after each layer of the branch. dropout: before the classifier, at the run's rate.
    fixup: parts of Fixup (Zhang et al. 2019), out of FIXUP_PARTS. skip_path: False leaves a plain deep network.
    """

    name: str
    normalization: str = "none"
    alpha: float | str | None = None
    output_scale: float = 1.0
    zero_gamma: bool = False
    biases: bool = False
    dropout: bool = False
    fixup: tuple[str, ...] = ()
    skip_path: bool = True

    def __post_init__(self) -> None:
        one_of("normalization", self.normalization, NORMALIZATIONS)
        if self.alpha is not None and self.alpha != ONE_OVER_SQRT_BLOCKS:
            number(f"alpha (a number, {ONE_OVER_SQRT_BLOCKS!r} or None)", self.alpha, **FLOAT32)
        number("output_scale", self.output_scale, **FLOAT32 | {"above": 0})
        if self.zero_gamma and not self.normalizes_branch:
            raise ValueError("zero_gamma needs batch normalization on the branch, which this recipe does not have")
        if not isinstance(self.fixup, tuple) or set(self.fixup) - set(FIXUP_PARTS):
            raise ValueError(f"fixup {self.fixup!r}: give a tuple of parts, out of {', '.join(FIXUP_PARTS)}")

    @property
    def normalizes_branch(self) -> bool:
        """Whether batch normalization stands on the residual branch."""
        return self.normalization in ("branch", "branch and skip")

    @property
    def normalizes_skip(self) -> bool:
        """Whether batch normalization stands on the skip path, after each addition."""
        return self.normalization == "branch and skip"

    @property
    def normalizes_end(self) -> bool:
        """Whether batch normalization stands before the classifier."""
        return self.normalization != "none"

    @property
    def starts_as_identity(self) -> bool:
        """Whether every branch is exactly zero at initialization."""
        return self.zero_gamma or self.alpha == 0 or "zero last layer" in self.fixup

    def initial_alpha(self, blocks: int) -> float | None:
        """The scalar's initial value in a network of `blocks` residual blocks, or None without a scalar."""
        whole("blocks", blocks)
        alpha = 1 / math.sqrt(blocks) if self.alpha == ONE_OVER_SQRT_BLOCKS else self.alpha
        return None if alpha is None else float(alpha)

    @property
    def block_formula(self) -> str:
        """What a block computes, f the branch, BN a batch normalization (those inside f are not shown).

        α is SkipInit's scalar, m Fixup's multiplier, b its biases, γ the scale of the branch's last BN.
        """
        inside = "x + b" if "scalar biases" in self.fixup else "x"
        branch = f"f(BN({inside}))" if self.normalizes_branch else f"f({inside})"
        branch = f"γ BN({branch})" if self.zero_gamma else branch
        factor = "m " if "scalar multiplier" in self.fixup else "α " if self.alpha is not None else ""
        total = f"x + {factor}{branch}" if self.skip_path else factor + branch
        total = total if self.output_scale == 1 else f"({total}) / √{1 / self.output_scale**2:.4g}"
        return f"BN({total})" if self.normalizes_skip else total

    @property
    def start(self) -> str:
        """What is special about a block's scalars and weights at initialization, in words; d: the blocks' number."""
        alpha = "1/√d" if self.alpha == ONE_OVER_SQRT_BLOCKS else f"{self.alpha or 0:g}"
        notes = [f"α = {alpha}"] * (self.alpha is not None) + ["γ = 0"] * self.zero_gamma
        words = zip(FIXUP_PARTS, ("last layer 0", "others / √d", "m = 1", "b = 0"), strict=True)
        return ", ".join(notes + [said for part, said in words if part in self.fixup])


_SKIPINIT = Recipe("skipinit", alpha=0.0)
_FIXUP = Recipe("fixup", fixup=FIXUP_PARTS)
_BATCHNORM = Recipe("batchnorm", normalization="branch")
_NAMED = (
    Recipe("unnormalized"),
    _BATCHNORM,
    _SKIPINIT,
    replace(_SKIPINIT, name="skipinit-1/sqrt(d)", alpha=ONE_OVER_SQRT_BLOCKS),
    replace(_SKIPINIT, name="skipinit-1", alpha=1.0),
    Recipe("divide-sqrt2", output_scale=1 / math.sqrt(2)),
    _FIXUP,
    replace(_SKIPINIT, name="regularized-skipinit", biases=True, dropout=True),
    replace(_SKIPINIT, name="skipinit-biases", biases=True),
    replace(_FIXUP, name="fixup-dropout", dropout=True),
    Recipe("batchnorm-on-skip", normalization="branch and skip"),
    Recipe("batchnorm-at-end", normalization="end"),
    replace(_BATCHNORM, name="zero-gamma", zero_gamma=True),
    replace(_FIXUP, name="fixup-zero-last-only", fixup=("zero last layer",)),
    replace(_FIXUP, name="fixup-rescaling-only", fixup=("depth rescaling",)),
    Recipe("plain", skip_path=False),
    replace(_BATCHNORM, name="plain-batchnorm", skip_path=False),
    replace(_FIXUP, name="fixup-multiplier-only", fixup=("scalar multiplier",)),
    replace(_FIXUP, name="fixup-biases-only", fixup=("scalar biases",)),
)
_RECIPES = {recipe.name: recipe for recipe in _NAMED}
NAMES = tuple(_RECIPES)


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`: one of NAMES, or "skipinit-<number>" for any other initial value of alpha.

    One recipe has one name: "skipinit-0.30" is "skipinit-0.3", "skipinit-1.0" is "skipinit-1". Raises a ValueError for
    an unknown name, with the list of known ones.
    """
    if isinstance(name, str) and name in _RECIPES:
        return _RECIPES[name]
    prefix, _, value = str(name).partition("-")
    if prefix == "skipinit":
        with contextlib.suppress(ValueError):  # what is no finite number gets the error that lists the names
            recipe = replace(_SKIPINIT, name=f"skipinit-{float(value)!r}", alpha=float(value))
            return next((known for known in _NAMED if replace(known, name=recipe.name) == recipe), recipe)
    close = difflib.get_close_matches(str(name), NAMES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ValueError(f"recipe {name!r} is unknown{hint} Choose from {', '.join(NAMES)}, or skipinit-<number>")
