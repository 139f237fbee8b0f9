"""Every random choice of one training step, as tensors.

Choices of an image are drawn from (seed, image's running number), choices of a step from (seed, the step's number): N processes
draw what one would have drawn, a resumed run what the killed one would have, and a test can inject its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unflip.seeding import numpy_rng, torch_rng


class TapShape(NamedTuple):
    """The size of the features at one tap for the crops of a run."""

    name: str
    channels: int
    height: int
    width: int


class Draws(NamedTuple):
    """``terms[view][term]``, for every view that the term applies to, is whatever that term's ``draw`` returned."""

    flip: bool
    """The source is mirrored before it is translated."""
    terms: Mapping[str, Mapping[str, Any]]
    windows: Tensor | None = None
    """Top and left of the detail window in each crop, ``(N, 2)`` int64; None where there is one scale."""


@dataclass(frozen=True)
class Stream:
    """The random numbers of one purpose, in step number ``step``, for ``images`` images of which the first has the number ``first``."""

    seed: int
    path: tuple[str, ...]
    first: int
    images: int
    device: torch.device
    step: int
    progress: float
    """The share of the budget seen before this step, for what changes over training."""
    valid: Mapping[str, Tensor] = field(default_factory=dict)
    """Where the images "source" and "target" hold something, ``(N, 1, H, W)`` boolean; empty: everywhere."""

    def once(self) -> np.random.Generator:
        """For a choice that the whole step shares."""
        return numpy_rng(self.seed, *self.path, "step", self.step)

    def each(self, draw: Callable[[np.random.Generator], np.ndarray], *path: str) -> Tensor:
        """``draw``'s result for every image, stacked: ``(N, ...)``. Draws of different ``path`` are independent."""
        rows = [draw(numpy_rng(self.seed, *self.path, *path, self.first + i)) for i in range(self.images)]
        return torch.from_numpy(np.stack(rows)).to(self.device, non_blocking=True)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers ``(N, *shape)``, made on the device."""
        return torch.stack([torch.randn(shape, generator=rng, device=self.device) for rng in self._rngs("normal")])

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), ``(N, *shape)``, made on the device."""
        return torch.stack([torch.rand(shape, generator=rng, device=self.device) for rng in self._rngs("uniform")])

    def _rngs(self, what: str) -> list[torch.Generator]:
        return [torch_rng(self.seed, *self.path, what, self.first + i, device=self.device) for i in range(self.images)]

    def positions(self, shape: TapShape, count: int, of: str = "source") -> Tensor:
        """Up to ``count`` different positions of a feature map for every image: ``(N, P)`` indices into its ``h * w`` positions.

        Only such where the image ``of`` ("source" or "target") holds something, in half of what they stand for; where there are fewer, some
        come twice; where there are none, all can come.
        """
        there, most = iter(self._places(shape, of)), min(count, shape.height * shape.width)

        def drawn(rng: np.random.Generator) -> np.ndarray:
            places = next(there)
            return rng.choice(places, most, replace=len(places) < most, shuffle=False)

        return self.each(drawn, "positions", shape.name)

    def positions_at(self, taps: Sequence[TapShape], count: int, of: str = "source") -> tuple[Tensor, ...]:
        """:meth:`positions` at every tap, independent of each other."""
        return tuple(self.positions(tap, count, of) for tap in taps)

    def _places(self, shape: TapShape, of: str) -> list[np.ndarray]:
        """Of every image, those that can be drawn."""
        size = shape.height * shape.width
        if of not in self.valid:
            return [np.arange(size)] * self.images
        shares = F.adaptive_avg_pool2d(self.valid[of].float(), (shape.height, shape.width)).flatten(1).cpu().numpy()
        return [found if len(found := np.flatnonzero(share >= 0.5)) else np.arange(size) for share in shares]


def gather(features: Tensor, positions: Tensor) -> Tensor:
    """The features ``(N, C, h, w)`` at ``positions`` ``(N, P)``: ``(N, P, C)``."""
    if not features.is_contiguous():  # channels last, as on a GPU: so are their gradients then
        rows = features.permute(0, 2, 3, 1).flatten(1, 2)
        return rows.gather(1, positions[..., None].expand(-1, -1, rows.shape[-1]))
    # not by indexing: that gives the features a gradient in channels_last order, for which PyTorch's instance norm of a single image
    # computes a wrong gradient on CPU (seen in 2.15; docs/decisions/parity.md)
    n, c = features.shape[:2]
    index = positions[:, None, :].expand(n, c, -1)
    return features.flatten(2).gather(2, index).transpose(1, 2)
