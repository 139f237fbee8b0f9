"""TIFF files translated from disk to disk, tile by tile: of any size, as neither the image nor its translation is in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor

from unflip.data.bands import Pixels, Valid
from unflip.data.formats import FORMATS, ending
from unflip.data.images import TURNS, valid_pixels
from unflip.data.places import is_remote, local
from unflip.data.save import with_alpha
from unflip.data.tiff import SIGNATURES, Tiff, write_tiff
from unflip.data.transforms import holes, widened
from unflip.errors import one_line
from unflip.inference.torch_backend import TorchTranslator
from unflip.inference.translator import Translator

STORED = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
"""What the values of files that are read in windows can be: others, such as palettes, are decoded as a whole."""


class Unreadable(Exception):
    """What is wrong with a file of which part has been read."""


class Large:
    """An open TIFF file that ``translator`` is to translate by tiles of ``side``."""

    def __init__(self, translator: TorchTranslator, path: str, file: BinaryIO, tiff: Tiff, side: int) -> None:
        self.translator, self.path, self.file, self.tiff, self.side = translator, path, file, tiff, side
        self.size = (tiff.width, tiff.height)

    def read(self, *box: int) -> tuple[Pixels, NDArray[Any] | None]:
        """A window, as :meth:`unflip.data.tiff.Tiff.read` gives it; raises ``Unreadable`` where the file is damaged."""
        try:
            return self.tiff.read(*box)
        except Exception as error:  # which can be anything, from a decoder
            reason = one_line(error)
            raise Unreadable(f"broken or truncated image, {self.path} ({reason}); replace or remove it") from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def large(path: str, translator: Translator, name: str) -> Large | None:
    """The file, if it is one that ``translator`` translates by tiles into a TIFF, and that can be read in windows."""
    if is_remote(path) or FORMATS.get(ending(path)) != "TIFF" or FORMATS.get(ending(name)) != "TIFF" or not local(path).is_file():
        return None
    if str(translator.resize) != "none" or not isinstance(translator, TorchTranslator):
        return None
    file = open(local(path), "rb")  # noqa: SIM115 - closed by whoever translates it
    try:
        if file.read(4) in SIGNATURES:
            file.seek(0)
            tiff = Tiff(file)
            alike = (tiff.depth, tiff.count) == (translator.source.depth, translator.source.count)
            side = translator.side((tiff.height, tiff.width))
            stored = tiff.page.photometric in STORED and not tiff.associated
            fits = alike and tiff.windows and stored and tiff.orientation not in TURNS
            if side is not None and fits and tiff.whole(Path(local(path)).stat().st_size):
                return Large(translator, path, file, tiff, side)
    except Exception:  # whatever is wrong with it, is said where it is decoded
        pass
    file.close()
    return None


def by_windows(path: str, translator: Translator, name: str) -> bool:
    """Whether :func:`large` gives one: of any size, as it is never in memory as a whole."""
    found = large(path, translator, name)
    if found is not None:
        found.close()
    return found is not None


def translate_large(image: Large, out: BinaryIO) -> None:
    """Write the translation of ``image`` to a file, while it is read. Raises ``Unreadable`` where that is damaged."""
    tiff, translator = image.tiff, image.translator
    source, target = translator.source, translator.target
    nodata = source.nothing(tiff.nodata)
    count = translator.config.channels

    def look(top: int, left: int, bottom: int, right: int) -> tuple[Pixels, NDArray[Any] | None, Valid | None]:
        pixels, alpha = image.read(top, left, bottom, right)
        return pixels, alpha, valid_pixels(pixels, alpha, nodata, source)

    def read(*box: int) -> Tensor:
        pixels, _, valid = look(*box)
        x = torch.from_numpy(source.normalized(pixels, valid)).permute(2, 0, 1)[None]
        return widened(x if valid is None else holes(x)[0], count)

    def rows() -> Iterator[Pixels]:
        row: list[Pixels] = []
        for box, y in translator.tiles(read, (tiff.height, tiff.width), image.side):
            _, alpha, valid = look(*box)
            made = translator.stored(y[0], (box.right - box.left, box.bottom - box.top), valid, nodata)
            if alpha is not None:
                made = with_alpha(made, alpha)
            row.append(made)
            if box.right == tiff.width:
                yield np.concatenate(row, axis=1)
                row.clear()

    shape = (tiff.height, tiff.width, target.count + tiff.alpha)
    empty = target.empty(nodata)
    write_tiff(out, rows(), shape, target.depth, alpha=tiff.alpha, nodata=empty, georeference=tiff.georeference)
