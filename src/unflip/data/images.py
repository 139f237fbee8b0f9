"""Single images at the border: files to ``(H, W, C)`` arrays as they are stored.

Every error that a file can cause is a ``UserError`` of one line that names the file.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from unflip.data.bands import RGB, Bands, Kind, Pixels, Valid, banded, nearest
from unflip.data.limits import pillow, refuse_bombs
from unflip.data.places import opened
from unflip.data.resize import parse_resize, resized
from unflip.data.tiff import SIGNATURES, Tag, Tiff
from unflip.errors import UserError, one_line

Array = NDArray[np.uint8]

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


class Header(NamedTuple):
    """What a file says of its image; the size is upright (EXIF) and before any resize."""

    width: int
    height: int
    kind: Kind


class Decoded(NamedTuple):
    """An image, upright (EXIF). ``pixels (H, W, C)`` resized; ``alpha``, ``valid`` and ``size`` (width, height) as before the resize."""

    pixels: Pixels
    alpha: NDArray[Any] | None
    size: tuple[int, int]
    valid: Valid | None = None
    """``(H, W)``, False where the image holds nothing; None: it holds something everywhere."""
    nodata: float | None = None
    """The value that stands for nothing."""
    georeference: tuple[Tag, ...] = ()
    turned: bool = False
    """Whether it is stored otherwise than upright."""


def read(path: Path | str, resize: str = "none", file: BinaryIO | None = None, bands: Bands = RGB) -> Decoded:
    """Decode an image once: a file, a member of a shard (``000.tar/a.png``), or what a URL holds.

    Of 8 bits, gray, 1-bit, palette and CMYK images become the color that ``bands`` asks for, or gray; all others must be as it says.
    ``file`` is where to read it from, if it has been opened already; ``path`` then only names it in errors.
    Raises ``UserError`` for files that are missing, fake, truncated, too large, or of another kind.
    """
    with _opened(path, file) as stored:
        return _decoded(stored, resize, bands)


def read_rgb(path: Path | str, resize: str = "none") -> Array:
    """The colors of an 8-bit image, ``(H, W, 3)`` uint8; alpha is dropped."""
    return read(path, resize).pixels


def prepare(stored: Image.Image, resize: str = "none", bands: Bands = RGB, nodata: float | None = None) -> Decoded:
    """A Pillow image, decoded: upright, its colors resized. ``nodata``: what stands for nothing in it, where ``bands`` does not say.

    Transparent images keep the colors that are stored under the transparency. Raises ``UserError`` for images of another kind.
    """
    if _deeper_than_8_bits(stored):
        if bands.depth != "uint16" or bands.count != 1 or not stored.mode.startswith("I;16"):
            raise UserError(f"image is 16-bit (or float), mode {stored.mode}; {bands} is needed here: convert it, or give a NumPy array")
        return finished(np.asarray(stored).astype(np.uint16)[..., None], None, None, resize, bands)
    if bands.depth != "uint8" or bands.count not in (1, 3):
        raise UserError(f"image is 8-bit, mode {stored.mode}; {bands} is needed here: convert it, or give a NumPy array")
    spec = parse_resize(resize)
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
    mode = "RGB" if bands.count == 3 else "L"
    try:
        image = image.convert(mode)
    except ValueError:
        raise UserError(f"image is of mode {image.mode}, which Pillow does not convert to {mode}; convert it to RGB") from None
    if bands.masked or bands.nothing(nodata) is not None:  # what holds nothing must not be mixed with its surroundings
        return finished(banded(np.array(image)), alpha, nodata, resize, bands, flat)
    return Decoded(banded(np.array(_resized(image, size, flat))), alpha, image.size)


def finished(pixels: Pixels, alpha: NDArray[Any] | None, nodata: float | None, resize: str, bands: Bands, flat: bool = False) -> Decoded:
    """Upright bands with what is to be known of them: where they hold nothing; resized."""
    height, width = pixels.shape[:2]
    nodata = bands.nothing(nodata)
    known = valid_pixels(pixels, alpha, nodata, bands)
    size = parse_resize(resize).size_for(width, height)
    return Decoded(nearest(pixels, size) if flat else resized(pixels, size, known), alpha, (width, height), known, nodata)


def valid_pixels(pixels: Pixels, alpha: NDArray[Any] | None, nodata: float | None, bands: Bands) -> Valid | None:
    """Where ``pixels (H, W, C)`` hold something: no band is infinite or NaN, not all are ``nodata``, and where ``bands`` are masked, they
    are not transparent. None: everywhere."""
    valid = np.ones(pixels.shape[:2], dtype=bool)
    if nodata is not None:
        with np.errstate(over="ignore"):  # a value beyond float32 is that of no pixel
            valid &= ~(pixels == nodata).all(2)
    if pixels.dtype.kind == "f":
        valid &= np.isfinite(pixels).all(2)
    if alpha is not None and bands.masked:
        valid &= alpha > 0
    return None if valid.all() else valid


def is_label_map(image: Image.Image) -> bool:
    """Whether interpolated colors would be wrong colors: palette and 1-bit images, and those of few flat colors."""
    return image.mode in {"1", "P", "PA"} or image.getcolors(MAX_FLAT_COLORS) is not None


def check(path: Path) -> Header:
    """What an image says of itself, which is complete; raises ``UserError`` for one that is fake or truncated.

    Fast: reads the header and, of PNG, JPEG and deep TIFF, where they end. Only what looks odd there is decoded: data after the end is
    legal.
    """
    with _opened(path) as stored:
        if not _ends_well(path, stored.format):
            stored.load()
        width, height = stored.size
        return Header(*((height, width) if stored.orientation in SIDEWAYS else (width, height)), stored.kind)


def header(path: Path | str, file: BinaryIO | None = None) -> Header:
    """What an image says of itself, complete or not; ``file`` as in :func:`read`. Raises ``UserError`` where even that is broken."""
    with _opened(path, file) as stored:
        width, height = stored.size
        return Header(*((height, width) if stored.orientation in SIDEWAYS else (width, height)), stored.kind)


def kind_of(path: Path) -> Kind:
    """What a file holds, by its header alone; raises ``UserError`` where even that is broken."""
    with _opened(path) as stored:
        return stored.kind


class _Shallow:
    """A file that Pillow reads."""

    def __init__(self, image: Image.Image, tiff: Tiff | None) -> None:
        self.image, self.format, self.tiff = image, image.format, tiff
        self.nodata = tiff.nodata if tiff else None
        self.georeference = _upright(tiff) if tiff else ()
        gray = image.mode in {"1", "L", "LA"}
        masked = tiff is not None and tiff.mask is not None
        self.kind = Kind(1 if gray else 3, "uint8", image.has_transparency_data or masked, self.nodata)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, as stored, of TIFF files upright when they are loaded."""
        return self.image.size

    @property
    def orientation(self) -> int:
        """As EXIF counts it; PNG files can say so behind their pixels."""
        return _orientation(self.image)

    def load(self) -> None:
        """Raises where the file is not complete. The mask that TIFF files can have becomes alpha."""
        self.image.load()
        mask = None if self.tiff is None else self.tiff.read_mask(0, 0, self.tiff.height, self.tiff.width)
        if self.tiff is not None and mask is not None:
            if self.image.mode not in ("L", "RGB"):
                self.image = self.image.convert("RGB")
            self.image.putalpha(Image.fromarray(_turned(mask, self.tiff.orientation)))


