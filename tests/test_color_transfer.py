"""Reinhard's color transfer against its equations, spelled out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import refused
from unflip.data.color_transfer import color_statistics, to_lab, to_rgb, transfer_folder, transferred
from unflip.data.images import read_rgb


def picture(seed: int, low: int = 60, high: int = 180, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (*size, 3), dtype=np.uint8)


def by_hand(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """Equations 4 to 6 of the paper, one line each."""
    r, g, b = (value / 255 for value in rgb)
    long = np.log10(0.3811 * r + 0.5783 * g + 0.0402 * b)
    medium = np.log10(0.1967 * r + 0.7244 * g + 0.0782 * b)
    short = np.log10(0.0241 * r + 0.1288 * g + 0.8444 * b)
    return (
        (long + medium + short) / 3**0.5,
        (long + medium - 2 * short) / 6**0.5,
        (long - medium) / 2**0.5,
    )


@pytest.mark.parametrize("rgb", [(255, 255, 255), (200, 30, 90), (1, 2, 3), (12, 250, 128)])
def test_the_axes_are_the_papers(rgb: tuple[int, int, int]) -> None:
    assert to_lab(np.array([[rgb]], np.uint8))[0, 0] == pytest.approx(by_hand(rgb), abs=1e-12)


def test_there_and_back_is_the_image() -> None:
    image = picture(0, 1, 256)
    assert np.array_equal(to_rgb(to_lab(image)), image)


def test_the_result_has_the_targets_statistics() -> None:
    image, target = picture(1, 90, 150), color_statistics(picture(2, 100, 170))
    lab = to_lab(image)
    exact = (lab - lab.mean((0, 1))) / lab.std((0, 1)) * target.std + target.mean  # before it is rounded to 8 bits
    assert exact.mean((0, 1)) == pytest.approx(target.mean)
    assert exact.std((0, 1)) == pytest.approx(target.std)
    assert np.array_equal(transferred(image, target), to_rgb(exact))
    found = color_statistics(transferred(image, target))
    assert found.mean == pytest.approx(target.mean, abs=2e-3)
    assert found.std == pytest.approx(target.std, rel=0.02)


def test_its_own_statistics_change_nothing() -> None:
    image = picture(3)
    assert np.array_equal(transferred(image, color_statistics(image)), image)


def test_black_and_flat_images_are_no_trouble() -> None:
    target = color_statistics(picture(4))
    flat = transferred(np.full((4, 4, 3), 77, np.uint8), target)
    assert np.ptp(flat.reshape(-1, 3), axis=0).max() == 0
    assert to_lab(flat)[0, 0] == pytest.approx(target.mean, abs=0.01)
    black = picture(5)
    black[:12] = 0
    dark = transferred(black, target)
    assert dark[:12].mean() < dark[12:].mean()
    assert np.isfinite(to_lab(black)).all()


def test_a_folder_gets_the_light_of_many_photos(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    source, targets = images_folder("renders", count=6, size=24), images_folder("photos", count=4, size=24)
    Image.fromarray(picture(6)).save(source / "with.jpg")
    written = transfer_folder(source, targets, tmp_path / "out", progress=False)
    assert [path.name for path in written][-1] == "with.png"
    assert len(written) == 7
    known = [color_statistics(read_rgb(path)).mean for path in sorted(targets.iterdir())]
    nearest = {int(np.argmin([np.abs(color_statistics(read_rgb(path)).mean - mean).sum() for mean in known])) for path in written}
    assert len(nearest) > 1
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in written}
    written[2].unlink()
    transfer_folder(source, targets, tmp_path / "out", progress=False)
    assert {path: path.read_bytes() for path in written} == {path: data for path, (_, data) in before.items()}
    assert [path for path in written if path.stat().st_mtime_ns != before[path][0]] == [written[2]]
    again = transfer_folder(source, targets, tmp_path / "other", seed=1, progress=False)
    assert any(a.read_bytes() != b.read_bytes() for a, b in zip(written, again, strict=True))


def test_what_cannot_be_is_refused(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    source, targets = images_folder("renders", count=2, size=24), images_folder("photos", count=2, size=24)
    (tmp_path / "empty").mkdir()
    refused(lambda: transfer_folder(source, targets, source / "out"), "lies in the image folder", source)
    refused(lambda: transfer_folder(source, tmp_path / "empty", tmp_path / "out"), "no images", tmp_path / "empty")
    first = sorted(source.iterdir())[0]
    Image.fromarray(picture(7)).save(first.with_suffix(".jpg"))
    refused(lambda: transfer_folder(source, targets, tmp_path / "out"), "two images would be written to 000.png")
    assert not (tmp_path / "out").exists()
