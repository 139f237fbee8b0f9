"""Images of any depth and number of bands: as they are stored, what their values are to the networks, and back."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image
from pydantic import ValidationError

from unflip.data.bands import RGB, Bands, GivenBands, Kind
from unflip.data.folders import Entry, survey
from unflip.data.images import check, read, read_rgb
from unflip.data.measure import LOOKED_AT, find_bands
from unflip.data.resize import resized
from unflip.data.save import encode, name_for, write
from unflip.data.tiff import GEOREFERENCE, Tiff, write_tiff
from unflip.data.transforms import narrowed, widened
from unflip.errors import UserError


def noise(*shape: int, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(0, 100, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def bands(count: int, depth: str = "uint16", **fields: Any) -> Bands:
    return Bands(count=count, depth=depth, **{"ranges": ((-500.0, 500.0) if depth == "float32" else (0.0, 65535.0),), **fields})


# Values


def test_values_are_what_the_ranges_say() -> None:
    two = Bands(count=2, depth="uint16", ranges=((100, 300), (0, 65535)))
    pixels = np.array([[[100, 0], [200, 65535], [300, 0], [0, 1], [999, 2]]], dtype=np.uint16)
    x = two.normalized(pixels)
    assert np.allclose(x[0, :, 0], [-1, 0, 1, -1, 1]) and np.allclose(x[0, :2, 1], [-1, 1])
    back = two.stored(x)
    assert back.dtype == np.uint16 and back[0, :, 0].tolist() == [100, 200, 300, 100, 300] and back[0, 1, 1] == 65535


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_every_integer_comes_back(depth: str) -> None:
    limit = np.iinfo(depth).max
    every = np.arange(limit + 1, dtype=depth).reshape(1, -1, 1)
    known = Bands(count=1, depth=depth, ranges=((0, limit),))
    assert np.array_equal(known.stored(known.normalized(every)), every)


def test_plain_images_are_normalized_as_uint8_tensors_are() -> None:
    from unflip.data.transforms import to_network

    image = noise(5, 7, 3, dtype="uint8")
    assert np.array_equal(RGB.normalized(image), to_network(torch.from_numpy(image)).numpy())


def test_nothing_is_stored_as_nothing_and_nowhere_else() -> None:
    valid = np.array([[True, False, True]])
    x = np.array([[[-1.0], [0.3], [1.0]]], dtype=np.float32)
    known = Bands(count=1, depth="uint16", ranges=((0, 1000),))
    assert known.stored(x, valid, nodata=0).ravel().tolist() == [1, 0, 1000], "a valid 0 would read as nothing"
    assert known.stored(x, valid, nodata=65535).ravel().tolist() == [0, 65535, 1000]
    assert known.stored(x, valid).ravel().tolist() == [0, 0, 1000], "without such a value, black"
    top = Bands(count=1, depth="uint8", ranges=((0, 255),))
    assert top.stored(x, valid, nodata=255).ravel().tolist() == [0, 255, 254]
    floats = Bands(count=1, depth="float32", ranges=((0, 10),))
    assert np.array_equal(floats.stored(x, valid).ravel(), [0, np.nan, 10], equal_nan=True)
    assert floats.stored(x, valid, nodata=-9999).ravel().tolist() == [0, -9999, 10]


def test_what_stands_for_nothing_is_what_is_stored() -> None:
    assert [RGB.empty(value) for value in (None, 0, 255, -9999, 3.5, 256)] == [None, 0, 255, 0, 0, 0]
    assert [bands(1, "float32").empty(value) for value in (None, -9999, -1.7976931348623157e308)] == [None, -9999, 0]
    assert bands(1, nodata=7).empty(0) == 7
    x = np.array([[[-1.0], [0.0], [1.0]]], dtype=np.float32)
    for known in (Bands(count=1, depth="uint16", ranges=((0, 4000),)), Bands(count=1, depth="float32", ranges=((0, 4000),))):
        found = known.stored(x, None, 0.0).ravel()  # no hole in this image, or in this window of it; the file still says what one is
        assert found[0] > 0 and found[0] <= 1 and found[2] == 4000
    assert bands(1, "float32").stored(3 * x).max() == 500, "not beyond the range, whatever a resize did"


def test_views() -> None:
    assert RGB.view(noise(4, 5, 3, dtype="uint8")).tolist() == noise(4, 5, 3, dtype="uint8").tolist()
    one = Bands(count=1, depth="uint16", ranges=((0, 1000),)).view(np.array([[[0], [500], [1000], [9000]]], np.uint16))
    assert one.shape == (1, 4, 3) and one[0, :, 0].tolist() == one[0, :, 2].tolist() == [0, 128, 255, 255]
    five = Bands(count=5, depth="float32", ranges=((0, 1),)).view(np.linspace(0, 1, 5, dtype=np.float32)[None, None])
    assert five.ravel().tolist() == [0, 64, 128]
    hidden = RGB.view(np.full((1, 2, 3), 9, np.uint8), np.array([[True, False]]))
    assert hidden[0, :, 0].tolist() == [9, 0]


def test_ranges_that_are_none_are_refused() -> None:
    for ranges in ([], [[1, 1]], [[2, 1]], [[0, 1], [0, 1]]):
        with pytest.raises(ValidationError, match="range"):
            Bands(count=3, ranges=ranges)
    with pytest.raises(ValidationError, match="percentiles"):
        GivenBands(percentiles=(50, 50))
    with pytest.raises(ValidationError, match="range"):
        GivenBands(ranges=((3, 2),))


def test_other_depths_keep_units_or_fill_their_range() -> None:
    known = Bands(count=1, depth="uint16", ranges=((200, 3200),), nodata=0)
    x = known.normalized(np.array([[[200], [1700], [3200]]], np.uint16))
    assert known.of_depth("uint8").stored(x).ravel().tolist() == [0, 128, 255]
    assert known.of_depth("float32").stored(x).ravel().tolist() == [200, 1700, 3200]
    assert RGB.of_depth("uint16").stored(RGB.normalized(np.full((1, 1, 3), 255, np.uint8))).tolist() == [[[65535] * 3]]
    assert RGB.of_depth("uint8") is RGB


def test_bands_are_repeated_and_averaged_again() -> None:
    x = torch.arange(2 * 2 * 3.0).reshape(2, 2, 3)
    wide = widened(x, 5)
    assert [int(band[0, 0]) for band in wide] == [0, 6, 0, 6, 0] and torch.equal(narrowed(wide, 2), x)
    assert widened(x, 2) is x and narrowed(x, 2) is x
    uneven = torch.tensor([0.0, 1, 2, 3, 4]).reshape(5, 1, 1)
    assert narrowed(uneven, 2).ravel().tolist() == [2, 2]


# Files


KINDS = [(depth, count, suffix) for depth in ("uint8", "uint16", "float32") for count in (1, 2, 3, 4, 5) for suffix in (".tif", ".tiff")]
KINDS += [("uint16", 1, ".png"), ("uint16", 3, ".png"), ("uint8", 1, ".png"), ("uint8", 3, ".png"), ("uint8", 1, ".bmp")]


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(("depth", "count", "suffix"), KINDS)
def test_what_is_written_is_read_again(tmp_path: Path, depth: str, count: int, suffix: str, alpha: bool) -> None:
    path, pixels = tmp_path / f"a{suffix}", noise(17, 23, count, dtype=depth)
    given = noise(17, 23, dtype=depth, seed=1) if alpha else None
    if given is not None and depth == "float32":
        given = np.abs(given) / 1000
    write(path, pixels, given)
    kept = alpha and suffix != ".bmp"
    header = check(path)
    assert header[:2] == (23, 17) and header.kind == Kind(count, depth, kept, None)  # type: ignore[arg-type]
    found = read(path, bands=bands(count, depth) if depth != "uint8" else Bands(count=count))
    assert found.pixels.dtype == depth and np.array_equal(found.pixels, pixels)
    assert (found.alpha is not None) == kept and (not kept or np.array_equal(found.alpha, given))
    assert found.valid is None and found.size == (23, 17)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_of_another_depth_stays_as_opaque(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"a{suffix}", noise(1, 3, 3), np.array([[0, 128, 255]], np.uint8))
    assert read(tmp_path / f"a{suffix}", bands=bands(3)).alpha.tolist() == [[0, 32896, 65535]]  # type: ignore[union-attr]
    write(tmp_path / f"b{suffix}", noise(1, 3, 3, dtype="uint8"), np.array([[0, 32896, 65535]], np.uint16))
    assert read(tmp_path / f"b{suffix}").alpha.tolist() == [[0, 128, 255]]  # type: ignore[union-attr]


def test_names_of_files_that_can_hold_it() -> None:
    four, deep, gray = bands(4), bands(3), Bands(count=1)
    assert [name_for("a/b.png", each) for each in (RGB, gray, deep, four)] == ["a/b.png", "a/b.png", "a/b.png", "a/b.tif"]
    assert [name_for("a.JPG", each) for each in (RGB, gray, deep)] == ["a.JPG", "a.JPG", "a.tif"]
    assert name_for("a.webp", gray) == "a.tif" and name_for("a.tiff", four) == "a.tiff"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_images_are_turned_as_shallow_ones_are(tmp_path: Path, orientation: int, suffix: str) -> None:
    shallow = noise(5, 8, 3, dtype="uint8")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(shallow).save(tmp_path / "shallow.png", exif=exif)
    path = tmp_path / f"deep.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, shallow.astype(np.uint16), photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    else:
        stored = imagecodecs.png_encode(shallow.astype(np.uint16))
        chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        import struct
        import zlib

        body = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path.write_bytes(stored[:33] + body + stored[33:])
    expected = read_rgb(tmp_path / "shallow.png")
    found = read(path, bands=bands(3))
    assert np.array_equal(found.pixels, expected) and check(path)[:2] == expected.shape[1::-1]


def tiffs() -> dict[str, dict[str, Any]]:
    return {
        "strips": {"rowsperstrip": 5},
        "one strip": {},
        "tiles": {"tile": (16, 32)},
        "deflate": {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
        "lzw": {"compression": "lzw", "tile": (16, 16)},
        "zstd": {"compression": "zstd", "rowsperstrip": 3},
        "big": {"bigtiff": True, "tile": (32, 16)},
        "big-endian": {"byteorder": ">", "rowsperstrip": 4},
        "big-endian in one": {"byteorder": ">"},
    }


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int16", "float64"])
@pytest.mark.parametrize("planar", ["contig", "separate", "pages"])
@pytest.mark.parametrize("layout", tiffs())
def test_any_window_of_any_tiff(tmp_path: Path, layout: str, planar: str, dtype: str) -> None:
    """Against tifffile's own reading of the whole."""
    rng = np.random.default_rng(0)
    image = (rng.normal(0, 50, (41, 53, 5)) if dtype == "float64" else rng.integers(0, 200, (41, 53, 5))).astype(dtype)
    options = tiffs()[layout]
    if dtype == "float64" and "predictor" in options:
        options["predictor"] = False
    path = tmp_path / "a.tif"
    if planar == "contig":
        tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig", **options)
    elif planar == "separate":
        tifffile.imwrite(path, image.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate", **options)
    else:
        tifffile.imwrite(path, image.transpose(2, 0, 1), photometric="minisblack", **options)
    with open(path, "rb") as file:
        tiff = Tiff(file)
        depth = dtype if dtype in ("uint8", "uint16") else "float32"
        assert (tiff.width, tiff.height, tiff.count, tiff.depth, tiff.alpha) == (53, 41, 5, depth, False)
        for box in [(0, 0, 41, 53), (0, 0, 1, 1), (40, 52, 41, 53), (3, 14, 29, 51), (16, 16, 32, 32), (0, 5, 41, 6)]:
            top, left, bottom, right = box
            found, _ = tiff.read(*box)
            assert found.dtype == depth and np.array_equal(found, image[top:bottom, left:right].astype(depth)), box


def test_ome_channels_are_bands_and_stacks_are_refused(tmp_path: Path) -> None:
    image = noise(3, 20, 30)
    tifffile.imwrite(tmp_path / "a.ome.tif", image, metadata={"axes": "CYX"}, ome=True, photometric="minisblack")
    assert np.array_equal(read(tmp_path / "a.ome.tif", bands=bands(3)).pixels, image.transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "z.ome.tif", image, metadata={"axes": "ZYX"}, ome=True, photometric="minisblack")
    with pytest.raises(UserError, match=r"z\.ome\.tif \(a stack of images \(ZYX, 3x20x30\)\)"):
        check(tmp_path / "z.ome.tif")
    tifffile.imwrite(tmp_path / "c.tif", image[0].astype(np.complex64))
    with pytest.raises(UserError, match=r"c\.tif \(values of type complex64\)"):
        check(tmp_path / "c.tif")


def test_white_can_be_zero(tmp_path: Path) -> None:
    image = noise(9, 9)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="miniswhite")
    assert np.array_equal(read(tmp_path / "a.tif", bands=bands(1)).pixels[..., 0], 65535 - image)


