"""Which device to compute on, and how precisely."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from unflip.errors import UserError
from unflip.heap import kept

sharing = 1
"""How many processes like this one compute on this machine. A pool's workers set it."""


class NoMemory(UserError):
    """A device has too little memory for something, as it may have enough for something smaller."""


def choose_device(device: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``cuda`` means on this machine."""
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {device!r}; use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: this machine has no CUDA device that PyTorch can use; use --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(precision: str, device: torch.device) -> str:
    """``32`` or ``bf16``; ``auto`` is bf16 where the device computes in it."""
    if precision not in ("auto", "32", "bf16"):
        raise UserError(f"unknown precision {precision!r}; use auto, 32 or bf16")
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not supported:
        raise UserError(f"precision bf16: {device.type} here does not compute in bfloat16; use --precision 32")
    return "bf16" if supported and precision != "32" else "32"


@contextlib.contextmanager
def enough_memory(device: torch.device, what: str, advice: str) -> Iterator[None]:
    """Turn what a device raises that has no memory for ``what`` into one line with ``advice``."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise NoMemory(f"not enough memory on {device} {what}; {advice}") from error


def peak_memory(device: torch.device) -> int | None:
    """The most memory in bytes that this process has held so far: of a GPU, as PyTorch allocated it, or resident. None: not known here."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # getrusage would count, on Linux, what the caller had before this process became another program; VmHWM does not
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available_memory(device: torch.device | None = None) -> int:
    """Bytes of a GPU that are free, or of this machine's memory that can be had without swapping, as far as the system tells.

    Of these, its share where there are others like it (:data:`sharing`).
    """
    if device is not None and device.type == "cuda":
        own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # kept by PyTorch, for what comes next
        return torch.cuda.mem_get_info(device)[0] + own
    known = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        known.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) + kept())
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max": none
            known.append(int(Path(limit).read_text()))
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no sysconf on Windows
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(known, default=8 * 2**30) // sharing
