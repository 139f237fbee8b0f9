"""Pictures that travel inside the page: as PNG, or as JPEG where they are large photos."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from PIL import Image

LARGEST = 1024
"""Longer sides are reduced to this; the file is to be sent around."""
SMALL = 256
"""Up to this side pictures are always PNG, and their pixels are shown as squares."""
COLORS = 256
"""With no more colors than this, a picture is drawn rather than taken: labels, readings, masks."""


@dataclass(frozen=True)
class Picture:
    """An image: ``(H, W, 3)`` uint8, with a short caption below it."""

    caption: str
    pixels: np.ndarray
    template: ClassVar[str] = "picture.html.j2"

    @cached_property
    def data(self) -> str:
        """The picture as a data URL."""
        kind, data = encode(self.pixels)
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, so that the page does not jump while pictures are decoded."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def small(self) -> bool:
        """Whether its pixels are shown as squares."""
        return max(self.size) <= SMALL


@dataclass(frozen=True)
class Comparison:
    """Two images of one scene over each other, with a slider: ``left`` covers ``right`` up to where the reader drags it."""

    left: Picture
    right: Picture
    template: ClassVar[str] = "comparison.html.j2"

    @property
    def caption(self) -> str:
        """Of both pictures."""
        return f"{self.left.caption} | {self.right.caption}"


@dataclass(frozen=True)
class Row:
    """Pictures of the same scene side by side; the first ``large`` of them at twice the size of the others."""

    title: str
    pictures: Sequence[Picture | Comparison]
    note: str = ""
    large: int = 0
    template: ClassVar[str] = "row.html.j2"

    @property
    def columns(self) -> int:
        """Of equal pictures: at most 6 in a line, and lines of about equal length."""
        count = max(1, len(self.pictures))
        return -(-count // -(-count // 6))

    @property
    def tracks(self) -> str:
        """The CSS grid's columns where some pictures are large."""
        rest = len(self.pictures) - self.large
        return " ".join(["2fr"] * self.large + ["1fr"] * -(-rest // 2))


def encode(pixels: np.ndarray) -> tuple[str, bytes]:
    """The kind, ``png`` or ``jpeg``, and the bytes of an ``(H, W, 3)`` uint8 image.

    Raises:
        ValueError: another shape or type.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"a picture is (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
    image, drawn = _reduced(pixels)
    png = _bytes(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLORS) if drawn else image, "PNG", optimize=drawn)
    if drawn or max(image.size) <= SMALL:
        return "png", png
    jpeg = _bytes(image, "JPEG", quality=90, subsampling=0)
    return ("jpeg", jpeg) if len(jpeg) < 0.6 * len(png) else ("png", png)


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """An ``(H, W, 3)`` uint8 image as a page shows it: what is kept of large ones until the page is written."""
    return pixels if max(pixels.shape[:2]) <= LARGEST else np.asarray(_reduced(pixels)[0])


def _reduced(pixels: np.ndarray) -> tuple[Image.Image, bool]:
    """The image, of at most LARGEST pixels a side, and whether it is drawn."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    drawn = image.getcolors(COLORS) is not None
    if max(image.size) > LARGEST:
        scale = LARGEST / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # a mean of two classes' colors would be the color of a third
        image = image.resize(size, Image.Resampling.NEAREST if drawn else Image.Resampling.LANCZOS)
    return image, drawn


def _bytes(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
