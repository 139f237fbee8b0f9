"""TIFF files of any depth and any number of bands, read and written in windows: the memory that it takes does not grow with the image."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from unflip.data.bands import Depth, Pixels, unbanded
from unflip.data.codecs import COMPRESSIONS, open_tiff, refuse_codec
from unflip.data.pieces import Cache, Pieces
from unflip.errors import UserError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is ours to say, in one line

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Of TIFF and BigTIFF files."""

NODATA = 42113
"""GDAL's tag of the value that stands for nothing."""
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
"""The tags of a GeoTIFF that say where on Earth its pixels are: scale, tie points, transformation, the keys of the reference system, and
the polynomials of the camera (RPC)."""

BANDS = "SCIQ"
"""Axes of a TIFF that are bands; tifffile calls I and Q what a file does not explain."""

TILE = 256
REDUCED, MASK = 1, 4
"""Bits of what a page is for: an overview, and which pixels of another page hold something."""


class Tag(NamedTuple):
    """Of a TIFF file, as it is copied to another."""

    code: int
    kind: int
    length: int
    value: Any


class Tiff:
    """An open TIFF file: its first image, whatever that holds. Raises ``UserError`` (without a path) where it holds no image like ours."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = open_tiff(file)
        series = self.file.series[0]
        sizes = {axis: size for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 or axis in "YX"}
        others = [axis for axis in sizes if axis not in "YX"]
        if "Y" not in sizes or "X" not in sizes or len(others) > 1 or not set(others) <= set(BANDS):
            shape = "x".join(map(str, series.shape))
            raise UserError(f"a stack of images ({series.axes}, {shape})")
        samples = sizes[others[0]] if others else 1
        if samples > self.file.filehandle.size:
            raise ValueError("more bands than bytes")
        page = self.page = series.keyframe
        self.height, self.width = int(sizes["Y"]), int(sizes["X"])
        if not self.height or not self.width:
            raise UserError("an image without pixels")
        self.dtype = np.dtype(page.dtype or np.void)
        self.depth = depth_of(self.dtype)
        photometric = tifffile.PHOTOMETRIC
        self.inverted = page.photometric == photometric.MINISWHITE and self.dtype.kind in "bu"
        self.white = 1 if self.dtype.kind == "b" else 2 ** int(page.bitspersample) - 1
        frames: list[Any] = [series[k] for k in range(samples)] if page.samplesperpixel == 1 and samples > 1 else [series[0]]
        extra = [int(kind) for kind in page.extrasamples]
        self.extra = len(frames) == 1 and samples > 1 and bool(extra) and extra[-1] in (1, 2)
        """Whether the last band is alpha."""
        self.associated = self.extra and extra[-1] == 1
        """Whether colors are stored times alpha."""
        self.count = samples - self.extra
        everyday = {1: True, 3: page.photometric != photometric.MINISBLACK, 4: page.photometric == photometric.SEPARATED}
        self.pillow = self.depth == "uint8" and len(frames) == 1 and everyday.get(self.count, False)
        """Whether it is of the everyday kinds, which Pillow reads: 8-bit gray, palette, color and CMYK."""
        if not self.pillow:
            refuse_codec(page)
            if page.photometric == photometric.PALETTE:
                raise UserError("a palette deeper than 8 bits")
        cache, size = Cache(), (self.height, self.width)
        self.pages = [Pieces(self.file, page, frame, size, cache, nodata_of(page)) for frame in frames]
        if not self.pillow:
            for pieces in self.pages:
                pieces.check()
        mask = None if self.extra else self._mask_page()
        self.mask = None if mask is None else Pieces(self.file, mask, mask, size, cache)
        """GDAL's: 0 where the image holds nothing."""
        if self.mask is not None:
            self.mask.check()
        indices = page.photometric in (photometric.PALETTE, photometric.SEPARATED)  # whose values are not those of the colors
        nodata = None if indices else nodata_of(page)
        self.nodata = self.white - nodata if self.inverted and nodata is not None else nodata
        self.orientation = int(page.tags.valueof(274, 1))
        self.georeference = tuple(
            Tag(code, tag.dtype, tag.count, tag.value) for code in GEOREFERENCE if (tag := page.tags.get(code)) is not None
        )
        self.lock = threading.Lock()

    def _mask_page(self) -> Any:
        """The page that masks the image; None: there is none."""
        for series in self.file.series[1:]:
            page = series.keyframe
            of_image = page.subfiletype & MASK and not page.subfiletype & REDUCED
            if of_image and (page.imagelength, page.imagewidth, page.samplesperpixel) == (self.height, self.width, 1):
                refuse_codec(page)
                return page
        return None

    @property
    def alpha(self) -> bool:
        """Whether the image has alpha, or a mask in its place."""
        return self.extra or self.mask is not None

    @property
    def windows(self) -> bool:
        """Whether a part can be read without decoding all of it; never where it is for Pillow to say whether it can be decoded."""
        return self.page.compression in COMPRESSIONS and all(pieces.is_divided() for pieces in self._layers())

    def whole(self, size: int) -> bool:
        """Whether all pixels lie within the ``size`` bytes of the file."""
        return all(pieces.is_whole(size) for pieces in self._layers())

    def _layers(self) -> list[Pieces]:
        return self.pages if self.mask is None else [*self.pages, self.mask]

    def read(self, top: int, left: int, bottom: int, right: int) -> tuple[Pixels, NDArray[Any] | None]:
        """Rows ``top`` to ``bottom`` - 1 and columns ``left`` to ``right`` - 1: ``(h, w, C)`` of :attr:`depth`, and alpha ``(h, w)``."""
        with self.lock:
            parts = [pieces.read(top, left, bottom, right) for pieces in self.pages]
        x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        if self.inverted:
            x = (self.white - x).astype(x.dtype)
        if x.dtype == bool:
            x = x.astype(np.uint8) * 255
        alpha = x[..., -1] if self.extra else self.read_mask(top, left, bottom, right)
        with np.errstate(over="ignore"):  # beyond float32 there is nothing
            pixels = np.ascontiguousarray(x[..., : self.count], dtype=self.depth)
        return _unassociated(pixels, alpha) if self.associated and alpha is not None else pixels, alpha

    def read_mask(self, top: int, left: int, bottom: int, right: int) -> NDArray[Any] | None:
        """Of the same part: alpha ``(h, w)`` of :attr:`depth`, opaque where the image holds something; None: there is no mask."""
        if self.mask is None:
            return None
        with self.lock:
            there = self.mask.read(top, left, bottom, right)[..., 0] != 0
        opaque = 1 if self.depth == "float32" else np.iinfo(self.depth).max
        return there.astype(self.depth) * np.array(opaque, dtype=self.depth)


