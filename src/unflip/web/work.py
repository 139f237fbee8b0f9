"""One image: bytes in, bytes out. What `unflip translate` would write of it, byte for byte."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from unflip.data.bands import Pixels
from unflip.data.formats import ending
from unflip.data.images import Array, Decoded, header, read
from unflip.data.limits import TooLarge
from unflip.data.save import name_for
from unflip.data.tiff import SIGNATURES
from unflip.errors import UserError
from unflip.inference.translator import Translator, load
from unflip.inference.trust import trust_map, trust_png
from unflip.inference.work import stored, translated
from unflip.web.limits import Limits, Refused

Models = Mapping[str, Mapping[str, Translator]]
"""By name and direction."""

TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".bmp": "image/bmp", ".tif": "image/tiff"}
"""The endings of what comes out, and of what may come in."""

MAGIC = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"BM", ".bmp"), *((signature, ".tif") for signature in SIGNATURES))


class Made(NamedTuple):
    """A translation, and what it was made of."""

    image: Decoded
    pixels: Pixels
    data: bytes
    """The file."""
    ending: str
    trust: NDArray[np.float32] | None
    trust_png: bytes | None

    @property
    def mean(self) -> float | None:
        """Of the trust."""
        return None if self.trust is None else round(float(self.trust.mean()), 4)


def load_models(runs: Sequence[str], device: str) -> dict[str, dict[str, Translator]]:
    """The models that are served, called by their folders' names, in the order in which they are given.

    Raises:
        UserError: one of them cannot be loaded.
    """
    found: dict[str, dict[str, Translator]] = {}
    for run in runs:
        first = load(run, device=device)
        sides: dict[str, Translator] = {first.direction: first}  # an ONNX file may hold the way back alone
        with suppress(UserError):  # it has been loaded once: all that can be wrong is that there is no way back
            sides.setdefault("backward", load(run, device=device, direction="backward"))
        found[_called(run, found)] = sides
    return found


def _called(run: str, taken: Mapping[str, object]) -> str:
    path = Path(run)
    there = path.resolve() if path.exists() else PurePosixPath(run)
    name = there.stem if path.is_file() else there.name
    name = "".join(letter if letter.isprintable() else "?" for letter in name) or "model"
    return next(each for each in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if each not in taken)


def translate(translator: Translator, data: bytes, limits: Limits, trust: bool, name: str = "image") -> Made:
    """The translation of an image in the format in which it came, or in TIFF where that cannot hold it.

    Raises:
        Refused: it is too large.
        UserError: it is none, or not one like the model's source.
    """
    came = _ending(data)
    called = f"{name}{came}" if ending(name) == "" else name
    try:
        found = header(called, io.BytesIO(data))
        width, height = translator.resize.size_for(found.width, found.height)
    except TooLarge as error:
        raise Refused(413, str(error)) from error
    most, values = max(found.width * found.height, width * height), 4 * limits.pixels
    if most > limits.pixels or most * max(found.kind.bands, translator.target.count) > values:
        raise Refused(413, f"too many pixels, {called} ({found.width}x{found.height}); the server takes {limits.pixels:,} of up to 4 bands")
    image = read(called, str(translator.resize), io.BytesIO(data), translator.source)
    try:
        pixels = translated(translator, image, called)
    except UserError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            raise Refused(413, str(error)) from error
        raise
    kind = name_for(f"image{came}", translator.target)
    kind = ".tif" if kind.endswith(".tif") else came
    map_ = trust_map(translator.source.view(image.pixels, image.valid), translator.target.view(pixels)) if trust else None
    file = stored(translator, image, pixels, f"translation{kind}")
    return Made(image, pixels, file, kind, map_, None if map_ is None else trust_png(map_))


def source_view(translator: Translator, data: bytes, made: Made) -> Array:
    """The source as people see it, at the size of its translation."""
    if made.image.pixels.shape[1::-1] == made.image.size:
        return translator.source.view(made.image.pixels, made.image.valid)
    image = read(f"image{_ending(data)}", "none", io.BytesIO(data), translator.source)
    return translator.source.view(image.pixels, image.valid)


def _ending(data: bytes) -> str:
    """What the data looks like; PNG if like nothing, which is then refused as it is read."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    return next((kind for magic, kind in MAGIC if data.startswith(magic)), ".png")
