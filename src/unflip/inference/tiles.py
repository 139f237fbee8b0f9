"""Translating an image piece by piece, as if it had been translated whole: in a memory that does not grow with it.

Convolutions see no further than the generator's receptive radius: a tile that is read with such a halo around it is right, but for instance
norm, whose statistics are the image's. They are found first, and then every tile is normalized by them: docs/decisions/tiling.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from unflip.inference.translator import Statistics
from unflip.networks import Generator
from unflip.networks.blocks import grown
from unflip.networks.norm import InstanceNorm, Moments

Read = Callable[[int, int, int, int], Tensor]
"""``read(top, left, bottom, right)``: that part of an image as the network sees it, ``(1, C, bottom - top, right - left)`` in [-1, 1]."""
SIDES = (2048, 1024, 512, 256)
"""Of the tiles that are tried where an image is too large. The larger, the less is computed twice, for their halos."""

SAMPLED = 16
"""Tiles from which statistics are estimated, evenly spread; where there are no more, they are exact."""


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` - 1 and columns ``left`` to ``right`` - 1 of an image."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, by: int, within: Box) -> Box:
        """With ``by`` more pixels at each side, where ``within`` has them."""
        top, left = max(self.top - by, within.top), max(self.left - by, within.left)
        return Box(top, left, min(self.bottom + by, within.bottom), min(self.right + by, within.right))

    def inside(self, outer: Box, scale: int = 1) -> tuple[slice, slice]:
        """Where it lies in what was computed for ``outer``, at a resolution ``scale`` times lower."""
        rows = slice((self.top - outer.top) // scale, (self.bottom - outer.top) // scale)
        return rows, slice((self.left - outer.left) // scale, (self.right - outer.left) // scale)


class _Enough(Exception):
    """The rest of the network is not needed in this pass."""


def side_for(generator: Generator, size: tuple[int, int], memory: int) -> int | None:
    """The tiles that an image of ``size`` (height, width) needs where ``memory`` bytes are available; None: it can be translated whole."""
    most = memory // 2 // generator.memory_per_pixel
    if size[0] * size[1] <= most:
        return None
    return next((side for side in SIDES if (side + 2 * generator.receptive_radius) ** 2 <= most), SIDES[-1])


class Tiles:
    """An image of ``size`` (height, width) cut into tiles of at most ``tile`` pixels a side, and what they need around them."""

    def __init__(self, generator: Generator, size: tuple[int, int], tile: int) -> None:
        self.generator, self.size = generator, size
        stride = generator.stride
        self.tile = max(tile // stride, 1) * stride
        self.halo = -(-generator.receptive_radius // stride) * stride
        self.whole = Box(0, 0, *(max(-(-side // stride) * stride, generator.smallest) for side in size))
        """Grown to what the generator takes, as a whole image is."""
        self.norms = [module for module in generator.modules() if isinstance(module, InstanceNorm)]
        """In the order in which they are applied: no network here has parts that are applied in another order than they are made in."""

    def boxes(self) -> list[Box]:
        """The tiles, row by row. They do not overlap."""
        return [
            Box(top, left, min(top + self.tile, self.whole.bottom), min(left + self.tile, self.whole.right))
            for top in range(0, self.whole.bottom, self.tile)
            for left in range(0, self.whole.right, self.tile)
        ]

    def translate(
        self, read: Read, statistics: Statistics = "exact", shown: Callable[[int], None] = lambda done: None
    ) -> Iterator[tuple[Box, Tensor]]:
        """Every tile, row by row, cut to the image, and its translation ``(1, C, height, width)`` in [-1, 1].

        ``shown`` is told how many tiles have gone through the network, of :meth:`work`. Where somebody has fixed the norms' statistics
        (:func:`unflip.inference.clip.fixed`), those hold, and none are found.
        """
        boxes, done = self.boxes(), 0

        def counted() -> None:
            nonlocal done
            done += 1
            shown(done)

        fixed = any(norm.given is not None for norm in self.norms)
        known = [] if fixed else self.learn([read], statistics, counted)
        for box in boxes:
            image = self._pass(read, box, known, last=False)
            counted()
            inside = Box(box.top, box.left, min(box.bottom, self.size[0]), min(box.right, self.size[1]))
            if inside.top < inside.bottom and inside.left < inside.right:
                rows, columns = inside.inside(box)
                yield inside, image[..., rows, columns]

    def learn(self, images: Sequence[Read], statistics: Statistics = "exact", counted: Callable[[], None] = lambda: None) -> list[Moments]:
        """The statistics of every norm over images of this size, as if they were one; ``counted`` is called after each tile."""
        known: list[Moments] = []
        for _ in self.norms:
            known.append(Moments())
            for read in images:
                for box in self._looked_at(statistics):
                    self._pass(read, box, known)
                    counted()
        return known

    def work(self, statistics: Statistics) -> int:
        """How many tiles go through the network, in part or in whole."""
        return len(self.boxes()) + len(self.norms) * len(self._looked_at(statistics))

    def _looked_at(self, statistics: Statistics) -> list[Box]:
        """The tiles whose pixels make the statistics."""
        boxes = self.boxes()
        if statistics != "estimated" or len(boxes) <= SAMPLED:
            return boxes
        return [boxes[(2 * i + 1) * len(boxes) // (2 * SAMPLED)] for i in range(SAMPLED)]

    def _pass(self, read: Read, box: Box, known: Sequence[Moments], last: bool = True) -> Tensor:
        """A tile with its halo through the network; with ``last``, only to the last norm of ``known``, which sees the tile's pixels."""
        window = box.grown(self.halo, self.whole)
        x = self._read(read, window)

        def learn(norm: InstanceNorm, moments: Moments) -> Callable[[Tensor], Tensor]:
            def given(features: Tensor) -> Tensor:
                rows, columns = box.inside(window, x.shape[-1] // features.shape[-1])
                moments.add(features[..., rows, columns])
                raise _Enough

            return given

        doing = [_by(norm, moments) for norm, moments in zip(self.norms, known, strict=False)]
        if last:
            doing[-1] = learn(self.norms[len(known) - 1], known[-1])
        with instead(self.norms, doing):
            try:
                image, _ = self.generator.run(x)
            except _Enough:
                return x
        rows, columns = box.inside(window)
        return image[..., rows, columns]

    def _read(self, read: Read, box: Box) -> Tensor:
        height, width = self.size
        x = read(box.top, box.left, min(box.bottom, height), min(box.right, width))
        return grown(x, max(box.bottom - height, 0), max(box.right - width, 0))


def _by(norm: InstanceNorm, moments: Moments) -> Callable[[Tensor], Tensor]:
    return lambda features: moments.normalize(features, norm.eps)


@contextmanager
def instead(norms: Sequence[InstanceNorm], doing: Sequence[Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Within, the first ``norms`` do what ``doing`` says, one each."""
    try:
        for norm, given in zip(norms, doing, strict=False):
            norm.given = given
        yield
    finally:
        for norm, _ in zip(norms, doing, strict=False):
            norm.given = None
