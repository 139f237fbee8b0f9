"""``unflip adapt``: networks that differ in what they were trained on, and the table of what that is worth."""

from __future__ import annotations

import csv
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import refused
from running import tree
from unflip.data import streets
from unflip.data.labels import Classes
from unflip.errors import Interrupted, UserError
from unflip.evaluation.confusion import Reading
from unflip.networks.segmenter import SegmenterConfig
from unflip.recipes import adapt as recipe
from unflip.recipes import adapt_page
from unflip.recipes import segmenter as training
from unflip.recipes.adapt import Adaptation, adapt
from unflip.recipes.adapt_plan import Arm, Sets, arms, drawn
from unflip.recipes.adapt_table import Outcome, answer, columns, markdown
from unflip.report import pictures
from unflip.report.pictures import Picture
from unflip.segmenterfolder import load_segmenter

SEEDS = 2
CLASSES = Classes.model_validate(streets.classes())


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_from_scratch", lambda size: SegmenterConfig(width=4, halvings=2))
        yield


def make(root: Path) -> Path:
    """Renders and their labels, two sets of "translations", labeled photos to learn from and others to test on."""
    size: dict[str, Any] = {"width": 48, "height": 32}
    streets.write(root / "renders", count=6, look="render", labels=root / "labels", **size)
    streets.write(root / "cut", count=6, look="photo", **size)
    streets.write(root / "semst", count=6, look="photo", seed=1, **size)
    streets.write(root / "photos", count=8, look="photo", first=50, labels=root / "photo_labels", **size)
    streets.write(root / "test", count=4, look="photo", first=90, labels=root / "test_labels", **size)
    return root


def call(root: Path, out: Path, **changes: Any) -> Adaptation:
    given: dict[str, Any] = {"source": root / "renders", "target": root / "photos", "target_labels": root / "photo_labels"}
    given |= {"seeds": SEEDS, "budget": 8, "size": "32", "device": "cpu", "progress": False, "say": lambda line: None}
    given |= changes
    sets = given.pop("translated", {"cut": root / "cut", "semst": root / "semst"})
    places = [given.pop(name, root / default) for name, default in PLACES.items()]
    return adapt(sets, *places, out, **given)


