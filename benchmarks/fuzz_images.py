"""Whole images of every kind that unflip reads, small, for the fuzzer to damage."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image


def scene(bands: int = 3, dtype: Any = np.uint8, side: int = 48) -> np.ndarray:
    """Waves, ``(side, side + 8, bands)``."""
    y, x = np.mgrid[:side, : side + 8]
    waves = [128 + 100 * np.sin(x / (3 + k) + y / (5 - k % 4)) for k in range(bands)]
    return (np.stack(waves, axis=2) * (1 if dtype == np.uint8 else 200)).astype(dtype)


def saved(**options: Any) -> Callable[[Any], bytes]:
    """How Pillow writes an image."""

    def save(image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.save(file, **options)
        return file.getvalue()

    return save


def tiffs(*images: tuple[np.ndarray, dict[str, Any]]) -> list[bytes]:
    """As tifffile writes them."""
    found = []
    for image, options in images:
        file = io.BytesIO()
        tifffile.imwrite(file, image, **{"bigtiff": False, **options})
        found.append(file.getvalue())
    return found


def pillows(**options: Any) -> list[bytes]:
    """Color, gray, palette and transparent ones, turned by EXIF."""
    rgb = Image.fromarray(scene())
    exif = Image.Exif()
    exif[274] = 6
    options |= {} if options["format"] == "BMP" else {"exif": exif}
    kinds = [rgb, rgb.convert("L")] if options["format"] == "JPEG" else [rgb, rgb.convert("L"), rgb.convert("P"), rgb.convert("RGBA")]
    return [saved(**options)(image) for image in kinds]


def deep_pngs() -> list[bytes]:
    """Of 16 bits, which Pillow does not write."""
    return [bytes(imagecodecs.png_encode(scene(bands, np.uint16))) for bands in (1, 3, 4)]


PLAIN = {"photometric": "minisblack", "planarconfig": "contig"}
APART = {"photometric": "minisblack", "planarconfig": "separate"}
GEO = [(33550, 12, 3, (10.0, 10.0, 0.0), True), (33922, 12, 6, (0.0, 0, 0, 500000, 4e6, 0), True), (42113, 2, 0, "-9999", True)]


def everyday_tiffs() -> list[bytes]:
    """8-bit gray, color and bits, which Pillow reads."""
    rgb = scene()
    kinds = [
        (rgb, {}),
        (rgb[..., 0], {"compression": "lzw"}),
        (rgb, {"compression": "zlib", "predictor": True, "rowsperstrip": 7}),
        (rgb, {"tile": (16, 16), "compression": "jpeg"}),
        (rgb, {"byteorder": ">"}),
        (rgb, {"compression": "packbits"}),
        (rgb, {"planarconfig": "separate"}),
        (rgb[..., 0] > 128, {"photometric": "minisblack"}),
    ]
    return tiffs(*kinds) + pillows(format="TIFF")


def palette_tiffs() -> list[bytes]:
    """Of nine colors."""
    palette = Image.fromarray(scene()).quantize(9)
    return [saved(format="TIFF", compression=name)(palette) for name in ("raw", "tiff_lzw", "tiff_deflate")]


def deep_tiffs() -> list[bytes]:
    """In strips: integers of 16 and 32 bits, and floats."""
    deep, ratio = scene(1, np.uint16)[..., 0], scene(3, np.float32)
    return tiffs(
        (deep, {}),
        (ratio, PLAIN),
        (scene(3, np.uint16), {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        (ratio, {**PLAIN, "compression": "zstd"}),
        (deep.astype(np.int32), {"bigtiff": True}),
        (ratio[..., 0], {"compression": "lerc"}),
    )


def tiled_tiffs() -> list[bytes]:
    """Bands together and apart, in every compression."""
    many, small = scene(5, np.uint16), {"tile": (16, 16)}
    return tiffs(
        (many, {**PLAIN, **small}),
        (many, {**PLAIN, "tile": (32, 16), "compression": "zlib", "predictor": True}),
        (many.transpose(2, 0, 1), {**APART, **small, "compression": "lzw"}),
        (scene(3, np.float32), {**PLAIN, **small, "compression": "lzma", "bigtiff": True}),
        (scene(1, np.float32)[..., 0], {**small, "compression": "lerc"}),
    )


def banded_tiffs() -> list[bytes]:
    """More bands than color has: in a page or a page each, with alpha, and as microscopes write them."""
    many = scene(6)
    planes = many.transpose(2, 0, 1)
    return tiffs(
        (many, PLAIN),
        (planes, APART),
        (planes, {"photometric": "minisblack"}),
        (planes, {**APART, "compression": "jpeg", "rowsperstrip": 16}),
        (scene(4, np.uint16), {**PLAIN, "extrasamples": [0, 0, 2]}),
        (planes, {"ome": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"}),
        (planes.astype(np.uint16), {"imagej": True, "metadata": {"axes": "CYX"}}),
    )


def masked_tiffs() -> list[bytes]:
    """With a mask in a page of its own, as GDAL writes them."""

    def masked(image: np.ndarray, **options: Any) -> bytes:
        file, mask = io.BytesIO(), np.zeros(image.shape[:2], dtype=bool)
        mask[4:, 5:] = True
        with tifffile.TiffWriter(file) as tiff:
            tiff.write(image, metadata=None, **options)
            tiff.write(mask, subfiletype=4, photometric=4, compression="zlib", metadata=None)  # type: ignore[arg-type]
        return file.getvalue()

    return [
        masked(scene(), photometric="rgb"),
        masked(scene(), photometric="rgb", compression="jpeg", tile=(16, 16)),
        masked(scene(5, np.uint16), **PLAIN, tile=(16, 16), compression="lzw"),
        masked(scene(1, np.float32)[..., 0], compression="lerc"),
    ]


def geo_tiffs() -> list[bytes]:
    """With a place on Earth, and a value for nothing."""
    geo = {"extratags": GEO}
    return tiffs(
        (scene(1, np.float32)[..., 0], geo),
        (scene(4, np.uint16), {**PLAIN, **geo, "tile": (16, 16)}),
        (scene(), geo),
        (scene(2, np.float32), {**PLAIN, **geo, "compression": "zlib"}),
    )
