"""Class ids and flips as colors, for people to look at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unflip.data.images import Array
from unflip.data.labels import IGNORED, Classes, Ids

VOID = (0, 0, 0)
DOUBT = (230, 80, 0)


def colored(ids: Ids, classes: Classes) -> Array:
    """Class ids ``(H, W)`` in the colors of the classes, ``(H, W, 3)`` uint8; black where ignored."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(classes.palette)] = classes.palette
    table[[IGNORED, *classes.ignore]] = VOID
    return table[ids]


def flips(image: Array, labels: Ids, reading: Ids, classes: Classes) -> Array:
    """The image, pale and gray where it is read as its label says; elsewhere the color of the class that it is read as."""
    flipped = (labels != reading) & (labels != IGNORED)
    return np.where(flipped[..., None], colored(reading, classes), _pale(image).round().astype(np.uint8))


def doubted(image: Array, trust: NDArray[np.float32]) -> Array:
    """The image, pale and gray where ``trust (H, W)`` is 1; the more orange, the nearer to 0 it is."""
    return (_pale(image) * trust[..., None] + np.array(DOUBT) * (1 - trust[..., None])).round().astype(np.uint8)


def _pale(image: Array) -> NDArray[np.float64]:
    """Its brightness, ``(H, W, 1)``, in the upper half of the range."""
    return 255 - (255 - image.mean(2, keepdims=True)) * 0.45
