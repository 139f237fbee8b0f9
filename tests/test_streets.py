"""Made street scenes: the labels are exact and shared by the looks, and the shares steer what is seen."""

import errno
import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unflip.data import streets
from unflip.data.streets import BALANCED, CLASSES, GREEN, PALETTE, URBAN, Shares, classes, scene, write
from unflip.errors import UserError

BUILDING, TREE, ROAD, CAR, SIGN = (CLASSES.index(name) for name in ("building", "tree", "road", "car", "sign"))


def mean_shares(shares: Shares, count: int = 50, seed: int = 0) -> np.ndarray:
    """Each class's mean share of the pixels over ``count`` scenes."""
    labels = [scene(index, seed=seed, look="render", shares=shares)[1] for index in range(count)]
    return np.bincount(np.concatenate(labels).ravel(), minlength=len(CLASSES)) / (count * 64 * 64)


@pytest.fixture(scope="module")
def preset_shares() -> dict[str, np.ndarray]:
    return {"green": mean_shares(GREEN), "balanced": mean_shares(BALANCED), "urban": mean_shares(URBAN)}


def pieces(mask: np.ndarray) -> list[tuple[int, int]]:
    """The (width, height) of every 4-connected piece of a mask."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    boxes = []
    while left:
        stack, seen = [left.pop()], []
        while stack:
            y, x = stack.pop()
            seen.append((y, x))
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    stack.append(near)
        ys, xs = zip(*seen, strict=True)
        boxes.append((max(xs) - min(xs) + 1, max(ys) - min(ys) + 1))
    return boxes


@pytest.mark.parametrize("look", ["render", "photo"])
def test_a_scene_is_a_pure_function_of_its_arguments(look: str) -> None:
    image, labels = scene(3, seed=1, look=look)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert labels.shape == (64, 64) and labels.dtype == np.uint8
    np.random.seed(5)
    scene(4, look=look)
    again_image, again_labels = scene(3, seed=1, look=look)
    assert np.array_equal(image, again_image) and np.array_equal(labels, again_labels)
    for other in (scene(4, seed=1, look=look), scene(3, seed=2, look=look), scene(3, seed=1, look=look, shares=URBAN)):
        assert not np.array_equal(image, other[0]) and not np.array_equal(labels, other[1])


@pytest.mark.parametrize("shares", [GREEN, BALANCED, URBAN])
def test_the_looks_share_their_labels_and_differ_in_their_colors(shares: Shares) -> None:
    for index in range(10):
        (render, render_labels), (photo, photo_labels) = (scene(index, look=look, shares=shares) for look in ("render", "photo"))
        assert np.array_equal(render_labels, photo_labels)
        assert np.abs(render.astype(int) - photo).mean() > 15


def test_the_render_is_flat_and_the_photo_textured() -> None:
    for index in range(5):
        (render, labels), (photo, _) = (scene(index, look=look) for look in ("render", "photo"))
        road = labels == ROAD
        assert len(np.unique(render[road], axis=0)) <= 3  # asphalt and two shades of marks
        assert len(np.unique(photo[road], axis=0)) > road.sum() / 4


def test_an_image_shows_what_its_labels_say() -> None:
    """The same class looks alike within a look: a nearest-mean-color guess, learned on other scenes, gets most pixels right."""
    for look, least in (("render", 0.9), ("photo", 0.5)):
        images, labels = (np.stack(part) for part in zip(*(scene(index, look=look) for index in range(24)), strict=True))
        known, known_labels = images[:16].reshape(-1, 3).astype(float), labels[:16].ravel()
        means = np.stack([known[known_labels == label].mean(0) for label in range(len(CLASSES))])
        guess = np.square(images[16:, :, :, None, :] - means).sum(-1).argmin(-1)
        assert (guess == labels[16:]).mean() > least


def test_every_class_appears(preset_shares: dict[str, np.ndarray]) -> None:
    for shares in preset_shares.values():
        assert shares.min() > 0.001
        assert math.isclose(shares.sum(), 1)


def test_the_presets_are_mismatched_in_trees_and_buildings(preset_shares: dict[str, np.ndarray]) -> None:
    change = preset_shares["urban"] - preset_shares["green"]
    assert np.abs(change).sum() / 2 >= 0.2
    assert set(np.argsort(-np.abs(change))[:2].tolist()) == {BUILDING, TREE}
    assert change[BUILDING] > 0.15 and change[TREE] < -0.15
    for label in (BUILDING, TREE):
        low, middle, high = sorted(share[label] for share in preset_shares.values())
        assert preset_shares["balanced"][label] == middle and low < middle < high


@pytest.mark.parametrize("name", CLASSES)
def test_raising_a_share_raises_its_pixels(name: str) -> None:
    low, high = (mean_shares(replace(BALANCED, **{name: weight}), count=20)[CLASSES.index(name)] for weight in (0.1, 0.9))
    assert high > 1.1 * low


@pytest.mark.parametrize("name", ["building", "tree", "car", "sign", "person"])
def test_a_share_of_zero_leaves_the_class_out(name: str) -> None:
    assert mean_shares(replace(BALANCED, **{name: 0.0}), count=8)[CLASSES.index(name)] == 0


def test_a_street_of_nothing_is_still_a_scene() -> None:
    for look in ("render", "photo"):
        _, labels = scene(0, look=look, shares=Shares(*[0.0] * len(CLASSES)))
        assert {CLASSES[label] for label in np.unique(labels)} == {"sky", "road", "sidewalk"}


@pytest.mark.parametrize(("width", "height"), [(32, 32), (48, 96), (160, 64), (33, 57)])
@pytest.mark.parametrize("look", ["render", "photo"])
def test_any_size(width: int, height: int, look: str) -> None:
    image, labels = scene(2, width=width, height=height, look=look)
    assert image.shape == (height, width, 3) and labels.shape == (height, width)
    assert labels.max() < len(CLASSES) and len(np.unique(labels)) >= 4


def test_a_larger_scene_shows_the_same_street() -> None:
    """Half the size gives nearly every second pixel's label, so scenes compare across sizes."""
    for index in range(5):
        large, small = (scene(index, width=side, height=side, look="render")[1] for side in (256, 128))
        assert (large[::2, ::2] == small).mean() > 0.95


