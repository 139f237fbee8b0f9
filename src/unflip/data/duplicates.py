"""Copies among images: the same pixels, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unflip.data.images import Array

NEAR = 4
"""Bits of 64 in which the hashes of near copies differ at most.

On CamVid's photos, 95 % of the copies stored as JPEG of quality 60, halved, doubled, darkened by 15 % or cut by 1 % at each border stay
within; photos more than 30 frames apart differ in 28 bits, 99.9 % of the pairs in 13 or more.
"""

BLOCK = 16
"""Images that are compared with all others at once: few, so that the distances stay in the cache."""


class Copy(NamedTuple):
    """Image number ``image`` shows what number ``of`` shows."""

    image: int
    of: int
    distance: int
    """Bits in which their hashes differ."""


def dhash(rgb: Array) -> int:
    """The difference hash of an image, 64 bits: whether it gets brighter from each of 9 x 8 fields to the field on its right."""
    fields = Image.fromarray(rgb).convert("L").resize((9, 8), Image.Resampling.BOX)
    gray = np.asarray(fields)
    return int.from_bytes(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), "big")


def exact_copies(digests: Sequence[Hashable]) -> list[Copy]:
    """Every image whose digest an earlier one has, with the first of those."""
    first: dict[Hashable, int] = {}
    places = [first.setdefault(digest, i) for i, digest in enumerate(digests)]
    return [Copy(i, place, 0) for i, place in enumerate(places) if place != i]


def in_both(digests: Sequence[Hashable], others: Sequence[Hashable]) -> list[Copy]:
    """Every image whose digest one of the ``others`` has; ``of`` is the first of those."""
    place = {digest: i for i, digest in reversed(list(enumerate(others)))}
    return [Copy(i, place[digest], 0) for i, digest in enumerate(digests) if digest in place]


def near_copies(hashes: Sequence[int], others: Sequence[int] | None = None) -> list[Copy]:
    """Every image that has a near copy among the ``others`` (default: among the rest of the images), with the nearest; nearest first.

    Hash 0, of images in which nothing changes from left to right, says nothing and is never near.
    """
    a = np.array(hashes, dtype=np.uint64)
    b = a if others is None else np.array(others, dtype=np.uint64)
    found = []
    for start in range(0, len(a) if len(b) else 0, BLOCK):
        block = a[start : start + BLOCK]
        distance: NDArray[np.uint8] = np.bitwise_count(block[:, None] ^ b)
        distance[block == 0] = distance[:, b == 0] = 65
        if others is None:
            distance[np.arange(len(block)), start + np.arange(len(block))] = 65
        nearest = distance.argmin(1)
        bits = distance[np.arange(len(block)), nearest]
        found += [Copy(start + i, int(nearest[i]), int(bits[i])) for i in np.flatnonzero(bits <= NEAR).tolist()]
    return sorted(found, key=lambda copy: (copy.distance, copy.image))
