"""A chapter of the book: its parameters, its answer in one minute, and its claims, checked."""

import html
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from shallowpaths._device import device_name, resolve_device
from shallowpaths.pages import claims
from shallowpaths.pages.plots import BookFigure
from shallowpaths.theory import checks

PROFILES = ("quick", "gpu", "paper")


@dataclass(frozen=True)
class Chapter:
    """A chapter's parameters, and what it has checked so far. Made by `start_chapter`.

    Attributes:
        profile: "quick" (real data that a package ships, on a CPU, in seconds), "gpu" (CIFAR-10, minutes) or "paper"
            (the whole protocol, hours).
        seed: every random number of the chapter follows from it.
        device: where it computes.
        checked: its claims, in the order in which they were checked.
    """

    profile: str
    seed: int
    device: torch.device
    checked: list[claims.Claim] = field(default_factory=list, repr=False)

    def pick(self, **by_profile: Any) -> Any:
        """The value for this chapter's profile; every profile must be given one.

        >>> chapter.pick(quick=5, gpu=20, paper=200)
        """
        missing, unknown = set(PROFILES) - set(by_profile), set(by_profile) - set(PROFILES)
        if missing or unknown:
            raise ValueError(f"give one value for each profile, {', '.join(PROFILES)}: not {', '.join(by_profile)}")
        return by_profile[self.profile]

    def answer(self, text: str, figure: BookFigure) -> "Answer":
        """The chapter's answer in one minute, folded, so that a reader can guess first: three sentences and a figure."""
        return Answer(" ".join(text.split()), figure)

    def check(
        self, name: str, *, predicted: claims.Numbers, measured: claims.Numbers, tolerance: claims.Numbers, **facts: Any
    ) -> None:
        """Note whether every measured number lies within `tolerance` of the predicted one; see `claims.compared`."""
        self.checked.append(claims.compared(name, predicted, measured, tolerance, **facts))

    def check_true(self, name: str, *, holds: bool | np.bool_, measured: str, **facts: Any) -> None:
        """Note whether a claim holds whose answer is yes or no. measured: what was seen, with its numbers, in words."""
        self.checked.append(claims.judged(name, holds, measured, **facts))

    def claims(self, page: str, without: Collection[str] = ()) -> claims.ClaimTable:
        """All claims that the chapter has checked, as a table: its last line.

        Args:
            page: of the ledger, whose claims the chapter makes, for example "B".
            without: names of those that it does not make with this profile.

        Raises:
            ClaimFailed: one has another verdict than stated, or the page has one that was not checked; the table is shown first.
        """
        stated = {name: fields["page"] for name, fields in claims.ledger().items()}
        checks.one_of("page of the ledger", page, dict.fromkeys(stated.values()))
        table, known = claims.ClaimTable(tuple(self.checked)), {claim.name for claim in self.checked} | set(without)
        failed = [f"{c.id} {'holds' if c.holds else 'does not hold'}: {c.statement}" for c in self.checked if not c.stands]
        failed += [f"{name} was not checked" for name in stated if stated[name] == page and name not in known]
        if failed:
            from IPython.display import display  # only a notebook needs it

            display(table)
            raise claims.ClaimFailed("; ".join(failed))
        return table


@dataclass(frozen=True)
class Answer:
    """Three sentences and a figure, folded."""

    text: str
    figure: BookFigure

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002 - IPython's signature
        figure = self.figure._repr_mimebundle_()["text/html"]
        summary = "<summary>The answer in one minute</summary>"
        page = f'<details class="answer">{summary}<p>{html.escape(self.text)}</p>{figure}</details>'
        return {"text/html": page, "text/plain": f"{self.text}\n{self.figure.alt}"}


def start_chapter(profile: str | None = None, seed: int = 0, device: str | None = None) -> Chapter:
    """Check a chapter's parameters and say what they come to.

    Args:
        profile: one of PROFILES; None is "gpu" where CUDA is, else "quick".
        seed: a whole number of at least 0 and below 2**63.
        device: "cpu", "cuda", "mps"; None or "auto" takes the best there is.

    Raises:
        ValueError: a bad value, with the list of good ones.
    """
    chosen = resolve_device(device)
    profile = profile or ("gpu" if chosen.type == "cuda" else "quick")
    checks.one_of("profile", profile, PROFILES)
    checks.seed(seed)
    print(f"profile {profile}, seed {seed}, on {device_name(chosen)}")  # noqa: T201 - a chapter's first output
    return Chapter(profile, seed, chosen)
