"""Label sets that are known by name: their tables, layouts and encodings, and whole verbs on made folders of their kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from unflip.data.classes import Stored
from unflip.data.folders import find_images, survey
from unflip.data.known import KNOWN
from unflip.data.labels import Classes, Labels, match_labels, read_classes, read_labels, survey_labels
from unflip.errors import UserError
from unflip.recipes.compare_plan import ARGUMENTS
from unflip.runs import from_yaml, to_yaml

CITYSCAPES = read_classes(Path("cityscapes"))
SIZE = (6, 8)

# As published converters have them: AdaptSegNet and DAFormer for Cityscapes and GTA5, DAFormer for SYNTHIA.
CITYSCAPES_TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15}
CITYSCAPES_TRAIN_IDS |= {31: 16, 32: 17, 33: 18}
SYNTHIA_TRAIN_IDS = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13, 18: 14, 19: 15, 20: 16}
SYNTHIA_TRAIN_IDS |= {12: 17, 11: 18}


def line(call: Callable[[], Any], *parts: object) -> str:
    """The one line of the ``UserError`` that the call raises, which holds all ``parts``."""
    with pytest.raises(UserError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said and all(str(part) in said for part in parts), said
    return said


def gray(*values: int) -> Image.Image:
    """The values, in stripes."""
    return Image.fromarray(np.resize(np.repeat(np.array(values, np.uint8), 2), SIZE))


def colored(*colors: tuple[int, ...]) -> Image.Image:
    return Image.fromarray(np.resize(np.repeat(np.array(colors, np.uint8), 2, 0), (*SIZE, 3)))


def stripes(*ids: int) -> np.ndarray:
    return np.resize(np.repeat(np.array(ids), 2), SIZE)


def color(name: str, classes: Classes = CITYSCAPES) -> tuple[int, ...]:
    return classes.colors[name]


def put(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def put_deep(path: Path, ids: np.ndarray) -> Path:
    """As SYNTHIA stores ids: 16 bits, the class in the red channel, the instance in the green one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.dstack([ids, ids * 300 + 7, ids * 0]).astype(np.uint16)))
    return path


# --- tables


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_set_is_consistent(name: str) -> None:
    classes = read_classes(Path(name))
    assert len(set(classes.palette)) == len(set(classes.names)) == len(classes.names)
    for way in classes.stored:
        colors = [color[:3] for color in way.colors]
        assert len(set(colors)) == len(colors) and not set(colors) & set(classes.palette), "one entry for each color"
        assert way.values is None or {i for _, i in way.values} <= {-1, *range(len(classes.names))}
    assert Classes.model_validate_json(classes.model_dump_json()) == classes


def test_the_tables_of_cityscapes_and_synthia() -> None:
    labels = dict(CITYSCAPES.stored[0].values or ())
    assert labels == {i: CITYSCAPES_TRAIN_IDS.get(i, -1) for i in range(34)}
    synthia = dict(read_classes(Path("synthia")).stored[0].values or ())
    assert synthia == {i: SYNTHIA_TRAIN_IDS.get(i, -1) for i in range(23)}
    assert color("person") == (220, 20, 60) and color("bicycle") == (119, 11, 32) and CITYSCAPES.names[13] == "car"