@pytest.mark.parametrize("nodata", [None, 77])
def test_windows_of_a_sparse_file_are_nothing(tmp_path: Path, nodata: int | None) -> None:
    path = tmp_path / "a.tif"
    image = noise(64, 64)
    tags = [] if nodata is None else [(42113, 2, 0, str(nodata), True)]
    tifffile.imwrite(path, image, tile=(32, 32), compression="zlib", extratags=tags)
    with tifffile.TiffFile(path, mode="r+b") as file:
        counts, offsets = file.pages[0].tags[325], file.pages[0].tags[324]  # type: ignore[union-attr]
        counts.overwrite([0, *counts.value[1:]])
        offsets.overwrite([0, *offsets.value[1:]])
    image[:32, :32] = nodata or 0
    found = read(path, bands=bands(1))
    assert np.array_equal(found.pixels[..., 0], image)
    assert (found.valid is None) if nodata is None else not found.valid[:32, :32].any()  # type: ignore[index]


def test_padded_strips_and_packed_bits(tmp_path: Path) -> None:
    """Against tifffile's own reading."""
    path, image = tmp_path / "a.tif", noise(16, 16)
    tifffile.imwrite(path, np.concatenate([image, image]), rowsperstrip=16)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page: Any = file.pages[0]
        page.tags[257].overwrite(30)  # two rows less in the second strip, whose bytes stay
    assert np.array_equal(read(path, bands=bands(1)).pixels[..., 0], np.concatenate([image, image])[:30])
    twelve = noise(20, 30) % 4096
    tifffile.imwrite(path, twelve, bitspersample=12, photometric="minisblack")
    assert np.array_equal(read(path, bands=bands(1)).pixels[..., 0], twelve)
    with open(path, "rb") as stream:
        assert np.array_equal(Tiff(stream).read(3, 5, 11, 29)[0][..., 0], twelve[3:11, 5:29])


