"""What every chapter begins with: its parameters, checked, and the settings that follow from them."""

from dataclasses import dataclass
from typing import Any

import torch

from shallowpaths.devices import device_name, resolve_device
from shallowpaths.runs import check_seed, one_of

PROFILES = ("quick", "gpu", "paper")


@dataclass(frozen=True)
class Chapter:
    """A chapter's parameters.

    Attributes:
        profile: "quick" (real data that a package ships, on a CPU, in seconds), "gpu" (CIFAR-10, minutes) or "paper"
            (the whole protocol, hours).
        seed: every random number of the chapter follows from it.
        device: where it computes.
    """

    profile: str
    seed: int
    device: torch.device

    def pick(self, **by_profile: Any) -> Any:
        """The value for this chapter's profile; every profile must be given one.

        >>> chapter.pick(quick=5, gpu=20, paper=200)
        """
        missing, unknown = set(PROFILES) - set(by_profile), set(by_profile) - set(PROFILES)
        if missing or unknown:
            raise ValueError(f"give one value for each profile, {', '.join(PROFILES)}: not {', '.join(by_profile)}")
        return by_profile[self.profile]


def start(profile: str | None = None, seed: int = 0, device: str | None = None) -> Chapter:
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
    one_of("profile", profile, PROFILES)
    check_seed(seed)
    print(f"profile {profile}, seed {seed}, on {device_name(chosen)}")  # noqa: T201 - a chapter's first output
    return Chapter(profile, seed, chosen)