def test_classes_by_the_usual_protocols() -> None:
    kept = {name: read_classes(Path(name)).kept for name in KNOWN}
    assert kept["cityscapes16"] == kept["synthia"] == (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
    assert kept["cityscapes13"] == kept["synthia13"] == (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
    nineteen = [name for name in KNOWN if read_classes(Path(name)).names == CITYSCAPES.names]
    assert nineteen == [name for name in KNOWN if name not in ("mapillary", "camvid", "vkitti2")]
    assert [len(kept[name]) for name in ("mapillary", "camvid", "vkitti2")] == [65, 11, 14]


# --- names


def test_a_file_of_the_name_wins_and_a_folder_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cityscapes").mkdir()
    assert read_classes(Path("cityscapes")) == CITYSCAPES
    own = Classes(names=("a", "b"), palette=((1, 0, 0), (2, 0, 0)))
    Path("gta5").write_text(own.model_dump_json())
    assert read_classes(Path("gta5")) == own


def test_an_unknown_name_lists_the_known_ones(cli: Callable[..., Any], tmp_path: Path) -> None:
    line(lambda: read_classes(Path("cityscape")), "cityscape", *KNOWN)
    line(lambda: read_classes(Path("gta5+cityscape")), "gta5+cityscape", *KNOWN)
    result = cli(
        "audit", "--source", tmp_path, "--target", tmp_path.parent, "--source-labels", "a", "--target-labels", "b", "--classes", "gta"
    )
    assert result.code == 2 and result.stderr.count("\n") == 1 and "synthia13" in result.stderr
    for verb in ("audit", "train", "segmenter", "evaluate", "compare"):
        shown = " ".join(cli(verb, "--help").stdout.split())
        assert ", ".join(KNOWN) in shown


def test_sets_of_the_same_classes_are_read_together() -> None:
    both = read_classes(Path("gta5+cityscapes"))
    assert both.names == CITYSCAPES.names and [way.label for way in both.stored] == ["*", *(way.label for way in CITYSCAPES.stored)]
    assert (
        read_classes(Path("synthia+cityscapes")).kept == read_classes(Path("cityscapes+synthia")).kept == read_classes(Path("synthia")).kept
    )
    assert read_classes(Path("gta5+gta5")) == read_classes(Path("gta5"))
    mixed = read_classes(Path("gta5+bdd100k")).stored[0]
    assert dict(mixed.values or ())[18] == 18 and (20, 20, 20, -1) in mixed.colors
    line(lambda: read_classes(Path("gta5+camvid")), "gta5+camvid", "not the same classes")
    for name in ("synthia+bdd100k", "gta5+synthia", "gta5+mapillary19"):
        line(lambda name=name: read_classes(Path(name)), name, "mean different things")


# --- layouts: a made folder of each kind, as ROOT//PATH of an image and of its label map, and what is read there

CASES: dict[str, tuple[str, str, str, Callable[[Path], Path], tuple[int, ...]]] = {
    "cityscapes ids": (
        "cityscapes",
        "leftImg8bit/train//aachen/aachen_000000_000019_leftImg8bit.png",
        "gtFine/train//aachen/aachen_000000_000019_gtFine_labelIds.png",
        lambda path: put(path, gray(7, 26, 0, 33)),
        (0, 13, -1, 18),
    ),
    "cityscapes training ids": (
        "cityscapes",
        "leftImg8bit/val//ulm/ulm_1_leftImg8bit.png",
        "gtFine/val//ulm/ulm_1_gtFine_labelTrainIds.png",
        lambda path: put(path, gray(0, 13, 255, 18)),
        (0, 13, -1, 18),
    ),
    "cityscapes colors": (
        "cityscapes",
        "leftImg8bit/val//ulm/ulm_1_leftImg8bit.jpg",
        "gtFine/val//ulm/ulm_1_gtFine_color.png",
        lambda path: put(path, colored((128, 64, 128), (0, 0, 142), (111, 74, 0), (119, 11, 32))),
        (0, 13, -1, 18),
    ),
    "cityscapes, 13 classes": (
        "cityscapes13",
        "leftImg8bit/val//ulm/ulm_1_leftImg8bit.png",
        "gtFine/val//ulm/ulm_1_gtFine_labelIds.png",
        lambda path: put(path, gray(7, 12, 22, 33)),
        (0, -1, -1, 18),
    ),
    "gta5": (
        "gta5",
        "images//00001.png",
        "labels//00001.png",
        lambda path: put(path, colored((128, 64, 128), (0, 0, 142), (20, 20, 20), (119, 11, 32)).quantize(16)),
        (0, 13, -1, 18),
    ),
    "synthia": (
        "synthia",
        "RGB//0000000.png",
        "GT/LABELS//0000000.png",
        lambda path: put_deep(path, stripes(3, 8, 22, 11)),
        (0, 13, -1, 18),
    ),
    "synthia, 13 classes": (
        "synthia13",
        "RGB//0000000.png",
        "GT/LABELS//0000000.png",
        lambda path: put_deep(path, stripes(3, 21, 16, 11)),
        (0, -1, -1, 18),
    ),
    "synthia in 8 bits": (
        "synthia",
        "RGB//0000000.png",
        "GT/LABELS//0000000.png",
        lambda path: put(path, colored((3, 9, 0), (8, 9, 0), (22, 9, 0), (11, 9, 0))),
        (0, 13, -1, 18),
    ),
    "bdd100k": (
        "bdd100k",
        "images/10k//train/0004a4c0-d4dff0ad.jpg",
        "labels/sem_seg/masks//train/0004a4c0-d4dff0ad.png",
        lambda path: put(path, gray(0, 13, 255, 18)),
        (0, 13, -1, 18),
    ),
    "bdd100k of 2018": (
        "bdd100k",
        "seg/images//train/0004a4c0-d4dff0ad.jpg",
        "seg/labels//train/0004a4c0-d4dff0ad_train_id.png",
        lambda path: put(path, gray(0, 13, 255, 18)),
        (0, 13, -1, 18),
    ),
    "mapillary": (
        "mapillary",
        "training/images//_1Gn_.jpg",
        "training/v1.2/labels//_1Gn_.png",
        lambda path: put(path, colored((128, 64, 128), (0, 0, 142), (0, 0, 0), (196, 196, 196)).quantize(16)),
        (13, 55, -1, 2),
    ),
    "mapillary by Cityscapes' classes": (
        "mapillary19",
        "training/images//_1Gn_.jpg",
        "training/v1.2/labels//_1Gn_.png",
        lambda path: put(path, colored((128, 64, 128), (255, 255, 255), (0, 0, 90), (196, 196, 196)).quantize(16)),
        (0, 0, -1, 1),
    ),
    "camvid": (
        "camvid",
        "701_StillsRaw_full//0001TP_006690.png",
        "LabeledApproved_full//0001TP_006690_L.png",
        lambda path: put(path, colored((128, 64, 128), (0, 0, 192), (0, 0, 0), (192, 0, 64), (128, 128, 51))),
        (3, 4, -1, 3, -1),
    ),
    "camvid as SegNet's": (
        "camvid",
        "train//0001TP_006690.png",
        "trainannot//0001TP_006690.png",
        lambda path: put(path, gray(3, 4, 11, 10)),
        (3, 4, -1, 10),
    ),
    "virtual kitti": (
        "vkitti2",
        "rgb//Scene01/clone/frames/rgb/Camera_0/rgb_00001.jpg",
        "classes//Scene01/clone/frames/classSegmentation/Camera_0/classgt_00001.png",
        lambda path: put(path, colored((210, 0, 200), (255, 127, 80), (0, 0, 0), (0, 139, 139))),
        (0, 12, -1, 13),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_set_is_matched_and_read_as_it_is_stored(case: str, tmp_path: Path) -> None:
    name, image, label, write, expected = CASES[case]
    classes = read_classes(Path(name))
    put(tmp_path / image, colored((1, 2, 3)))
    path = write(tmp_path / label)
    image_root, label_root = (tmp_path / text.partition("//")[0] for text in (image, label))
    images = find_images(image_root)
    maps = match_labels(images, image_root, label_root, classes)
    assert images == [tmp_path / image] and maps == [path]
    assert (read_labels(path, classes) == stripes(*expected)).all()
    surveyed = survey_labels(maps, survey(images), classes)
    assert surveyed.pixels == tuple((stripes(*expected) == i).sum() for i in range(len(classes.names)))
    stored = Labels(surveyed.entries, classes, resize="4x3")[0].numpy()
    assert stored.shape == (3, 4) and set(stored[stored < 255].tolist()) <= set(expected)


@pytest.mark.parametrize("name", KNOWN)
def test_every_set_has_a_layout_that_is_tried(name: str) -> None:
    tried = {case[0] for case in CASES.values()}
    assert name in tried or name == "cityscapes16", "add a case"


def test_one_color_is_one_class_in_gta5_and_cityscapes(tmp_path: Path) -> None:
    label = put(tmp_path / "x_gtFine_color.png", colored(*CITYSCAPES.palette))
    other = put(tmp_path / "x.png", colored(*CITYSCAPES.palette))
    assert (read_labels(label, CITYSCAPES) == read_labels(other, read_classes(Path("gta5")))).all()
    both = read_classes(Path("gta5+cityscapes"))
    assert (read_labels(label, both) == read_labels(other, both)).all()


def test_of_several_label_maps_the_first_kind_is_taken(tmp_path: Path) -> None:
    """Cityscapes' ids and training ids are both gray, and 7 is road in the one and a traffic sign in the other: the names decide."""
    image = put(tmp_path / "images/a/x_leftImg8bit.png", colored((1, 2, 3)))
    names = ("labelIds", "labelTrainIds", "color", "instanceIds")
    folder = tmp_path / "labels/a"
    paths = {name: put(folder / f"x_gtFine_{name}.png", colored((128, 64, 128)) if name == "color" else gray(7)) for name in names}
    for name, road in (("labelIds", 0), ("labelTrainIds", 7), ("color", 0)):
        [found] = match_labels([image], tmp_path / "images", tmp_path / "labels", CITYSCAPES)
        assert found == paths[name] and (read_labels(found, CITYSCAPES) == road).all()
        found.unlink()
    line(
        lambda: match_labels([image], tmp_path / "images", tmp_path / "labels", CITYSCAPES),
        f"1 of 1 images have no label map, such as {image} (no {folder / 'x_gtFine_labelIds.png'})",
        "*_gtFine_labelIds, *_gtFine_labelTrainIds or *_gtFine_color",
        "*_leftImg8bit",
    )


def test_images_and_labels_of_other_names_are_refused_in_one_line(tmp_path: Path) -> None:
    image = put(tmp_path / "images/x.png", colored((1, 2, 3)))
    label = put(tmp_path / "labels/x.png", gray(7))
    line(lambda: match_labels([image], image.parent, label.parent, CITYSCAPES), image, "(not named *_leftImg8bit)")
    line(lambda: read_labels(label, CITYSCAPES), label, "*_gtFine_labelIds, *_gtFine_labelTrainIds or *_gtFine_color")
    line(lambda: read_labels(label, read_classes(Path("gta5"))), label, "gray", "store colors")
    both = read_classes(Path("gta5+cityscapes"))
    line(lambda: read_labels(label, both), label, "gray", "name it *_gtFine_labelIds or *_gtFine_labelTrainIds")
    line(lambda: read_labels(put(tmp_path / "x_gtFine_labelIds.png", gray(34)), CITYSCAPES), "gray value 34 is no class")
    line(lambda: read_labels(put(tmp_path / "y.png", colored((1, 2, 3))), read_classes(Path("gta5"))), "color (1, 2, 3) is no class")
    line(lambda: read_labels(put_deep(tmp_path / "z.png", stripes(23)), read_classes(Path("synthia"))), "value 23 is no class (48 pixels)")


def test_a_list_of_the_images_serves_where_images_and_labels_share_a_root(tmp_path: Path) -> None:
    classes, maps = read_classes(Path("vkitti2")), []
    for scene in ("Scene01/clone", "Scene02/fog"):
        put(tmp_path / scene / "frames/rgb/Camera_0/rgb_00000.jpg", colored((1, 2, 3)))
        maps.append(put(tmp_path / scene / "frames/classSegmentation/Camera_0/classgt_00000.png", colored((90, 200, 255))))
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{scene}/frames/rgb/Camera_0/rgb_00000.jpg\n" for scene in ("Scene01/clone", "Scene02/fog")))
    assert match_labels(find_images(listed), listed, tmp_path, classes) == maps


# --- deep maps


def test_all_sixteen_bits_count(tmp_path: Path) -> None:
    """Cut to 8 bits, 3 would be 0, and a class of 0x0300 a road."""
    synthia = read_classes(Path("synthia"))
    line(lambda: read_labels(put_deep(tmp_path / "a.png", stripes(0x0300)), synthia), "value 768 is no class")
    whole = put_deep(tmp_path / "b.png", np.tile(stripes(3, 8), (20, 20)))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-40])
    line(lambda: read_labels(tmp_path / "cut.png", synthia), "cut.png", "cannot be read")
    line(lambda: read_labels(whole, CITYSCAPES.model_copy(update={"stored": ()})), "16-bit colors", whole)


# --- own classes.json


def own(*stored: dict[str, Any]) -> dict[str, Any]:
    return {"names": ["road", "car"], "palette": [[128, 64, 128], [0, 0, 142]], "stored": list(stored)}


def test_own_classes_can_be_stored_in_ways_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(
        json.dumps(own({"image": "im_*", "label": "*_seg", "folders": {"rgb": "seg"}, "values": {"40": 0, "41": 0, "50": 1, "0": -1}}))
    )
    classes = read_classes(file)
    image = put(tmp_path / "data/rgb/im_1.jpg", colored((1, 2, 3)))
    label = put(tmp_path / "data/seg/1_seg.png", gray(40, 41, 50, 0))
    [found] = match_labels([image], tmp_path / "data", tmp_path / "data", classes)
    assert found == label and (read_labels(found, classes) == stripes(0, 0, 1, -1)).all()
    carla = Classes.model_validate(own({"values": {7: 0, 10: 1}, "band": 0, "ignore_others": True}))
    assert (read_labels(put(tmp_path / "c.png", colored((7, 1, 2), (10, 3, 4), (99, 0, 0))), carla) == stripes(0, 1, -1)).all()
    named = Classes.model_validate(own({"label": "*_seg", "colors": [[9, 9, 9, 1], [0, 0, 0, -1]]}))
    assert (read_labels(put(tmp_path / "d_seg.png", gray(1, 0, 255)), named) == stripes(1, 0, -1)).all(), "ids, where no values are listed"
    seen = put(tmp_path / "e_seg.png", colored((128, 64, 128), (9, 9, 9), (0, 0, 0)))
    assert (read_labels(seen, named) == stripes(0, 1, -1)).all()


def test_gray_colors_are_told_from_ids_with_further_colors_too(tmp_path: Path) -> None:
    mask = {"names": ["ground", "building"], "palette": [[0, 0, 0], [255, 255, 255]]}
    classes = Classes.model_validate(mask | {"stored": [{"colors": [[128, 128, 128, -1]]}]})
    assert (read_labels(put(tmp_path / "a.png", gray(0, 255, 128)), classes) == stripes(0, 1, -1)).all()
    by_id = Classes.model_validate(mask | {"stored": [{"values": {0: 1, 1: 0}}]})
    Image.fromarray(stripes(0, 1) == 1).save(tmp_path / "b.png")
    assert (read_labels(tmp_path / "b.png", by_id) == stripes(1, 0)).all()


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ([{"values": {"7": 2}}], "value 7 is of class 2; ids go from 0 to 1"),
        ([{"values": {"7": -2}}], "value 7 is of class -2"),
        ([{"values": {"65536": 0}}], "stored.0.values"),
        ([{"values": {"seven": 0}}], "stored.0.values"),
        ([{"colors": [[0, 0, 142, 0]]}], "color (0, 0, 142) is of class 1 and of 0"),
        ([{"colors": [[1, 1, 1, 0], [1, 1, 1, 1]]}], "color (1, 1, 1) is of class 0 and of 1"),
        ([{"colors": [[1, 1, 1]]}], "stored.0.colors"),
        ([{"label": "seg"}], "stored.0.label"),
        ([{"label": "*_*"}], "stored.0.label"),
        ([{"image": "a/*"}], "stored.0.image"),
        ([{"band": 3}], "stored.0.band"),
        ([{"labels": "*"}], "did you mean label"),
        ([{"image": "a_*"}, {"values": {"1": 0}}], "label maps named * are stored in two ways"),
    ],
)
def test_ways_that_make_no_sense_are_one_line(stored: list[Any], says: str, tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps(own(*stored)))
    line(lambda: read_classes(file), file, says)