def test_colors_times_alpha_become_colors(tmp_path: Path) -> None:
    image, alpha = noise(9, 9, 3, seed=3), noise(9, 9, seed=4) // 2 + 2**15
    times = np.rint(image * (alpha[..., None] / 65535.0)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([times, alpha]), photometric="rgb", extrasamples=["assocalpha"])
    found = read(tmp_path / "a.tif", bands=bands(3))
    assert np.abs(found.pixels.astype(int) - image).max() <= 1 and np.array_equal(found.alpha, alpha)  # type: ignore[arg-type]


def test_nodata_is_of_the_values_as_they_are_stored(tmp_path: Path) -> None:
    image = noise(9, 9).clip(1)
    image[:3] = 0
    tags = [(42113, 2, 0, "0", True)]
    tifffile.imwrite(tmp_path / "white.tif", image, photometric="miniswhite", extratags=tags)
    found = read(tmp_path / "white.tif", bands=bands(1))
    assert found.valid is not None and not found.valid[:3].any() and found.valid[3:].all() and found.nodata == 65535
    tifffile.imwrite(
        tmp_path / "palette.tif",
        (image % 4).astype(np.uint8),
        photometric="palette",
        colormap=np.tile(np.arange(255, -1, -1, dtype=np.uint16) * 257, (3, 1)),
        extratags=tags,
    )
    assert read(tmp_path / "palette.tif").valid is None, "an index is no color"
    tifffile.imwrite(tmp_path / "bits.tif", image > 30_000, photometric="miniswhite")
    with open(tmp_path / "bits.tif", "rb") as stream:
        assert np.array_equal(Tiff(stream).read(0, 0, 9, 9)[0][..., 0], np.where(image > 30_000, 0, 255))


