"""Random streams that depend on what is drawn for, never on who draws or when.

Every random choice of unflip is a pure function of a run's seed and a *path* such as ``("crop", image index)``. So the number of
loader workers, processes or resumes changes nothing, and no global random state is read or touched.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *path: int | str) -> int:
    """A 64-bit seed for one purpose, from the run's seed and the purpose's path."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def numpy_rng(seed: int, *path: int | str) -> np.random.Generator:
    """A NumPy generator for small choices (positions, flips, taps): the same numbers on every device."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *path)))


def torch_rng(seed: int, *path: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for large draws (noise, weights), on the device that will use them."""
    return torch.Generator(device).manual_seed(derive(seed, *path) >> 1)
