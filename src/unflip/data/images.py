"""Single images at the border: files to ``(H, W, 3)`` uint8 arrays and back.

Every error that a file can cause is a ``UserError`` of one line that names the file.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from pydantic import AfterValidator

from unflip.data.formats import FORMATS as FORMATS
from unflip.data.formats import ending
from unflip.data.places import opened
from unflip.errors import UserError
from unflip.files import make_folder, write_bytes

Array = NDArray[np.uint8]

MAX_PIXELS = 300_000_000
"""More pixels than this are taken for a decompression bomb."""

MAX_SIDE = 16_384
"""The largest side that a resize may ask for; its square is below MAX_PIXELS."""

MAX_FLAT_COLORS = 64
"""An image of at most so many distinct colors is a label map, not a photo."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

SIDEWAYS = {5, 6, 7, 8}
"""The EXIF orientations that swap width and height."""

# Pillow's own limit (179 million) would refuse mosaics that ours allows, and it warns from half of that. It exists only process-wide.
if Image.MAX_IMAGE_PIXELS is not None:
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS)


@dataclass(frozen=True)
class Resize:
    """How images are resized before anything else: ``none``, ``short:N`` (the shorter side becomes N) or ``WxH``."""

    short: int = 0
    width: int = 0
    height: int = 0

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) that an image of ``width`` x ``height`` gets."""
        if self.short:
            shorter = min(width, height)
            # To the nearest pixel in integers, so that no platform's floating point decides.
            scaled = [(2 * side * self.short + shorter) // (2 * shorter) for side in (width, height)]
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


class Decoded(NamedTuple):
    """An image, upright (EXIF). ``rgb (H, W, 3)`` uint8, resized; ``alpha`` uint8 and ``size`` (width, height) as before the resize."""

    rgb: Array
    alpha: Array | None
    size: tuple[int, int]


def read(path: Path | str, resize: str = "none", file: BinaryIO | None = None) -> Decoded:
    """Decode an image once, as ``prepare`` does: a file, a member of a shard (``000.tar/a.png``), or what a URL holds.

    ``file`` is where to read it from, if it has been opened already; ``path`` then only names it in errors.
    Raises ``UserError`` for files that are missing, fake, truncated, too large or deeper than 8 bits.
    """
    with _opened(path, file) as image:
        return prepare(image, resize)


def read_rgb(path: Path | str, resize: str = "none") -> Array:
    """The colors of ``read``, ``(H, W, 3)`` uint8; alpha is dropped."""
    return read(path, resize).rgb


def prepare(stored: Image.Image, resize: str = "none") -> Decoded:
    """A Pillow image, decoded: upright, its colors resized.

    Gray, 1-bit, palette and CMYK images become RGB; transparent ones keep the colors that are stored under the transparency.
    Raises ``UserError`` for images deeper than 8 bits.
    """
    spec = parse_resize(resize)
    if _deeper_than_8_bits(stored):
        raise UserError("image is 16-bit (or float); unflip reads 8-bit images: convert it")
    stored.load()  # first: TIFF turns itself upright here, PNG may find its EXIF behind the pixels
    turn = TURNS.get(_orientation(stored))
    image = stored if turn is None else stored.transpose(turn)
    size = spec.size_for(*image.size)
    # Decided on the colors as stored; after that, taking the nearest pixel and converting it to RGB commute.
    flat = size != image.size and is_label_map(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")  # resized apart from its alpha: together, Pillow would blacken the colors of what is transparent
        alpha = np.array(image.getchannel("A"))
    return Decoded(np.array(_resized(image.convert("RGB"), size, flat)), alpha, image.size)


def is_label_map(image: Image.Image) -> bool:
    """Whether interpolated colors would be wrong colors: palette and 1-bit images, and those of few flat colors."""
    return image.mode in {"1", "P", "PA"} or image.getcolors(MAX_FLAT_COLORS) is not None


def check(path: Path) -> tuple[int, int]:
    """The upright ``(width, height)`` of an image that is complete; raises ``UserError`` for one that is fake or truncated.

    Fast: reads the header and, of PNG and JPEG, the tail. Only what looks odd there is decoded: data after the end is legal.
    """
    with _opened(path) as image:
        if not _ends_well(path, image.format):
            image.load()
        width, height = image.size
        return (height, width) if _orientation(image) in SIDEWAYS else (width, height)


def write(path: Path, rgb: Array, alpha: Array | None = None) -> None:
    """Write ``rgb (H, W, 3)`` and ``alpha (H, W)``, uint8, in the format of the path's ending; JPEG and BMP drop alpha.

    Atomic: the file is there complete or not at all. Missing folders are made. Raises ``UserError`` where it cannot be written.
    """
    data = encode(path, rgb, alpha)
    make_folder(path.parent)
    write_bytes(path, data)


def encode(path: Path | str, rgb: Array, alpha: Array | None = None) -> bytes:
    """The content of the file that :func:`write` writes. Raises ``UserError`` where that format cannot hold the image."""
    suffix = ending(str(path))
    if suffix not in FORMATS:
        raise UserError(f"cannot write this kind of image, {path}; name it with one of {' '.join(FORMATS)}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"expected (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    image = Image.fromarray(rgb)
    if alpha is not None and FORMATS[suffix] in {"PNG", "WEBP", "TIFF"}:
        image.putalpha(Image.fromarray(alpha))
    try:
        return _encoded(image, FORMATS[suffix])
    except (OSError, ValueError) as error:  # a format's limit, such as WebP's 16383 pixels
        raise UserError(f"cannot write {path}: {_one_line(error)}; use another format") from error


@contextlib.contextmanager
def _opened(path: Path | str, file: BinaryIO | None = None) -> Iterator[Image.Image]:
    """The image with its header parsed; whatever goes wrong until the end of the block is a ``UserError`` that names the file."""
    try:
        with file or opened(path) as stream, Image.open(stream, formats=sorted(set(FORMATS.values()))) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"too many pixels ({image.width}x{image.height}), {path}; cut it into tiles")
            if _deeper_than_8_bits(image):
                raise UserError(f"image is 16-bit (or float), {path}; unflip reads 8-bit images: convert it")
            yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"not an image that unflip reads, {path}; replace or remove it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"too many pixels, {path}; cut it into tiles") from error
    except Exception as error:  # a damaged file can raise anything from a decoder
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"cannot read the image, {path} ({error.strerror}); check the path and its permissions") from error
        raise UserError(f"broken or truncated image, {path} ({_one_line(error)}); replace or remove it") from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none."""
    try:
        # The base class's method: PNG's own would decode the whole image in search of EXIF behind the pixels.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF damages no pixel: viewers show such images as stored
        return 1