@pytest.mark.parametrize("count", [1, 3])
def test_a_transparent_color_of_a_deep_png_is_alpha(tmp_path: Path, count: int) -> None:
    import struct
    import zlib

    image = noise(8, 9, count)
    data = imagecodecs.png_encode(image if count > 1 else image[..., 0])
    chunk = b"tRNS" + struct.pack(f">{count}H", *image[2, 3].tolist())
    body = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(data[:33] + body + data[33:])
    found = read(tmp_path / "a.png", bands=bands(count))
    assert np.array_equal(found.pixels, image) and found.alpha is not None and found.alpha[2, 3] == 0 and found.alpha[0, 0] == 65535


def test_many_small_tiles_are_read_in_a_moment(tmp_path: Path) -> None:
    import time

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((1024, 1024), np.uint16), tile=(16, 16), compression="zlib")
    began = time.monotonic()
    read(tmp_path / "a.tif", bands=bands(1))
    assert time.monotonic() - began < 5


def test_headers_that_cannot_be_are_refused_at_once(tmp_path: Path) -> None:
    def said(change: dict[int, Any], **options: Any) -> str:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, noise(40, 40), photometric="minisblack", **options)
        with tifffile.TiffFile(path, mode="r+b") as file:
            page: Any = file.pages[0]
            for code, value in change.items():
                page.tags[code].overwrite(value)
        with pytest.raises(UserError) as refused:
            check(path)
        assert "\n" not in str(refused.value) and "a.tif" in str(refused.value)
        return str(refused.value)

    assert "1 strips or tiles instead of 2" in said({257: 41}, rowsperstrip=40)
    said({256: 0}, rowsperstrip=10)
    said({278: 0}, rowsperstrip=10)
    assert "strips or tiles of 8192x8192" in said({322: 8192, 323: 8192}, tile=(48, 48), compression="zlib")
    only = tmp_path / "only.tif"
    tifffile.imwrite(only, noise(40, 40), photometric="minisblack", extratags=[(338, 3, 1, 2, True)])
    assert check(only).kind.bands == 1


