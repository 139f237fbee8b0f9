"""Freed memory stays with the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import unflip
from unflip import devices

pytestmark = pytest.mark.skipif(
    "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}) or not sys.platform.startswith("linux"), reason="not the GNU C library"
)

FAULTS = """
import ctypes, resource, sys
from unflip.heap import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes, library.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for i in range(11):
    block = library.malloc(64 * 2**20)
    ctypes.memset(block, 1, 64 * 2**20)
    library.free(block)
    if i == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    """Pages that were cleared for a block of 64 MB, which was freed and asked for again ten times."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"}
    env = {**inherited, "PYTHONPATH": str(Path(unflip.__file__).parents[1]), **environment}
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], env=env, capture_output=True, text=True, check=True).stdout)


def test_freed_memory_is_not_cleared_again() -> None:
    assert faults("leave") > 10 * faults("keep") + 100


def test_whoever_told_the_c_library_is_obeyed() -> None:
    assert faults("keep", MALLOC_MMAP_THRESHOLD_="65536") > 10 * faults("keep") + 100


def test_what_is_kept_is_not_gone() -> None:
    """A command's second large image finds as much room as its first."""
    code = """
import torch
from unflip.devices import available_memory
from unflip.heap import keep_freed_memory, kept
keep_freed_memory()
before = available_memory()
blocks = [torch.ones(2**24) for _ in range(8)]  # half a gigabyte
during = available_memory()
del blocks
print(before - during, before - available_memory(), kept())
"""
    env = {**os.environ, "PYTHONPATH": str(Path(unflip.__file__).parents[1])}
    env = {name: value for name, value in env.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    during, after, kept = map(int, said.split())
    assert kept > 400 * 2**20
    if during > 400 * 2**20:  # the system is quiet enough, and no container's limit is what counts
        assert after < during / 2


def test_processes_of_one_kind_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = devices.available_memory()
    monkeypatch.setattr(devices, "sharing", 4)
    assert 0.2 < devices.available_memory() / alone < 0.3
