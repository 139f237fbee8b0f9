"""``unflip evaluate``: from folders to metrics.json, a report, and an exit code."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unflip
from helpers import color_segmenter
from unflip.data import streets
from unflip.data.labels import IGNORED, Classes
from unflip.errors import UserError
from unflip.evaluation.confusion import Counter
from unflip.recipes import evaluate as recipe
from unflip.report import pictures
from unflip.segmenterfolder import HeldOut, Measured

CLASSES = Classes.model_validate(streets.classes() | {"ignore": [7]})
COLORS = np.array(streets.PALETTE, dtype=np.uint8)
COUNT, WIDTH, HEIGHT = 9, 48, 32


def swapped(ids: np.ndarray, a: int, b: int) -> np.ndarray:
    return np.where(ids == a, b, np.where(ids == b, a, ids)).astype(np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label maps of streets; translations that show every class in its color, and others in which trees and buildings are swapped."""
    root = tmp_path_factory.mktemp("world")
    streets.write(root / "source", count=COUNT, look="render", labels=root / "labels", width=WIDTH, height=HEIGHT)
    streets.write(root / "target", count=COUNT + 3, look="photo", first=50, labels=root / "target_labels", width=WIDTH, height=HEIGHT)
    for name in ("faithful", "swapped", "real", "one"):
        (root / name).mkdir()
    for path in sorted((root / "labels").glob("*.png")):
        ids = np.asarray(Image.open(path))
        Image.fromarray(COLORS[ids]).save(root / "faithful" / path.name)
        Image.fromarray(COLORS[swapped(ids, streets.CLASSES.index("building"), streets.CLASSES.index("tree"))]).save(
            root / "swapped" / path.name
        )
    Image.open(root / "faithful/000000.png").save(root / "one/000000.png")
    (root / "classes.json").write_text(CLASSES.model_dump_json())
    return root


