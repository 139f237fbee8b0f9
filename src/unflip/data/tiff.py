"""TIFF files of any depth and any number of bands, read and written in windows: the memory that it takes does not grow with the image."""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from unflip.data.bands import Depth, Pixels, unbanded
from unflip.data.codecs import COMPRESSIONS, open_tiff, refuse_bomb, refuse_codec
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
LARGEST_TILE = 4096
"""The largest side of a tile that a small image may claim."""
CACHE = 2**28
"""Bytes of decoded strips and tiles that are kept: a row of windows reads each of them again and again."""


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
        self.pages = [list(zip(frame.dataoffsets, frame.databytecounts, strict=True)) for frame in frames]
        """Of every page, where its strips or tiles are, and how long."""
        extra = [int(kind) for kind in page.extrasamples]
        self.alpha = len(self.pages) == 1 and samples > 1 and bool(extra) and extra[-1] in (1, 2)
        self.associated = self.alpha and extra[-1] == 1
        """Whether colors are stored times alpha."""
        self.count = samples - self.alpha
        everyday = {1: True, 3: page.photometric != photometric.MINISBLACK, 4: page.photometric == photometric.SEPARATED}
        self.pillow = self.depth == "uint8" and len(self.pages) == 1 and everyday.get(self.count, False)
        """Whether it is of the everyday kinds, which Pillow reads: 8-bit gray, palette, color and CMYK."""
        if not self.pillow:
            refuse_codec(page)
            if page.photometric == photometric.PALETTE:
                raise UserError("a palette deeper than 8 bits")
        self.piece = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, self.height), self.width)
        """Height and width of its tiles or strips."""
        self._check_pieces()
        self.raw = [self._is_raw(pieces) for pieces in self.pages]
        """Of every page, whether its pixels lie in the file as they are, in one piece."""
        indices = page.photometric in (photometric.PALETTE, photometric.SEPARATED)  # whose values are not those of the colors
        nodata = None if indices else nodata_of(page)
        self.nodata = self.white - nodata if self.inverted and nodata is not None else nodata
        self.orientation = int(page.tags.valueof(274, 1))
        self.georeference = tuple(
            Tag(code, tag.dtype, tag.count, tag.value) for code in GEOREFERENCE if (tag := page.tags.get(code)) is not None
        )
        self.kept: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self.held = 0
        """Bytes of them."""
        self.lock = threading.Lock()

    @property
    def windows(self) -> bool:
        """Whether a part can be read without decoding all of it; never where it is for Pillow to say whether it can be decoded."""
        return self.page.compression in COMPRESSIONS and self._is_divided()

    def _is_divided(self) -> bool:
        return self.raw[0] or len(self.pages[0]) > 1 or self.height * self.width <= 2**22

    def whole(self, size: int) -> bool:
        """Whether all pixels lie within the ``size`` bytes of the file."""
        return all(offset + count <= size for page in self.pages for offset, count in page)

    def read(self, top: int, left: int, bottom: int, right: int) -> tuple[Pixels, NDArray[Any] | None]:
        """Rows ``top`` to ``bottom`` - 1 and columns ``left`` to ``right`` - 1: ``(h, w, C)`` of :attr:`depth`, and alpha ``(h, w)``."""
        with self.lock:
            parts = [self._part(k, top, left, bottom, right) for k in range(len(self.pages))]
        x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        if self.inverted:
            x = (self.white - x).astype(x.dtype)
        if x.dtype == bool:
            x = x.astype(np.uint8) * 255
        alpha = x[..., -1] if self.alpha else None
        with np.errstate(over="ignore"):  # beyond float32 there is nothing
            pixels = np.ascontiguousarray(x[..., : self.count], dtype=self.depth)
        return _unassociated(pixels, alpha) if self.associated and alpha is not None else pixels, alpha

    def _part(self, number: int, top: int, left: int, bottom: int, right: int) -> NDArray[Any]:
        """Of one page, ``(h, w, samples)``."""
        page, samples = self.page, self.page.samplesperpixel
        out = np.empty((bottom - top, right - left, samples), dtype=self.dtype)
        if self.raw[number]:
            self._copy_rows(number, out, top, left)
            return out
        planes = samples if page.planarconfig == 2 else 1
        (high, wide), (down, across) = self.piece, self._grid()
        for plane in range(planes):
            for row in range(top // high, -(-bottom // high)):
                for column in range(left // wide, -(-right // wide)):
                    piece = self._segment(number, (plane * down + row) * across + column)
                    y, x = row * high, column * wide
                    y0, y1, x0, x1 = max(top, y), min(bottom, y + high), max(left, x), min(right, x + wide)
                    bands = slice(plane, plane + 1) if planes > 1 else slice(None)
                    given = self._nothing() if piece is None else piece[y0 - y : y1 - y, x0 - x : x1 - x]
                    out[y0 - top : y1 - top, x0 - left : x1 - left, bands] = given
        return out

    def _nothing(self) -> Any:
        """What a sparse file means where it has no strip or tile."""
        nodata = nodata_of(self.page)
        return 0 if nodata is None else np.array(nodata).astype(self.dtype)

    def _grid(self) -> tuple[int, int]:
        """How many tiles or strips there are, down and across, in each plane of a page."""
        return -(-self.height // self.piece[0]), -(-self.width // self.piece[1])

    def _check_pieces(self) -> None:
        """Raises ``ValueError`` where the file has more or fewer strips or tiles than its image, or none of a possible size."""
        page, (high, wide) = self.page, self.piece
        too_large = high > max(LARGEST_TILE, 2 * self.height) or wide > max(LARGEST_TILE, 2 * self.width)
        if high < 1 or wide < 1 or (page.is_tiled and too_large):
            raise ValueError(f"strips or tiles of {wide}x{high}")
        expected = math.prod(self._grid()) * (page.samplesperpixel if page.planarconfig == 2 else 1)
        for pieces in self.pages:
            if len(pieces) != expected and not self.pillow:
                raise ValueError(f"{len(pieces)} strips or tiles instead of {expected}")

    def _is_raw(self, pieces: Sequence[tuple[int, int]]) -> bool:
        page = self.page
        plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not page.is_tiled
        if not plain or page.bitspersample != 8 * self.dtype.itemsize or self.dtype.kind == "b":
            return False
        each = 1 if page.planarconfig == 2 else page.samplesperpixel
        high, down = self.piece[0], self._grid()[0]
        rows = [min(high, self.height - (k % down) * high) for k in range(len(pieces))]
        full = all(length == n * self.width * each * self.dtype.itemsize for n, (_, length) in zip(rows, pieces, strict=True))
        return full and all(a + length == b for (a, length), (b, _) in itertools.pairwise(pieces))

    def _copy_rows(self, number: int, out: NDArray[Any], top: int, left: int) -> None:
        """Straight from the file."""
        stored = self.dtype.newbyteorder(self.file.byteorder)
        planes = out.shape[2] if self.page.planarconfig == 2 else 1
        each = out.shape[2] // planes
        wide = out.shape[1] * each
        for plane in range(planes):
            for row in range(out.shape[0]):
                before = ((plane * self.height + top + row) * self.width + left) * each * stored.itemsize
                self.file.filehandle.seek(self.pages[number][0][0] + before)
                data = self.file.filehandle.read(wide * stored.itemsize)
                values = np.frombuffer(data, stored, wide).reshape(-1, each)
                out[row, :, plane * each : (plane + 1) * each] = values

    def _segment(self, number: int, index: int) -> NDArray[Any] | None:
        """A decoded strip or tile ``(h, w, samples)``; None where a sparse file has none."""
        key = (number, index)
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        page, (offset, count) = self.page, self.pages[number][index]
        if count == 0:
            return None
        if offset + count > self.file.filehandle.size:  # else so much memory would be taken to read it
            raise ValueError("its pixels lie beyond its end")
        self.file.filehandle.seek(offset)
        data = self.file.filehandle.read(count)
        refuse_bomb(data, page)
        found, _, _ = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        assert found is not None  # there are bytes
        piece: NDArray[Any] = found[0]
        self.kept[key] = piece
        self.held += piece.nbytes
        while self.held > CACHE and len(self.kept) > 1:
            self.held -= self.kept.popitem(last=False)[1].nbytes
        return piece


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
