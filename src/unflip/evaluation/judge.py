"""Judging images that ought to show what their labels say: one pass that reads them and takes the features for their realism."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from unflip.data.images import Array, read_rgb
from unflip.data.labels import Ids
from unflip.errors import UserError
from unflip.evaluation.confusion import Counter, Floats, Reading
from unflip.evaluation.reader import Reader


class Network(Protocol):
    """What gives the features in which sets of images are compared: an image ``(H, W, 3)`` uint8 to ``(D,)``."""

    def __call__(self, rgb: Array) -> Floats: ...


class Verdict(NamedTuple):
    """What one pass over a set of images gives."""

    reading: Reading
    features: Floats | None
    """``(n, D)``, in the order of the images."""


def judge(
    images: Iterable[Array],
    labels: Callable[[int], Ids],
    count: int,
    reader: Reader,
    network: Network | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Verdict:
    """Read ``count`` images and compare each with its labels; ``progress(done)`` is called after each.

    ``images``: ``(H, W, 3)`` uint8; ``labels(i)``: the reader's class ids ``(H, W)`` uint8, 255 where ignored. Raises ``UserError`` where
    an image and its labels differ in size.
    """
    counter = Counter(reader.classes, count)
    features = []
    for i, image in enumerate(images):
        truth = labels(i)
        if image.shape[:2] != truth.shape:
            sizes = " and ".join(f"{width}x{height}" for height, width in (image.shape[:2], truth.shape))
            raise UserError(f"image {i + 1} of {count} and its labels differ in size ({sizes}); give labels of the images' size")
        counter.add(truth, reader(image))
        if network is not None:
            features.append(network(image))
        progress(i + 1)
    return Verdict(counter.reading(), np.stack(features) if features else None)


def features_of(paths: list[Path], network: Network, progress: Callable[[int], None] = lambda done: None) -> Floats:
    """The features of image files, ``(n, D)``."""
    rows = []
    for path in paths:
        rows.append(network(read_rgb(path)))
        progress(len(rows))
    return np.stack(rows)
