"""TIFF files with a mask in a page of its own, as GDAL writes them: what it leaves out holds nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import unflip
from test_bands import noise
from test_deep import make
from unflip.data.bands import Bands
from unflip.data.images import check, kind_of, read
from unflip.data.tiff import Tiff
from unflip.errors import UserError
from unflip.inference.folders import translate_folder
from unflip.inference.windows import by_windows


def bands(count: int, depth: str = "uint16", masked: bool = False) -> Bands:
    return Bands(count=count, depth=depth, ranges=((0.0, 1.0 if depth == "float32" else 255.0),), masked=masked)


def masked(path: Path, image: Any, mask: Any, **options: Any) -> None:
    """A TIFF file with a mask as GDAL writes it: a page of its own, of one bit, and after it, both once more at half the size."""
    bits = {"photometric": 4, "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, metadata=None, **options)
        tiff.write(mask, subfiletype=4, **bits)  # type: ignore[arg-type]
        small = {"subfiletype": 1, "photometric": options["photometric"]}
        tiff.write(image[::2, ::2].copy(), metadata=None, **small)
        tiff.write(mask[::2, ::2].copy(), subfiletype=5, **bits)  # type: ignore[arg-type]


MASK = np.zeros((41, 53), dtype=bool)
MASK[5:30, 7:50] = True


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_mask_is_alpha(tmp_path: Path, dtype: Any, count: int) -> None:
    image = (noise(41, 53, count) % 200).astype(dtype)
    image = image[..., 0] if count == 1 else image
    photometric = "rgb" if count == 3 else "minisblack"
    masked(tmp_path / "a.tif", image, MASK, photometric=photometric, planarconfig=None if count == 1 else "contig", rowsperstrip=8)
    opaque = 1 if dtype == "float32" else np.iinfo(dtype).max
    kind = kind_of(tmp_path / "a.tif")
    assert kind.alpha and (kind.bands, kind.depth) == (count, dtype)
    found = read(tmp_path / "a.tif", bands=bands(count, dtype, masked=True))
    assert np.array_equal(found.pixels.squeeze(), image)
    assert found.alpha is not None and found.alpha.dtype == dtype and np.array_equal(found.alpha, MASK * np.array(opaque, dtype))
    assert found.valid is not None and np.array_equal(found.valid, MASK)
    assert read(tmp_path / "a.tif", bands=bands(count, dtype)).valid is None, "only where the bands are said to be masked"
    check(tmp_path / "a.tif")
    with open(tmp_path / "a.tif", "rb") as file:
        pixels, alpha = Tiff(file).read(3, 5, 11, 29)
    assert np.array_equal(pixels.squeeze(), image[3:11, 5:29]) and alpha is not None and np.array_equal(alpha > 0, MASK[3:11, 5:29])


def test_a_mask_is_turned_with_its_image(tmp_path: Path) -> None:
    image = (noise(41, 53, 3) % 200).astype(np.uint8)
    for dtype in (np.uint8, np.uint16):
        masked(tmp_path / "a.tif", image.astype(dtype), MASK, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
        found = read(tmp_path / "a.tif", bands=bands(3, np.dtype(dtype).name))
        assert np.array_equal(found.pixels, np.rot90(image, -1)) and found.alpha is not None
        assert np.array_equal(found.alpha > 0, np.rot90(MASK, -1))


def test_a_mask_of_another_size_or_of_an_overview_is_none(tmp_path: Path) -> None:
    image = noise(41, 53)
    for mask, kind in ((MASK[:-1], 4), (MASK, 5)):
        with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
            tiff.write(image, photometric="minisblack", metadata=None)
            tiff.write(mask, subfiletype=kind, photometric=4, metadata=None)  # type: ignore[arg-type]
        assert read(tmp_path / "a.tif", bands=bands(1)).alpha is None


def test_a_mask_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(noise(41, 53), photometric="minisblack", metadata=None)
        tiff.write(MASK, subfiletype=4, photometric=4, compression="zlib", metadata=None)  # type: ignore[arg-type]
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        page: Any = file.pages[1]
        page.tags[259].overwrite(50002)
    with pytest.raises(UserError, match=r"compressed as JPEGXL, which is not decoded"):
        read(tmp_path / "a.tif", bands=bands(1))


@pytest.mark.parametrize("compress", ["jpeg", "lzw"])
def test_a_mask_that_gdal_wrote(tmp_path: Path, compress: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    image = (noise(64, 80, 3) % 200).astype(np.uint8)
    mask = np.zeros((64, 80), dtype=np.uint8)
    mask[20:50, 10:60] = 255
    options: dict[str, Any] = {"compress": compress, "tiled": True, "blockxsize": 32, "blockysize": 32}
    options |= {"photometric": "ycbcr"} if compress == "jpeg" else {}
    profile = {"driver": "GTiff", "width": 80, "height": 64, "count": 3, "dtype": "uint8"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "a.tif", "w", **profile, **options) as file:
        file.write(image.transpose(2, 0, 1))
        file.write_mask(mask)
        file.build_overviews([2])
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    found = read(tmp_path / "a.tif", bands=bands(3, "uint8", masked=True))
    assert found.valid is not None and np.array_equal(found.valid, mask > 0) and np.array_equal(found.alpha, mask)
    if compress == "lzw":
        assert np.array_equal(found.pixels, image)


@pytest.mark.parametrize("tile", ["none", 64])
def test_a_translation_of_a_masked_image_has_alpha(tmp_path: Path, tile: Any) -> None:
    """Which GDAL takes for a mask; in windows, too. What lies outside plays no part in it."""
    kind = bands(3, "uint16", masked=True)
    make(tmp_path, kind, kind)
    image, mask = noise(150, 181, 3) % 256, np.zeros((150, 181), dtype=bool)
    mask[30:120, 20:160] = True
    translator, found = unflip.load(tmp_path / "model", device="cpu", tile=tile), []
    for outside in (0, 255):
        image[~mask] = outside
        masked(tmp_path / "a.tif", image, mask, photometric="rgb", rowsperstrip=16)
        assert by_windows(str(tmp_path / "a.tif"), translator, "a.tif") == (tile == 64)
        out = tmp_path / f"out{outside}"
        assert translate_folder(translator, tmp_path / "a.tif", out, progress=False).done == 1
        found.append(read(out / "a.tif", bands=kind))
        assert found[-1].alpha is not None and np.array_equal(found[-1].alpha, np.where(mask, 65535, 0))
    assert np.array_equal(found[0].pixels[mask], found[1].pixels[mask]) and found[0].pixels[mask].std() > 1
