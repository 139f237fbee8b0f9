"""GcGAN's map metrics, against sums written out, and over image files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unflip.data.folders import find_images
from unflip.data.images import read_rgb
from unflip.errors import UserError
from unflip.evaluation.maps import map_metrics, nearness


def test_against_sums_written_out() -> None:
    random = np.random.default_rng(0)
    reference = random.integers(0, 256, (7, 11, 3), dtype=np.uint8)
    image = (reference.astype(int) + random.integers(-6, 7, reference.shape)).clip(0, 255).astype(np.uint8)
    right, squares = 0, 0
    for row in range(7):
        for column in range(11):
            differences = [int(image[row, column, c]) - int(reference[row, column, c]) for c in range(3)]
            right += max(abs(d) for d in differences) < 5
            squares += sum(d * d for d in differences)
    assert 0 < right < 77
    assert nearness(image, reference) == nearness(reference, image) == (right / 77, pytest.approx(math.sqrt(squares / 77), rel=1e-15))


def test_the_bounds() -> None:
    black, white = np.zeros((4, 6, 3), dtype=np.uint8), np.full((4, 6, 3), 255, dtype=np.uint8)
    assert nearness(black, black) == (1, 0)
    assert nearness(black, white) == (0, pytest.approx(255 * math.sqrt(3)))
    assert [nearness(black, black + np.uint8(d)).within for d in (4, 5)] == [1, 0], "below delta, not up to it"
    assert nearness(black, black + np.uint8(9), delta=10).within == 1
    blue = black.copy()
    blue[..., 2] = 200
    assert nearness(black, blue) == (0, 200), "one channel suffices to be wrong, and is not averaged with the others"


def test_means_over_files(images_folder: Callable[..., Path]) -> None:
    folders = [images_folder(name, 12, (9, 5)) for name in ("translated", "reference")]
    for i in range(6):  # the first half is right, so neighbors are alike
        (folders[1] / f"{i:03}.png").write_bytes((folders[0] / f"{i:03}.png").read_bytes())
    paths = [find_images(folder) for folder in folders]
    done: list[int] = []
    metrics = map_metrics(*paths, delta=50, progress=done.append)
    each = [nearness(read_rgb(a), read_rgb(b), 50) for a, b in zip(*paths, strict=True)]
    assert metrics["delta"] == 50 and done == list(range(1, 13))
    for name, values in zip(("within", "rmse"), np.array(each).T, strict=True):
        figure = metrics[name]
        assert figure["value"] == pytest.approx(values.mean()) and figure["n"] == 12
        assert values.min() <= figure["low"] < figure["value"] < figure["high"] <= values.max()
    assert map_metrics(*(some[:2] for some in paths))["rmse"] == {"value": 0, "low": None, "high": None, "n": 2}


def test_sizes_must_agree(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = images_folder("translated", 2, (9, 5))
    other = tmp_path / "other.png"
    Image.new("RGB", (5, 9)).save(other)
    with pytest.raises(UserError, match=r"differ in size \(9x5 and 5x9\), .*001.png and .*other.png; ") as caught:
        map_metrics(find_images(folder), [folder / "000.png", other])
    assert "\n" not in str(caught.value)