def test_floats_beyond_float32_are_nothing(tmp_path: Path) -> None:
    image = np.ones((4, 4))
    image[0] = -1.7976931348623157e308
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(42113, 2, 0, "-1.7976931348623157e+308", True)])
    found = read(tmp_path / "a.tif", bands=bands(1, "float32"))
    assert found.valid is not None and not found.valid[0].any() and found.valid[1:].all()
    assert bands(1, "float32").view(np.array([[[np.nan]]], np.float32)).tolist() == [[[0] * 3]], "nothing is black"


@pytest.mark.parametrize("shape", [(300, 1300, 3), (1030, 17, 1), (1500, 1100, 4), (5, 7, 2)])
def test_rows_of_any_height_are_written(shape: tuple[int, int, int]) -> None:
    image, file = noise(*shape), io.BytesIO()
    cuts = [0, *sorted(np.random.default_rng(1).integers(1, shape[0], 4).tolist()), shape[0]]
    write_tiff(file, (image[a:b] for a, b in itertools.pairwise(cuts)), shape, np.uint16)
    file.seek(0)
    assert np.array_equal(tifffile.imread(file).reshape(shape), image)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        assert tiff.pages[0].is_tiled == (max(shape) > 1024)  # type: ignore[union-attr]


# Nodata


def test_nodata_of_gdal_s_tag_nan_and_transparency(tmp_path: Path) -> None:
    image = np.abs(noise(6, 7, 2, dtype="float32"))
    image[0, 0] = -9999
    image[1, 1, 0] = -9999  # in one band only: a value like any other
    image[2, 2, 1] = np.nan
    image[3, 3] = np.inf
    (tmp_path / "a.tif").write_bytes(encode("a.tif", image, nodata=-9999))
    assert check(tmp_path / "a.tif").kind == Kind(2, "float32", False, -9999)
    found = read(tmp_path / "a.tif", bands=bands(2, "float32"))
    assert found.nodata == -9999 and found.valid is not None
    assert sorted(map(tuple, np.argwhere(~found.valid).tolist())) == [(0, 0), (2, 2), (3, 3)]
    x = bands(2, "float32").normalized(found.pixels, found.valid)
    assert np.isnan(x).any(2).sum() == 3 and np.abs(x[np.isfinite(x)]).max() <= 1

    named = read(tmp_path / "a.tif", bands=bands(2, "float32", nodata=float(image[5, 5, 0])))
    assert named.valid is not None and named.valid[0, 0] and named.nodata == image[5, 5, 0], "what the configuration names goes first"

    color, alpha = noise(6, 7, 3, dtype="uint8"), np.full((6, 7), 255, np.uint8)
    alpha[:2], alpha[3, 3] = 0, 1
    write(tmp_path / "c.png", color, alpha)
    assert read(tmp_path / "c.png").valid is None, "transparent pixels have colors"
    masked = read(tmp_path / "c.png", bands=Bands(masked=True))
    assert masked.valid is not None and np.array_equal(masked.valid, alpha > 0) and np.array_equal(masked.pixels, color)


