"""What the images of one domain hold, how deep and how many bands, and what their values are to the networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from unflip.config import Config

Depth = Literal["uint8", "uint16", "float32"]
Pixels = NDArray[Any]
"""``(H, W, C)`` uint8, uint16 or float32, as stored."""
Valid = NDArray[np.bool_]
"""``(H, W)``: False where an image holds nothing (nodata, NaN, transparent)."""
Range = tuple[float, float]

Percentile = Annotated[float, Field(ge=0, le=100)]

MOST = 2**16
"""Bands."""

FULL: dict[str, Range] = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (0.0, 1.0)}


def check_ranges(ranges: tuple[Range, ...], count: int | None) -> None:
    """Raises ``ValueError`` where ``ranges`` are not those of ``count`` bands."""
    if not ranges or (count is not None and len(ranges) not in (1, count)):
        raise ValueError(f"ranges: {len(ranges)} for {count or 'no'} bands; give one pair for each band, or one for all")
    for low, high in ranges:
        if not np.float32(low) < np.float32(high):
            raise ValueError(f"ranges: [{low:g}, {high:g}] is no range; give the lower value first")


class Kind(NamedTuple):
    """What a file holds, by its header."""

    bands: int = 3
    """How many, without alpha."""
    depth: Depth = "uint8"
    alpha: bool = False
    nodata: float | None = None

    def __str__(self) -> str:
        return said(self.depth, self.bands)

    @property
    def common(self) -> bool:
        """Whether it is what every program reads: 8-bit gray or color."""
        return self.depth == "uint8" and self.bands in (1, 3)


class Bands(Config):
    """How the images of a domain are stored. A value of ``ranges``' ends is -1 and 1 to the networks; what is beyond is clipped."""

    count: int = Field(default=3, gt=0, le=MOST)
    depth: Depth = "uint8"
    ranges: tuple[Range, ...] = (FULL["uint8"],)
    """Low and high of every band, or one pair for all."""
    nodata: float | None = None
    """The value that stands for nothing, where there is one; in float images, NaN always does."""
    masked: bool = False
    """Whether training images have pixels that hold nothing: they are ignored, and transparent pixels count as such."""

    @model_validator(mode="after")
    def _agree(self) -> Bands:
        check_ranges(self.ranges, self.count)
        return self

    def __str__(self) -> str:
        return said(self.depth, self.count)

    @property
    def plain(self) -> bool:
        """Whether values are taken as they are: all of 8 bits, from 0 to 255."""
        return self.depth == "uint8" and set(self.ranges) == {FULL["uint8"]} and self.nodata is None and not self.masked

    @property
    def common(self) -> bool:
        """Whether they are what every program reads: 8-bit gray or color."""
        return self.depth == "uint8" and self.count in (1, 3)

    def of_depth(self, depth: Depth) -> Bands:
        """The same images, stored otherwise: integers over their whole range, floats in the units that they had."""
        if depth == self.depth:
            return self
        ranges = self.ranges if depth == "float32" else (FULL[depth],)
        return Bands(count=self.count, depth=depth, ranges=ranges, nodata=self.nodata if depth == "float32" else None)

    def normalized(self, pixels: Pixels, valid: Valid | None = None) -> NDArray[np.float32]:
        """``(H, W, C)`` as stored to [-1, 1]; NaN where not ``valid``, which is of any size."""
        low, high = self._ends()
        x = np.asarray(pixels, dtype=np.float32) - low
        x /= (high - low) / 2
        x -= 1
        np.clip(x, -1, 1, out=x)
        if valid is not None:
            x[~nearest(valid, x.shape[1::-1])] = np.nan
        return x

    def nothing(self, given: float | None) -> float | None:
        """The value that stands for nothing: their own, or where they have none, ``given``."""
        return given if self.nodata is None else self.nodata

    def empty(self, given: float | None) -> float | None:
        """The value that stands for nothing in images stored so, where ``given`` does in those that they are made of: their own, or the
        same, or where that cannot be stored, 0. None: there is none."""
        value = self.nothing(given)
        if value is None:
            return None
        if self.depth == "float32":
            with np.errstate(over="ignore"):
                value = float(np.float32(value))
            return value if np.isfinite(value) else 0.0
        return value if value == int(value) and 0 <= value <= np.iinfo(self.depth).max else 0.0

    def stored(self, x: NDArray[np.float32], valid: Valid | None = None, nodata: float | None = None) -> Pixels:
        """Undoes :meth:`normalized`. Where not ``valid``, ``nodata`` (as :meth:`empty` gives it) is stored, and nowhere else: what only
        looks like it is moved by one step. Without it, NaN, or 0 in integers."""
        low, high = self._ends()
        values = (np.clip(np.asarray(x, dtype=np.float32), -1, 1) + 1) * ((high - low) / 2) + low
        limit = np.inf if self.depth == "float32" else np.iinfo(self.depth).max
        out: Pixels = values if self.depth == "float32" else np.clip(np.rint(values), 0, limit).astype(self.depth)
        if nodata is not None:
            up = np.nextafter(np.float32(nodata), np.float32(np.inf)) if self.depth == "float32" else nodata + 1
            out[(out == nodata).all(2), 0] = up if nodata < limit else nodata - 1
        if valid is not None:
            out[~valid] = nodata if nodata is not None else np.nan if self.depth == "float32" else 0
        return out

    def view(self, pixels: Pixels, valid: Valid | None = None) -> NDArray[np.uint8]:
        """As people and 8-bit programs see it, ``(H, W, 3)`` uint8: the first three bands, or all there are; nothing is black."""
        if not self.plain:
            x = (self.normalized(pixels) + 1) * 127.5
            pixels = np.rint(np.nan_to_num(x)).astype(np.uint8)
        shown = pixels[..., [k % self.count for k in range(3)]] if self.count != 3 else pixels
        return shown if valid is None else np.where(nearest(valid, shown.shape[1::-1])[..., None], shown, 0).astype(np.uint8)

    def _ends(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        low, high = np.asarray(self.ranges, dtype=np.float32).T
        return low, high


RGB = Bands()


def said(depth: Depth, count: int) -> str:
    """A kind of images, in words."""
    return f"{depth} with {count} band{'s' if count > 1 else ''}"


class GivenBands(Config):
    """What is known of a domain's images before they are looked at; the rest is found there."""

    count: int | None = Field(default=None, gt=0, le=MOST)
    """3 makes colors of gray images. Default: what the images have."""
    ranges: tuple[Range, ...] | None = None
    """Low and high of every band, or one pair for all. Default: 0 to 255 of 8-bit images, of others the ``percentiles``."""
    percentiles: tuple[Percentile, Percentile] | None = None
    """Of each band's values, over the images, that become its range; 0 and 100 are its ends. Default: none of 8-bit images, else 0.1 and
    99.9."""
    nodata: float | None = None
    """Default: what TIFF files say of themselves (GDAL's tag)."""

    @model_validator(mode="after")
    def _agree(self) -> GivenBands:
        if self.ranges is not None:
            check_ranges(self.ranges, self.count)
        if self.percentiles is not None and self.percentiles[0] >= self.percentiles[1]:
            raise ValueError(f"percentiles: {list(self.percentiles)} is no range; give the lower one first")
        return self


def banded(x: NDArray[Any]) -> NDArray[Any]:
    """``(H, W)`` as ``(H, W, 1)``."""
    return x[..., None] if x.ndim == 2 else x


def unbanded(x: NDArray[Any]) -> NDArray[Any]:
    """``(H, W, 1)`` as ``(H, W)``, as other libraries want a single band."""
    return x[..., 0] if x.shape[2] == 1 else x


def nearest(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """``(H, W, ...)`` at ``size`` (width, height): of every pixel there, the one in whose area its center lies."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(size[::-1], (height, width), strict=True))
    return pixels[rows][:, columns]