class _Deep:
    """A file that it does not: a deep PNG, or a TIFF of any depth and number of bands."""

    format: str = "PNG"
    georeference: tuple[Tag, ...] = ()
    nodata: float | None = None

    def __init__(self, stream: BinaryIO, kind: Kind, size: tuple[int, int], orientation: int) -> None:
        self.stream, self.kind, self.size, self.orientation = stream, kind, size, orientation

    def load(self) -> None:
        """Raises where the file is not complete."""
        self.read()

    def read(self) -> tuple[Pixels, NDArray[Any] | None]:
        self.stream.seek(0)
        x = banded(imagecodecs.png_decode(self.stream.read()))
        # a color that is transparent (tRNS) becomes alpha, of which the header says nothing
        return (x[..., :-1], x[..., -1]) if x.shape[2] > self.kind.bands else (x, None)


class _DeepTiff(_Deep):
    format = "TIFF"

    def __init__(self, stream: BinaryIO, tiff: Tiff) -> None:
        kind = Kind(tiff.count, tiff.depth, tiff.alpha, tiff.nodata)
        super().__init__(stream, kind, (tiff.width, tiff.height), tiff.orientation)
        self.tiff, self.nodata, self.georeference = tiff, tiff.nodata, _upright(tiff)

    def load(self) -> None:
        if not self.tiff.whole(self.stream.seek(0, os.SEEK_END)):
            raise ValueError("its pixels lie beyond its end")

    def read(self) -> tuple[Pixels, NDArray[Any] | None]:
        return self.tiff.read(0, 0, self.tiff.height, self.tiff.width)