PLACES = {"labels": "labels", "test_images": "test", "test_labels": "test_labels", "classes": "classes.json"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def found(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Adaptation, list[str]]:
    said: list[str] = []
    return call(world, tmp_path_factory.mktemp("adapted") / "out", self_training=True, shots=[2, 4], say=said.append), said


NAMES = [
    "source only",
    "color transfer",
    "cut",
    "semst",
    "source only + self-training",
    "cut + self-training",
    "semst + self-training",
    *("2 labeled", "source only, then 2 labeled", "cut, then 2 labeled", "semst, then 2 labeled"),
    *("4 labeled", "source only, then 4 labeled", "cut, then 4 labeled", "semst, then 4 labeled"),
    "target",
]


def test_every_arm_has_every_seed(found: tuple[Adaptation, list[str]]) -> None:
    result, said = found
    assert [each.arm.name for each in result.outcomes] == NAMES
    assert all(sorted(each.readings) == [0, 1] and not each.errors for each in result.outcomes)
    assert all(reading.images == 4 for each in result.outcomes for reading in each.readings.values())
    begun = [line for line in said if " of 32)" in line]
    assert begun[0] == "source only seed0 (1 of 32)" and begun[16] == "source only seed1 (17 of 32)"


def test_arms_are_trained_on_what_they_are_named_for(found: tuple[Adaptation, list[str]], world: Path) -> None:
    folder = found[0].folder / "arms"

    def provenance(arm: str, seed: int = 0) -> dict[str, Any]:
        return json.loads((folder / arm / f"seed{seed}/config.json").read_text())["provenance"]

    assert provenance("cut")["images"] == 6 and provenance("target")["images"] == 8 and provenance("cut")["seed"] == 0
    assert provenance("cut_self-training")["unlabeled"] == 8
    few = provenance("semst_then_2_labeled", 1)
    assert few["images"] == 2 and few["budget"] == 2 and few["model"] == str(folder / "semst/seed1")
    begun = json.loads((folder / "semst/seed1/config.json").read_text())["files"]["model.safetensors"]
    assert few["weights_before"] == begun
    assert provenance("2_labeled")["budget"] == 8 and provenance("2_labeled")["images"] == 2
    colored = sorted((found[0].folder / "color_transfer").glob("*.png"))
    assert [path.name for path in colored] == [path.name for path in sorted((world / "renders").glob("*.png"))]


def test_what_is_written_agrees(found: tuple[Adaptation, list[str]]) -> None:
    result = found[0]
    assert json.loads((result.folder / "metrics.json").read_text()) == result.metrics
    assert (result.folder / "table.md").read_text() == result.markdown
    lines = list(csv.DictReader((result.folder / "table.csv").open()))
    runs = list(csv.DictReader((result.folder / "runs.csv").open()))
    assert [line["arm"] for line in lines] == NAMES and len(runs) == SEEDS * len(NAMES)
    for line in lines:
        seeds = result.metrics["arms"][line["arm"]]["seeds"]
        values = [seed["mean_iou"]["value"] for seed in seeds]
        assert float(line["mean_iou"]) == pytest.approx(np.mean(values))
        assert [float(line["mean_iou_low"]), float(line["mean_iou_high"])] == pytest.approx([min(values), max(values)])
        assert [float(run["mean_iou"]) for run in runs if run["arm"] == line["arm"]] == pytest.approx(values)
        assert len(seeds[0]["per_class_iou"]) == 8 and seeds[0]["mean_iou"]["n"] == 4
    base = [seed["mean_iou"]["value"] for seed in result.metrics["arms"]["source only"]["seeds"]]
    ours = [seed["mean_iou"]["value"] for seed in result.metrics["arms"]["cut"]["seeds"]]
    gain = result.metrics["arms"]["cut"]["gain"]
    assert gain["mean"] == pytest.approx(np.mean(np.subtract(ours, base)))
    assert gain["low"] == pytest.approx(min(np.subtract(ours, base)))
    assert "gain" not in result.metrics["arms"]["source only"] and "share_of_ceiling" not in result.metrics["arms"]["target"]


def test_the_page_shows_it(found: tuple[Adaptation, list[str]]) -> None:
    page = (found[0].folder / "report.html").read_text()
    assert "Does it help?" in page and all(name in page for name in NAMES)
    assert page.count("data:image/png") >= 4 * (2 + len(NAMES))
    assert found[0].verdict.partition(":")[0] in page


def test_the_page_has_one_network_in_memory_at_a_time(
    found: tuple[Adaptation, list[str]], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of large pictures no more than is shown."""
    loaded: list[Any] = []

    def load(folder: Path) -> Any:
        assert not any(each() for each in loaded)
        model = load_segmenter(folder)
        loaded.append(weakref.ref(model.network))
        return model

    monkeypatch.setattr(adapt_page, "load_segmenter", load)
    monkeypatch.setattr(pictures, "LARGEST", 24)
    sets = Sets({}, world / "labels", world / "test", world / "test_labels", None, None, None)
    rows = adapt_page._pictures(found[0].outcomes, found[0].folder, sets, CLASSES)
    assert len(loaded) == len(NAMES) and [row.title for row in rows] == [f"0000{90 + i}.png" for i in range(4)]
    for row in rows:
        assert [picture.caption for picture in row.pictures] == ["photo", "label", *NAMES]
        assert all(isinstance(picture, Picture) and picture.size == (24, 16) for picture in row.pictures)


def test_called_again_it_does_nothing_anew(found: tuple[Adaptation, list[str]], world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "segmenter", lambda *args, **given: pytest.fail("trained again"))
    again = call(world, found[0].folder, self_training=True, shots=[2, 4])
    assert again.markdown == found[0].markdown


def test_other_classes_in_the_same_file_are_refused(found: tuple[Adaptation, list[str]], world: Path) -> None:
    before, file = tree(found[0].folder), world / "classes.json"
    kept = file.read_text()
    file.write_text(json.dumps(json.loads(kept) | {"ignore": [7]}))
    try:
        refused(lambda: call(world, found[0].folder, self_training=True, shots=[2, 4]), "was begun with other arguments", "classes content")
    finally:
        file.write_text(kept)
    assert tree(found[0].folder) == before


@pytest.mark.parametrize(
    ("file", "said"), [("photo_labels/000051.png", "target labels content: "), ("cut/000003.png", "translated content: ")]
)
def test_other_images_in_the_same_folder_are_refused(
    file: str, said: str, found: tuple[Adaptation, list[str]], world: Path, tmp_path: Path
) -> None:
    """What is there was trained on those of before."""
    before, kept = tree(found[0].folder), Path(shutil.copy2(world / file, tmp_path))
    Image.open(kept).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(world / file)
    try:
        refused(lambda: call(world, found[0].folder, self_training=True, shots=[2, 4]), "was begun with other arguments", said)
    finally:
        shutil.copy2(kept, world / file)
    assert tree(found[0].folder) == before


def test_other_arguments_are_refused(found: tuple[Adaptation, list[str]], world: Path) -> None:
    before = tree(found[0].folder)
    line = refused(lambda: call(world, found[0].folder, shots=[2, 4]), "was begun with other arguments", "self training")
    assert "True there and False here" in line
    refused(lambda: call(world, found[0].folder, self_training=True, shots=[2]), "shots: 2,4 there and 2 here")
    assert tree(found[0].folder) == before


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def resize(path: str) -> Callable[[Path], None]:
    return lambda root: Image.open(root / path).resize((24, 16)).save(root / path)


def deep(path: str) -> Callable[[Path], None]:
    return lambda root: Image.fromarray(np.zeros((32, 48), np.uint16)).save(root / path)


def smaller_photos(root: Path) -> None:
    for file in [*(root / "photos").iterdir(), *(root / "photo_labels").iterdir()]:
        resize(str(file))(root)


REFUSALS: list[tuple[str, Callable[[Path], Any], dict[str, Any], tuple[str, ...]]] = [
    ("none", lambda root: None, {"translated": {}}, ("no translations",)),
    ("a name", lambda root: None, {"translated": {"a b": Path("x")}}, ("another name is needed",)),
    ("a clash", lambda root: None, {"translated": {"2_labeled": Path("x")}, "shots": [2]}, ("two arms would be called",)),
    (
        "the ceiling",
        lambda root: None,
        {"translated": {"Target": Path("x")}, "target_labels": None},
        ("on real labels is called",),
    ),
    ("self", lambda root: None, {"self_training": True, "target": None, "target_labels": None}, ("give --target DIR",)),
    ("idle", lambda root: None, {"source": None, "target_labels": None}, ("--target is of no use to any arm",)),
    ("labels", lambda root: None, {"target": None}, ("--target-labels are of the target images",)),
    ("shots", lambda root: None, {"shots": [2], "target_labels": None}, ("--shots are labeled target images",)),
    ("no shots", lambda root: None, {"shots": [0]}, ("numbers of at least 1",)),
    ("twice", lambda root: None, {"shots": [2, 2]}, ("each once",)),
    ("many shots", lambda root: None, {"shots": [9]}, ("--shots 9", "8 target images")),
    ("seeds", lambda root: None, {"seeds": 0}, ("--seeds 0",)),
    ("size", lambda root: None, {"size": "33"}, ("smaller than the 33x33 crop",)),
    ("no size", lambda root: None, {"size": "32 px"}, ("--size: not a size in pixels, '32 px'",)),
    ("small targets", smaller_photos, {}, ("8 of 14 images are smaller than the 32x32 crop", "photos/000050.png (24x16)")),
    ("deep targets", deep("photos/000052.png"), {}, ("1 of 8 images are not 8-bit gray or color", "photos/000052.png (uint16")),
    ("deep translations", deep("semst/000002.png"), {}, ("1 of 6 images are not 8-bit gray or color", "semst/000002.png")),
    ("deep tests", deep("test/000090.png"), {}, ("1 of 4 images are not 8-bit gray or color", "test/000090.png")),
    ("weights", lambda root: None, {"weights": "heavy"}, ("--weights",)),
    ("precision", lambda root: None, {"precision": "16"}, ("unknown precision '16'", "auto, 32 or bf16")),
    ("one missing", remove("semst/000003.png"), {}, ("1 of 6 images are not in", "semst", "share their labels")),
    ("one more", remove("cut/000003.png"), {}, ("1 of 6 images are not in", "cut")),
    ("source", remove("renders/000002.png"), {}, ("1 of 6 images are not in", "renders")),
    ("smaller", resize("renders/000002.png"), {}, ("differ in size (24x16 and 48x32)", "renders/000002.png")),
    ("label", remove("labels/000001.png"), {}, ("1 of 6 images have no label map",)),
    ("target label", remove("photo_labels/000051.png"), {}, ("1 of 8 images have no label map",)),
    ("test label", resize("test_labels/000091.png"), {}, ("000091.png",)),
    ("broken", lambda root: (root / "photos/000050.png").write_bytes(b"no"), {}, ("000050.png",)),
]


@pytest.mark.parametrize(("spoil", "changes", "parts"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS])
def test_what_is_wrong_is_said_at_once(
    spoil: Callable[[Path], Any], changes: dict[str, Any], parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "data")
    spoil(root)
    monkeypatch.setattr(training, "training_loop", lambda *given: pytest.fail("trained"))
    refused(lambda: call(root, tmp_path / "out", **changes), *parts)
    assert not (tmp_path / "out").exists()


def test_without_a_size_all_networks_learn_from_crops_of_one(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the smallest images among all that are learned from; else the arms would differ in their crops, and their networks, too."""
    sizes: list[Any] = []
    monkeypatch.setattr(recipe, "segmenter", lambda *given, **more: sizes.append(more["size"]))
    monkeypatch.setattr(recipe, "_write", lambda *given: None)
    monkeypatch.setattr(recipe, "read", lambda *given: None)
    streets.write(tmp_path / "photos", count=4, look="photo", first=50, labels=tmp_path / "photo_labels", width=40, height=64)
    mine = {"target": tmp_path / "photos", "target_labels": tmp_path / "photo_labels", "size": None, "seeds": 1}
    call(world, tmp_path / "out", shots=[2], **mine)
    assert len(sizes) > 5 and set(sizes) == {"40x32"}
    sizes.clear()
    call(world, tmp_path / "colors", **mine | {"target_labels": None})
    assert set(sizes) == {"48x32"}, "nothing is learned from target images then"


def test_networks_can_begin_with_one_that_is_there(world: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for seed, folder in enumerate((first, second)):
        data = [world / name for name in ("photos", "photo_labels", "classes.json")]
        training.segmenter(*data, folder, budget=4, size="32", seed=seed, say=str, progress=False)
    given: dict[str, Any] = {"translated": {"cut": world / "cut"}, "target": None, "target_labels": None, "seeds": 1, "model": str(first)}
    call(world, tmp_path / "out", **given)
    provenance = json.loads((tmp_path / "out/arms/cut/seed0/config.json").read_text())["provenance"]
    assert provenance["weights_before"] == json.loads((first / "config.json").read_text())["files"]["model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        (first / name).write_bytes((second / name).read_bytes())
    refused(lambda: call(world, tmp_path / "out", **given), "was begun with other arguments", "model weights")
    refused(lambda: call(world, tmp_path / "new", **given | {"model": str(world / "cut")}), "no segmenter", world / "cut")


def test_what_is_tested_is_not_learned_from(world: Path, tmp_path: Path) -> None:
    same = {"target": world / "test", "target_labels": world / "test_labels"}
    refused(lambda: call(world, tmp_path / "out", **same), "4 images are in both --target and --test-images")
    refused(lambda: call(world, world / "cut/out"), "lies in the folder")


def test_a_network_that_fails_is_told_and_tried_again(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, broken = recipe.segmenter, [True]

    def sometimes(images: Path, *given: Any, **more: Any) -> Reading:
        if images.name == "cut" and broken[0]:
            raise UserError("no luck, today; try tomorrow")
        return real(images, *given, **more)

    monkeypatch.setattr(recipe, "segmenter", sometimes)
    said: list[str] = []
    given: dict[str, Any] = {"translated": {"cut": world / "cut"}, "seeds": 1, "shots": [2]}
    first = call(world, tmp_path / "out", **given, say=said.append)
    assert [line.partition(":")[0] for line in first.failed] == ["cut seed0", "cut, then 2 labeled seed0"]
    assert "failed: cut seed0: no luck, today; try tomorrow" in said
    assert "see what became of cut" in first.failed[1]
    assert first.verdict == "Not known: No network was trained on translations."
    assert "| cut | 0 of 1 | – |" in first.markdown
    broken[0] = False
    assert not call(world, tmp_path / "out", **given).failed


def test_a_stop_keeps_what_is_there(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = recipe.segmenter

    def stopped(images: Path, *given: Any, **more: Any) -> Reading:
        if images.name == "cut":
            raise Interrupted("stopped after 4 images; nothing is saved", 130)
        return real(images, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "segmenter", stopped)
        with pytest.raises(Interrupted, match="the same command goes on") as caught:
            call(world, tmp_path / "out", seeds=1)
    assert caught.value.exit_code == 130
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "segmenter", stopped)
        with pytest.raises(Interrupted, match="stopped; nothing is saved"):
            call(world, tmp_path / "first", seeds=1, source=None)
    assert not (tmp_path / "first").exists()
    trained = []
    monkeypatch.setattr(
        recipe, "segmenter", lambda images, *given, **more: trained.append(Path(images).name) or real(images, *given, **more)
    )
    call(world, tmp_path / "out", seeds=1)
    assert trained == ["cut", "semst", "photos"]
    (tmp_path / "out/arms/semst/seed0/heldout.json").unlink()  # killed before it had read the test images
    call(world, tmp_path / "out", seeds=1)
    assert trained == ["cut", "semst", "photos", "semst"]


def test_the_command_line(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    given = ["--labels", world / "labels", "--test-images", world / "test", "--test-labels", world / "test_labels"]
    given += ["--classes", world / "classes.json", "--seeds", "1", "--budget", "4", "--size", "32", "--device", "cpu"]
    done = cli("adapt", "--translated", world / "cut", *given, "--source", world / "renders", "--out", tmp_path / "out")
    assert done.code == 0
    assert "| translated | 1 |" in done.stdout and "report.html: open it in a browser" in done.stdout
    two = ["--translated", f"a={world / 'cut'}", "--translated", f"a={world / 'semst'}"]
    done = cli("adapt", *two, *given, "--out", tmp_path / "two")
    assert done.code == 2 and "there is a set a already" in done.stderr
    done = cli("adapt", "--translated", world / "cut", *given, "--shots", "few", "--out", tmp_path / "two")
    assert done.code == 2 and "--shots few: numbers are expected" in done.stderr


# --- what few images are drawn


@pytest.mark.parametrize("seed", range(4))
def test_the_few_are_spread_and_nested(seed: int) -> None:
    few, more, most = (drawn(367, k, seed) for k in (5, 20, 100))
    assert set(few) < set(more) < set(most) and [len(each) for each in (few, more, most)] == [5, 20, 100]
    gaps = np.diff([*more, more[0] + 367])
    assert gaps.max() < 2.7 * 367 / 20 and gaps.min() > 0.3 * 367 / 20
    assert drawn(7, 7, seed) == list(range(7))
    assert drawn(367, 5, seed) != drawn(367, 5, seed + 1)


# --- what is said of it


def outcome(name: str, right: list[float], **arm: Any) -> Outcome:
    """An arm whose networks have these pixel accuracies, of two classes with equally many pixels and errors."""
    classes = Classes(names=("a", "b"), palette=((0, 0, 0), (9, 9, 9)))
    blocks = [np.array([[[round(1000 * p), round(1000 * (1 - p))], [round(1000 * (1 - p)), round(1000 * p)]]]) for p in right]
    made = Arm(name, Path("x"), Path("y"), **arm)
    return Outcome(made, {seed: Reading(classes, block, (2,), (0,)) for seed, block in enumerate(blocks)})


def iou(p: float) -> float:
    return p / (2 - p)


BASE = outcome("source only", [0.5, 0.5])
OURS = outcome("cut", [0.6, 0.7], translates=True)
CASES = [
    ([outcome("source only", [0.5]), outcome("cut", [0.7], translates=True)], "Not for certain"),
    ([outcome("source only", [0.5]), outcome("cut", [0.4], translates=True)], "Not for certain"),
    ([BASE, OURS], "Yes"),
    ([BASE, outcome("cut", [0.6, 0.5], translates=True)], "Not for certain"),
    ([BASE, outcome("cut", [0.4, 0.5], translates=True)], "No"),
    ([BASE, outcome("color transfer", [0.55, 0.55]), OURS], "Yes"),
    ([BASE, outcome("color transfer", [0.65, 0.65]), OURS], "Yes, but not surely more than colors do"),
    ([BASE, outcome("color transfer", [0.8, 0.8]), OURS], "No more than colors do"),
    ([OURS], "Not known"),
    ([BASE], "Not known"),
    ([BASE, outcome("cut + self-training", [0.9, 0.9], translates=True, unlabeled=Path("z"))], "Not known"),
]


@pytest.mark.parametrize(("outcomes", "headline"), CASES)
def test_the_answer_is_no_more_than_was_seen(outcomes: list[Outcome], headline: str) -> None:
    assert answer(outcomes).headline == headline


def test_the_answer_takes_the_best_set_and_tells_the_gap() -> None:
    other, top = outcome("semst", [0.85, 0.85], translates=True), outcome("target", [0.9, 0.9])
    said = answer([BASE, OURS, other, top]).text
    closed = (iou(0.85) - iou(0.5)) / (iou(0.9) - iou(0.5))
    assert said.startswith("semst: mean IoU 73.9") and "+40.6" in said and f"this is {100 * closed:.1f}" in said
    alone = answer([outcome("source only", [0.5]), outcome("cut", [0.6], translates=True), top])
    assert alone.tone == "fair" and "over source only, of which this is" in alone.text
    assert alone.text.endswith("One seed says nothing of chance; give more --seeds, in another --out.")
    assert answer([OURS]).text.endswith("There is nothing to compare it with; give --source.")
    failed = Outcome(BASE.arm, errors={0: "no luck"})
    assert answer([failed, OURS]).text.endswith("There is nothing to compare it with; see what became of source only.")


def test_the_table_has_what_can_be_told() -> None:
    assert [column.key for column in columns([OURS])] == ["mean_iou", "pixel_accuracy", "class_accuracy"]
    text = markdown([BASE, OURS, outcome("target", [0.9, 0.9])], ["A note."])
    assert (
        "| cut | 2 | 48.4 % (42.9 to 53.8 %) | 65.0 % (60.0 to 70.0 %) | 65.0 % (60.0 to 70.0 %) | +15.0 points (+9.5 to +20.5 points)"
        in text
    )
    assert text.endswith("\nA note.\n")


def test_arms_need_what_they_are_made_of() -> None:
    sets = Sets({"cut": Path("a")}, Path("b"), Path("c"), Path("d"), None, None, None)
    assert [arm.name for arm in arms(sets, Path("e"), (), False)] == ["cut"]
    both = sets._replace(source=Path("s"), target=Path("t"))
    assert [arm.name for arm in arms(both, Path("e"), (), False)] == ["source only", "color transfer", "cut"]
