"""Whole data sets: what belongs to the images goes with them, so that the output trains as the input did. Made sets in the usual forms."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import fsspec
import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image
from pycocotools.coco import COCO

import unflip
from helpers import make_model
from test_translate import picture, save, tree
from unflip.data import streets
from unflip.data.bands import FULL, Bands
from unflip.data.folders import find_images, survey
from unflip.data.labels import match_labels, read_classes, survey_labels
from unflip.data.places import Place
from unflip.errors import UserError
from unflip.inference.folders import MANIFEST, Outcome, translate_folder
from unflip.inference.labelmaps import recognized
from unflip.inference.moved import Moved
from unflip.inference.translator import Translator

SIZES = [(40, 33), (25, 38), (37, 24), (30, 30)]


def quietly(translator: Translator, source: Path | str, out: Path | str, **options: Any) -> Outcome:
    return translate_folder(translator, source, out, progress=False, **options)


def write(path: Path, content: str | bytes = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def ids(path: Path, size: tuple[int, int], seed: int = 0, palette: bool = True) -> Path:
    """A label map of three classes."""
    image = Image.fromarray(np.random.default_rng([seed, *size]).integers(0, 3, size[::-1], dtype=np.uint8))
    if palette:
        image.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def photos(folder: Path, names: list[str], first: int = 0) -> list[tuple[int, int]]:
    """Images of several sizes; those sizes."""
    sizes = [SIZES[(first + i) % len(SIZES)] for i in range(len(names))]
    for i, (name, size) in enumerate(zip(names, sizes, strict=True)):
        save(folder / name, picture(*size, seed=first + i))
    return sizes


def lines(out: Path) -> dict[str, dict[str, Any]]:
    return {line["file"]: line for line in map(json.loads, (out / MANIFEST).read_text().splitlines()) if line["status"] != "begun"}


def assert_copied(root: Path, out: Path, *but: str) -> None:
    """All that is no photo is there byte for byte, but for some; and all photos are there, of the same size, and others."""
    given, found = tree(root), tree(out)
    assert given.keys() == found.keys() - {MANIFEST}
    photographs = [name for name in given if lines(out).get(name, {}).get("status") == "done"]
    for name, data in given.items():
        if name in photographs:
            with Image.open(root / name) as a, Image.open(out / name) as b:
                assert a.size == b.size and a.format == b.format
            assert found[name] != data
        elif name not in but:
            assert found[name] == data, name
    assert photographs


# --- the usual forms


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    for split, first in (("train2017", 0), ("val2017", 3)):
        names = [f"{first + i:012}.jpg" for i in range(3)]
        sizes = photos(root / "images" / split, names, first)
        images = [
            {"id": first + i + 7, "file_name": name, "width": size[0], "height": size[1]}
            for i, (name, size) in enumerate(zip(names, sizes, strict=True))
        ]
        boxes = [
            {"id": 100 + image["id"], "image_id": image["id"], "category_id": 3, "bbox": [2, 3, 9, 8], "area": 72, "iscrowd": 0}
            | {"segmentation": [[2, 3, 11, 3, 11, 11, 2, 11]]}
            for image in images
        ]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "car"}]}
        write(root / f"annotations/instances_{split}.json", json.dumps(content))
    return root


def test_coco(translator: Translator, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert quietly(translator, coco, out) == Outcome(done=6, copied=2)
    assert_copied(coco, out)
    for split in ("train2017", "val2017"):
        given, found = (COCO(root / f"annotations/instances_{split}.json") for root in (coco, out))
        assert found.getImgIds() == given.getImgIds() and found.getAnnIds() == given.getAnnIds() and len(found.getAnnIds()) == 3
        for image in found.loadImgs(found.getImgIds()):
            with Image.open(out / "images" / split / image["file_name"]) as translation:
                assert translation.size == (image["width"], image["height"])
            [box] = found.loadAnns(found.getAnnIds(image["id"]))
            assert found.annToMask(box).shape == (image["height"], image["width"]) and found.annToMask(box).sum() > 0
    capsys.readouterr()


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    root = tmp_path / "yolo"
    for split, first in (("train", 0), ("val", 2)):
        names = [f"{first}.jpg", f"{first + 1}.png"]
        photos(root / "images" / split, names, first)
        for name in names:
            write(root / "labels" / split / f"{Path(name).stem}.txt", "0 0.5 0.5 0.25 0.125\n1 0.25 0.25 0.1 0.1\n")
        write(root / f"{split}.txt", "".join(f"{root}/images/{split}/{name}\n" for name in names))
    write(root / "data.yaml", f"path: {root}  # root\ntrain: images/train\nval: {root}/val.txt\nnames:\n  0: car\n  1: sign\n")
    write(root / "labels/train.cache", b"\x80\x04pickled paths")
    write(root / "weights/best.pt", b"PK")
    write(root / "weights/last.pt", b"PK")
    return root


def test_yolo(translator: Translator, yolo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = quietly(translator, yolo, out)
    assert outcome == Outcome(done=4, copied=7, left={".cache": 1, ".pt": 2})
    for left in ("labels/train.cache", "weights/best.pt", "weights/last.pt"):
        (yolo / left).unlink()
    (yolo / "weights").rmdir()
    assert_copied(yolo, out, "data.yaml", "train.txt", "val.txt")
    given, found = (yaml.safe_load((root / "data.yaml").read_text()) for root in (yolo, out))
    assert given["path"] == str(yolo)
    assert found == given | {"path": str(out), "val": f"{out}/val.txt"}, "else one trains on the old images"
    for split in ("train", "val"):
        for old, new in zip((yolo / f"{split}.txt").read_text().split(), (out / f"{split}.txt").read_text().split(), strict=True):
            image = Path(new)
            assert image == out / Path(old).relative_to(yolo) and image.is_file()
            assert Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt").is_file(), "as YOLO finds its labels"
    assert "# root\n" in (out / "data.yaml").read_text()


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    names = ["2007_000027", "2007_000032", "2007_000033"]
    sizes = photos(root / "JPEGImages", [f"{name}.jpg" for name in names])
    for i, (name, (width, height)) in enumerate(zip(names, sizes, strict=True)):
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        text = f"<annotation><folder>VOC2012</folder><filename>{name}.jpg</filename><path>{root}/JPEGImages/{name}.jpg</path>{size}"
        write(root / f"Annotations/{name}.xml", f"{text}<object><name>car</name></object></annotation>")
        if i < 2:  # as in VOC, only some have masks
            ids(root / f"SegmentationClass/{name}.png", (width, height), i)
            ids(root / f"SegmentationObject/{name}.png", (width, height), i + 5)
    write(root / "ImageSets/Segmentation/train.txt", "\n".join(names[:2]) + "\n")
    write(root / "ImageSets/Main/car_train.txt", "".join(f"{name} -1\n" for name in names))
    return root


def test_voc(translator: Translator, voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = quietly(translator, voc, out)
    assert outcome == Outcome(done=3, copied=9, labels={"SegmentationClass": 2, "SegmentationObject": 2})
    assert_copied(voc, out, *(f"Annotations/{path.name}" for path in (voc / "Annotations").iterdir()))
    for path in (out / "Annotations").iterdir():
        found = ElementTree.parse(path).getroot()
        image = Path(found.findtext("path", ""))
        assert image == out / "JPEGImages" / found.findtext("filename", "")
        with Image.open(image) as translation:
            assert [str(side) for side in translation.size] == [found.findtext("size/width"), found.findtext("size/height")]
    for name in (out / "ImageSets/Segmentation/train.txt").read_text().split():
        with Image.open(out / f"SegmentationClass/{name}.png") as mask, Image.open(out / f"JPEGImages/{name}.jpg") as translation:
            assert mask.mode == "P" and mask.size == translation.size


def test_cityscapes(translator: Translator, tmp_path: Path) -> None:
    """Names that differ in their ends, several maps for an image, and more maps than images."""
    root = tmp_path / "cityscapes"
    for split, city, first in (("train", "aachen", 0), ("val", "ulm", 2)):
        stems = [f"{city}_{i:06}_000019" for i in range(first, first + 2)]
        sizes = photos(root / "leftImg8bit" / split / city, [f"{stem}_leftImg8bit.png" for stem in stems])
        for i, (stem, size) in enumerate(zip(stems, sizes, strict=True)):
            fine = root / "gtFine" / split / city
            ids(fine / f"{stem}_gtFine_labelIds.png", size, i, palette=False)
            ids(fine / f"{stem}_gtFine_color.png", size, i)
            Image.fromarray(np.full(size[::-1], 26_001, np.uint16)).save(fine / f"{stem}_gtFine_instanceIds.png")
            write(fine / f"{stem}_gtFine_polygons.json", "{}")
    ids(root / "gtFine/test/bonn/bonn_000000_000019_gtFine_labelIds.png", (30, 30))
    outcome = quietly(translator, root, tmp_path / "out")
    assert outcome == Outcome(done=4, copied=17, labels={"gtFine": 13})
    assert_copied(root, tmp_path / "out")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Made streets that can be trained on: images, labels, classes.json."""
    streets.write(tmp_path / "set/images", count=4, look="render", width=48, height=40, labels=tmp_path / "set/labels")
    streets.write(tmp_path / "photos", count=3, look="photo", width=48, height=40, seed=1)
    return tmp_path / "set"


