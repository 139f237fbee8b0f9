"""Label maps: classes, reading, resizing, matching, the survey, and what is kept in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from unflip.data import store as store_module
from unflip.data import streets
from unflip.data.folders import Entry, find_images, survey
from unflip.data.images import read_rgb
from unflip.data.labels import Classes, GivenClasses, Labels, match_labels, read_classes, read_labels, survey_labels
from unflip.data.pairs import Images, Pairs
from unflip.data.resize import parse_resize
from unflip.data.store import Store
from unflip.data.transforms import to_ids
from unflip.errors import UserError
from unflip.types import Size

CLASSES = Classes(names=("sky", "road", "car", "void"), palette=((70, 130, 180), (128, 64, 128), (0, 0, 142), (0, 0, 0)), ignore=(3,))
IDS = np.random.default_rng(0).integers(0, 4, (13, 21)).astype(np.uint8)
EXPECTED = np.where(IDS == 3, -1, IDS.astype(np.int64))


def refused(call: Callable[[], Any], *parts: object) -> str:
    """The one line of the ``UserError`` that the call raises; it holds all ``parts`` in this order."""
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    place = 0
    assert "\n" not in line
    for part in parts:
        assert str(part) in line[place:], f"{part} is not in, or not in order in: {line}"
        place = line.index(str(part), place) + len(str(part))
    return line


def colored(ids: np.ndarray, classes: Classes = CLASSES) -> Image.Image:
    return Image.fromarray(np.array(classes.palette, dtype=np.uint8)[ids])


def with_palette(ids: np.ndarray, order: list[int]) -> Image.Image:
    """A palette image of the same colors, whose indices are not the ids."""
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[ids])
    image.putpalette([channel for i in order for channel in CLASSES.palette[i]])
    return image


# --- classes.json


def test_classes_of_the_streets(tmp_path: Path) -> None:
    streets.write(tmp_path / "images", count=1, look="render", labels=tmp_path / "labels")
    classes = read_classes(tmp_path / "classes.json")
    assert classes.names == streets.CLASSES and classes.palette == streets.PALETTE and classes.ignore == ()
    assert json.loads(classes.model_dump_json()) == json.loads((tmp_path / "classes.json").read_text())
    _, ids = streets.scene(0, look="render")
    assert (read_labels(tmp_path / "labels/000000.png", classes) == ids).all()
    assert CLASSES.kept == (0, 1, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"names": ["a", "b"]}, "2 names and 4 colors"),
        ({"names": ["sky", "road", "sky", "void"]}, "classes 0 and 2 have one name, sky"),
        ({"palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9], [4, 5, 6]]}, "classes 1 and 3 have one color, (4, 5, 6)"),
        ({"palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0, 256]]}, "palette.3.2"),
        ({"palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9], [0, 0]]}, "palette.3"),
        ({"ignore": [4]}, "4 is not the id of a class"),
        ({"ignore": [-1]}, "-1 is not the id of a class"),
        ({"ignore": [0, 1, 3]}, "fewer than two classes"),
        ({"names": ["", "b", "c", "d"]}, "names.0"),
        ({"nams": []}, "did you mean names"),
        ({"names": [f"c{i}" for i in range(255)], "palette": [[i, 0, 0] for i in range(255)]}, "too many"),
    ],
)
def test_bad_classes_are_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(CLASSES.model_dump(mode="json") | change))
    refused(lambda: read_classes(path), path, says)


def test_classes_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    refused(lambda: read_classes(path), path)
    refused(lambda: read_classes(tmp_path), tmp_path)
    for text in ("{", "\ufeff\0", "[" * 100_000):
        path.write_text(text)
        refused(lambda: read_classes(path), path)
    path.write_text("[]")
    refused(lambda: read_classes(path), path)
    path.write_text('{"names": ["a", "b"]}')
    refused(lambda: read_classes(path), path, "palette: is missing")


def test_a_config_takes_the_path_and_holds_the_classes(tmp_path: Path) -> None:
    class Holder(BaseModel):
        classes: GivenClasses

    path = tmp_path / "classes.json"
    path.write_text(CLASSES.model_dump_json())
    for given in (path, str(path), CLASSES, CLASSES.model_dump(mode="json")):
        assert Holder(classes=given).classes == CLASSES  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot read the classes"):
        Holder(classes=tmp_path / "none.json")  # type: ignore[arg-type]


# --- reading


STORED = [(name, form) for name in ("a.png", "a.bmp", "a.tif", "a.tiff", "a.webp") for form in ("palette", "rgb", "rgba")]
STORED += [(name, "ids") for name in ("a.png", "a.bmp", "a.tif")]
STORED += [(name, form) for name in ("a.png", "a.tif") for form in ("gray and alpha", "16 bits")]


@pytest.mark.parametrize(("name", "form"), STORED)
def test_every_way_to_store_ids(name: str, form: str, tmp_path: Path) -> None:
    forms = {
        "palette": lambda: with_palette(IDS, [2, 0, 3, 1]),
        "rgb": lambda: colored(IDS),
        "rgba": lambda: colored(IDS).convert("RGBA"),
        "ids": lambda: Image.fromarray(IDS),
        "gray and alpha": lambda: Image.fromarray(IDS).convert("LA"),
        "16 bits": lambda: Image.fromarray(IDS.astype(np.uint16)),
    }
    path = tmp_path / name
    forms[form]().save(path, **({"lossless": True} if name == "a.webp" else {}))
    read = read_labels(path, CLASSES)
    assert read.dtype == np.int64 and read.shape == IDS.shape
    assert (read == EXPECTED).all()


def test_transparency_does_not_hide_a_class(tmp_path: Path) -> None:
    image = colored(IDS).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "a.png")
    with_palette(IDS, [2, 0, 3, 1]).save(tmp_path / "b.png", transparency=0)
    assert (read_labels(tmp_path / "a.png", CLASSES) == EXPECTED).all()
    assert (read_labels(tmp_path / "b.png", CLASSES) == EXPECTED).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_255_is_ignored_in_gray_maps(dtype: Any, tmp_path: Path) -> None:
    ids = IDS.astype(dtype)
    ids[0, :3] = 255
    Image.fromarray(ids).save(tmp_path / "a.png")
    expected = EXPECTED.copy()
    expected[0, :3] = -1
    assert (read_labels(tmp_path / "a.png", CLASSES) == expected).all()


def test_one_bit_maps_hold_ids(tmp_path: Path) -> None:
    Image.fromarray(IDS == 1).save(tmp_path / "a.png")
    assert (read_labels(tmp_path / "a.png", CLASSES) == (IDS == 1)).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_gray_classes_are_read_by_color(mode: str, tmp_path: Path) -> None:
    """A mask in black and white: were 255 an id, a whole class would be ignored without a word."""
    mask = Classes(names=("ground", "building"), palette=((0, 0, 0), (255, 255, 255)))
    Image.fromarray(np.uint8(255) * (IDS == 1)).convert(mode).save(tmp_path / "a.png")
    assert (read_labels(tmp_path / "a.png", mask) == (IDS == 1)).all()
    named = mask.model_copy(update={"palette": ((0, 0, 0), (9, 9, 9))})
    Image.fromarray(np.where(IDS == 1, 9, np.where(IDS == 2, 255, 0)).astype(np.uint8)).save(tmp_path / "b.png")
    assert (read_labels(tmp_path / "b.png", named) == np.where(IDS == 2, -1, IDS == 1)).all()


def test_unknown_colors_and_ids_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    odd = np.array(colored(IDS))
    odd[0, :7], odd[1, :2] = (12, 30, 7), (70, 130, 181)
    Image.fromarray(odd).save(path)
    refused(lambda: read_labels(path, CLASSES), "color (12, 30, 7) is no class (7 pixels, and 1 more such colors)", path, "; add it")
    ids = IDS.copy()
    ids[0, :5] = 4
    Image.fromarray(ids).save(path)
    refused(lambda: read_labels(path, CLASSES), "gray value 4 is no class (5 pixels)", path, "; add it")
    for value in (254, 256, 65535):
        deep = IDS.astype(np.uint16)
        deep[3, 3] = value
        Image.fromarray(deep).save(path)
        refused(lambda value=value: read_labels(path, CLASSES), f"gray value {value} is no class (1 pixels)", path)
    for value in (-1, -2, 2**16, 2**30):
        wide = IDS.astype(np.int32)
        wide[3, 3] = value
        Image.fromarray(wide).save(tmp_path / "a.tif")
        refused(lambda value=value: read_labels(tmp_path / "a.tif", CLASSES), f"gray value {value} is no class (1 pixels)")


def test_colors_that_no_pixel_has_do_no_harm(tmp_path: Path) -> None:
    image = with_palette(IDS, [2, 0, 3, 1])
    image.putpalette([*image.getpalette()[:12], 1, 2, 3])  # type: ignore[index]
    image.save(tmp_path / "a.png")
    assert (read_labels(tmp_path / "a.png", CLASSES) == EXPECTED).all()


def test_files_that_cannot_be_label_maps(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    colored(IDS).save(path)
    refused(lambda: read_labels(path, CLASSES), "lossy", path)
    path.rename(tmp_path / "jpeg.png")
    refused(lambda: read_labels(tmp_path / "jpeg.png", CLASSES), "jpeg.png")
    refused(lambda: read_labels(tmp_path / "none.png", CLASSES), "none.png")
    whole = tmp_path / "a.png"
    colored(np.tile(IDS, (9, 9))).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-400])
    refused(lambda: read_labels(tmp_path / "cut.png", CLASSES), "cut.png")
    Image.fromarray(IDS.astype(np.float32)).save(tmp_path / "float.tif")
    refused(lambda: read_labels(tmp_path / "float.tif", CLASSES), "fractions", "float.tif")


# --- resizing


@pytest.mark.parametrize("resize", ["none", "short:7", "short:31", "40x9", "5x26"])
def test_the_nearest_pixel_is_that_under_the_center(resize: str, tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.png")
    width, height = parse_resize(resize).size_for(IDS.shape[1], IDS.shape[0])
    read = read_labels(tmp_path / "a.png", CLASSES, resize)
    assert read.shape == (height, width)
    for y in range(height):
        for x in range(width):
            # the exact center of the pixel, as fractions of integers: no rounding decides
            assert read[y, x] == EXPECTED[(2 * y + 1) * IDS.shape[0] // (2 * height), (2 * x + 1) * IDS.shape[1] // (2 * width)]


@pytest.mark.parametrize("resize", ["short:24", "short:50", "64x37", "201x150"])
def test_edges_of_labels_and_photos_stay_together(resize: str, tmp_path: Path) -> None:
    two = Classes(names=("left", "right"), palette=((0, 0, 0), (255, 0, 0)))
    height, width = 90, 133
    for edge in range(20, 110, 9):
        ids = np.zeros((height, width), dtype=np.uint8)
        ids[:, edge:] = 1
        rng = np.random.default_rng(edge)  # a photo: noise keeps it from being taken for a label map
        photo = np.where(ids[..., None] == 1, 210, 40) + rng.integers(-20, 20, (height, width, 3))
        Image.fromarray(photo.astype(np.uint8)).save(tmp_path / "photo.png")
        Image.fromarray(ids).save(tmp_path / "ids.png")
        labels, pixels = read_labels(tmp_path / "ids.png", two, resize), read_rgb(tmp_path / "photo.png", resize)
        assert labels.shape == pixels.shape[:2]
        of_labels, of_photo = (labels == 1).argmax(1), (pixels.mean(2) > 125).argmax(1)
        assert (abs(of_labels - of_photo) <= 1).all()
        expected = edge * labels.shape[1] / width
        assert (abs(of_labels - expected) <= 0.5 + 1e-9).all()  # not shifted to one side, either


# --- matching


def put(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IDS).save(root / name)
    return [root / name for name in names]


def test_labels_are_matched_by_relative_path_without_the_ending(tmp_path: Path) -> None:
    images = put(tmp_path / "images", "a/1.jpg", "b/1.png", "b/x.y.webp", "2.PNG")
    put(tmp_path / "labels", "1.png", "extra.png", "a/2.png")
    labels = put(tmp_path / "labels", "a/1.png", "b/1.tif", "b/x.y.png", "2.bmp")
    assert match_labels(images, tmp_path / "images", tmp_path / "labels") == labels
    assert match_labels(images[::-1], tmp_path / "images", tmp_path / "labels") == labels[::-1]
    listed = tmp_path / "list.txt"  # names are below the common folder of what is listed
    listed.write_text("images/b/1.png\nimages/a/1.jpg\n")
    assert match_labels(find_images(listed), listed, tmp_path / "labels") == [labels[1], labels[0]]


def test_photos_beside_their_labels_are_not_taken_for_labels(tmp_path: Path) -> None:
    images = put(tmp_path, "1.jpg", "2.jpg")
    labels = put(tmp_path, "1.png", "2.png")
    assert match_labels(images, tmp_path, tmp_path) == labels


def test_images_without_a_label_map(tmp_path: Path) -> None:
    images = put(tmp_path / "images", "a/1.png", "a/2.png", "3.png")
    root = tmp_path / "labels"
    refused(lambda: match_labels(images, tmp_path / "images", root), root)
    put(root, "1.jpg")
    refused(lambda: match_labels(images, tmp_path / "images", root), "no label maps", root)
    put(root, "1.png", "a/2.png")
    refused(
        lambda: match_labels(images, tmp_path / "images", root),
        "2 of 3 images have no label map, such as",
        images[0],
        root / "a/1.png",
    )


def test_two_images_for_one_label_map(tmp_path: Path) -> None:
    images = [tmp_path / "images" / name for name in ("a.png", "a.jpg", "b.png")]
    for path in images:
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    for name in ("a", "b"):
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / f"labels/{name}.png")
    refused(lambda: match_labels(images, tmp_path / "images", tmp_path / "labels"), "two images for one label map", *images[:2])
    twice = [images[0], images[2], images[0]]  # as a list may name them
    assert [path.name for path in match_labels(twice, tmp_path / "images", tmp_path / "labels")] == ["a.png", "b.png", "a.png"]


def test_two_label_maps_for_one_image(tmp_path: Path) -> None:
    images = put(tmp_path / "images", "a/1.png")
    labels = put(tmp_path / "labels", "a/1.png", "a/1.tif")
    refused(lambda: match_labels(images, tmp_path / "images", tmp_path / "labels"), "two label maps", *labels)


# --- the survey


def test_survey_counts_the_pixels_of_the_classes(tmp_path: Path) -> None:
    paths = put(tmp_path, "1.png", "2.png")
    colored(np.zeros((4, 9), dtype=np.uint8)).save(paths[1])
    images = [Entry(Path("x"), 21, 13), Entry(Path("y"), 9, 4)]
    seen: list[tuple[int, int]] = []
    surveyed = survey_labels(paths, images, CLASSES, lambda done, total: seen.append((done, total)))
    assert surveyed.entries == [Entry(paths[0], 21, 13), Entry(paths[1], 9, 4)]
    assert surveyed.pixels == (int((IDS == 0).sum()) + 36, int((IDS == 1).sum()), int((IDS == 2).sum()), 0)
    assert seen == [(1, 2), (2, 2)]


def test_survey_names_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    paths = put(tmp_path, "1.png", "2.png", "3.png", "4.png", "5.png", "6.png")
    images = [Entry(Path("x"), 21, 13)] * 6
    images[0] = Entry(Path("x"), 13, 21)
    paths[1].write_bytes(b"nothing")
    for path in paths[2:5]:
        Image.fromarray(IDS + np.uint8(9)).save(path)
    most = np.bincount(IDS.ravel())
    line = refused(
        lambda: survey_labels(paths, images, CLASSES),
        f"5 of 6 label maps cannot be used: 21x13 while its image is 13x21, {paths[0]}",
        paths[1],
        f"gray value {9 + most.argmax()} is no class ({most.max()} pixels, and 3 more such values), {paths[2]}",
        "and 2 more; correct them",
    )
    assert line.count(";") == 1 and str(paths[5]) not in line


def test_survey_refuses_labels_that_say_nothing(tmp_path: Path) -> None:
    paths = put(tmp_path, "1.png")
    Image.fromarray(np.full_like(IDS, 255)).save(paths[0])
    refused(lambda: survey_labels(paths, [Entry(Path("x"), 21, 13)], CLASSES), "ignored", paths[0])
    Image.fromarray(np.full_like(IDS, 3)).save(paths[0])
    refused(lambda: survey_labels(paths, [Entry(Path("x"), 21, 13)], CLASSES), "ignored", paths[0])


# --- in memory


@pytest.mark.parametrize("cache", ["none", "memory", "auto"])
@pytest.mark.parametrize("resize", ["none", "short:6"])
def test_labels_by_index(cache: str, resize: str, tmp_path: Path) -> None:
    paths = put(tmp_path, "1.png", "2.png")
    Image.fromarray(IDS[:5, :8]).save(paths[1])
    labels = Labels(survey_labels(paths, survey(paths), CLASSES).entries, CLASSES, resize, cache)
    assert len(labels) == 2
    for _ in range(2):
        for i, path in enumerate(paths):
            expected = read_labels(path, CLASSES, resize)
            assert labels[i].dtype == torch.uint8
            assert (labels[i].numpy() == np.where(expected == -1, 255, expected)).all()
            assert labels.sizes[i] == expected.shape[::-1]
    assert (labels.store.pixels is None) == (cache == "none")
    Image.fromarray(IDS[:6]).save(paths[0])
    if cache == "none":
        refused(lambda: labels[0], "has changed", paths[0])
    else:
        assert labels[0].shape == labels.store.shapes[0]  # read once


def test_labels_are_cut_and_mirrored_with_their_image(tmp_path: Path) -> None:
    classes = Classes(names=tuple(f"c{i}" for i in range(200)), palette=tuple((i, 0, 9) for i in range(200)), ignore=(7,))
    ids = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) % 200
    image = tmp_path / "image.png"
    Image.fromarray(np.dstack([ids, ids, ids]).astype(np.uint8)).save(image)
    Image.fromarray(ids).save(tmp_path / "label.png")
    entries = survey([image])
    labels = Labels(survey_labels([tmp_path / "label.png"], entries, classes).entries, classes)
    pairs = Pairs(Images(entries), Images(entries), Size(8, 6), seed=3, length=20, flip=True, labels=labels)
    places = set()
    for i in range(20):
        source, _, found = pairs[i]
        red = source[0].long()
        assert found is not None and (to_ids(found) == torch.where(red == 7, -1, red)).all()
        places.add((int(red[0, 0]), bool(red[0, 1] < red[0, 0])))
    assert len(places) > 10 and {mirrored for _, mirrored in places} == {True, False}


def test_a_store_makes_everything_once() -> None:
    made: list[int] = []

    def decode(index: int) -> torch.Tensor:
        made.append(index)
        return torch.full(shapes[index], index + 1, dtype=torch.uint8)

    shapes = [(2, 3), (4,), (1, 2, 3)]
    for cache, times in (("memory", 1), ("none", 2)):
        made.clear()
        kept = Store(shapes, decode, cache)
        for _ in range(2):
            for i, shape in enumerate(shapes):
                assert kept[i].shape == shape and (kept[i] == i + 1).all()
        assert made.count(1) == times * (1 if cache == "memory" else 2)
    with pytest.raises(UserError, match="not a cache setting"):
        Store(shapes, decode, "disk")


def test_a_store_keeps_only_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(cache: str = "auto", shared: bool = True) -> Store:
        return Store([(10, 10)], lambda index: torch.zeros(10, 10, dtype=torch.uint8), cache, shared)

    monkeypatch.setattr(store_module, "_free_shared_memory", lambda: 200)
    monkeypatch.setattr(store_module, "available_memory", lambda: 400)
    assert make().pixels is not None and make().pixels.is_shared()
    monkeypatch.setattr(store_module, "_free_shared_memory", lambda: 199)
    assert make().pixels is None and make(shared=False).pixels is not None and make("memory").pixels is not None
    monkeypatch.setattr(store_module, "_free_shared_memory", lambda: 99)
    refused(lambda: make("memory"), "/dev/shm")
    monkeypatch.setattr(store_module, "available_memory", lambda: 399)
    assert make(shared=False).pixels is None
