"""How large an image may be: one number, which the environment can raise, for every decoder and in every process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from unflip.data.formats import FORMATS
from unflip.errors import UserError

NAME = "UNFLIP_MAX_PIXELS"
"""The variable of the environment. Workers inherit it; those of Ray on other machines are given it."""

DEFAULT = 300_000_000
"""More pixels than this are taken for a decompression bomb."""


class TooLarge(UserError):
    """An image with more pixels, or values, than may be decoded."""


def max_pixels() -> int:
    """The most pixels that an image may have. Raises ``UserError`` where the environment names no number."""
    text = os.environ.get(NAME, "").strip()
    if not text:
        return DEFAULT
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"not a number of pixels, {NAME}={text[:40]!r}; give a whole number above 0, or unset it for {DEFAULT:,}")
    return number


def max_values() -> int:
    """Of all bands together, likewise."""
    return 4 * max_pixels()


def refuse_bombs(width: int, height: int, where: Path | str, bands: int = 1, kind: str = "") -> None:
    """Raise ``UserError`` for an image with more pixels, or values, than may be decoded."""
    limit = max_pixels()
    if width * height > limit:
        raise TooLarge(f"too many pixels for {NAME}={limit} ({width}x{height}), {where}; cut it into tiles, or raise that")
    if width * height * bands > max_values():
        raise TooLarge(f"too many values for {NAME}={limit} ({width}x{height}, {kind}), {where}; cut it into tiles, or raise that")


@contextmanager
def pillow(stream: BinaryIO, where: Path | str, formats: Iterable[str] = FORMATS.values()) -> Iterator[Image.Image]:
    """An image that Pillow opens: of our formats only, as rare decoders are little tested, and no larger than may be decoded."""
    follow()
    try:
        with Image.open(stream, formats=sorted(set(formats))) as image:
            refuse_bombs(*image.size, where)
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge(f"too many pixels for {NAME}={max_pixels()}, {where}; cut it into tiles, or raise that") from error


def follow() -> None:
    """Let Pillow's own limit follow ours, where that is higher: it exists only process-wide, so that it is never lowered for others."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels() > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels()
