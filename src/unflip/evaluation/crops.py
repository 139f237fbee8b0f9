"""The crops that a segmenter learns from; each a function of the seed and its number alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unflip.data.labels import IGNORED, Labels
from unflip.data.pairs import Images
from unflip.data.transforms import to_ids, to_network
from unflip.evaluation.lesson import Lesson
from unflip.seeding import numpy_rng

Spot = tuple[int, int] | tuple[None, None]
"""Row and column of a pixel that a crop must show, or neither."""


class Crops:
    """Item ``i``: a crop of an image with its labels, zoomed, mirrored and recolored at random; a function of the seed and ``i`` alone.

    Images are passed through in a new order each time, every one once. Half of the crops are about a pixel of a rare class, where the
    image has one: a class of fewer pixels than if all had equally many, by ``pixels``, the number of each class.
    """

    def __init__(self, images: Images, labels: Labels, pixels: Sequence[int], lesson: Lesson) -> None:
        self.images, self.labels, self.lesson = images, labels, lesson
        present = sum(count > 0 for count in pixels)
        self.rare = [i for i, count in enumerate(pixels) if 0 < count < sum(pixels) / present]
        self._order = _Order(lesson.seed, "order", len(images))

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """``(3, H, W)`` float32 in [-1, 1], and ``(H, W)`` int64, -1 where there is no label."""
        k = self._order(i)
        rng = numpy_rng(self.lesson.seed, "crop", i)
        x, y = _cut(self.images[k], self.labels[k], rng, self.lesson, self._spot)
        return _recolored(x, rng), to_ids(y)

    def _spot(self, ids: Tensor, rng: np.random.Generator) -> Spot:
        """A pixel that the crop must show, of a rare class; none for half of the crops."""
        wanted = rng.random() < 0.5
        flat = ids.flatten()
        there = torch.bincount(flat, minlength=256)
        rare = [i for i in self.rare if there[i]]
        if not wanted or not rare:
            return None, None
        among = (flat == rng.choice(rare)).nonzero()[:, 0]
        row, column = divmod(int(among[rng.integers(len(among))]), ids.shape[1])
        return row, column


class UnlabeledCrops:
    """Item ``i``: a crop of an image without labels, zoomed and mirrored at random, as it is and recolored; as :class:`Crops` else."""

    def __init__(self, images: Images, lesson: Lesson) -> None:
        self.images, self.lesson = images, lesson
        self._order = _Order(lesson.seed, "unlabeled order", len(images))

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Twice ``(3, H, W)`` float32 in [-1, 1], and ``(H, W)`` bool, False beyond the image's edge."""
        image = self.images[self._order(i)]
        rng = numpy_rng(self.lesson.seed, "unlabeled crop", i)
        x, inside = _cut(image, torch.zeros(image.shape[:2], dtype=torch.uint8), rng, self.lesson)
        return x, _recolored(x, rng), inside != IGNORED


class _Order:
    """Which of ``count`` images comes at place ``i``: all of them once, in an order drawn anew each time."""

    def __init__(self, seed: int, name: str, count: int) -> None:
        self.seed, self.name, self.count = seed, name, count
        self._drawn: tuple[int, list[int]] | None = None

    def __call__(self, i: int) -> int:
        turn, position = divmod(i, self.count)
        drawn = self._drawn
        if drawn is None or drawn[0] != turn:
            drawn = self._drawn = turn, numpy_rng(self.seed, self.name, turn).permutation(self.count).tolist()
        return drawn[1][position]


def _anywhere(ids: Tensor, rng: np.random.Generator) -> Spot:
    return None, None


def _cut(
    image: Tensor, ids: Tensor, rng: np.random.Generator, lesson: Lesson, spot: Callable[[Tensor, np.random.Generator], Spot] = _anywhere
) -> tuple[Tensor, Tensor]:
    """``(3, H, W)`` float32 and ``(H, W)`` uint8: a window of ``image (h, w, 3)`` and ``ids (h, w)``, zoomed and mirrored at random."""
    scale = lesson.zoom ** rng.uniform(-1, 1)
    height, width = (max(1, round(side / scale)) for side in (lesson.size.height, lesson.size.width))
    top, left = (_place(rng, *sides) for sides in zip(ids.shape, (height, width), spot(ids, rng), strict=True))
    x, y = _window(image, ids, top, left, height, width)
    x = F.interpolate(to_network(x), (lesson.size.height, lesson.size.width), mode="bilinear", antialias=True)[0]
    y = F.interpolate(y, (lesson.size.height, lesson.size.width), mode="nearest-exact")[0, 0]
    return (x.flip(2), y.flip(1)) if rng.random() < 0.5 else (x, y)


def _place(rng: np.random.Generator, length: int, window: int, spot: int | None) -> int:
    """Where a window begins: anywhere, so that it shows ``spot`` if that is given; a window longer than the image shows all of it."""
    low, high = min(0, length - window), max(0, length - window)
    if spot is not None:
        low, high = max(low, min(spot - window + 1, high)), min(high, max(spot, low))
    return int(rng.integers(low, high + 1))


def _window(image: Tensor, ids: Tensor, top: int, left: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """``(1, 3, height, width)`` and ``(1, 1, height, width)``, uint8; beyond the image its edge goes on, without labels."""
    rows, columns = torch.arange(top, top + height), torch.arange(left, left + width)
    inside = tuple(place.clamp(0, length - 1) for place, length in zip((rows, columns), ids.shape, strict=True))
    x, y = (each[inside[0]][:, inside[1]] for each in (image, ids))
    y[rows != inside[0]] = IGNORED
    y[:, columns != inside[1]] = IGNORED
    return x.permute(2, 0, 1)[None], y[None, None]


def _recolored(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Other contrast, tint and brightness, within bounds: a translation's colors are seldom quite those of photos."""
    contrast = np.exp(rng.uniform(-0.3, 0.3) + rng.uniform(-0.1, 0.1, 3))
    brightness = rng.uniform(-0.2, 0.2)
    return (x * torch.from_numpy(contrast).float()[:, None, None] + brightness).clamp(-1, 1)
