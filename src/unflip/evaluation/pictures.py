"""Class ids and flips as colors, for people to look at."""

from __future__ import annotations

import numpy as np

from unflip.data.images import Array
from unflip.data.labels import IGNORED, Classes, Ids

VOID = (0, 0, 0)


def colored(ids: Ids, classes: Classes) -> Array:
    """Class ids ``(H, W)`` in the colors of the classes, ``(H, W, 3)`` uint8; black where ignored."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(classes.palette)] = classes.palette
    table[[IGNORED, *classes.ignore]] = VOID
    return table[ids]


def flips(image: Array, labels: Ids, reading: Ids, classes: Classes) -> Array:
    """The image, pale and gray where it is read as its label says; elsewhere the color of the class that it is read as."""
    gray = 255 - (255 - image.mean(2, keepdims=True)) * 0.45
    flipped = (labels != reading) & (labels != IGNORED)
    return np.where(flipped[..., None], colored(reading, classes), gray.round().astype(np.uint8))
