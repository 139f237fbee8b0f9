"""TIFF files translated from disk to disk by tiles: the same pixels as of the whole image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import unflip
from test_deep import HEIGHT, OPTICAL, SAR, make, scene
from unflip.data.bands import RGB, Bands
from unflip.data.images import read
from unflip.data.save import encode, write
from unflip.errors import UserError
from unflip.files import disk_errors
from unflip.inference import work
from unflip.inference.folders import Outcome, translate_folder
from unflip.inference.translator import Translator
from unflip.inference.windows import Large, large


def tiled(folder: Path, tile: int | str = 64, **more: Any) -> Translator:
    return unflip.load(folder / "model", device="cpu", tile=tile, **more)  # type: ignore[arg-type]


def translated(translator: Translator, source: Path, out: Path) -> Outcome:
    return translate_folder(translator, source, out, progress=False)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that were translated in windows."""
    seen: list[str] = []

    def noted(path: str, *more: Any) -> Large | None:
        found = large(path, *more)
        seen.extend([path] if found else [])
        return found

    monkeypatch.setattr(work, "large", noted)
    return seen


ENDS = {"optical": (OPTICAL, SAR), "height": (HEIGHT, OPTICAL), "color": (RGB, RGB), "gray": (Bands(count=1), HEIGHT)}


@pytest.mark.parametrize("statistics", ["exact", "estimated"])
@pytest.mark.parametrize("ends", ENDS)
def test_windows_are_the_tiles_of_the_whole(tmp_path: Path, windows: list[str], ends: str, statistics: str) -> None:
    source, target = ENDS[ends]
    make(tmp_path, source, target)
    image, alpha = scene(150, 181, source), None
    if source.nodata is not None:
        image[:40, 100:] = source.nodata
    else:
        alpha = np.arange(150 * 181, dtype=np.uint32).reshape(150, 181).astype(np.uint8)
    (tmp_path / "a.tif").write_bytes(encode("a.tif", image, alpha, source.nodata))
    tiles = tiled(tmp_path, statistics=statistics)
    assert translated(tiles, tmp_path / "a.tif", tmp_path / "out").done == 1 and windows == [str(tmp_path / "a.tif")]
    found, given = read(tmp_path / "out/a.tif", bands=target), read(tmp_path / "a.tif", bands=source)
    expected = tiles.pixels(given.pixels, given.size, given.valid, given.nodata)
    assert np.array_equal(found.pixels, expected, equal_nan=True) and found.pixels.std() > 0
    if alpha is not None:
        assert found.alpha is not None and np.array_equal((found.alpha * (255 if target.depth == "float32" else 1)).round(), alpha)
    else:
        assert found.valid is not None and np.array_equal(found.valid, given.valid)
    if statistics == "exact" and target.depth != "float32":
        whole = tiled(tmp_path, "none")(image).astype(float)
        spread = max(high - low for low, high in target.ranges) / 255
        assert np.abs(whole[: found.size[1]] - found.pixels)[given.valid if given.valid is not None else ...].max() <= spread


def test_a_georeference_is_kept_by_windows(tmp_path: Path, windows: list[str]) -> None:
    rasterio = pytest.importorskip("rasterio")
    make(tmp_path, OPTICAL, SAR)
    place = rasterio.transform.from_origin(399_960, 5_100_000, 10, 10)
    profile = {"driver": "GTiff", "width": 90, "height": 70, "count": 4, "dtype": "uint16", "crs": "EPSG:32633", "nodata": 0}
    options = {"tiled": True, "blockxsize": 32, "blockysize": 16, "interleave": "band", "compress": "deflate", "predictor": 2}
    with rasterio.open(tmp_path / "a.tif", "w", transform=place, **profile, **options) as file:
        file.write(scene(70, 90, OPTICAL).transpose(2, 0, 1))
    translated(tiled(tmp_path), tmp_path / "a.tif", tmp_path / "out")
    assert windows
    with rasterio.open(tmp_path / "out/a.tif") as file:
        assert (file.crs.to_epsg(), file.transform, file.nodata, file.count) == (32633, place, 0, 1)