def test_nothing_is_not_mixed_with_its_surroundings(tmp_path: Path) -> None:
    image = np.full((16, 16, 1), 100, np.float32)
    image[:, 8:] = -9999
    (tmp_path / "a.tif").write_bytes(encode("a.tif", image, nodata=-9999))
    found = read(tmp_path / "a.tif", "5x5", bands=bands(1, "float32"))
    assert np.allclose(found.pixels, 100) and found.valid is not None and found.valid.shape == (16, 16)
    assert resized(image, (5, 5)).min() < -9000, "which would be seen"


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_deep_bands_are_resized_as_photos_are(depth: str) -> None:
    coarse = noise(6, 6, 3, dtype="uint8") // 2 + 64  # far from the ends, where Pillow clips between its two passes
    smooth = np.asarray(Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC))
    expected = np.asarray(Image.fromarray(smooth).resize((13, 11), Image.Resampling.BICUBIC)).astype(float)
    assert np.abs(resized(smooth.astype(depth), (13, 11)).astype(float) - expected).max() <= 1


def test_8_bit_geotiffs_have_nodata_too(tmp_path: Path) -> None:
    image = noise(9, 11, 3, dtype="uint8").clip(1, 255)
    image[:3, :4] = 0
    (tmp_path / "a.tif").write_bytes(encode("a.tif", image, nodata=0))
    found = read(tmp_path / "a.tif")
    assert found.nodata == 0 and found.valid is not None and (~found.valid).sum() == 12 and np.array_equal(found.pixels, image)


def test_flat_colors_are_not_mixed_where_there_is_nodata_either(tmp_path: Path) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 5:11], image[:, 11:] = (200, 10, 10), (10, 10, 200)
    for nodata in (None, 0):
        (tmp_path / "a.tif").write_bytes(encode("a.tif", image, nodata=nodata))
        found = read(tmp_path / "a.tif", "7x7").pixels
        assert {tuple(color) for color in found.reshape(-1, 3).tolist()} == {(0, 0, 0), (200, 10, 10), (10, 10, 200)}


# What a folder's images have in common


def folder(tmp_path: Path, **images: np.ndarray | tuple[np.ndarray, np.ndarray] | bytes) -> list[Entry]:
    for name, image in images.items():
        path = tmp_path / name.replace("_", ".")
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            write(path, *(image if isinstance(image, tuple) else (image,)))
    return survey(sorted(tmp_path.iterdir()))


def test_8_bit_images_are_color_unless_all_are_gray(tmp_path: Path) -> None:
    gray, color = noise(8, 8, 1, dtype="uint8"), noise(8, 8, 3, dtype="uint8")
    both = folder(tmp_path, a_png=gray, b_png=color)
    assert find_bands(both, GivenBands(), "source") == RGB
    assert find_bands(both[:1], GivenBands(), "source") == Bands(count=1)
    assert find_bands(both[:1], GivenBands(count=3), "source") == RGB
    assert find_bands(both, GivenBands(count=1), "source") == Bands(count=1)
    assert np.array_equal(read(both[0].path, bands=Bands(count=1)).pixels, gray)
    assert np.array_equal(read(both[1].path, bands=Bands(count=1)).pixels[..., 0], np.array(Image.fromarray(color).convert("L")))
    with pytest.raises(UserError, match=r"data\.source_bands\.count asks for 4 bands; use 1 or 3"):
        find_bands(both, GivenBands(count=4), "source")
    assert find_bands(both, GivenBands(ranges=((0, 100),)), "source").ranges == ((0, 100),)
    assert find_bands(both, GivenBands(percentiles=(5, 95)), "source").ranges != RGB.ranges, "where it is asked for"