def _decoded(stored: _Shallow | _Deep, resize: str, bands: Bands) -> Decoded:
    kind = stored.kind
    alike = (kind.depth, kind.bands) == (bands.depth, bands.count) or (bands.common and isinstance(stored, _Shallow))
    if not alike:
        raise _Unlike(f"{kind}, where {bands} is needed")
    if isinstance(stored, _Shallow):
        stored.load()
        found = prepare(stored.image, resize, bands, stored.nodata)
    else:
        pixels, alpha = (None if x is None else _turned(x, stored.orientation) for x in stored.read())
        assert pixels is not None
        found = finished(pixels, alpha, stored.nodata, resize, bands)
    return found._replace(georeference=stored.georeference, turned=stored.orientation in TURNS)


class _Unlike(Exception):
    """An image of another kind than is needed."""


@contextlib.contextmanager
def _opened(path: Path | str, file: BinaryIO | None = None) -> Iterator[_Shallow | _Deep]:
    """The image with its header parsed; whatever goes wrong until the end of the block is a ``UserError`` that names the file."""
    try:
        with file or opened(path) as stream:
            tiff, deep = None, _deep_png(stream, path)
            if stream.read(4) in SIGNATURES:
                stream.seek(0)
                tiff = Tiff(stream)
            stream.seek(0)
            if tiff is not None and not tiff.pillow:
                deep = _DeepTiff(stream, tiff)
            if deep is not None:
                refuse_bombs(*deep.size, path, deep.kind.bands, str(deep.kind))
                yield deep
                return
            with pillow(stream, path) as image:
                _refuse_animation(image)
                if _deeper_than_8_bits(image):
                    raise _Unlike(f"of a depth that unflip does not read, mode {image.mode}")
                yield _Shallow(image, tiff)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"image cannot be used, {path} ({error}); convert it") from error
    except _Unlike as error:
        raise UserError(f"image is {error}, {path}; convert it") from error
    except UnidentifiedImageError as error:
        raise UserError(f"not an image that unflip reads, {path}; replace or remove it") from error
    except Exception as error:  # a damaged file can raise anything from a decoder
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"cannot read the image, {path} ({error.strerror}); check the path and its permissions") from error
        raise UserError(f"broken or truncated image, {path} ({one_line(error)}); replace or remove it") from error


def _refuse_animation(image: Image.Image) -> None:
    """Raises ``UserError`` for one, of PNG or WebP: its other frames would be lost. What a JPEG has behind its image is no frame."""
    frames = getattr(image, "n_frames", 1) if image.format in {"PNG", "WEBP"} else 1
    if frames > 1:
        raise UserError(f"an animation of {frames} frames")


def _deep_png(stream: BinaryIO, path: Path | str) -> _Deep | None:
    """The image, if it is a PNG of 16 bits: Pillow would cut colors to 8 without a word. Leaves the stream at its start."""
    head = stream.read(26)
    stream.seek(0)
    if len(head) < 26 or not head.startswith(b"\x89PNG\r\n\x1a\n") or head[24] != 16:
        return None
    width, height = struct.unpack(">II", head[16:24])
    color = head[25]
    with pillow(stream, path, ["PNG"]) as image:
        _refuse_animation(image)
        orientation = _orientation(image)
    stream.seek(0)
    return _Deep(stream, Kind(3 if color & 2 else 1, "uint16", bool(color & 4), None), (width, height), orientation)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none."""
    try:
        # The base class's method: PNG's own would decode the whole image in search of EXIF behind the pixels.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF damages no pixel: viewers show such images as stored
        return 1


def _turned(x: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Upright. What Pillow does of 8-bit images."""
    if orientation not in TURNS:
        return x
    if orientation in SIDEWAYS:
        x = x.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        x = x[::-1]
    if orientation in {2, 3, 6, 7}:
        x = x[:, ::-1]
    return np.ascontiguousarray(x)


def _upright(tiff: Tiff) -> tuple[Tag, ...]:
    """Where on Earth an image is, unless it is to be turned: that holds of the pixels as stored."""
    return () if tiff.orientation in TURNS else tiff.georeference


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