def _unassociated(pixels: Pixels, alpha: NDArray[Any]) -> Pixels:
    """Colors as they are, of those that are stored times alpha."""
    most = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1.0
    share = alpha[..., None].astype(np.float64) / most
    colors = np.divide(pixels, share, out=np.zeros(pixels.shape), where=share > 0)
    return (np.clip(np.rint(colors), 0, most) if pixels.dtype.kind == "u" else colors).astype(pixels.dtype)


def depth_of(dtype: np.dtype[Any]) -> Depth:
    """As what values are taken; ``UserError`` where they are no numbers like ours."""
    if dtype in (np.uint8, np.bool_):
        return "uint8"
    if dtype == np.uint16:
        return "uint16"
    if dtype.kind in "iuf":
        return "float32"
    raise UserError(f"values of type {dtype}")


def nodata_of(page: Any) -> float | None:
    """What GDAL's tag says, if there is one that makes sense."""
    tag = page.tags.get(NODATA)
    try:
        value = float(str(tag.value).strip().strip("\0")) if tag is not None else None
    except ValueError:
        return None
    return None if value is None or np.isnan(value) else value


def write_tiff(
    file: BinaryIO,
    rows: Iterator[Pixels],
    shape: tuple[int, int, int],
    dtype: Any,
    *,
    alpha: bool = False,
    nodata: float | None = None,
    georeference: tuple[Tag, ...] = (),
) -> None:
    """Write an image of ``shape`` (H, W, C), compressed without loss.

    ``rows`` are what one after the other is written from top to bottom: parts ``(h, W, C)`` of any heights. With ``alpha``, the last of the
    C is that. Images larger than 1024 pixels are cut into tiles, as GDAL and viewers like them.
    """
    height, width, samples = shape
    tags = [(*tag, True) for tag in georeference]
    if nodata is not None:
        tags.append((NODATA, 2, 0, f"{nodata:.17g}", True))
    color = samples - alpha == 3 and np.dtype(dtype).kind == "u"
    options: dict[str, Any] = {
        "photometric": "rgb" if color else "minisblack",
        "planarconfig": "contig" if samples > 1 else None,
        "extrasamples": [0] * (samples - alpha - (3 if color else 1)) + [2] * alpha or None,
        "compression": "zlib",
        "extratags": tags,
        "metadata": None,
        "software": False,
    }
    large = max(height, width) > 1024
    with tifffile.TiffWriter(file, bigtiff=height * width * samples * np.dtype(dtype).itemsize > 2**31) as tiff:
        if large:
            tiles = _tiles(rows, width)
            tiff.write(tiles, shape=shape if samples > 1 else shape[:2], dtype=dtype, tile=(TILE, TILE), **options)
        else:
            image = np.concatenate(list(rows))
            tiff.write(unbanded(image), **options)


def _tiles(rows: Iterator[Pixels], width: int) -> Iterator[Pixels]:
    """Tiles from left to right and from top to bottom; those at the edges are filled up with their last pixels."""
    held: list[Pixels] = []

    def cut(band: Pixels) -> Iterator[Pixels]:
        down, across = TILE - band.shape[0], -width % TILE
        band = np.pad(band, ((0, down), (0, across), (0, 0)), mode="edge")
        for left in range(0, width, TILE):
            tile = np.ascontiguousarray(band[:, left : left + TILE])
            yield unbanded(tile)

    for part in rows:
        held.append(part)
        while sum(len(each) for each in held) >= TILE:
            together = np.concatenate(held) if len(held) > 1 else held[0]
            yield from cut(together[:TILE])
            held = [together[TILE:]] if len(together) > TILE else []
    if held:
        yield from cut(np.concatenate(held))
