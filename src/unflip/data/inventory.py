"""What a folder of images holds: every file decoded once; bad ones are listed, not raised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unflip.data.duplicates import dhash
from unflip.data.folders import Entry
from unflip.data.images import Array, is_label_map, read_rgb
from unflip.data.places import opened
from unflip.errors import UserError

Kind = Literal["color", "gray", "palette", "flat"]

KINDS: dict[Kind, str] = {
    "color": "in color",
    "gray": "gray",
    "palette": "in color, stored with a palette",
    "flat": "of few flat colors, as label maps are",
}

GRID, FINE = 4, 64


class Seen(NamedTuple):
    """An image that was decoded whole."""

    entry: Entry
    kind: Kind
    digest: bytes
    """Of its size and pixels: the same for the same picture in any lossless file."""
    hash: int
    """See :func:`unflip.data.duplicates.dhash`."""
    colors: NDArray[np.float32]
    """See :func:`colors`."""


class Inventory(NamedTuple):
    """The images that can be used, and a line for every one that cannot."""

    seen: list[Seen]
    bad: list[str]


def take_inventory(paths: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> Inventory:
    """Decode every image, in ``paths``' order; ``progress(done, total)`` is called as they are done."""
    found = Inventory([], [])
    with ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1)) as pool:  # no more: each holds a decoded image
        for done, result in enumerate(pool.map(_look, paths), start=1):
            if isinstance(result, Seen):
                found.seen.append(result)
            else:
                found.bad.append(result)
            if progress is not None:
                progress(done, len(paths))
    return found


def colors(rgb: Array) -> NDArray[np.float32]:
    """Color statistics, ``(96,)``: mean and standard deviation of red, green and blue, 0 to 1, in the fields of a 4 x 4 grid.

    Of the image shrunk to 64 x 64, so that its resolution plays no part.
    """
    fine = np.asarray(Image.fromarray(rgb).resize((FINE, FINE), Image.Resampling.BOX), dtype=np.float32) / 255
    fields = fine.reshape(GRID, FINE // GRID, GRID, FINE // GRID, 3)
    return np.concatenate([fields.mean((1, 3)).ravel(), fields.std((1, 3)).ravel()])


def _look(path: Path) -> Seen | str:
    """What is to be known of a file, or what is wrong with it."""
    try:
        rgb = read_rgb(path)
    except UserError as error:
        return str(error).rpartition("; ")[0]  # less the advice: given once for all
    height, width = rgb.shape[:2]
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(rgb).data)
    return Seen(Entry(path, width, height), _kind(path, rgb), digest.digest(), dhash(rgb), colors(rgb))


def _kind(path: Path, rgb: Array) -> Kind:
    if is_label_map(Image.fromarray(rgb)):
        return "flat"
    if (rgb[..., :1] == rgb).all():
        return "gray"
    with opened(path) as file, Image.open(file) as stored:
        return "palette" if stored.mode in {"P", "PA"} else "color"
