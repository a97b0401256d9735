"""Devices: which one is meant, what it is called, and how it multiplies. What torch does differently on each is told here."""

import contextlib
import platform
from collections.abc import Iterator

import torch

from shallowpaths.theory.checks import one_of

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")  # on CPUs and GPUs


def resolve_device(name: str | torch.device | None = "auto") -> torch.device:
    """The device called `name`; "auto" (or None) takes CUDA where it is, then MPS, then the CPU.

    Raises:
        ValueError: for an unknown device, or one that this machine does not have.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = str("auto" if name is None else name)
    kind = wanted.partition(":")[0]
    one_of("device", kind, ("auto", *sorted(has)))
    if kind == "auto":
        return torch.device(next(device for device, there in has.items() if there))
    if not has[kind]:
        present = ", ".join(device for device, there in has.items() if there)
        raise ValueError(f"device {wanted!r}: this machine (or this build of torch) has none. It has: {present}")
    return torch.device(wanted)


def device_name(device: torch.device) -> str:
    """What decides a run's last digits: the GPU's product name, or the processor, its vector units and torch's threads."""
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

    Each setting by itself: torch.backends.cudnn.flags would switch cuDNN off where it is not told to leave it on.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with _tf32(tf32):
        try:
            cudnn.deterministic, cudnn.benchmark = deterministic, False
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before


@contextlib.contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    """By torch's older settings, which its compiler reads; by the newer ones where those are in use: it refuses a mix."""
    cudnn = torch.backends.cudnn
    try:
        before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        places = torch.backends.cuda.matmul, cudnn.conv
        before = [place.fp32_precision for place in places]
        try:
            for place in places:
                place.fp32_precision = "tf32" if wanted else "ieee"
            yield
        finally:
            for place, value in zip(places, before, strict=True):
                place.fp32_precision = value
        return
    try:
        torch.set_float32_matmul_precision("high" if wanted else "highest")
        cudnn.allow_tf32 = wanted
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


@contextlib.contextmanager
def named_if_too_large(message: str) -> Iterator[None]:
    """What torch and Python raise when memory is short becomes a ValueError that says what was too large."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise ValueError(message) from error
