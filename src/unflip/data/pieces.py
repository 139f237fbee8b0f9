"""The strips or tiles of one page of a TIFF file, decoded where they are asked for."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from unflip.data.codecs import refuse_bomb

LARGEST = 4096
"""The largest side of a tile that a small image may claim."""
CACHE = 2**28
"""Bytes of decoded strips and tiles that are kept: a row of windows reads each of them again and again."""


class Cache:
    """The strips and tiles of a file that were decoded last."""

    def __init__(self) -> None:
        self.kept: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()
        self.held = 0
        """Bytes of them."""

    def get(self, key: tuple[int, int]) -> NDArray[Any] | None:
        """What is kept as ``key``."""
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)

    def keep(self, key: tuple[int, int], piece: NDArray[Any]) -> None:
        """And give up what was asked for longest ago, where that is too much."""
        self.kept[key] = piece
        self.held += piece.nbytes
        while self.held > CACHE and len(self.kept) > 1:
            self.held -= self.kept.popitem(last=False)[1].nbytes


class Pieces:
    """Of a page of ``height`` x ``width``: ``page`` says how they are stored, and ``frame``, which is like it, where."""

    def __init__(
        self, file: tifffile.TiffFile, page: Any, frame: Any, size: tuple[int, int], cache: Cache, nodata: float | None = None
    ) -> None:
        self.file, self.page, self.cache, self.nodata = file, page, cache, nodata
        """``nodata``: what a sparse file means where it has no strip or tile; None: 0."""
        self.height, self.width = size
        self.dtype = np.dtype(page.dtype or np.void)
        self.where: list[tuple[int, int]] = list(zip(frame.dataoffsets, frame.databytecounts, strict=True))
        """Where they lie in the file, and how long they are."""
        self.piece = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, self.height), self.width)
        """Their height and width."""
        high, wide = self.piece
        too_large = high > max(LARGEST, 2 * self.height) or wide > max(LARGEST, 2 * self.width)
        if high < 1 or wide < 1 or (page.is_tiled and too_large):
            raise ValueError(f"strips or tiles of {wide}x{high}")
        self.grid = -(-self.height // high), -(-self.width // wide)
        """How many there are, down and across, in each plane."""
        self.raw = self._is_raw()
        """Whether the pixels lie in the file as they are, in one piece."""

    def check(self) -> None:
        """Raises ``ValueError`` where there are more or fewer than make the image."""
        expected = math.prod(self.grid) * (self.page.samplesperpixel if self.page.planarconfig == 2 else 1)
        if len(self.where) != expected:
            raise ValueError(f"{len(self.where)} strips or tiles instead of {expected}")

    def is_divided(self) -> bool:
        """Whether a part can be read without decoding all of it."""
        return self.raw or len(self.where) > 1 or self.height * self.width <= 2**22

    def is_whole(self, size: int) -> bool:
        """Whether all of them lie within the ``size`` bytes of the file."""
        return all(offset + count <= size for offset, count in self.where)

    def read(self, top: int, left: int, bottom: int, right: int) -> NDArray[Any]:
        """Rows ``top`` to ``bottom`` - 1 and columns ``left`` to ``right`` - 1, as they are stored: ``(h, w, samples)``."""
        page, samples = self.page, self.page.samplesperpixel
        out = np.empty((bottom - top, right - left, samples), dtype=self.dtype)
        if self.raw:
            self._copy_rows(out, top, left)
            return out
        planes = samples if page.planarconfig == 2 else 1
        (high, wide), (down, across) = self.piece, self.grid
        for plane in range(planes):
            for row in range(top // high, -(-bottom // high)):
                for column in range(left // wide, -(-right // wide)):
                    piece = self._piece((plane * down + row) * across + column)
                    y, x = row * high, column * wide
                    y0, y1, x0, x1 = max(top, y), min(bottom, y + high), max(left, x), min(right, x + wide)
                    bands = slice(plane, plane + 1) if planes > 1 else slice(None)
                    given = self._nothing() if piece is None else piece[y0 - y : y1 - y, x0 - x : x1 - x]
                    out[y0 - top : y1 - top, x0 - left : x1 - left, bands] = given
        return out

    def _nothing(self) -> Any:
        return 0 if self.nodata is None else np.array(self.nodata).astype(self.dtype)

    def _is_raw(self) -> bool:
        page = self.page
        plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and not page.is_tiled
        if not plain or page.bitspersample != 8 * self.dtype.itemsize or self.dtype.kind == "b":
            return False
        each = 1 if page.planarconfig == 2 else page.samplesperpixel
        high, down = self.piece[0], self.grid[0]
        rows = [min(high, self.height - (k % down) * high) for k in range(len(self.where))]
        full = all(length == n * self.width * each * self.dtype.itemsize for n, (_, length) in zip(rows, self.where, strict=True))
        return full and all(a + length == b for (a, length), (b, _) in itertools.pairwise(self.where))

    def _copy_rows(self, out: NDArray[Any], top: int, left: int) -> None:
        """Straight from the file."""
        stored = self.dtype.newbyteorder(self.file.byteorder)
        planes = out.shape[2] if self.page.planarconfig == 2 else 1
        each = out.shape[2] // planes
        wide = out.shape[1] * each
        for plane in range(planes):
            for row in range(out.shape[0]):
                before = ((plane * self.height + top + row) * self.width + left) * each * stored.itemsize
                self.file.filehandle.seek(self.where[0][0] + before)
                data = self.file.filehandle.read(wide * stored.itemsize)
                values = np.frombuffer(data, stored, wide).reshape(-1, each)
                out[row, :, plane * each : (plane + 1) * each] = values

    def _piece(self, index: int) -> NDArray[Any] | None:
        """A decoded strip or tile ``(h, w, samples)``; None where a sparse file has none."""
        page, (offset, count) = self.page, self.where[index]
        if count == 0:
            return None
        kept = self.cache.get((offset, index))
        if kept is not None:
            return kept
        if offset + count > self.file.filehandle.size:  # else so much memory would be taken to read it
            raise ValueError("its pixels lie beyond its end")
        self.file.filehandle.seek(offset)
        data = self.file.filehandle.read(count)
        refuse_bomb(data, page)
        found, _, _ = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        assert found is not None  # there are bytes
        piece: NDArray[Any] = found[0]
        self.cache.keep((offset, index), piece)
        return piece
