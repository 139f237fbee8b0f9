"""What was read as what, and all that follows from it: accuracies, intersection over union, flips.

A confusion is a matrix of pixel counts ``(K, K)`` over the classes that are not ignored: row ``i`` holds the pixels labeled ``i``, column
``j`` those read as ``j``. The functions take any leading dimensions. Counts of separate parts add up to those of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unflip.data.labels import IGNORED, Classes, Ids
from unflip.errors import UserError
from unflip.seeding import numpy_rng

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

RESAMPLES = 1_000
LEVEL = 0.95
"""Of every interval."""
_CHUNK = 2**24
"""Numbers held at once while resampling."""


class Figure(NamedTuple):
    """A number, its 95 % interval, and of how many images it is; NaN where it is not defined."""

    value: float
    low: float
    high: float
    n: int

    def plain(self) -> dict[str, float | int | None]:
        """For JSON, which has no NaN."""
        known = {key: None if np.isnan(number) else float(number) for key, number in zip(("value", "low", "high"), self, strict=False)}
        return {**known, "n": self.n}


def confusion(labels: Ids, reading: Ids, classes: Classes) -> tuple[Counts, int]:
    """The confusion of one image, and its pixels without a class. Both are ``(H, W)`` class ids; of labels, IGNORED has no class.

    Raises ``ValueError`` where a reading is not one of the classes that count.
    """
    kept = list(classes.kept)
    counts = np.bincount(256 * labels.ravel().astype(np.int64) + reading.ravel(), minlength=256 * 256).reshape(256, 256)
    within = counts[np.ix_(kept, kept)]
    if within.sum() != counts[kept].sum():
        raise ValueError("a reading is not among the classes that count")
    return within, int(counts[IGNORED].sum())


def pixel_accuracy(counts: Counts) -> Floats:
    """The share of the labeled pixels that are read as their class."""
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def flip_rate(counts: Counts) -> Floats:
    """The share of the labeled pixels that are read as another class."""
    return 1 - pixel_accuracy(counts)


def recalls(counts: Counts) -> Floats:
    """Of every class, the share of its pixels that are read as it, ``(..., K)``; NaN where it does not occur."""
    return ratio(_diagonal(counts), counts.sum(-1))


def class_accuracy(counts: Counts) -> Floats:
    """The mean recall of the classes that occur."""
    return _mean(recalls(counts))


def per_class_iou(counts: Counts) -> Floats:
    """Of every class, the intersection of label and reading over their union, ``(..., K)``; NaN where the class has no label."""
    right, labeled = _diagonal(counts), counts.sum(-1)
    return np.where(labeled > 0, ratio(right, labeled + counts.sum(-2) - right), np.nan)


def mean_iou(counts: Counts) -> Floats:
    """The mean intersection over union of the classes that occur in the labels."""
    return _mean(per_class_iou(counts))


def normalized(counts: Counts) -> Floats:
    """Every row divided by its sum: what the pixels of a class are read as. NaN where it does not occur."""
    return ratio(counts, counts.sum(-1, keepdims=True))


def flip_matrix(counts: Counts, real: Counts) -> Floats:
    """What the pixels of each class are read as on translations, less what they are read as on real images; rows sum to 0."""
    return normalized(counts) - normalized(real)


def excess_flip_rate(counts: Counts, real: Counts, shown: NDArray[np.bool_] | None = None) -> Floats:
    """The flip rate, less that which real images of the same class shares would have.

    ``sum_i share_i (recall_i of real images - recall_i)``: negative where translations are read better than real images. Classes that no
    real image shows are left out of it. ``shown`` says which are not, ``(K,)``, where ``real`` is a resample: without one of them it gives
    NaN, since it cannot tell what was asked, and is the rate of something else if that class is left out.
    """
    labeled = counts.sum(-1)
    known = real.sum(-1) > 0 if shown is None else shown
    lost = np.where(known & (labeled > 0), labeled * (recalls(real) - np.nan_to_num(recalls(counts))), 0).sum(-1)
    return ratio(lost, np.where(known, labeled, 0).sum(-1))


def block_length(images: int) -> int:
    """How many neighboring images an interval keeps together: the cube root of their number, the rate that suits means of dependent
    series (Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 1989)."""
    return int(np.ceil(np.cbrt(images) - 1e-9))


@dataclass(frozen=True)
class Reading:
    """How the labels of a set of images were read, in the order of the images; ``+`` joins sets."""

    classes: Classes
    blocks: Counts
    """``(B, K, K)``: a confusion for each block of neighboring images."""
    sizes: tuple[int, ...]
    """How many images each block has."""
    voids: tuple[int, ...]
    """How many pixels of each block have no class."""
    flipped: tuple[float, ...] = field(default=())
    """The flip rate of every single image; NaN where none of its pixels is labeled."""

    @property
    def images(self) -> int:
        """How many."""
        return sum(self.sizes)

    @cached_property
    def total(self) -> Counts:
        """The confusion of all images, ``(K, K)``."""
        return self.blocks.sum(0)

    @property
    def names(self) -> list[str]:
        """Of the rows and columns."""
        return [self.classes.names[i] for i in self.classes.kept]

    def __add__(self, other: Reading) -> Reading:
        if self.classes != other.classes:
            raise ValueError("readings of different classes cannot be joined")
        blocks = np.concatenate([self.blocks, other.blocks])
        return Reading(self.classes, blocks, self.sizes + other.sizes, self.voids + other.voids, self.flipped + other.flipped)

    def figure(self, of: Callable[..., Floats], real: Reading | None = None, seed: int = 0) -> Figure:
        """A metric with its interval: ``of`` this reading's confusion, or of it and that of ``real`` images."""
        [figure] = self.figures(lambda *counts: of(*counts)[..., None], real, seed)
        return figure

    def figures(self, of: Callable[..., Floats], real: Reading | None = None, seed: int = 0) -> list[Figure]:
        """Metrics ``(..., M)`` with their intervals, by bootstrap over blocks; NaN where there are fewer than two blocks of either."""
        sides = {"translated": self.blocks} | ({} if real is None else {"real": real.blocks})
        value = of(*(blocks.sum(0) for blocks in sides.values()))
        weights = {side: resampled(len(blocks), seed, side) for side, blocks in sides.items()}
        fits = max(1, _CHUNK // self.blocks[0].size)
        parts = [slice(start, start + fits) for start in range(0, RESAMPLES, fits)]
        drawn = np.concatenate([of(*(np.tensordot(weights[side][part], blocks, 1) for side, blocks in sides.items())) for part in parts])
        fewest = min(map(len, sides.values()))
        return [_figure(value[m], drawn[:, m], self.images, fewest) for m in range(len(value))]

    def void_as_wrong(self, seed: int = 0) -> Figure:
        """Pixel accuracy that counts pixels without a class as wrong, as the evaluation by DRN does that CUT and others report."""
        weights = resampled(len(self.blocks), seed, "translated")
        right = np.trace(self.blocks, axis1=1, axis2=2)
        pixels = self.blocks.sum((1, 2)) + np.array(self.voids)
        return _figure(ratio(right.sum(), pixels.sum()), ratio(weights @ right, weights @ pixels), self.images, len(self.blocks))

    def plain(self) -> dict[str, Any]:
        """For JSON; :func:`from_plain` reads it again."""
        return {"sizes": list(self.sizes), "voids": list(self.voids), "blocks": self.blocks.tolist()}


def from_plain(values: dict[str, Any], classes: Classes) -> Reading:
    """The reading that :meth:`Reading.plain` wrote. Raises ``ValueError`` where it is none of these classes."""
    blocks = np.array(values["blocks"], dtype=np.int64)
    if blocks.ndim != 3 or blocks.shape[1:] != (len(classes.kept),) * 2 or len(blocks) != len(values["sizes"]):
        raise ValueError(f"counts of shape {blocks.shape} are none of {len(classes.kept)} classes")
    return Reading(classes, blocks, tuple(values["sizes"]), tuple(values["voids"]))


class Counter:
    """Adds up the confusions of ``images`` images, in their order, to a :class:`Reading`."""

    def __init__(self, classes: Classes, images: int) -> None:
        if images < 1:
            raise UserError("no images to read; give at least one")
        self.classes, self.length, self.done = classes, block_length(images), 0
        count, kept = -(-images // self.length), len(classes.kept)
        self.blocks = np.zeros((count, kept, kept), dtype=np.int64)
        self.sizes, self.voids, self.flipped = [0] * count, [0] * count, list[float]()

    def add(self, labels: Ids, reading: Ids) -> float:
        """Count the next image, ``(H, W)`` class ids as for :func:`confusion`; returns its flip rate."""
        counts, void = confusion(labels, reading, self.classes)
        block = self.done // self.length
        self.blocks[block] += counts
        self.sizes[block] += 1
        self.voids[block] += void
        self.done += 1
        self.flipped.append(float(flip_rate(counts)))
        return self.flipped[-1]

    def reading(self) -> Reading:
        """Of all that was added."""
        return Reading(self.classes, self.blocks, tuple(self.sizes), tuple(self.voids), tuple(self.flipped))


def interval(draws: Floats) -> tuple[float, float]:
    """The middle 95 % of what resampling gave, those left out where the number is not defined."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _figure(value: float | Floats, draws: Floats, images: int, blocks: int) -> Figure:
    low, high = interval(draws) if blocks > 1 else (np.nan, np.nan)
    return Figure(float(value), low, high, images)


def resampled(blocks: int, seed: int, whose: str) -> Counts:
    """How often each of the bootstrap's resamples holds each block, ``(RESAMPLES, B)``: as many as there are, with replacement."""
    return numpy_rng(seed, "bootstrap", whose).multinomial(blocks, [1 / blocks] * blocks, RESAMPLES)


def _diagonal(counts: Counts) -> Counts:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def ratio(part: Any, whole: Any) -> Floats:
    """``part / whole``; NaN where the whole is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole != 0)


def _mean(values: Floats) -> Floats:
    """Over the last dimension, of those that are defined."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(-1), known.sum(-1))