@pytest.fixture(autouse=True)
def segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is named as the segmenter reads colors; its held-out images confuse nothing."""
    kept = len(CLASSES.kept)
    nothing = Measured(value=None, low=None, high=None, n=8)
    perfect = HeldOut(
        **dict.fromkeys(("pixel_accuracy", "class_accuracy", "mean_iou"), nothing),
        per_class_iou={},
        sizes=(4, 4),
        voids=(0, 0),
        blocks=np.stack([np.eye(kept, dtype=int) * 50] * 2).tolist(),
    )
    monkeypatch.setattr(recipe, "load_segmenter", lambda path, device: color_segmenter(CLASSES, held_out=perfect))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))


def test_what_is_faithful_has_no_flips(world: Path, tmp_path: Path) -> None:
    result = unflip.evaluate(world / "faithful", world / "labels", "colors", tmp_path / "out", progress=False)
    metrics = read(tmp_path / "out/metrics.json")
    assert metrics == json.loads(json.dumps(result.metrics)) and result.broken == []
    assert metrics["flip_rate"]["value"] == metrics["excess_flip_rate"]["value"] == 0
    assert metrics["pixel_accuracy"]["value"] == metrics["mean_iou"]["value"] == metrics["class_accuracy"]["value"] == 1
    assert metrics["pixel_accuracy_void_wrong"]["value"] < 1, "persons are ignored here"
    assert metrics["images"] == COUNT and metrics["block"] == 3 and "realism" not in metrics
    assert set(metrics["per_class_iou"]) == set(metrics["flips"]["classes"]) == set(streets.CLASSES) - {"person"}
    assert sum(metrics["class_shares"].values()) == pytest.approx(1)
    assert [line["file"] for line in metrics["per_image"]] == [f"{i:06d}.png" for i in range(COUNT)]
    assert "<html" in (tmp_path / "out/report.html").read_text()


def test_swapped_classes_show_as_just_that(world: Path, tmp_path: Path) -> None:
    metrics = unflip.evaluate(world / "swapped", world / "labels", "colors", tmp_path / "out", progress=False).metrics
    names = metrics["flips"]["classes"]
    matrix = np.array(metrics["flips"]["matrix"], dtype=float)
    building, tree = names.index("building"), names.index("tree")
    expected = np.zeros_like(matrix)
    expected[[building, building, tree, tree], [building, tree, tree, building]] = -1, 1, -1, 1
    assert matrix[~np.isnan(matrix).any(1)] == pytest.approx(expected[~np.isnan(matrix).any(1)])
    share = metrics["class_shares"]["building"] + metrics["class_shares"]["tree"]
    assert metrics["flip_rate"]["value"] == pytest.approx(share)
    assert metrics["excess_flip_rate"]["value"] == pytest.approx(share)
    low, high = (metrics["excess_flip_rate"][key] for key in ("low", "high"))
    assert low < share < high


def test_everything_at_once(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    given = {
        "translated": world / "swapped",
        "labels": world / "labels",
        "segmenter": "colors",
        "source": world / "source",
        "target": world / "target",
        "reference": world / "faithful",
        "real-images": world / "target",
        "real-labels": world / "target_labels",
        "classes": world / "classes.json",
        "out": tmp_path / "out",
    }
    words = [str(part) for name, value in given.items() for part in (f"--{name}", value)]
    result = cli("evaluate", *words)
    assert result.code == 0, result.stderr
    metrics = read(tmp_path / "out/metrics.json")
    assert metrics["realism"]["target_images"] == COUNT + 3 and metrics["realism"]["frechet"]["value"] > 0
    assert 0 < metrics["reference"]["within"]["value"] < 1
    assert shlex.split(metrics["made"]["command"]) == ["unflip", "evaluate", *words]
    counter = Counter(CLASSES, COUNT + 3)  # photos, read by color: wrong nearly everywhere
    reader = recipe.Reader(color_segmenter(CLASSES))
    for path in sorted((world / "target").glob("*.png")):
        ids = np.asarray(Image.open(world / "target_labels" / path.name))
        counter.add(np.where(ids == 7, IGNORED, ids).astype(np.uint8), reader(np.asarray(Image.open(path))))
    total = counter.reading().total
    assert np.array(metrics["flips"]["real"], dtype=float) == pytest.approx(total / total.sum(1, keepdims=True), nan_ok=True)
    for name in ("excess flip rate", "mean iou", "frechet", "report.html"):
        assert name in result.stdout
    assert f"{metrics['mean_iou']['value']:.4g}" in result.stdout


def test_two_translations_of_one_image_are_refused_without_labels_too(world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world / "faithful", tmp_path / "twice"))
    shutil.copy(folder / "000000.png", folder / "000000.bmp")
    with pytest.raises(UserError, match=r"two translations of one image, .*000000\.(png|bmp) and .*000000\.(png|bmp); remove one"):
        unflip.evaluate(folder, None, "colors", tmp_path / "out", source=world / "faithful", progress=False)


def test_without_labels_the_sources_are_read(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Where a translation has another color than its source, this segmenter reads another class."""
    pairs = [
        [np.asarray(Image.open(world / of / path.name)) for of in ("faithful", "swapped")] for path in (world / "labels").glob("*.png")
    ]
    flipped = np.mean([(a != b).any(2) for a, b in pairs])
    call = ["evaluate", "--translated", world / "swapped", "--segmenter", "colors", "--out"]
    assert cli(*call, tmp_path / "out", "--source", world / "faithful", "--target", world / "target").code == 0
    metrics = read(tmp_path / "out/metrics.json")
    assert metrics["flip_rate"]["value"] == pytest.approx(flipped, abs=1e-9) and flipped > 0.1
    assert metrics["excess_flip_rate"] is None and "stands for them" in metrics["warnings"][0]
    assert metrics["segmenter"]["name"] == "colors", "a name of the hub, as there is no such folder"
    assert metrics["realism"]["frechet"]["value"] > 0 and metrics["segmenter"]["held_out"] and metrics["segmenter"]["real"] is None
    page = (tmp_path / "out/report.html").read_text()
    assert "of all pixels read as another class than in their source" in page and "of what is read in translation and source" in page
    for wrong in ("there were none", "no labeled real images", "needs labeled real images", "the segmenter on real images", "their label<"):
        assert wrong not in page
    result = cli(*call, tmp_path / "other")
    assert result.code == 2 and "give --labels DIR, or --source DIR" in result.stderr and not (tmp_path / "other").exists()
    real = ("--real-images", world / "real", "--real-labels", world / "labels")
    result = cli(*call, tmp_path / "other", "--source", world / "faithful", *real)
    assert result.code == 2 and "needs labels of the translations, too" in result.stderr