def test_small_things_stand_in_a_large_scene() -> None:
    """Distant cars and signs are a few pixels at full size, and some are gone at half of it."""
    full, half = {CAR: [], SIGN: []}, {CAR: [], SIGN: []}
    for index in range(4):
        for found, width in ((full, 1024), (half, 512)):
            labels = scene(index, width=width, height=width // 2, look="render", shares=replace(BALANCED, car=0.2))[1]
            for label, boxes in found.items():
                boxes += pieces(labels == label)
    for label in (CAR, SIGN):
        assert sum(wide <= 8 and high <= 8 for wide, high in full[label]) >= 2
    assert len(half[SIGN]) < len(full[SIGN])


def test_thin_things_do_not_grow_in_a_small_scene() -> None:
    """Far poles are left out where they would be thinner than a pixel, instead of being drawn a whole pixel wide."""
    small, large = (
        np.mean([(scene(index, width=side, height=side, look="render")[1] == SIGN).mean() for index in range(12)]) for side in (32, 256)
    )
    assert 0 < small < 2 * large


def test_write_gives_what_scene_gives(tmp_path) -> None:
    calls = []
    paths = write(
        tmp_path / "train", count=3, first=7, seed=4, width=40, height=32, look="photo", shares=URBAN,
        labels=tmp_path / "labels", progress=lambda done, count: calls.append((done, count)),
    )  # fmt: skip
    assert paths == [tmp_path / "train" / f"{index:06d}.png" for index in (7, 8, 9)]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    for index, path in zip((7, 8, 9), paths, strict=True):
        image, ids = scene(index, seed=4, width=40, height=32, look="photo", shares=URBAN)
        assert np.array_equal(np.asarray(Image.open(path)), image)
        label = Image.open(tmp_path / "labels" / path.name)
        assert label.mode == "P" and np.array_equal(np.asarray(label), ids)
        assert np.array_equal(np.asarray(label.convert("RGB")), np.array(PALETTE, dtype=np.uint8)[ids])
    assert json.loads((tmp_path / "classes.json").read_text()) == classes()
    assert sorted(os.listdir(tmp_path)) == ["classes.json", "labels", "train"]
    assert len(os.listdir(tmp_path / "train")) == len(os.listdir(tmp_path / "labels")) == 3


def test_write_without_labels_writes_only_images(tmp_path) -> None:
    write(tmp_path / "train", count=2, look="render")
    assert os.listdir(tmp_path) == ["train"] and sorted(os.listdir(tmp_path / "train")) == ["000000.png", "000001.png"]


def test_a_failed_write_leaves_no_half_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="disk is full"):
        write(tmp_path / "train", count=1, look="render")
    assert os.listdir(tmp_path / "train") == []


def test_classes_match_the_constants() -> None:
    assert classes() == {"names": list(CLASSES), "palette": [list(color) for color in PALETTE], "ignore": []}
    assert len(set(PALETTE)) == len(CLASSES) == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: scene(0, look="sketch"), "unknown look 'sketch'"),
        (lambda path: scene(0, look="render", width=31), "31x64"),
        (lambda path: scene(0, look="photo", height=16), "64x16"),
        (lambda path: Shares(tree=-0.1), "share tree"),
        (lambda path: Shares(car=1.5), "share car"),
        (lambda path: Shares(sky=math.nan), "share sky"),
        (lambda path: write(path, count=-1, look="render"), "count is -1"),
        (lambda path: write(path, count=1, first=-2, look="render"), "first is -2"),
        (lambda path: write(path / "file" / "x", count=1, look="render"), "cannot write"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message: str, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        call(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert streets.MIN_SIDE == 32 and os.listdir(tmp_path) == ["file"]