def test_what_was_written_before_stays_equal() -> None:
    plain = Classes(names=("a", "b"), palette=((1, 0, 0), (2, 0, 0)))
    assert plain.model_dump(mode="json") == {"names": ["a", "b"], "palette": [[1, 0, 0], [2, 0, 0]], "ignore": []}
    assert Stored().model_dump() == {} and Classes.model_validate(plain.model_dump() | {"stored": []}) == plain


def test_a_config_holds_the_whole_set(tmp_path: Path) -> None:
    import unflip

    given = {"source": "renders", "target": "photos", "source_labels": "labels", "budget": 100}
    config = unflip.configure("cut", classes="gta5+cityscapes", **given)
    assert config.data.classes == read_classes(Path("gta5+cityscapes"))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_yaml(tmp_path / "config.yaml") == config
    assert unflip.configure(file=tmp_path / "config.yaml") == config


# --- whole verbs


def world(folder: Path) -> None:
    """Renders as GTA5 stores them, photos as Cityscapes does: sky above road, and a car on it. Made, of 48 x 32 pixels."""
    random = np.random.default_rng(0)
    names = ("sky", "road", "car", "static")
    ids, colors = (23, 7, 26, 4), (color("sky"), color("road"), color("car"), (20, 20, 20))
    for i in range(5):
        shown = np.zeros((32, 48), np.uint8)
        shown[12 + i :] = 1
        shown[20 + i : 26 + i, 4 * i : 4 * i + 12] = 2
        shown[:2, :5] = names.index("static")
        photo = np.array([(90, 160, 220), (90, 90, 90), (200, 30, 30), (10, 10, 10)])[shown] + random.integers(-9, 9, (32, 48, 3))
        render, real = Image.fromarray(photo.astype(np.uint8)), Image.fromarray((photo * 0.8).clip(0, 255).astype(np.uint8))
        put(folder / f"gta/images/{i:05}.png", render)
        put(folder / f"gta/labels/{i:05}.png", Image.fromarray(np.array(colors, np.uint8)[shown]).quantize(8))
        put(folder / f"leftImg8bit/train/bonn/bonn_{i}_leftImg8bit.png", real)
        put(folder / f"gtFine/train/bonn/bonn_{i}_gtFine_labelIds.png", Image.fromarray(np.array(ids, np.uint8)[shown]))
        put(folder / f"gtFine/train/bonn/bonn_{i}_gtFine_instanceIds.png", Image.fromarray(shown.astype(np.uint16) * 1000))


