"""What the images of a domain have in common, found before training: bands, depth, the range of their values, and transparency."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from unflip.data.bands import FULL, Bands, GivenBands, Kind, Range, check_ranges
from unflip.data.folders import Entry
from unflip.data.images import read
from unflip.errors import UserError
from unflip.seeding import numpy_rng

LOOKED_AT = 100
"""Images whose values are looked at, evenly spread."""
PERCENTILES = (0.1, 99.9)
"""Of deep images, where no others are given."""
VALUES = 20_000
"""Pixels of each that count."""


def find_bands(
    entries: Sequence[Entry], given: GivenBands, side: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> Bands:
    """How a domain's images are stored; where they differ in what cannot be brought together, ``UserError`` says so.

    8-bit images are color, unless all are gray; others must all be of one kind. Ranges are those of :class:`unflip.data.bands.GivenBands`.
    Images with alpha are looked at one after the other until one is transparent somewhere; ``progress(done, total)`` is called meanwhile.
    """
    if all(entry.kind.common for entry in entries):
        found = given.count or max(entry.kind.bands for entry in entries)
        if found not in (1, 3):
            raise UserError(f"{side} images are 8-bit gray or color, and data.{side}_bands.count asks for {found} bands; use 1 or 3")
        bands = Bands(count=found)
    else:
        kind = _alike(entries, given, side)
        bands = Bands(count=kind.bands, depth=kind.depth, ranges=(FULL[kind.depth],))
    nodata = given.nodata if given.nodata is not None else _one_nodata(entries, side)
    masked = nodata is not None or bands.depth == "float32"
    bands = bands.model_copy(update={"nodata": nodata, "masked": masked})
    if given.ranges is not None:
        try:
            check_ranges(given.ranges, bands.count)
        except ValueError as error:
            raise UserError(f"data.{side}_bands.{error}") from None
        bands = bands.model_copy(update={"ranges": given.ranges})
    measured = given.ranges is None and (bands.depth != "uint8" or given.percentiles is not None)
    layered = [] if masked else [entry for entry in entries if entry.kind.alpha]
    if not measured and not layered:
        return bands
    looking = bands.model_copy(update={"masked": True})
    values, holes = _look(entries, looking, side)
    ranges = _ranges(values, given, side) if measured else bands.ranges
    return bands.model_copy(update={"masked": masked or holes or _transparent(layered, looking, progress), "ranges": ranges})


def _alike(entries: Sequence[Entry], given: GivenBands, side: str) -> Kind:
    def kind_of(entry: Entry) -> tuple[str, int]:
        """8-bit gray goes with 8-bit color."""
        kind = entry.kind
        return kind.depth, 3 if (kind.depth, kind.bands) == ("uint8", 1) else kind.bands

    kinds = Counter(map(kind_of, entries)).most_common()
    if len(kinds) > 1:
        first, other = (next(entry for entry in entries if kind_of(entry) == kind) for kind in (kinds[0][0], kinds[-1][0]))
        what = f"{first.path} is {first.kind} and {other.path} is {other.kind}"
        raise UserError(f"{side} images are not of one kind: {what}; convert them, or name folders of one kind")
    first = entries[0]
    if given.count is not None and given.count != first.kind.bands:
        raise UserError(f"{side} images are {first.kind}, and data.{side}_bands.count asks for {given.count}; leave it out")
    return first.kind


def _one_nodata(entries: Sequence[Entry], side: str) -> float | None:
    values = {entry.kind.nodata for entry in entries} - {None}
    if len(values) > 1:
        listed = ", ".join(f"{value:g}" for value in sorted(values))  # type: ignore[type-var]
        raise UserError(f"{side} images have different values for nodata ({listed}); make them one, or name data.{side}_bands.nodata")
    return values.pop() if values else None


def _look(entries: Sequence[Entry], bands: Bands, side: str) -> tuple[NDArray[np.float32], bool]:
    """Values of the bands, ``(n, C)``, and whether any of the images looked at has pixels that hold nothing. Broken ones tell nothing,
    unless all are."""
    count = min(len(entries), LOOKED_AT)
    samples: list[NDArray[np.float32]] = []
    holes = False
    for k in range(count):
        try:
            image = read(entries[k * len(entries) // count].path, bands=bands)
        except UserError:
            if k == count - 1 and not samples:
                raise
            continue
        holes |= image.valid is not None
        values = image.pixels.reshape(-1, bands.count) if image.valid is None else image.pixels[image.valid]
        if len(values) > VALUES:
            values = values[numpy_rng(0, "ranges", k).integers(len(values), size=VALUES)]
        samples.append(values.astype(np.float32))
    together = np.concatenate(samples)
    if not len(together):
        raise UserError(f"none of {count} {side} images that were looked at holds anything but nodata; check data.{side}_bands.nodata")
    return together, holes


def _ranges(values: NDArray[np.float32], given: GivenBands, side: str) -> tuple[Range, ...]:
    low, high = np.percentile(values, given.percentiles or PERCENTILES, axis=0)
    ranges = []
    for k in range(values.shape[1]):
        if not np.float32(low[k]) < np.float32(high[k]):
            raise UserError(f"band {k + 1} of the {side} images is {low[k]:g} everywhere; give data.{side}_bands.ranges")
        ranges.append((float(low[k]), float(high[k])))
    return tuple(ranges)


def _transparent(entries: Sequence[Entry], bands: Bands, progress: Callable[[int, int], None]) -> bool:
    """Whether any of the images is transparent somewhere; what comes after the first that is, is not read. Broken ones tell nothing."""

    def look(entry: Entry) -> bool:
        try:
            return read(entry.path, bands=bands).valid is not None
        except UserError:
            return False

    with ThreadPoolExecutor(max_workers=min(32, 2 * (os.cpu_count() or 1))) as pool:
        for done, found in enumerate(pool.map(look, entries), start=1):
            progress(done, len(entries))
            if found:
                pool.shutdown(cancel_futures=True)
                return True
    return False