def test_valid_pixels_of_windows_without_holes_are_valid(tmp_path: Path, windows: list[str]) -> None:
    """A translation of the lowest value everywhere: it would read as nothing."""
    bands = Bands(count=1, depth="uint16", ranges=((0, 4000),), nodata=0, masked=True)
    make(tmp_path, bands, bands)
    image = scene(200, 200, bands)
    image[:4, :4] = 0
    (tmp_path / "a.tif").write_bytes(encode("a.tif", image, nodata=0))
    translator = tiled(tmp_path)
    translator.generator.run = lambda x, *more: (-torch.ones_like(x), ())  # type: ignore[method-assign, assignment]
    translated(translator, tmp_path / "a.tif", tmp_path / "out")
    found = read(tmp_path / "out/a.tif", bands=bands)
    assert windows and found.valid is not None and np.argwhere(~found.valid).max() == 3 and (~found.valid).sum() == 16


def test_what_is_not_read_in_windows(tmp_path: Path, windows: list[str]) -> None:
    from PIL import Image

    make(tmp_path, RGB, RGB)
    image = scene(100, 120, RGB)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).quantize(64).save(tmp_path / "in/palette.tif")
    Image.fromarray(image).convert("CMYK").save(tmp_path / "in/cmyk.tif")
    tifffile.imwrite(tmp_path / "in/turned.tif", image, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    write(tmp_path / "in/a.png", image)
    outcome = translated(tiled(tmp_path), tmp_path / "in", tmp_path / "out")
    assert outcome.done == 4 and not windows
    write(tmp_path / "in/small.tif", image[:50, :50])
    assert translated(tiled(tmp_path), tmp_path / "in", tmp_path / "out").done == 1 and not windows
    write(tmp_path / "one.tif", image)
    outcome = translate_folder(tiled(tmp_path), tmp_path / "one.tif", tmp_path / "trusted", progress=False, trust=True)
    assert outcome.done == 1 and not windows, "a trust map looks at the whole"


@pytest.mark.parametrize("compression", ["jpeg2000", "jpegxl"])
def test_no_codec_is_decoded_in_windows_that_is_not_decoded_as_a_whole(tmp_path: Path, windows: list[str], compression: str) -> None:
    make(tmp_path, RGB, RGB)
    write(tmp_path / "in/a.png", scene(100, 120, RGB))
    tifffile.imwrite(tmp_path / "in/b.tif", scene(200, 200, RGB), photometric="rgb", tile=(64, 64), compression=compression)
    whole = translated(tiled(tmp_path, "none"), tmp_path / "in", tmp_path / "whole")
    found = translated(tiled(tmp_path), tmp_path / "in", tmp_path / "out")
    assert not windows and found.failed == whole.failed and len(found.failed) == 1


def test_a_damaged_file_is_listed_and_leaves_nothing(tmp_path: Path, windows: list[str]) -> None:
    make(tmp_path, SAR, SAR)
    for name in ("a", "b"):
        path = tmp_path / f"in/{name}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, scene(200, 200, SAR)[..., 0], tile=(64, 64), compression="zlib")
    data = bytearray((tmp_path / "in/a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "in/a.tif") as file:
        offset = file.pages[0].dataoffsets[-1]
    data[offset : offset + 40] = bytes(40)
    (tmp_path / "in/a.tif").write_bytes(bytes(data))
    outcome = translated(tiled(tmp_path), tmp_path / "in", tmp_path / "out")
    assert outcome.done == 1 and len(outcome.failed) == 1 and len(windows) == 2
    assert outcome.failed[0].startswith("broken or truncated image, ") and "a.tif" in outcome.failed[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.tif", "manifest.jsonl"]


def test_a_full_disk_ends_the_whole(tmp_path: Path, windows: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, SAR, SAR)
    for name in ("a", "b"):
        write(tmp_path / f"in/{name}.tif", scene(200, 200, SAR))

    def full(*given: Any) -> None:
        with disk_errors(tmp_path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(work, "translate_large", full)
    with pytest.raises(UserError, match="the disk is full"):
        translated(tiled(tmp_path), tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.jsonl"]


def test_progress_within_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, SAR, SAR)
    write(tmp_path / "a.tif", scene(256, 256, SAR))
    translate_folder(tiled(tmp_path), tmp_path / "a.tif", tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 9 and all("translating" in line for line in lines) and "step" in lines[0]
