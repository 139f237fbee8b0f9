"""Single images to files: which formats can hold what, and their content."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unflip.data.bands import Bands, Pixels, unbanded
from unflip.data.formats import FORMATS, ending
from unflip.data.tiff import Tag, write_tiff
from unflip.errors import UserError, one_line
from unflip.files import make_folder, write_bytes

HOLDS = {
    "PNG": {("uint8", 1), ("uint8", 3), ("uint16", 1), ("uint16", 3)},
    "JPEG": {("uint8", 1), ("uint8", 3)},
    "BMP": {("uint8", 1), ("uint8", 3)},
    "WEBP": {("uint8", 3)},
}
"""Depths and counts of bands, without alpha; TIFF holds all."""

WITH_ALPHA = {"PNG", "WEBP", "TIFF"}


def name_for(name: str, bands: Bands) -> str:
    """The name under which a translation of ``name`` is stored: its own, or one that ends in .tif where its format cannot hold it."""
    kind = FORMATS.get(ending(name))
    if kind is None or kind == "TIFF" or (bands.depth, bands.count) in HOLDS[kind]:
        return name
    return PurePosixPath(name).with_suffix(".tif").as_posix()


def write(path: Path, pixels: Pixels, alpha: NDArray[Any] | None = None) -> None:
    """Write ``pixels (H, W, C)`` and ``alpha (H, W)`` in the format of the path's ending; JPEG and BMP drop alpha.

    Atomic: the file is there complete or not at all. Missing folders are made. Raises ``UserError`` where it cannot be written.
    """
    data = encode(path, pixels, alpha)
    make_folder(path.parent)
    write_bytes(path, data)


def encode(
    path: Path | str,
    pixels: Pixels,
    alpha: NDArray[Any] | None = None,
    nodata: float | None = None,
    georeference: Iterable[Tag] = (),
) -> bytes:
    """The content of the file that :func:`write` writes; TIFF files say what stands for nothing, and where on Earth they are.

    Raises ``UserError`` where that format cannot hold the image.
    """
    kind = FORMATS.get(ending(str(path)))
    if kind is None:
        raise UserError(f"cannot write this kind of image, {path}; name it with one of {' '.join(FORMATS)}")
    if pixels.ndim != 3 or 0 in pixels.shape or str(pixels.dtype) not in ("uint8", "uint16", "float32"):
        raise ValueError(f"expected (H, W, C) uint8, uint16 or float32, got {pixels.shape} {pixels.dtype}")
    if kind != "TIFF" and (str(pixels.dtype), pixels.shape[2]) not in HOLDS[kind]:
        raise UserError(f"{kind} cannot hold {pixels.dtype} with {pixels.shape[2]} bands, {path}; name it .tif")
    if alpha is not None and kind in WITH_ALPHA:
        pixels = with_alpha(pixels, alpha)
    else:
        alpha = None
    try:
        if kind == "TIFF":
            buffer = io.BytesIO()
            rows, georeference = iter([pixels]), tuple(georeference)
            write_tiff(buffer, rows, pixels.shape, pixels.dtype, alpha=alpha is not None, nodata=nodata, georeference=georeference)
            return buffer.getvalue()
        if pixels.dtype == np.uint16:
            return bytes(imagecodecs.png_encode(pixels))
        return _encoded(Image.fromarray(unbanded(pixels)), kind)
    except (OSError, ValueError) as error:  # a format's limit, such as WebP's 16383 pixels
        raise UserError(f"cannot write {path}: {one_line(error)}; use another format") from error


def with_alpha(pixels: Pixels, alpha: NDArray[Any]) -> Pixels:
    """``(H, W, C)`` and alpha ``(H, W)`` of any depth as ``(H, W, C + 1)``: opaque stays opaque."""
    return np.concatenate([pixels, _as_deep(alpha, pixels.dtype)[..., None]], axis=2)


def _as_deep(alpha: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if alpha.dtype == dtype:
        return alpha
    most = {kind: 1.0 if kind.kind == "f" else float(np.iinfo(kind).max) for kind in (alpha.dtype, dtype)}
    scaled = alpha.astype(np.float64) * (most[dtype] / most[alpha.dtype])
    return (scaled if dtype.kind == "f" else np.rint(scaled)).astype(dtype)


def _encoded(image: Image.Image, kind: str) -> bytes:
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},  # 4:4:4
        "WEBP": {"lossless": True, "exact": True},  # exact: keeps colors under transparency
    }
    if image.mode == "L" and kind == "JPEG":
        options["JPEG"].pop("subsampling")
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options.get(kind, {}))
    return buffer.getvalue()
