"""Devices: which one is meant, what it is called, and how it multiplies."""

import contextlib
import platform
from collections.abc import Iterator

import torch

from shallowpaths.theory.checks import one_of

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")  # on CPUs and GPUs


def resolve_device(name: str | torch.device | None = "auto") -> torch.device:
    """The device called `name`, or a ValueError; "auto" or None: CUDA where it is, then MPS, then the CPU."""
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = str("auto" if name is None else name)
    kind = wanted.partition(":")[0]
    one_of("device", kind, ("auto", *sorted(has)))
    present = [device for device, there in has.items() if there]
    if kind != "auto" and not has[kind]:
        there = ", ".join(present)
        raise ValueError(f"device {wanted!r}: this machine (or this build of torch) has none. It has: {there}")
    return torch.device(present[0] if kind == "auto" else wanted)


def device_name(device: torch.device) -> str:
    """What decides a run's last digits: the GPU's product name, or processor, vector units and torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = platform.processor() or platform.machine()
    return f"{processor} {device.type}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def synchronize(device: torch.device) -> None:
    """Wait for what the device has been given to do."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """bfloat16 products where `precision` asks for them; weights and statistics stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()


@contextlib.contextmanager
def arithmetic(device: torch.device, tf32: bool = False, deterministic: bool = True) -> Iterator[None]:
    """How CUDA multiplies within, as the arguments say; before and after, as torch was told. Nothing on other devices.

    By torch's older settings, which its compiler reads; by the newer ones where those are in use: it refuses a mix.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, matmul, precision = torch.backends.cudnn, torch.backends.cuda.matmul, None
    wanted = [(cudnn, "deterministic", deterministic), (cudnn, "benchmark", False)]
    try:
        precision, _ = torch.get_float32_matmul_precision(), cudnn.allow_tf32
        wanted.append((cudnn, "allow_tf32", tf32))
    except RuntimeError:
        wanted += [(place, "fp32_precision", "tf32" if tf32 else "ieee") for place in (matmul, cudnn.conv)]
    before = [(place, name, getattr(place, name)) for place, name, _ in wanted]
    try:
        if precision:
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
        for setting in wanted:
            setattr(*setting)
        yield
    finally:
        for setting in before:
            setattr(*setting)
        if precision:
            torch.set_float32_matmul_precision(precision)


@contextlib.contextmanager
def named_if_too_large(message: str) -> Iterator[None]:
    """What torch and Python raise when memory is short becomes a ValueError that says what was too large."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            raise ValueError(message) from error
        raise
