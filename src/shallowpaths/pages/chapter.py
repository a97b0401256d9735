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
from shallowpaths.pages.tables import Shown
from shallowpaths.theory import checks

PROFILES = ("quick", "gpu", "paper")


@dataclass(frozen=True)
class Chapter:
    """A chapter's parameters as `start_chapter` has them, and the claims that it has checked so far, in order."""

    profile: str
    seed: int
    device: torch.device
    checked: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def pick(self, *, quick: Any, gpu: Any, paper: Any) -> Any:
        """The value for this chapter's profile."""
        return {"quick": quick, "gpu": gpu, "paper": paper}[self.profile]

    def answer(self, text: str, figure: BookFigure) -> Shown:
        """The chapter's answer in one minute, folded, so that a reader can guess first: three sentences and a figure."""
        said = " ".join(text.split())
        page = f"<summary>The answer in one minute</summary><p>{html.escape(said)}</p>{figure.html()}"
        return Shown(f'<details class="answer">{page}</details>', f"{said}\n{figure.alt}")

    def check(
        self, name: str, *, predicted: claims.Numbers, measured: claims.Numbers, tolerance: claims.Numbers, **facts: Any
    ) -> None:
        """Note whether every measured number lies within `tolerance` of the predicted one, in absolute terms.

        predicted, measured, tolerance: numbers, or arrays that broadcast to one shape; what is not finite does not hold.
        facts: what the claim's sentences have in curly brackets. A ValueError if one is missing, for an unknown name, for a
        tolerance that is negative or not finite, and where nothing was measured.
        """
        columns = (np.asarray(v, dtype=np.float64) for v in (predicted, measured, tolerance))
        wanted, found, allowed = np.broadcast_arrays(*columns)
        if not np.isfinite(allowed).all() or (allowed < 0).any() or found.size == 0:
            raise ValueError(f"claim {name}: needs something measured, and tolerances that are finite and not negative")
        with np.errstate(invalid="ignore"):
            holds = bool((np.abs(found - wanted) <= allowed).all())  # a NaN compares false
        made = claims.checked(name, facts, predicted, measured, tolerance, holds=holds)
        if made["found"] == "differs" and not np.isfinite(found).all():
            raise ValueError(f"claim {name}: what is not finite was not measured, and shows no difference")
        self.checked.append(made)

    def check_true(self, name: str, *, holds: bool | np.bool_, measured: str, **facts: Any) -> None:
        """Note whether a claim holds whose answer is yes or no. measured: what was seen, with its numbers, in words."""
        checks.flag(f"holds of claim {name}", holds)
        self.checked.append(claims.checked(name, facts, None, measured, None, holds=bool(holds)))

    def claims(self, page: str, without: Collection[str] = ()) -> Shown:
        """All claims that the chapter has checked, as a table: its last line.

        page: of the ledger, as "B"; without: names of those of its claims that the chapter does not make with this profile.
        ClaimFailed, after the table, where one has another verdict than stated or the page has one that was not checked.
        """
        pages = {name: fields["page"] for name, fields in claims.ledger().items()}
        checks.one_of("page of the ledger", page, dict.fromkeys(pages.values()))
        table, known = claims.claim_table(self.checked), {row["name"] for row in self.checked} | set(without)
        wrong = [row for row in self.checked if not claims.stands(row)]
        failed = [f"{row['id']} {'holds' if row['holds'] else 'does not hold'}: {row['statement']}" for row in wrong]
        failed += [f"{name} was not checked" for name in pages if pages[name] == page and name not in known]
        if failed:
            from IPython.display import display  # only a notebook needs it

            display(table)
            raise claims.ClaimFailed("; ".join(failed))
        return table


def start_chapter(profile: str | None = None, seed: int = 0, device: str | None = None) -> Chapter:
    """Check a chapter's parameters and say what they come to; a ValueError lists the good ones.

    Args:
        profile: "quick" (real data that a package ships, on a CPU, in seconds), "gpu" (CIFAR-10, minutes) or "paper" (the
            whole protocol, hours); None is "gpu" where CUDA is, else "quick".
        seed: of every random number of the chapter, a whole number of at least 0 and below 2**63.
        device: "cpu", "cuda", "mps"; None or "auto" takes the best there is.
    """
    chosen = resolve_device(device)
    profile = profile or ("gpu" if chosen.type == "cuda" else "quick")
    checks.one_of("profile", profile, PROFILES)
    checks.seed(seed)
    print(f"profile {profile}, seed {seed}, on {device_name(chosen)}")  # noqa: T201 - a chapter's first output
    return Chapter(profile, seed, chosen)
