"""How images are resized before anything else is done with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import AfterValidator

from unflip.data.bands import Pixels, Valid
from unflip.data.limits import refuse_bombs
from unflip.errors import UserError

MAX_SIDE = 16_384
"""The largest side that a resize may ask for."""


@dataclass(frozen=True)
class Resize:
    """``none``, ``short:N`` (the shorter side becomes N) or ``WxH``."""

    short: int = 0
    width: int = 0
    height: int = 0

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) that an image of ``width`` x ``height`` gets. Raises ``UserError`` where that is too large."""
        if self.short:
            shorter = min(width, height)
            # To the nearest pixel in integers, so that no platform's floating point decides.
            scaled = [(2 * side * self.short + shorter) // (2 * shorter) for side in (width, height)]
            refuse_bombs(scaled[0], scaled[1], f"resized to {self}")  # of 1 x 1,000,000 pixels, short:256 makes 65 billion
            return scaled[0], scaled[1]
        return (self.width, self.height) if self.width else (width, height)

    def __str__(self) -> str:
        if self.short:
            return f"short:{self.short}"
        return f"{self.width}x{self.height}" if self.width else "none"


def parse_resize(text: str) -> Resize:
    """The ``Resize`` that ``text`` spells; ``str()`` of the result spells it again."""
    if text == "none":
        return Resize()
    match = re.fullmatch(r"short:([0-9]{1,5})|([0-9]{1,5})x([0-9]{1,5})", text)
    sides = [int(number) for number in match.groups() if number] if match else []
    if not sides or not all(1 <= side <= MAX_SIDE for side in sides):
        raise UserError(f"not a resize, {text!r}; use none, short:N or WxH, with sides from 1 to {MAX_SIDE}")
    return Resize(short=sides[0]) if len(sides) == 1 else Resize(width=sides[0], height=sides[1])


def _spelled_one_way(text: str) -> str:
    try:
        return str(parse_resize(text))
    except UserError as error:
        raise ValueError(str(error)) from None


GivenResize = Annotated[str, AfterValidator(_spelled_one_way)]
"""A field of a config: what :func:`parse_resize` takes, spelled in one way."""


def resized(pixels: Pixels, size: tuple[int, int], valid: Valid | None = None) -> Pixels:
    """Bands of any depth at ``size`` (width, height): antialiased bicubic, as of 8-bit photos.

    What is not valid leaves no trace in its surroundings: it is given the mean of what is.
    """
    if pixels.shape[1::-1] == size:
        return pixels
    bands = []
    for k in range(pixels.shape[2]):
        band = pixels[..., k].astype(np.float32)
        if valid is not None:
            band[~valid] = band[valid].mean() if valid.any() else 0
        bands.append(np.asarray(Image.fromarray(band).resize(size, Image.Resampling.BICUBIC)))
    x = np.stack(bands, axis=2)
    if pixels.dtype.kind == "u":
        x = np.clip(np.rint(x), 0, np.iinfo(pixels.dtype).max)
    return x.astype(pixels.dtype)