def test_gta5_and_cityscapes_end_to_end(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    world(tmp_path)
    labels = "--source-labels gta/labels --target-labels gtFine/train --classes gta5+cityscapes"
    audit = cli("audit", "--source", "gta/images", "--target", "leftImg8bit/train", *labels.split(), "--out", "audit")
    assert audit.code == 0, audit.stderr
    shares = json.loads((tmp_path / "audit/audit.json").read_text())["shares"]
    assert shares["source"] == shares["target"] and shares["source"]["road"] > 0.5 > shares["source"]["sky"] > 0.4

    photos = "--images leftImg8bit/train --labels gtFine/train --classes cityscapes"
    learn = cli("segmenter", *photos.split(), "--out", "judge", "--budget", 8, "--size", 32)
    assert learn.code == 0, learn.stderr
    known = json.loads((tmp_path / "judge/config.json").read_text())["classes"]
    assert Classes.model_validate(known) == CITYSCAPES
    judge = "evaluate --translated gta/images --labels gta/labels --segmenter judge --classes gta5 --out evaluation"
    judged = cli(*judge.split())
    assert judged.code == 0, judged.stderr
    figures = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert {name for name, iou in figures["per_class_iou"].items() if iou["value"] is not None} == {"sky", "road", "car"}
    wrong = cli(*judge.replace("gta5", "cityscapes").replace("evaluation", "none").split())
    assert wrong.code == 2 and wrong.stderr.count("\n") == 1 and "not named *_leftImg8bit" in wrong.stderr
    assert not (tmp_path / "none").exists()


def test_every_verb_finds_labels_by_their_layout(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cityscapes as the source, whose label maps have other names than its images: to train with, to validate on and to compare by."""
    monkeypatch.chdir(tmp_path)
    world(tmp_path)

    def call(words: str) -> None:
        result = cli(*words.split())
        assert result.code == 0, result.stderr

    images, labels = "leftImg8bit/train", "gtFine/train"
    call(f"segmenter --images {images} --labels {labels} --classes cityscapes --out judge --budget 2 --size 32")
    small = "generator.width=4 generator.blocks=1 discriminator.width=4 discriminator.layers=2 projector.width=8 nce.patches=8"
    settings = " ".join(f"--set {setting}" for setting in small.split())
    data = f"--source {images} --source-labels {labels} --classes cityscapes --target gta/images"
    validation = f"--val-source {images} --val-labels {labels} --segmenter judge"
    call(f"train {data} {validation} --method cut --size 32 --budget 2 --device cpu --out run {settings}")
    assert from_yaml(tmp_path / "run/config.yaml").data.classes == CITYSCAPES
    judged = f"--test-source {images} --test-labels {labels} --segmenter judge --classes cityscapes --target gta/images"
    call(f"compare --run cut=run {judged} --device cpu --out comparison")
    arguments = json.loads((tmp_path / "comparison" / ARGUMENTS).read_text())["arguments"]
    assert arguments["classes"] == "cityscapes", "not a path"
