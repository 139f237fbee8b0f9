"""Decoded arrays in memory: each is made once where all of them fit, and all loader workers see them."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unflip.devices import available_memory
from unflip.errors import UserError
from unflip.torchrun import processes


class Store:
    """Tensors of known ``shapes`` and one ``dtype`` by index, made by ``decode``.

    ``cache``: "auto" keeps them where they fit, "memory" always, "none" never. ``shared`` puts them where all loader workers see them;
    False suffices for ``workers=0``.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        decode: Callable[[int], Tensor],
        cache: str = "auto",
        shared: bool = True,
        dtype: torch.dtype = torch.uint8,
    ) -> None:
        if cache not in {"auto", "memory", "none"}:
            raise UserError(f"not a cache setting, {cache!r}; use auto, memory or none")
        self.shapes, self.decode = list(shapes), decode
        self.pixels: Tensor | None = None
        """All arrays in a row, flat; None where nothing is kept."""
        self.filled = torch.zeros(len(self.shapes), dtype=torch.uint8)
        ends = torch.tensor([0, *map(math.prod, self.shapes)]).cumsum(0)
        self.starts: list[int] = ends.tolist()
        total = self.starts[-1]
        needed = total * dtype.itemsize * processes()[0]  # every process of a training on this machine keeps images of its own
        if cache == "memory" and shared and needed > _free_shared_memory():
            raise UserError(f"images need {needed / 2**30:.1f} GiB of shared memory, /dev/shm; enlarge it or use --set data.cache=none")
        if cache == "memory" or (cache == "auto" and _fits(needed, shared)):
            self.pixels = torch.empty(total, dtype=dtype)
            if shared:  # takes the memory at once, so that the next store sees what is left, and no worker can run out of it later
                self.pixels.share_memory_()
                self.filled.share_memory_()

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Tensor:
        """The tensor of ``shapes[index]``; not to be written to."""
        if self.pixels is None:
            return self.decode(index)
        kept = self.pixels[self.starts[index] : self.starts[index + 1]].view(self.shapes[index])
        if not self.filled[index]:
            # Two workers may get here at once: both write the same bytes, and the flag only after them.
            kept.copy_(self.decode(index))
            self.filled[index] = 1
        return kept


def _fits(total: int, shared: bool) -> bool:
    """A quarter of the memory for each of the two domains, and half of what can be shared, leave room for the rest of the training."""
    return total <= available_memory() // 4 and (not shared or total <= _free_shared_memory() // 2)


def _free_shared_memory() -> int:
    """Free bytes in /dev/shm, small in containers by default; where there is none (not Linux), no such bound is known."""
    return shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 2**62