def test_ranges_are_percentiles_of_what_is_valid(tmp_path: Path) -> None:
    first, second = noise(30, 30, 2, seed=1), noise(20, 20, 2, seed=2) // 4
    second[:10] = 0
    entries = folder(tmp_path, a_tif=encode("a.tif", first, nodata=0), b_tif=encode("b.tif", second, nodata=0))
    found = find_bands(entries, GivenBands(), "target")
    assert (found.count, found.depth, found.nodata, found.masked) == (2, "uint16", 0, True)
    together = np.concatenate([first.reshape(-1, 2), second[10:].reshape(-1, 2)])
    expected = np.percentile(together, (0.1, 99.9), axis=0)
    assert np.allclose(np.array(found.ranges), expected.T)
    ends = find_bands(entries, GivenBands(percentiles=(0, 100)), "target").ranges
    assert ends == tuple((float(band.min()), float(band.max())) for band in together.T)
    assert find_bands(entries, GivenBands(), "target") == found, "the same whenever it is looked"
    with pytest.raises(UserError, match=r"data\.target_bands\.ranges: 3 for 2 bands"):
        find_bands(entries, GivenBands(ranges=((0, 1),) * 3), "target")
    with pytest.raises(UserError, match="asks for 3; leave it out"):
        find_bands(entries, GivenBands(count=3), "target")


def test_signed_bytes_are_no_unsigned_ones(tmp_path: Path) -> None:
    image = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    (entry,) = survey([tmp_path / "a.tif"])
    assert entry.kind.depth == "float32"
    found = read(tmp_path / "a.tif", bands=Bands(count=1, depth="float32", ranges=((-128, 127),), masked=True))
    assert np.array_equal(found.pixels[..., 0], image)


def test_the_rarer_kind_is_named(tmp_path: Path) -> None:
    """8-bit gray among color is none of its own."""
    color, deep = noise(8, 8, 3, dtype="uint8"), noise(8, 8, 1)
    odd = folder(tmp_path, a_tif=color, b_tif=noise(8, 8, 1, dtype="uint8"), c_tif=deep, d_tif=deep, e_tif=color)
    with pytest.raises(UserError, match=r"a\.tif is uint8 with 3 bands and .*c\.tif is uint16 with 1 band;"):
        find_bands(odd, GivenBands(), "source")


def test_what_cannot_be_brought_together_is_named(tmp_path: Path) -> None:
    entries = folder(tmp_path, a_tif=noise(8, 8, 4), b_tif=noise(8, 8, 3))
    with pytest.raises(UserError, match=r"not of one kind: .*a\.tif is uint16 with 4 bands and .*b\.tif is uint16 with 3 bands"):
        find_bands(entries, GivenBands(), "source")
    write(tmp_path / "b.tif", noise(8, 8, 4, dtype="uint8"))
    with pytest.raises(UserError, match="uint8 with 4 bands"):
        find_bands(survey(sorted(tmp_path.iterdir())), GivenBands(), "source")
    for name, value in (("a", 0), ("b", 7)):
        (tmp_path / f"{name}.tif").write_bytes(encode("x.tif", noise(8, 8, 1), nodata=value))
    with pytest.raises(UserError, match=r"different values for nodata \(0, 7\); make them one, or name data\.source_bands\.nodata"):
        find_bands(survey(sorted(tmp_path.iterdir())), GivenBands(), "source")
    flat = folder(tmp_path / "flat" if (tmp_path / "flat").mkdir() is None else tmp_path, a_tif=np.full((8, 8, 1), 7, np.uint16))
    with pytest.raises(UserError, match=r"band 1 of the source images is 7 everywhere; give data\.source_bands\.ranges"):
        find_bands(flat, GivenBands(), "source")
    empty = np.full((8, 8, 1), np.nan, np.float32)
    with pytest.raises(UserError, match="none of 1 source images that were looked at holds anything"):
        find_bands(folder(tmp_path / "empty" if (tmp_path / "empty").mkdir() is None else tmp_path, a_tif=empty), GivenBands(), "source")


