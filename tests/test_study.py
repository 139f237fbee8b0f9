"""The study of benchmarks/study.py, at the smallest scale there is; and its pages, which say what its files say."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("study", "study_plan", "study_place", "study_tasks", "study_records", "study_boxes", "results", "streets", "verbs")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts, which import each other as they do when one of them is run."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: __import__(name) for name in NAMES}
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def place(scripts: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("study")
    scale = dataclasses.replace(
        scripts["study_plan"].SCALES["cpu"],
        size=32,
        resize="short:48",
        budget=4,
        settings=("generator.width=8", "generator.blocks=2", "discriminator.width=8", "discriminator.layers=1", "projector.width=16"),
        validate_every=4,
        judge_budget=8,
        judge_size="64x48",
        adapt_budget=8,
        adapt_size="32",
        scene=(64, 48),
    )
    return scripts["study_place"].Place(folder / "out", folder / "records", scale, "cpu")


@pytest.fixture(scope="module")
def wanted(scripts: dict[str, ModuleType], place: Any) -> Any:
    """Made streets, few of them, by one method and one seed; done."""
    tasks, whole = scripts["study_tasks"], scripts["study_plan"].studies

    def few(*given: Any) -> dict[str, Any]:
        study = whole(*given)["streets"]
        return {"streets": dataclasses.replace(study, made={name: dataclasses.replace(each, count=4) for name, each in study.made.items()})}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "studies", few)
        found = tasks.tasks(Path("DATA"), place, ["streets"], ["cut"], 1)
    assert scripts["study"].work(found) == 0
    return found


def wanted_study(scripts: dict[str, ModuleType], place: Any) -> Any:
    return scripts["study_plan"].studies(Path("DATA"), place.out, place.scale)["streets"]


def record(place: Any, what: str) -> Any:
    return json.loads((place.records / "streets/cpu" / what / "seed0.json").read_text())


def test_a_run_leaves_one_file(place: Any, wanted: Any) -> None:
    found = record(place, "cut")
    assert found["metrics"]["images"] == 4
    assert found["adapted"]["mean_iou"]["n"] == 4
    assert found["training"]["images_seen"] == 4
    assert [line["seen"] for line in found["training"]["validation"]] == [4]
    assert not (place.out / "streets/cut/seed0/run/checkpoints").exists()


def test_no_file_says_where_it_was_made(place: Any, wanted: Any) -> None:
    for path in place.records.rglob("*.json"):
        assert str(place.out.parent) not in path.read_text()


def test_rivals_are_adapted_and_the_sources_judged(place: Any, wanted: Any) -> None:
    assert record(place, "untranslated")["metrics"]["mean_iou"]["n"] == 4
    budgets = {rival: record(place, rival)["adapted"]["budget"] for rival in ("source_only", "color_transfer", "target")}
    assert set(budgets.values()) == {8}


def test_a_second_judge_reads_the_same(scripts: dict[str, ModuleType], place: Any, wanted: Any) -> None:
    found = scripts["study_records"].Records.read(wanted_study(scripts, place), "cpu", place.records)
    for what in ("untranslated", "cut"):
        (run,) = found.runs[what]
        one, two = run["metrics"], run["second"]["metrics"]
        assert one["images"] == two["images"] == 4 and one["judge"]["sha256"] != two["judge"]["sha256"]
        assert one["realism"] != two["realism"] or one["mean_iou"] != two["mean_iou"]
    assert "`cut`" in scripts["results"].judges(found) and "second judge (weights" in scripts["results"].judges(found)
    assert "second" not in found.runs["target"][0]


def test_what_is_done_is_not_done_again(scripts: dict[str, ModuleType], place: Any, wanted: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.records.rglob("*.json")}
    assert scripts["study"].work(wanted) == 0
    assert {path: path.stat().st_mtime_ns for path in place.records.rglob("*.json")} == before


def test_failures_are_told_and_the_rest_is_done(scripts: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, errors = scripts["study_tasks"].Task, scripts["study_tasks"].UserError

    def fail() -> None:
        raise errors("no photo, here; give one")

    first = task("first", tmp_path / "1", tmp_path / "1/never", fail)
    after = task("after", tmp_path / "2", tmp_path / "2/done", (tmp_path / "2/done").touch, (first,))
    last = task("last", tmp_path / "4", tmp_path / "4/done", (tmp_path / "4/done").touch, (after,))
    other = task("other", tmp_path / "3", tmp_path / "3/done", (tmp_path / "3/done").touch)
    assert scripts["study"].work([first, after, last, other]) == 1
    assert other.done and not after.done and not last.done
    assert "failed: first: no photo, here; give one" in capsys.readouterr().err


def test_the_order_is_that_of_the_seeds(scripts: dict[str, ModuleType], place: Any) -> None:
    names = [task.name for task in scripts["study_tasks"].tasks(Path("DATA"), place, ["carla_camvid"], ["cut", "srunit", "gcgan"], 2)]
    assert [name.removeprefix("carla_camvid ") for name in names] == [
        "judge camvid",
        "untranslated",
        *(runs := ("cut seed0", "srunit seed0", "cut seed1", "srunit seed1", "gcgan seed0", "gcgan seed1")),
        "second judge camvid",
        *(f"{name}, by the second judge" for name in ("untranslated", *runs)),
    ]


def test_every_variant_can_be_configured(scripts: dict[str, ModuleType], wanted: Any, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = scripts["study_plan"]
    monkeypatch.setattr("unflip.runs.unfit", lambda path, resize, classes: None)  # the guide is not there
    for name, variant in plan.VARIANTS.items():
        for scale in plan.SCALES.values():
            here = dataclasses.replace(place, scale=dataclasses.replace(scale, device="cpu"))
            config = scripts["study_tasks"].configured(wanted_study(scripts, place), here, variant, 0, place.out / "scenes/train")
            assert config.method == variant.method and ("semantic" in config.terms) == variant.labels, name
            assert (config.balance is not None) == variant.weighed, name
            towards = "target.txt" if variant.balanced else "matched" if variant.matched else "target"
            assert config.data.target.name == towards and config.data.val_target.name == towards, name
            assert config.data.source.name == ("source.txt" if variant.balanced else "source"), name


def test_what_weighs_places_judges_nothing(scripts: dict[str, ModuleType], place: Any) -> None:
    def names(*methods: str) -> list[str]:
        return [task.name for task in scripts["study_tasks"].tasks(Path("DATA"), place, ["carla_camvid"], list(methods), 2)]

    found = names("cut", "cut_weighed")
    assert found.count("guide camvid") == 1 and "guide camvid" not in names("cut")
    assert found.index("guide camvid") < found.index("carla_camvid cut_weighed seed0")
    tasks = scripts["study_tasks"].tasks(Path("DATA"), place, ["carla_camvid"], ["cut_weighed"], 1)
    (run,) = [task for task in tasks if task.name == "carla_camvid cut_weighed seed0"]
    assert [need.name for need in run.needs] == ["judge camvid", "guide camvid"]
    assert len({need.result for need in run.needs}) == 2


def test_a_study_has_the_variants_that_fit(scripts: dict[str, ModuleType], place: Any) -> None:
    """Labels that show nothing are not learned from, and no target is matched where none can be had."""
    asked = ["cut_nce10", "cut_matched", "cut_labels"]
    for study, there in (("streets", set(asked)), ("camvid_unmatched", {"cut_nce10"})):
        found = scripts["study_tasks"].tasks(Path("DATA"), place, [study], asked, 1)
        assert {name for task in found for name in asked if f" {name} " in task.name} == there


def test_an_expectation_counts_seeds(scripts: dict[str, ModuleType]) -> None:
    results, records = scripts["results"], scripts["study_records"]
    runs = {
        "cut": [{"seed": seed, "iou": value} for seed, value in enumerate((0.2, 0.3, 0.4))],
        "srunit": [{"seed": seed, "iou": value} for seed, value in enumerate((0.25, 0.36, 0.39))],
        "semst": [{"seed": 0, "iou": 0.3}],
    }
    found = records.Records(None, "cpu", runs)
    iou = records.metric("iou")
    assert results.expectation(found, "more", "srunit", "cut", iou)[1:] == ["+3.3 (-1.0 to +6.0)", "3", "on average, not in every seed"]
    assert results.expectation(found, "more", "cut", "srunit", iou)[3] == "not on average; in some seed"
    assert results.expectation(found, "more", "semst", "cut", iou, 0.05)[1:] == ["+10.0", "1", "so in the one seed there is"]
    assert results.expectation(found, "more", "semst", "cut", iou, 0.15)[3] == "not so in the one seed there is"
    assert results.expectation(found, "more", "srunit", "cut", iou, 0.1)[3] == "does not hold, in any seed"
    assert results.expectation(found, "more", "srunit", "cut", iou, -0.1)[3] == "holds, in every seed"
    assert results.expectation(found, "more", "gcgan", "cut", iou)[3] == "not measured yet"


def test_the_pages_say_what_the_files_say(scripts: dict[str, ModuleType]) -> None:
    results = scripts["results"]
    for path, text in results.pages(results.ROOT / "docs/results/runs").items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: make results"


def test_boxes_are_read_by_their_share(scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from PIL import Image

    boxes = scripts["study_boxes"]
    Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(tmp_path / "a.png")
    # a car over the left half, a bike in the right upper quarter, and a person that is too small to count
    boxes_of = {"a": [[0, 0.25, 0.5, 0.5, 1.0], [3, 0.75, 0.25, 0.5, 0.5], [4, 0.5, 0.5, 0.05, 0.05]]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes_of))

    class Reader:
        def __init__(self, model: Any, device: str) -> None:
            self.classes = type("Known", (), {"names": ["Road", "Car", "Bicyclist", "Pedestrian"]})

        def __call__(self, rgb: Any) -> Any:
            reading = np.zeros(rgb.shape[:2], np.uint8)
            reading[:16, :64] = 1  # a quarter of the car
            reading[:32, 64:] = 2
            return reading

    monkeypatch.setattr(boxes, "Reader", Reader)
    monkeypatch.setattr(boxes, "load_segmenter", lambda path, device: None)
    found = boxes.box_reading(tmp_path, tmp_path / "boxes.json", tmp_path, "cpu")
    assert found == {
        "car": {"share": 0.25, "boxes": 1},
        "two-wheeler": {"share": 1.0, "boxes": 1},
        "person": {"share": None, "boxes": 0},
    }