def test_a_requirement_decides_the_exit_code(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    call = ("evaluate", "--translated", world / "swapped", "--labels", world / "labels", "--segmenter", "colors")
    kept = cli(*call, "--out", tmp_path / "a", "--require", "flip_rate=0.9", "--require", "pixel_accuracy=0.1")
    assert kept.code == 0 and not kept.stderr.count("not reached")
    missed = cli(*call, "--out", tmp_path / "b", "--require", "flip_rate=0.01", "--require", "mean_iou=0.99")
    assert missed.code == 1
    lines = [line for line in missed.stderr.splitlines() if line.startswith("not reached")]
    assert len(lines) == 2 and "flip_rate is" in lines[0] and "at most 0.01" in lines[0] and "at least 0.99" in lines[1]
    assert (tmp_path / "b/report.html").is_file(), "what was measured is written all the same"


def test_without_real_images_that_is_said(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "load_segmenter", lambda path, device: color_segmenter(CLASSES))
    metrics = unflip.evaluate(world / "swapped", world / "labels", "colors", tmp_path / "out", progress=False).metrics
    assert metrics["excess_flip_rate"] is None and metrics["flips"]["matrix"] is None and metrics["segmenter"]["held_out"] is None
    assert any("--real-images" in warning for warning in metrics["warnings"])
    with pytest.raises(UserError, match="--require excess_flip_rate: no labeled real images are known; give --real-images DIR"):
        unflip.evaluate(world / "swapped", world / "labels", "colors", tmp_path / "required", require={"excess_flip_rate": 0.5})
    assert not (tmp_path / "required").exists(), "said before anything is read"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"translated": "one"}, "one image only"),
        ({"translated": "nowhere"}, "no such folder"),
        ({"labels": "target_labels"}, "have no label map"),
        ({"source": "one"}, "8 of 9 images have no source image"),
        ({"reference": "one"}, "8 of 9 images have no reference image"),
        ({"real-images": "target"}, "give both, --real-images DIR and --real-labels DIR"),
        ({"require": "mean_uoi=0.5"}, "did you mean mean_iou?"),
        ({"require": "mean_iou=high"}, "expected METRIC=VALUE"),
        ({"require": "frechet=3"}, "--require frechet: that is measured against target images; give --target DIR"),
        ({"require": "rmse=3"}, "--require rmse: that is measured against references; give --reference DIR"),
        ({"require": "pumping=3"}, "--require pumping: that is measured on clips; give --clips DIR and --source-clips DIR"),
        ({"require": "lpips=3", "target": "target"}, "--require lpips: that is measured on demand; give --lpips"),
        ({"require": "cmmd=3", "target": "target"}, "--require cmmd: that is measured in CLIP's features; give --features clip"),
        ({"features": "clip"}, "--features clip are for the realism, which is measured against target images; give --target DIR"),
        ({"out": "labels/000000.png/out"}, "a part of that path is a file"),
        ({"features": "resnet", "target": "target"}, "resnet"),
        ({"classes": "nowhere.json"}, "cannot read the classes"),
        ({"out": "labels"}, "is not empty"),
        ({"device": "tpu"}, "unknown device"),
    ],
)
def test_bad_input_is_one_line(world: Path, tmp_path: Path, cli: Callable[..., Any], change: dict[str, str], message: str) -> None:
    given: dict[str, Any] = {"translated": "faithful", "labels": "labels", "segmenter": "colors", "out": tmp_path / "out"} | change
    folders = {"translated", "labels", "source", "target", "reference", "real-images", "real-labels", "classes", "out"}
    before = sorted(world.rglob("*"))
    result = cli("evaluate", *(part for k, v in given.items() for part in (f"--{k}", world / v if k in folders else v)))
    assert result.code == 2 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert not (tmp_path / "out").exists() and sorted(world.rglob("*")) == before


def smaller(path: Path) -> None:
    Image.open(path).crop((0, 0, 40, 24)).save(path)


def deep(path: Path) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(path)