def _deeper_than_8_bits(image: Image.Image) -> bool:
    # Pillow opens 16-bit color as 8-bit "RGB" and cuts the low byte off without a word: only the raw mode of the data tells.
    # (BMP's "BGR;16" is another matter: 16 bits for the three colors together.)
    raw: list[Any] = getattr(image, "tile", [])
    cut = image.format in {"PNG", "TIFF"} and any(";16" in str(tile[3]) for tile in raw)
    return cut or image.mode == "F" or image.mode.startswith("I")


def _ends_well(path: Path, kind: str | None) -> bool:
    """Whether the tail shows that the file is complete; False where only decoding can tell."""
    if kind not in {"PNG", "JPEG", "MPO"}:
        return False
    with opened(path) as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(max(0, length - 65_536))
        tail = file.read()
    if kind != "PNG":
        return tail.endswith(b"\xff\xd9")
    # EXIF or text (XMP) behind the image may turn it, and Pillow sees them only when it decodes.
    return tail.endswith(b"\0\0\0\0IEND\xaeB\x60\x82") and not any(chunk in tail for chunk in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"))


def _resized(image: Image.Image, size: tuple[int, int], flat: bool) -> Image.Image:
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.NEAREST if flat else Image.Resampling.BICUBIC)  # Pillow's bicubic is antialiased


def _encoded(image: Image.Image, kind: str) -> bytes:
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},  # 4:4:4
        "WEBP": {"lossless": True, "exact": True},  # exact: keeps colors under transparency
    }
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options.get(kind, {}))
    return buffer.getvalue()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
