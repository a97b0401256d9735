"""Which device a run uses, and what a record says about it."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from shallowpaths.runs import DEVICES, one_of


def resolve_device(name: str | torch.device | None = "auto") -> torch.device:
    """The device called `name`; "auto" (or None) takes CUDA where it is, then MPS, then the CPU.

    Raises:
        ValueError: for an unknown device, or one that this machine does not have.
    """
    kind = str(name if name is not None else "auto")
    one_of("device", kind.partition(":")[0], DEVICES)
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if has[d]))
    if not has[kind.partition(":")[0]]:
        present = ", ".join(d for d, there in has.items() if there)
        raise ValueError(f"device {kind!r}: this machine (or this build of torch) has none. It has: {present}")
    return torch.device(kind)


def device_name(device: torch.device) -> str:
    """What a person calls the device: the GPU's product name, or the processor and the threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = platform.processor() or platform.machine()
    return f"{processor} {device.type}, {torch.get_num_threads()} threads"


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, torch and this package."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "shallowpaths": metadata.version("shallowpaths"),
    }


@functools.cache
def commit() -> str | None:
    """The commit that the package's source stands at, with "+" if it was changed since; None outside a checkout."""
    here = Path(__file__).parent
    if not any((parent / ".git").exists() for parent in here.parents[1:3]):
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "."], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