def test_alpha_masks_only_where_something_is_transparent(tmp_path: Path) -> None:
    color, opaque = noise(8, 8, 3, dtype="uint8"), np.full((8, 8), 255, np.uint8)
    entries = folder(tmp_path, a_png=(color, opaque), b_png=color)
    assert entries[0].kind.alpha and find_bands(entries, GivenBands(), "source") == RGB
    hole = opaque.copy()
    hole[0, 0] = 0
    entries = folder(tmp_path, a_png=(color, hole))
    assert find_bands(entries, GivenBands(), "source") == Bands(masked=True)


def test_one_transparent_image_among_many_is_found(tmp_path: Path) -> None:
    flat, hole = np.full((8, 8, 3), 7, np.uint8), np.zeros((8, 8), np.uint8)
    hole[0] = 255
    opaque, holed = folder(tmp_path, a_png=(flat, np.full((8, 8), 255, np.uint8)), b_png=(flat, hole))
    among = [opaque, holed, *[opaque] * (2 * LOOKED_AT - 2)]
    looked: list[int] = []
    assert find_bands(among, GivenBands(), "source", lambda done, total: looked.append(done)) == Bands(masked=True)
    assert looked == [1, 2], "what comes after it decides nothing"
    assert find_bands(among, GivenBands(ranges=((0, 100),)), "source") == Bands(masked=True, ranges=((0, 100),))
    assert find_bands([opaque] * len(among), GivenBands(), "source") == RGB


def test_damaged_deep_files_are_one_line(tmp_path: Path) -> None:
    for name, data in (("a.tif", encode("a.tif", noise(40, 40, 4))), ("a.png", encode("a.png", noise(40, 40, 3)))):
        path = tmp_path / name
        rng = np.random.default_rng(0)
        for at in [*rng.integers(8, len(data), 20).tolist(), 0, 9, 30]:
            path.write_bytes(data[:at])
            with pytest.raises(UserError) as refused:
                check(path)
            assert name in str(refused.value) and "\n" not in str(refused.value)
        for _ in range(60):  # flipped bytes: read, or refused in one line
            broken = bytearray(data)
            broken[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(broken))
            try:
                assert math.prod(read(path, bands=bands(4 if name == "a.tif" else 3)).size) > 0
            except UserError as error:
                assert name in str(error) and "\n" not in str(error)


# On Earth


def test_geotiffs_stay_where_they_are(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.transform import from_origin

    profile = {"driver": "GTiff", "width": 40, "height": 30, "count": 4, "dtype": "uint16", "crs": "EPSG:32633", "nodata": 0}
    place = from_origin(399_960, 5_100_000, 10, 10)
    with rasterio.open(tmp_path / "a.tif", "w", transform=place, **profile) as file:
        file.write(noise(4, 30, 40).clip(1))
    found = read(tmp_path / "a.tif", bands=bands(4))
    assert {tag.code for tag in found.georeference} <= set(GEOREFERENCE) and len(found.georeference) >= 3
    (tmp_path / "b.tif").write_bytes(encode("b.tif", found.pixels, None, found.nodata, found.georeference))
    with rasterio.open(tmp_path / "b.tif") as file, rasterio.open(tmp_path / "a.tif") as before:
        assert file.crs == before.crs and file.transform == before.transform == place and file.nodata == 0
        assert np.array_equal(file.read(), before.read()) and file.dtypes == before.dtypes


def test_the_polynomials_of_a_camera_are_kept(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    from rasterio.rpc import RPC

    terms = {f"{of}_coeff": [float(k) for k in range(20)] for of in ("line_num", "line_den", "samp_num", "samp_den")}
    ends = {f"{of}_{what}": 1.5 for of in ("height", "lat", "line", "long", "samp") for what in ("off", "scale")}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", width=40, height=30, count=4, dtype="uint16") as file:
        file.write(noise(4, 30, 40).clip(1))
        file.rpcs = RPC(**terms, **ends)
    found = read(tmp_path / "a.tif", bands=bands(4))
    (tmp_path / "b.tif").write_bytes(encode("b.tif", found.pixels, None, found.nodata, found.georeference))
    with rasterio.open(tmp_path / "b.tif") as file, rasterio.open(tmp_path / "a.tif") as before:
        assert file.rpcs is not None and file.rpcs.to_dict() == before.rpcs.to_dict()
