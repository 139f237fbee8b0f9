"""What the page shows of a translation, as files for a browser."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import numpy as np
from PIL import Image

from unflip.data.images import Array
from unflip.errors import UserError
from unflip.evaluation.pictures import doubted
from unflip.inference.translator import Translator
from unflip.web.files import tidy
from unflip.web.limits import Limits
from unflip.web.work import Made, source_view, translate

LARGEST = 1600
"""Of the sides of what is shown; what is downloaded has all pixels."""
SMALL = 240
"""Of the sides of what is shown in the row of all."""


class Shown(NamedTuple):
    """A translation on the page; the texts are paths."""

    of: str
    """The upload, the model and the direction."""
    name: str
    file: str
    map: str
    source: str
    translation: str
    doubted: str
    small: str
    width: int
    height: int
    seconds: float
    trust: float


def kept(translator: Translator, path: Path, folder: Path, limits: Limits, of: str) -> Shown:
    """The translation of an image that was uploaded. Raises ``UserError``."""
    tidy(folder, limits)
    began = time.monotonic()
    if not path.exists():
        raise UserError(f"the server has removed it, as others came, {path.name}; drop it again")
    data = path.read_bytes() if path.stat().st_size <= limits.bytes else b""
    made = translate(translator, data, limits, trust=True, name=path.name)
    seconds = time.monotonic() - began
    assert made.trust is not None and made.trust_png is not None and made.mean is not None
    place = Path(mkdtemp(dir=folder))
    file, trust = place / f"{path.stem}{made.ending}", place / f"{path.stem}_trust.png"
    file.write_bytes(made.data)
    trust.write_bytes(made.trust_png)
    views = place / "views"  # apart: an upload may be called as one of them
    views.mkdir()
    source, view, doubt = _views(translator, data, made)
    width, height = made.image.size
    return Shown(
        of=of,
        name=path.name,
        file=str(file),
        map=str(trust),
        source=_picture(source, views / "source.webp"),
        translation=_picture(view, views / "translation.webp"),
        doubted=_picture(doubt, views / "doubted.webp"),
        small=_picture(view, views / "small.webp", SMALL),
        width=width,
        height=height,
        seconds=seconds,
        trust=made.mean,
    )


def packed(shown: Sequence[Shown], folder: Path) -> str:
    """A ZIP of all translations and their trust maps. Where two would have one name, all have the number of their upload before it."""
    path = Path(mkdtemp(dir=folder)) / "translations.zip"
    parts = [(i, part) for i, each in enumerate(shown, 1) for part in map(Path, (each.file, each.map))]
    twice = len({part.name for _, part in parts}) < len(parts)
    with zipfile.ZipFile(path, "w") as file:
        for i, part in parts:
            file.write(part, f"{i}_{part.name}" if twice else part.name)
    return str(path)


def _views(translator: Translator, data: bytes, made: Made) -> tuple[Array, Array, Array]:
    assert made.trust is not None
    view = translator.target.view(made.pixels)
    return source_view(translator, data, made), view, doubted(view, made.trust)


def _picture(pixels: Array, path: Path, largest: int = LARGEST) -> str:
    """A file for a browser; small images without loss."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    lossless = max(image.size) <= 512
    if max(image.size) > largest:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    image.save(path, "WEBP", lossless=lossless, quality=90)
    return str(path)