def damaged(path: Path) -> None:
    """In its middle, where neither its header nor its end tells of it."""
    image = bytearray(path.read_bytes())
    image[len(image) // 2 : -20] = b"\xff" * (len(image) - len(image) // 2 - 20)
    path.write_bytes(image)


@pytest.mark.parametrize(
    ("spoil", "folders", "message"),
    [
        (smaller, ("faithful", "labels", "source"), "LPIPS sees nothing in images smaller than 32 pixels, .*000005.png .40x24."),
        *((deep, (folder,), "1 of .* images are not 8-bit gray or color, such as") for folder in ("faithful", "source", "target")),
        *((damaged, (folder,), "broken or truncated image") for folder in ("faithful", "source", "reference", "target", "real")),
        (deep, ("real",), "1 of .* images are not 8-bit gray or color, such as"),
        (Path.unlink, ("clips",), "differ in the number of frames"),
    ],
)
def test_what_would_end_it_late_is_found_before_the_reading(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
    folders: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setattr(recipe, "judge", lambda *given, **more: pytest.fail("read already"))
    monkeypatch.setattr(recipe, "Lpips", lambda device: None)
    kinds = {"target": "target", "real": "target", "real_labels": "target_labels", "labels": "labels", "source": "source"}
    kinds |= {"faithful": "faithful", "reference": "faithful", "clips": "faithful", "source_clips": "source"}
    places = {name: Path(shutil.copytree(world / kind, tmp_path / name)) for name, kind in kinds.items()}
    for folder in folders:
        file = sorted(places[folder].iterdir())[5]
        spoil(file)
    given: dict[str, Any] = {"lpips": True, "clips": places["clips"], "source_clips": places["source_clips"], "target": places["target"]}
    given |= {"source": places["source"], "reference": places["reference"], "progress": False}
    given |= {"real_images": places["real"], "real_labels": places["real_labels"]}
    if spoil is smaller:
        del given["reference"]
    with pytest.raises(UserError, match=message):
        unflip.evaluate(places["faithful"], places["labels"], "colors", tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_sizes_that_differ(world: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    for path in (world / "faithful").glob("*.png"):
        (tmp_path / "small").mkdir(exist_ok=True)
        Image.open(path).resize((24, 16)).save(tmp_path / "small" / path.name)
    call = ("evaluate", "--labels", world / "labels", "--segmenter", "colors", "--out", tmp_path / "out", "--translated")
    result = cli(*call, tmp_path / "small")
    assert result.code == 2 and "48x32 while its image is 24x16" in result.stderr and not (tmp_path / "out").exists()
    result = cli(*call, world / "faithful", "--reference", tmp_path / "small")
    assert result.code == 2 and "000000.png" in result.stderr and not (tmp_path / "out").exists()


def test_the_report_shows_the_worst_first(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    page = recipe.evaluation_page
    monkeypatch.setattr(recipe, "evaluation_page", lambda metrics, cases, **more: shown.extend(cases) or page(metrics, cases, **more))
    monkeypatch.setattr(recipe, "SHOWN", 4)
    metrics = unflip.evaluate(
        world / "swapped", world / "labels", "colors", tmp_path / "out", source=world / "source", progress=False
    ).metrics
    rates = {line["file"]: line["flip_rate"] for line in metrics["per_image"]}
    assert [case.flip_rate for case in shown] == sorted(rates.values(), reverse=True)[:4]
    for case in shown:
        assert rates[case.name] == case.flip_rate
        assert (case.source == np.asarray(Image.open(world / "source" / case.name))).all()
        assert (case.translation == np.asarray(Image.open(world / "swapped" / case.name))).all()
        counted = (case.label != 0).any(2)
        assert (case.label != case.reading).any(2)[counted].mean() == pytest.approx(case.flip_rate)


def test_large_pictures_are_kept_as_the_page_shows_them(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are many, and they wait for the page."""
    monkeypatch.setattr(pictures, "LARGEST", 24)
    found = unflip.evaluate(world / "swapped", world / "labels", "colors", tmp_path / "out", source=world / "source", progress=False)
    for case in found.cases:
        kept = [case.source, case.translation, case.label, case.reading, case.flips, *case.more.values()]
        assert [each is not None and each.shape for each in kept] == [(16, 24, 3)] * 6
