"""What a folder of images holds: every file decoded once; bad ones are listed, not raised."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unflip.data.bands import RGB, Bands, GivenBands
from unflip.data.bands import Kind as Stored
from unflip.data.duplicates import dhash
from unflip.data.folders import Entry
from unflip.data.images import Array, is_label_map, kind_of, read
from unflip.data.limits import pillow
from unflip.data.measure import find_bands
from unflip.data.places import opened
from unflip.errors import UserError

Kind = Literal["color", "gray", "palette", "flat", "deep"]

KINDS: dict[Kind, str] = {
    "color": "in color",
    "gray": "gray",
    "palette": "in color, stored with a palette",
    "flat": "of few flat colors, as label maps are",
    "deep": "deeper than 8 bits, or of other bands than gray and color",
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
    bands: Bands = RGB
    """As which all of them can be read."""

    def view(self, path: Path) -> Array:
        """An image in colors, ``(H, W, 3)`` uint8: of deep ones, the first three bands over their range."""
        found = read(path, bands=self.bands)
        return self.bands.view(found.pixels, found.valid)


def take_inventory(paths: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> Inventory:
    """Decode every image, in ``paths``' order; ``progress(done, total)`` is called as they are done.

    Deep images must all be of one kind: those of another than most cannot be used.
    """
    found = Inventory([], [], _bands(paths))
    with ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1)) as pool:  # no more: each holds a decoded image
        for done, result in enumerate(pool.map(lambda path: _look(path, found), paths), start=1):
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


def _bands(paths: Sequence[Path]) -> Bands:
    """As which most of the images can be read."""
    with ThreadPoolExecutor(max_workers=min(32, 4 * (os.cpu_count() or 1))) as pool:
        kinds = list(pool.map(_kind_of, paths))
    counts = Counter(kind[:2] for kind in kinds if kind is not None)
    everyday = sum(kind.common for kind in kinds if kind is not None)
    if not counts or everyday >= max(counts.values()):
        return RGB
    most = counts.most_common(1)[0][0]
    alike = [Entry(path, 1, 1, kind) for path, kind in zip(paths, kinds, strict=True) if kind is not None and kind[:2] == most]
    for entries in (alike, *([entry] for entry in alike)):  # all, or where one is broken, one that is not
        with suppress(UserError):
            return find_bands(entries, GivenBands(), "these")
    return RGB


def _kind_of(path: Path) -> Stored | None:
    try:
        return kind_of(path)
    except UserError:
        return None


def _look(path: Path, found: Inventory) -> Seen | str:
    """What is to be known of a file, or what is wrong with it."""
    try:
        rgb = found.view(path)
    except UserError as error:
        return str(error).rpartition("; ")[0]  # less the advice: given once for all
    height, width = rgb.shape[:2]
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(rgb).data)
    kind: Kind = _kind(path, rgb) if found.bands is RGB else "deep"
    return Seen(Entry(path, width, height), kind, digest.digest(), dhash(rgb), colors(rgb))


def _kind(path: Path, rgb: Array) -> Kind:
    if is_label_map(Image.fromarray(rgb)):
        return "flat"
    if (rgb[..., :1] == rgb).all():
        return "gray"
    with opened(path) as file, pillow(file, path) as stored:
        return "palette" if stored.mode in {"P", "PA"} else "color"