def test_masks_and_the_output_trains_as_the_input_did(
    cli: Callable[..., Any], model: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("translate", model, "set", "--out", "out", "--device", "cpu")
    assert result.code == 0 and "error" not in result.stderr
    said = ["out: 4 translated", "5 files of the data set copied", "labels: 4 label maps, as their names and colors say; not translated"]
    assert result.stdout.splitlines() == said
    assert_copied(masks, tmp_path / "out")

    images = find_images(Path("out/images"))
    maps = match_labels(images, Path("out/images"), Path("out/labels"))
    before = survey_labels(
        sorted((masks / "labels").iterdir()), survey(find_images(masks / "images")), read_classes(masks / "classes.json")
    )
    assert survey_labels(maps, survey(images), read_classes(Path("out/classes.json"))).pixels == before.pixels
    call = "train --source out/images --source-labels out/labels --classes out/classes.json --target photos --out run --method cut"
    small = "generator.width=4 generator.blocks=1 discriminator.width=4 discriminator.layers=2 projector.width=8 nce.patches=8"
    more = " ".join(f"--set {setting}" for setting in small.split())
    trained = cli(*shlex.split(f"{call} --size 32 --budget 2 --device cpu {more}"))
    assert trained.code == 0, trained.stderr
    again = cli("translate", model, "set", "--out", "out", "--device", "cpu")
    assert again.stdout.splitlines() == ["out: 0 translated, 4 already there", said[2]]


# --- label maps


def test_the_label_folder_itself_is_translated(translator: Translator, masks: Path, tmp_path: Path) -> None:
    """From labels to photos: a main use."""
    outcome = quietly(translator, masks / "labels", tmp_path / "out")
    assert outcome == Outcome(done=4)
    shutil.move(masks / "labels", masks / "only/labels/train")
    assert quietly(translator, masks / "only", tmp_path / "out2") == Outcome(done=4), "no images that they could belong to"


def layout(root: Path, *names: str, flat: bool = True) -> dict[str, list[str]]:
    """What is recognized among photos, and label maps or more photos in the folders after the first."""
    folder = names[0].partition("/")[0]
    for i, name in enumerate(names):
        if flat and name.partition("/")[0] != folder:
            ids(root / name, (20, 20), i)
        else:
            save(root / name, picture(20, 20, seed=i))
    return recognized(root, names)


def test_which_folders_are_recognized(tmp_path: Path) -> None:
    a, b = "images/train/a.jpg", "images/val/b.jpg"
    assert layout(tmp_path / "1", a, b, "Labels/train/a.png", "Labels/val/b.png") == {"Labels": ["Labels/train/a.png", "Labels/val/b.png"]}
    assert layout(tmp_path / "2", "photo.jpg", "masks/photo_mask.png") == {"masks": ["masks/photo_mask.png"]}
    assert layout(tmp_path / "3", a, b, "annotations/panoptic/train/a.png") == {"annotations": ["annotations/panoptic/train/a.png"]}
    bdd = layout(tmp_path / "bdd", "images/10k/train/0a.jpg", "images/10k/val/0b.jpg", "labels/sem_seg/masks/train/0a.png")
    assert bdd == {"labels": ["labels/sem_seg/masks/train/0a.png"]}, "by names that only one image has"
    root = tmp_path / "4"
    for split in ("train", "valid"):
        save(root / split / "images/a.jpg", picture(20, 20))
        ids(root / split / "masks/a.png", (20, 20))
    named = ["train/images/a.jpg", "train/masks/a.png", "valid/images/a.jpg", "valid/masks/a.png"]
    assert recognized(root, named) == {"train/masks": ["train/masks/a.png"], "valid/masks": ["valid/masks/a.png"]}

    assert layout(tmp_path / "5", a, b, "overlays/train/a.png") == {}, "not called so"
    assert layout(tmp_path / "6", a, b, "labels/train/c.png") == {}, "of no image"
    assert layout(tmp_path / "10", "images/x/y/1.jpg", "images/x/z/1.jpg", "labels/a/b/1.png") == {}, "of which one?"
    assert layout(tmp_path / "7", a, b, "labels/train/a.png", "labels/x.png", "labels/y.png") == {}, "of too few"
    assert layout(tmp_path / "8", "no_mask/1.jpg", "mask/1.jpg", flat=False) == {}, "a class of photos, numbered as another one is"
    assert layout(tmp_path / "9", "labels/a.png", "masks/a.png") == {}, "no images outside"


def test_labels_within_the_input_are_named(translator: Translator, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (masks / "labels").rename(masks / "truth")
    assert quietly(translator, masks, tmp_path / "wrong") == Outcome(done=8, copied=1), "nobody could know"
    monkeypatch.chdir(tmp_path)
    for i, given in enumerate(("set/truth", masks / "truth", "set/images/../truth/")):
        assert quietly(translator, "set", f"out{i}", labels=given) == Outcome(done=4, copied=5)
        assert_copied(masks, tmp_path / f"out{i}")
    (tmp_path / "link").symlink_to(masks / "truth", target_is_directory=True)
    assert quietly(translator, masks, tmp_path / "out3", labels=tmp_path / "link") == Outcome(done=4, copied=5)

    assert quietly(translator, masks, tmp_path / "wrong", labels=masks / "truth") == Outcome(skipped=4, copied=4), "said later"
    assert_copied(masks, tmp_path / "wrong")
    assert quietly(translator, masks, tmp_path / "wrong", labels=masks / "truth") == Outcome(skipped=4)
    with pytest.raises(UserError, match=r"holds 4 label maps that were copied, such as truth/000000\.png; name their folder by --labels"):
        quietly(translator, masks, tmp_path / "wrong")
    assert_copied(masks, tmp_path / "wrong")
    with pytest.raises(UserError, match=r"no images but the label maps"):
        shutil.rmtree(masks / "images")
        quietly(translator, masks, tmp_path / "x", labels=masks / "truth")


def test_labels_elsewhere_are_copied_beside_the_output(translator: Translator, masks: Path, tmp_path: Path) -> None:
    (masks / "images/sub").mkdir()
    (masks / "images/000003.png").rename(masks / "images/sub/3.png")
    (masks / "labels/sub").mkdir()
    with Image.open(masks / "labels/000003.png") as image:
        image.save(masks / "labels/sub/3.tif")
    (masks / "labels/000003.png").unlink()
    out = tmp_path / "out"
    assert quietly(translator, masks / "images", out, labels=masks / "labels") == Outcome(done=4, copied=4)
    assert tree(tmp_path / "out_labels") == tree(masks / "labels")
    assert match_labels(find_images(out), out, tmp_path / "out_labels") == find_images(tmp_path / "out_labels")
    assert lines(out)["../out_labels/sub/3.tif"]["status"] == "copied"
    assert quietly(translator, masks / "images", out, labels=masks / "labels") == Outcome(skipped=4)

    (masks / "labels/sub/3.tif").unlink()
    with pytest.raises(UserError, match=r"^1 of 4 images have no label map, such as .*sub/3\.png \(no .*labels/sub/3\.png\)"):
        quietly(translator, masks / "images", tmp_path / "other", labels=masks / "labels")
    assert not (tmp_path / "other").exists()
    (masks / "list.txt").write_text("images/000001.png\nimages/000002.png\n")
    assert quietly(translator, masks / "list.txt", tmp_path / "of_list", labels=masks / "labels") == Outcome(done=2, copied=2)
    assert set(tree(tmp_path / "of_list_labels")) == {"000001.png", "000002.png"}


@pytest.mark.parametrize("where", ["within", "elsewhere"])
def test_label_maps_of_another_size_are_listed(
    cli: Callable[..., Any], model: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    good = (masks / "labels/000001.png").read_bytes()
    ids(masks / "labels/000001.png", (40, 48))
    write(masks / "labels/000002.png", "this is no label map")
    call = ["set", "--out", "out"] if where == "within" else ["set/images", "--out", "out", "--labels", "set/labels"]
    place, images = ("out/labels", "images/") if where == "within" else ("out_labels", "")
    for translated in ("4 translated", "0 translated, 4 already there"):
        result = cli("translate", model, *call, "--device", "cpu")
        assert result.code == 1 and result.stdout.startswith(f"out: {translated}\n")
        failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
        assert len(failed) == 2 and "label map cannot be read" in failed[1] and "labels/000002.png" in failed[1]
        size = f"label map is 40x48 while its image {images}000001.png is 48x40"
        assert size in failed[0] and "labels/000001.png; correct it" in failed[0]
        assert set(tree(tmp_path / place)) == {"000000.png", "000003.png"}
    write(masks / "labels/000001.png", good)
    write(masks / "labels/000002.png", good)
    result = cli("translate", model, *call, "--device", "cpu")
    assert result.code == 0 and (tmp_path / place / "000001.png").read_bytes() == good
    assert "2 files of the data set copied" in result.stdout


@pytest.mark.parametrize("where", ["within", "elsewhere"])
def test_label_maps_of_images_whose_names_change_are_checked(masks: Path, tmp_path: Path, where: str) -> None:
    deep = Bands(depth="uint16", count=4, ranges=(FULL["uint16"],))
    translator = unflip.load(make_model(tmp_path / "deep", target=deep), device="cpu")
    ids(masks / "labels/000001.png", (40, 48))
    source, labels = (masks, None) if where == "within" else (masks / "images", masks / "labels")
    found = quietly(translator, source, tmp_path / "out", labels=labels)
    assert found.done == 4 and len(found.failed) == 1
    assert "label map is 40x48" in found.failed[0] and "000001.tif is 48x40" in found.failed[0]


# --- what is copied, and what is not


def test_only_the_images_or_links(cli: Callable[..., Any], model: Path, yolo: Path, tmp_path: Path) -> None:
    ids(yolo / "masks/train/0.png", SIZES[0])
    result = cli("translate", model, yolo, "--out", tmp_path / "a", "--annotations", "none", "--device", "cpu")
    assert result.code == 0
    images = {f"images/{name}" for name in ("train/0.jpg", "train/1.png", "val/2.jpg", "val/3.png")}
    found = {name for name, data in tree(tmp_path / "a").items() if data is not None}
    assert found == images | {MANIFEST}, "label maps are no images, whatever is done with them"

    result = cli("translate", model, yolo, "--out", tmp_path / "deep/b", "--annotations", "link", "--device", "cpu")
    assert result.code == 0 and "5 files of the data set linked to" in result.stdout
    assert "3 files of the data set copied" in result.stdout, "those that name the folder cannot be linked to"
    for path in (tmp_path / "deep/b").rglob("*"):
        name = path.relative_to(tmp_path / "deep/b")
        linked = name.parts[0] in ("labels", "masks") and not path.is_dir()
        assert path.is_symlink() == linked
        assert not linked or (not os.readlink(path).startswith("/") and path.samefile(yolo / name))
    assert yaml.safe_load((tmp_path / "deep/b/data.yaml").read_text())["path"] == str(tmp_path / "deep/b")
    again = cli("translate", model, yolo, "--out", tmp_path / "deep/b", "--annotations", "link", "--device", "cpu")
    assert again.code == 0 and "linked" not in again.stdout and "copied" not in again.stdout.replace("not copied", "")
    for name in ("yolo", "deep"):
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert (tmp_path / "moved/deep/b/labels/train/0.txt").read_text().startswith("0 0.5"), "moved together, links hold"


def test_images_that_are_turned_are_counted(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photos(tmp_path / "set/images", ["0.jpg", "1.jpg"])
    with Image.open(tmp_path / "set/images/0.jpg") as image:
        image.save(tmp_path / "set/images/0.jpg", exif=exif)
    call = ("translate", model, tmp_path / "set", "--device", "cpu", "--out")
    assert "upright" not in cli(*call, tmp_path / "alone").stdout, "there are no annotations"
    write(tmp_path / "set/coco.json", "{}")
    assert "1 images turned upright, as their EXIF orientation asks for, but not their annotations" in cli(*call, tmp_path / "out").stdout


def test_copies_take_the_place_of_links(translator: Translator, yolo: Path, tmp_path: Path) -> None:
    out, label = tmp_path / "out", "labels/train/0.txt"
    linked = quietly(translator, yolo, out, annotations="link").linked
    assert linked and (out / label).is_symlink()
    (out / "labels/train/1.txt").unlink()
    (out / "labels/train/1.txt").symlink_to(write(tmp_path / "mine.txt", "mine"))
    assert quietly(translator, yolo, out).copied == linked - 1
    assert not (out / label).is_symlink() and (out / label).read_bytes() == (yolo / label).read_bytes()
    assert (out / "labels/train/1.txt").read_text() == "mine", "a link that unflip did not make"
    again = quietly(translator, yolo, out)
    assert (again.done, again.copied, again.failed) == (0, 0, [])


def test_links_to_another_disk_are_absolute(translator: Translator, yolo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.stat

    def elsewhere(path: Any, **more: Any) -> Any:
        found = stat(path, **more)
        return os.stat_result([*found[:2], 12345, *found[3:]]) if str(path).startswith(str(yolo)) else found

    monkeypatch.setattr("unflip.inference.annotations.os.stat", elsewhere)
    quietly(translator, yolo, tmp_path / "out", annotations="link")
    monkeypatch.undo()
    assert os.readlink(tmp_path / "out/labels/train/0.txt") == str(yolo / "labels/train/0.txt")


def test_hidden_files_and_what_is_no_annotation(translator: Translator, tmp_path: Path) -> None:
    root = tmp_path / "set"
    photos(root / "images", ["0.png"])
    copied = ["README.md", "LICENSE", "a/classes.names", "images/0.tfw", "SBD.mat", "deep/manifest.jsonl"]
    hidden = [".gitignore", ".git/config.txt", "images/.cache/x.json"]
    left = ["images/0.png.aux.xml", "images/0.gif", "a.npz", "b.tar.gz", "c.mp4", "d.pkl", "e.safetensors", "f.tar", "manifest.jsonl"]
    for name in (*copied, *hidden, *left):
        write(root / name, name)
    outcome = quietly(translator, root, tmp_path / "out")
    endings = {".aux.xml": 1, ".gif": 1, ".npz": 1, ".gz": 1, ".mp4": 1, ".pkl": 1, ".safetensors": 1, ".tar": 1, "manifest.jsonl": 1}
    assert outcome == Outcome(done=1, copied=len(copied), left=endings)
    found = {name for name, data in tree(tmp_path / "out").items() if data is not None}
    assert found == {*copied, "images/0.png", MANIFEST} and set(lines(tmp_path / "out")) == found - {MANIFEST}
    # a list of images, or one image, is no data set
    write(root / "list.txt", "images/0.png\n")
    for i, source in enumerate((root / "list.txt", root / "images/0.png")):
        assert quietly(translator, source, tmp_path / f"of{i}") == Outcome(done=1)


def test_going_on(translator: Translator, voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quietly(translator, voc, out)
    labels = {"SegmentationClass": 2, "SegmentationObject": 2}
    before = tree(out)
    for path in out.rglob("*"):
        os.utime(path, (1, 1))
    assert quietly(translator, voc, out) == Outcome(skipped=3, labels=labels)
    assert tree(out) == before and all(path.stat().st_mtime == 1 for path in out.rglob("*") if path.is_file() and path.name != MANIFEST)

    write(out / "ImageSets/Main/car_train.txt", "mine")  # whoever has the copies may change them
    (out / "ImageSets/Segmentation/train.txt").unlink()
    write(voc / "Annotations/2007_000027.xml", "<annotation/>")  # and originals may change
    assert quietly(translator, voc, out) == Outcome(skipped=3, copied=2, labels=labels)
    assert (out / "ImageSets/Main/car_train.txt").read_text() == "mine"
    assert (out / "Annotations/2007_000027.xml").read_text() == "<annotation/>"

    write(voc / "ImageSets/Main/car_train.txt", "theirs")  # but not both
    before = tree(tmp_path)
    with pytest.raises(
        UserError, match=r"holds another ImageSets/Main/car_train\.txt, which was changed, as was its original; move it away"
    ):
        quietly(translator, voc, out)
    assert tree(tmp_path) == before


def test_nothing_is_written_over(translator: Translator, voc: Path, tmp_path: Path) -> None:
    write(tmp_path / "out/Annotations/2007_000027.xml", "mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"holds another Annotations/2007_000027\.xml, which unflip did not write; move it away"):
        quietly(translator, voc, tmp_path / "out")
    assert tree(tmp_path) == before
    write(tmp_path / "out/Annotations/2007_000027.xml", (voc / "Annotations/2007_000027.xml").read_bytes())
    with pytest.raises(UserError, match="did not write"):
        quietly(translator, voc, tmp_path / "out")  # that names the old images
    assert quietly(translator, voc, tmp_path / "out", annotations="none").copied == 0

    same = write(tmp_path / "same/ImageSets/Main/car_train.txt", (voc / "ImageSets/Main/car_train.txt").read_bytes())
    os.utime(same, (1, 1))
    assert quietly(translator, voc, tmp_path / "same").copied == 8 and same.stat().st_mtime == 1
    ids(tmp_path / "x_labels/2007_000027.png", SIZES[1])
    shutil.rmtree(voc / "SegmentationObject")
    (voc / "JPEGImages/2007_000033.jpg").unlink()
    with pytest.raises(UserError, match=r"x_labels holds another 2007_000027\.png, which unflip did not write"):
        quietly(translator, voc / "JPEGImages", tmp_path / "x", labels=voc / "SegmentationClass")
    assert not (tmp_path / "x").exists()


def test_a_file_that_cannot_be_read_is_listed(cli: Callable[..., Any], model: Path, yolo: Path, tmp_path: Path) -> None:
    (yolo / "labels/val/2.txt").unlink()
    (yolo / "labels/val/2.txt").symlink_to("nowhere")
    result = cli("translate", model, yolo, "--out", tmp_path / "out", "--device", "cpu")
    assert result.code == 1 and "6 files of the data set copied" in result.stdout
    [failed] = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert failed.startswith(f"failed: cannot read {yolo}/labels/val/2.txt (No such file") and "Traceback" not in result.stderr


def test_interrupted_while_it_copies(translator: Translator, yolo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_place = Place.write

    def interrupted(place: Place, name: str, data: bytes) -> None:
        if name == "train.txt":
            raise KeyboardInterrupt
        write_place(place, name, data)

    monkeypatch.setattr(Place, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quietly(translator, yolo, tmp_path / "out")
    monkeypatch.undo()
    outcome = quietly(translator, yolo, tmp_path / "out")
    assert outcome.skipped == 4 and outcome.copied >= 1
    quietly(translator, yolo, tmp_path / "whole")
    moved = {
        name: data and data.replace(str(tmp_path / "whole").encode(), str(tmp_path / "out").encode())
        for name, data in tree(tmp_path / "whole").items()
        if name != MANIFEST
    }
    assert {name: data for name, data in tree(tmp_path / "out").items() if name != MANIFEST} == moved


# --- URLs and shards


@pytest.fixture
def memory() -> Iterator[str]:
    store = fsspec.filesystem("memory").store
    store.clear()
    yield "memory://house"
    store.clear()


def test_behind_urls(translator: Translator, voc: Path, memory: str, tmp_path: Path) -> None:
    wanted = Outcome(done=3, copied=9, labels={"SegmentationClass": 2, "SegmentationObject": 2})
    assert quietly(translator, voc, f"{memory}/out") == wanted
    place = Place(f"{memory}/out")
    text = (voc / "Annotations/2007_000027.xml").read_text()
    assert place.read("Annotations/2007_000027.xml").decode() == text.replace(str(voc), f"{memory}/out")
    mask = (voc / "SegmentationClass/2007_000027.png").read_bytes()
    assert place.read("SegmentationClass/2007_000027.png") == mask

    for path in voc.rglob("*.*"):
        Place(f"{memory}/in").write(path.relative_to(voc).as_posix(), path.read_bytes().replace(str(voc).encode(), f"{memory}/in".encode()))
    assert quietly(translator, f"{memory}/in", tmp_path / "out") == wanted
    assert (tmp_path / "out/Annotations/2007_000027.xml").read_text() == text.replace(str(voc), str(tmp_path / "out"))
    assert quietly(translator, f"{memory}/in", tmp_path / "out") == Outcome(skipped=3, labels=wanted.labels)
    named = quietly(translator, f"{memory}/in", f"{memory}/b", labels=f"{memory}/in/SegmentationClass")
    assert named == Outcome(done=5, copied=7), "of two folders, one was named"

    (voc / "JPEGImages/2007_000033.jpg").unlink()
    assert quietly(translator, voc / "JPEGImages", f"{memory}/c", labels=voc / "SegmentationClass") == Outcome(done=2, copied=2)
    assert Place(f"{memory}/c_labels").read("2007_000027.png") == mask
    with pytest.raises(UserError, match="there are no links behind URLs"):
        quietly(translator, voc, f"{memory}/d", annotations="link")
    with pytest.raises(UserError, match="folders of this machine only"):
        quietly(translator, f"{memory}/in", tmp_path / "d", labels=voc / "SegmentationClass")


def test_shards_keep_their_members_and_the_files_beside_them(translator: Translator, voc: Path, tmp_path: Path) -> None:
    import tarfile

    root = tmp_path / "shards"
    write(root / "classes.json", "{}")
    with tarfile.open(root / "0.tar", "w") as tar:
        tar.add(voc / "JPEGImages/2007_000027.jpg", "a.jpg")
        tar.add(voc / "SegmentationClass/2007_000027.png", "a.seg.png")
    assert quietly(translator, root, tmp_path / "out") == Outcome(done=1, copied=1)
    assert set(tree(tmp_path / "out")) == {"0.tar", "classes.json", MANIFEST}
    with pytest.raises(UserError, match="--labels with shards"):
        quietly(translator, root, tmp_path / "x", labels=voc / "SegmentationClass")


# --- texts that name the folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path: /data/set", "path: /new/out"),
        ("path: '/data/set'", "path: '/new/out'"),
        ('{"a": "/data/set/x.png"}', '{"a": "/new/out/x.png"}'),
        ("/data/set/a.png /data/set/b.png\n/data/set", "/new/out/a.png /new/out/b.png\n/new/out"),
        ("x,/data/set/a.png,/data/set/b.png", "x,/new/out/a.png,/new/out/b.png"),
        ("file:///data/set/a.png", "file:///new/out/a.png"),
        ("it is /data/set.", "it is /new/out."),
        (r'"\/data\/set\/a.png"', r'"\/new\/out\/a.png"'),
        ("/data/set2/a.png /data/set-old /data/set.old /data/sett", None),
        ("/data/set night/a.png\n/data/set+aug/a.png /data/set@x/e /data/set(1)/a.png /data/set#2 /data/set=x /data/set&amp;co", None),
        ("path: /data/set  # not data/old", "path: /new/out  # not data/old"),
        ("path: /data/set # not data/old", "path: /new/out # not data/old"),
        ("/data/set one or two", "/new/out one or two"),
        ("/data/set /other\n/data/set\ta/b\r\n", "/new/out /other\n/new/out\ta/b\r\n"),
        (
            "[/data/set, /data/set] {a: /data/set} (/data/set) <a>/data/set</a>",
            "[/new/out, /new/out] {a: /new/out} (/new/out) <a>/new/out</a>",
        ),
        ("&quot;/data/set&quot; /data/set: 4 /data/set;", "&quot;/new/out&quot; /new/out: 4 /new/out;"),
        ("/mnt/data/set/a.png ~/data/set ./data/set ../data/set data/set", None),
        ("/data /data/ /dat", None),
        ("http://host/data/set", None),
    ],
)
def test_paths_of_the_folder_are_moved_and_no_others(text: str, expected: str | None) -> None:
    moved = Moved("/data/set", Place("/new/out"))
    for mark in (b"", b"\xef\xbb\xbf", b"\xff\x00 "):
        assert moved(mark + text.encode()) == mark + (text if expected is None else expected).encode()


def test_a_folder_is_known_by_all_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Été & Co").mkdir()
    (tmp_path / "link").symlink_to("Été & Co", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    moved = Moved("link", Place("out"))
    new = str(tmp_path / "out")
    for old in (tmp_path / "Été & Co", tmp_path / "link"):
        value = {"file": f"{old}/ü.png"}
        assert json.loads(moved(json.dumps(value).encode())) == {"file": f"{new}/ü.png"}
        assert json.loads(moved(json.dumps(value, ensure_ascii=False).encode())) == {"file": f"{new}/ü.png"}
        element = ElementTree.Element("path")
        element.text = f"{old}/ü.png"
        for encoding in ("utf-8", "unicode"):
            written = ElementTree.tostring(element, encoding)
            data = written.encode() if isinstance(written, str) else written
            assert ElementTree.fromstring(moved(data)).text == f"{new}/ü.png"
    assert (
        Moved("s3://bucket/set/", Place("s3://bucket/out"))(b"s3://bucket/set/a s3://bucket/set2") == b"s3://bucket/out/a s3://bucket/set2"
    )
    assert Moved("/", Place("/new"))(b"/a /") == b"/a /"
    assert Moved(os.fsdecode(b"/a/\xe9"), Place("/new"))(b"/a/\xe9/b") == b"/new/b", "a name that is not UTF-8"
