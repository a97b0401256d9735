"""What a network's measured blocks mean for its training, in words, by rules with stated thresholds."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from shallowpaths.theory.limits import LARGEST_VALUE

NOTICEABLE = 0.9  # a mean path length of less than this part of the even one is shorter
COLLAPSED = 0.1  # of the variance's part in the second moment


class Verdict(NamedTuple):
    """A word, why it is that word, and what to do."""

    verdict: str
    reason: str
    remedy: str


class Block(Protocol):
    """What is read of a block's output."""

    name: str
    output_variance: float
    output_second_moment: float


def judge(trunk: Sequence[Block], length: float, biased: float, even: float) -> Verdict:
    """The verdict on blocks that follow one another. [derived]

    Rules, the first that holds:
        exploding: an output's second moment is not finite.
        identity-biased: the mean path length is nearer, as a ratio, to that of branch shares 1/(l+1), which batch
            normalization on the branch gives, than to that of shares 1/2; and it is less than 0.9 of the latter.
        exploding: the variance more than doubles over the second half of the blocks. Doubling blocks make it
            2^(d/2), one that grows as l + 1 stays below 2.
        collapsing: the variance's part in the second moment has fallen to a tenth between the first block's output and
            the last one's: inputs that differ become alike.
        balanced: none of these.

    Args:
        trunk: in the order of the forward pass.
        length, biased, even: the measured mean path length, and with shares of 1/(l+1) and of 1/2.
    """
    blocks, half = len(trunk), max(1, len(trunk) // 2)
    overflowed = next((block.name for block in trunk if not math.isfinite(block.output_second_moment)), None)
    if overflowed:
        return _exploding(blocks, f"the second moment overflows in {overflowed}")
    if length < min(math.sqrt(biased * even), NOTICEABLE * even):
        reason = f"a path takes {length:.2f} branches on average, of {even:.2f} if skip paths and branches weighed the same"
        return Verdict("identity-biased", reason, _KEEP)
    growth = _ratio(trunk[-1].output_variance, trunk[half - 1].output_variance)
    if growth > 2:
        rate = growth ** (1 / (blocks - half))
        room = 2 * math.log2(LARGEST_VALUE["float32"]) - math.log2(trunk[-1].output_second_moment)
        overflow = blocks + math.ceil(room / math.log2(rate))
        return _exploding(blocks, f"the variance grows by {rate:.3g} a block; float32 would overflow at block {overflow}")
    first, last = (_ratio(block.output_variance, block.output_second_moment) for block in (trunk[0], trunk[-1]))
    if last <= COLLAPSED * first:
        reason = f"the variance's part in the second moment falls from {first:.2g} to {last:.2g}: inputs become alike"
        return Verdict("collapsing", reason, _NORMALIZE)
    reason = f"a path takes {length:.2f} branches on average, and the variance does not explode"
    return Verdict("balanced", reason, _SHORTEN.format(1 / math.sqrt(blocks)))


def _exploding(blocks: int, reason: str) -> Verdict:
    return Verdict("exploding", reason, _SCALE.format(1 / math.sqrt(blocks)))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 1.0


_KEEP = (
    "Nothing to repair: near the identity, deep networks train. A scalar of 0 at the end of each branch (SkipInit) keeps"
    " that without normalization."
)
_SCALE = (
    "End each branch in a scalar of 0 (SkipInit) or 1/sqrt(d) = {:.2g}, in a normalization with gamma 0, or put"
    " normalization on the branch."
)
_NORMALIZE = "Put batch normalization on each branch, which subtracts what all inputs have in common."
_SHORTEN = (
    "Fine while the network is shallow. Deeper: normalize on the branch and not on the skip path (pre-norm), or end each"
    " branch in gamma 0, in a scalar of 0 (SkipInit) or of 1/sqrt(d) = {:.2g}."
)
