"""Class shares: how much of every image each class covers, and at what height it stands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unflip.data.folders import Entry
from unflip.data.labels import Classes, Ids, Labels

Floats = NDArray[np.float64]

BANDS = 16
"""The horizontal stripes of an image, from the top, in which pixels are counted."""


class ClassShares(NamedTuple):
    """Of a set of images, each of which counts the same, as it does in training. K classes are not ignored, in the order of their ids."""

    images: Floats
    """``(n, K + 1)``: the share of the image's pixels that each class covers; last, of ignored pixels. Rows sum to 1."""
    bands: Floats
    """``(BANDS, K + 1)``: the shares of all images together, by stripe; sums to 1."""


def count(ids: Ids, classes: Classes) -> Floats:
    """The shares of an image by stripe, ``(BANDS, K + 1)``, of its class ids ``(H, W)`` uint8, where 255 is ignored."""
    columns = len(classes.kept) + 1
    column = np.full(256, columns - 1)
    column[list(classes.kept)] = np.arange(columns - 1)
    stripe = np.arange(len(ids)) * BANDS // len(ids)
    counted = np.bincount((stripe[:, None] * columns + column[ids]).ravel(), minlength=BANDS * columns)
    return counted.reshape(BANDS, columns) / ids.size


def gather(counts: Iterable[Floats]) -> ClassShares:
    """The shares of a set of images, from :func:`count` of each; there is at least one."""
    images, bands = [], np.zeros(())
    for one in counts:
        images.append(one.sum(0))
        bands = bands + one
    return ClassShares(np.stack(images), bands / len(images))


def label_shares(maps: Sequence[Entry], classes: Classes, progress: Callable[[int], None] = lambda done: None) -> ClassShares:
    """The shares of label maps that ``survey_labels`` has checked; ``progress(done)`` is called as they are done."""
    labels = Labels(maps, classes, cache="none")

    def of(index: int) -> Floats:
        return count(labels[index].numpy(), classes)

    def counts() -> Iterable[Floats]:
        with ThreadPoolExecutor(max_workers=min(32, 2 * (os.cpu_count() or 1))) as pool:
            for done, one in enumerate(pool.map(of, range(len(labels))), start=1):
                yield one
                progress(done)

    return gather(counts())
