"""``unflip compare``: one table of several methods and seeds, which goes on where it stopped, and what each training takes."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import make_model
from unflip.data import streets
from unflip.data.bands import RGB, Bands
from unflip.data.images import read_rgb
from unflip.data.labels import Classes
from unflip.engine.record import Record
from unflip.engine.trainer import Moment
from unflip.errors import Interrupted, UserError
from unflip.evaluation.reader import Reader
from unflip.networks.segmenter import SegmenterConfig
from unflip.recipes import apart, compare_page, compare_plan
from unflip.recipes import compare as recipe
from unflip.recipes.apart import MEMORY, read_memory, train_apart
from unflip.recipes.compare import Comparison, compare
from unflip.recipes.compare_page import mean_matrix, verdict
from unflip.recipes.compare_plan import settings_of, translations
from unflip.recipes.compare_table import UNTRANSLATED, Row, Trial, duration, gigabytes, training_time
from unflip.recipes.shown import SHOWN, by_name
from unflip.recipes.train import configure, train
from unflip.report import pictures
from unflip.report.numbers import SPACE, number, percent
from unflip.report.pictures import Picture
from unflip.runs import RunConfig, from_yaml
from unflip.segmenterfolder import SegmenterModelConfig, load_segmenter, save_segmenter

CLASSES = Classes.model_validate(streets.classes())
TESTED = 8
METHODS = ("cut", "cyclegan")
SMALL = [
    *("generator.width=4", "generator.blocks=1", "discriminator.width=4", "discriminator.layers=2", "checkpoint_every=2"),
    *("cut:projector.width=8", "cut:nce.patches=8", "cut:identity_nce.patches=8", "cyclegan:pool=2"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of both domains, test images with labels, and a segmenter of random weights, in whose readings all methods differ."""
    root = tmp_path_factory.mktemp("world")
    sizes = {"width": 48, "height": 32}
    streets.write(root / "source", count=4, look="render", **sizes)
    streets.write(root / "target", count=TESTED, look="photo", first=20, labels=root / "target_labels", **sizes)
    streets.write(root / "test", count=TESTED, look="render", first=40, labels=root / "labels", **sizes)
    config = SegmenterModelConfig(network=SegmenterConfig(width=4, halvings=2), classes=CLASSES)
    save_segmenter(root / "segmenter", config, config.network.build(len(CLASSES.names), torch.Generator().manual_seed(0)))
    return root


UNTRAINED: dict[str, Any] = {"methods": (), "source": None, "budget": None, "size": None, "settings": ()}
"""Changes of :func:`call`: only runs that are given are compared."""


def call(world: Path, out: Path, **changes: Any) -> Comparison:
    """A tiny comparison."""
    arguments: dict[str, Any] = {
        **{"test_source": world / "test", "test_labels": world / "labels", "segmenter": world / "segmenter"},
        **{"source": world / "source", "target": world / "target", "methods": METHODS, "seeds": 2, "budget": 6, "size": 32},
        **{"settings": SMALL, "device": "cpu", "progress": False, "say": lambda line: None},
    }
    return compare(out, **arguments | changes)


class Calls(list[str]):
    """What was trained, ``cut/seed0``, and how: `` resumed``; in this process, which is quicker."""

    def train_apart(self, config: RunConfig, run: Path, *, progress: bool) -> None:
        resume = (run / "config.yaml").is_file()
        self.append("/".join(run.parts[-3:-1]) + (" resumed" if resume else ""))
        train(config, run, resume=resume, progress=False, say=lambda line: None)
        (run / MEMORY).write_text(json.dumps({"bytes": 10**9 + len(run.parts[-3]) * config.seed, "what": apart.RESIDENT}))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(recipe, "train_apart", calls.train_apart)
    return calls


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that is done; not to be changed."""
    calls, out = Calls(), tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "train_apart", calls.train_apart)
        result = call(world, out, command="unflip compare it")
    assert calls == ["cut/seed0", "cyclegan/seed0", "cut/seed1", "cyclegan/seed1"] and result.failed == []
    assert result.markdown == (out / "table.md").read_text(encoding="utf-8")
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def metrics_of(out: Path, *where: str) -> dict[str, Any]:
    return json.loads(out.joinpath(*where, "evaluation/metrics.json").read_text())


def values(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of the table, as metrics.json has them."""
    flat = {name: metrics[name]["value"] for name in ("mean_iou", "pixel_accuracy", "flip_rate")}
    return flat | {name: metrics["realism"][name]["value"] for name in ("frechet", "kid")}


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells whether a file was written again."""
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


def test_the_tables_hold_the_means_and_spreads_of_the_evaluations(finished: Path) -> None:
    lines = table(finished / "table.csv")
    assert [line["method"] for line in lines] == [UNTRANSLATED, *METHODS]
    printed = (finished / "table.md").read_text(encoding="utf-8").splitlines()
    cells = {row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ") for row in printed[2:5]}
    means: dict[str, list[float]] = {}
    for line in lines[1:]:
        runs = [values(metrics_of(finished, line["method"], f"seed{k}")) for k in (0, 1)]
        for k, run in enumerate(runs):  # budget 6: a line for every image
            log = [json.loads(text) for text in (finished / line["method"] / f"seed{k}/run/log.jsonl").read_text().splitlines()]
            run["seconds"] = sum(1 / moment["images_per_second"] for moment in log)
            run["images_per_second"] = 6 / run["seconds"]
        assert line["seeds"] == "2" and line["failed"] == "0"
        for i, name in enumerate(runs[0]):
            found = [run[name] for run in runs]
            assert found[0] != found[1], "a test of means needs different values"
            assert float(line[name]) == pytest.approx(fmean(found), rel=1e-12)
            assert [float(line[f"{name}_{end}"]) for end in ("low", "high")] == pytest.approx([min(found), max(found)], rel=1e-12)
            form = {"frechet": number, "kid": number, "seconds": duration, "images_per_second": number}.get(name, percent)
            mean, low, high = (form(value).replace(SPACE, " ") for value in (fmean(found), min(found), max(found)))
            low = re.sub(r" (%|s)$", "", low)
            assert cells[line["method"]][2 + i].replace("*", "") == f"{mean} ({low} to {high})"
            means.setdefault(name, []).append(fmean(found))
    for i, (name, (cut, cyclegan)) in enumerate(means.items()):
        larger = name in ("mean_iou", "pixel_accuracy", "images_per_second")
        best = "cut" if (cut > cyclegan) == larger else "cyclegan"
        assert [method for method in METHODS if cells[method][2 + i].startswith("**")] == [best], name
    assert float(lines[1]["memory_bytes"]) == 10**9 + 1.5 and lines[1]["memory_bytes_high"] == str(10**9 + 3)
    assert cells["cut"][-1] == "**1.00 GB** (1.00 to 1.00 GB)" and cells[UNTRANSLATED][-1] == "–"


def test_the_sources_are_judged_as_they_are(world: Path, finished: Path) -> None:
    reader = Reader(load_segmenter(world / "segmenter"))
    right = [
        reader(read_rgb(path)) == np.asarray(Image.open(world / "labels" / path.name)) for path in sorted((world / "test").glob("*.png"))
    ]
    found = metrics_of(finished, UNTRANSLATED)
    assert found["pixel_accuracy"]["value"] == pytest.approx(np.mean(right), rel=1e-12)
    line = table(finished / "table.csv")[0]
    assert float(line["pixel_accuracy"]) == found["pixel_accuracy"]["value"]
    assert line["seconds"] == line["memory_bytes"] == line["seeds"] == ""


def test_a_line_for_every_run(finished: Path) -> None:
    lines = table(finished / "runs.csv")
    assert [(line["method"], line["run"]) for line in lines] == [
        (UNTRANSLATED, ""),
        *((method, f"seed{k}") for method in METHODS for k in (0, 1)),
    ]
    for line in lines[1:]:
        metrics = metrics_of(finished, line["method"], line["run"])
        assert {name: float(line[name]) for name in values(metrics)} == values(metrics)
        assert float(line["iou_sky"]) == metrics["per_class_iou"]["sky"]["value"]
        assert float(line["kid_high"]) == metrics["realism"]["kid"]["high"]
        assert line["images"] == str(TESTED) and line["images_seen"] == "6" and line["memory"] == apart.RESIDENT


def test_seeds_and_settings_reach_the_runs(world: Path, finished: Path) -> None:
    for method in METHODS:
        for seed in (0, 1):
            config = from_yaml(finished / method / f"seed{seed}/run/config.yaml")
            assert (config.method, config.seed, config.budget, config.size.short) == (method, seed, 6, 32)
            assert config.generator.model_dump()["width"] == 4 and config.pool == (2 if method == "cyclegan" else 0)
            assert set(config.terms) == set(compare_plan.METHODS[method].recipe.terms), "no part that is another's"
            assert config.data.target == world / "target"


def test_the_page_shows_the_same_images_by_all(world: Path, finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert html.count('src="data:image/png') == SHOWN * (2 + len(METHODS))
    links = [link for link in re.findall(r'(?:src|href)="([^"]*)"', html) if not link.startswith("data:")]
    assert all((finished / link).is_file() for link in links)
    assert [sum(link.endswith(f"{of}/report.html") for link in links) for of in ("evaluation", "run")] == [5, 4] and len(links) == 9
    assert html.count('<figure class="matrix') == 3, "a flip matrix for the sources and for each method"
    for word in ("unflip compare it", "cut seed1", "Which method flips least?", "1.00"):
        assert word in html
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")) for data in re.findall(r"/png;base64,([^\"]*)", html)
    ]
    palette = np.array(CLASSES.palette, np.uint8)
    for shown, name in ((pictures[:4], "000040.png"), (pictures[-4:], f"0000{40 + TESTED - 1}.png")):
        labels = palette[np.asarray(Image.open(world / "labels" / name))]
        translations = [read_rgb(finished / method / "seed0/translated" / name) for method in METHODS]
        expected = [read_rgb(world / "test" / name), labels, *translations]
        assert all((a == b).all() for a, b in zip(shown, expected, strict=True))


def test_large_pictures_are_kept_as_the_page_shows_them(world: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGEST", 24)
    rows = [Row(method, (Trial(method, "seed0", finished / method / "seed0", {}, {}),)) for method in METHODS]
    shown = compare_page._pictures(rows, world / "test", world / "labels", CLASSES)
    assert len(shown) == SHOWN and all(len(row.pictures) == 4 for row in shown)
    assert all(isinstance(picture, Picture) and picture.size == (24, 16) for row in shown for picture in row.pictures)


def test_a_mean_of_matrices() -> None:
    a = [[0.5, 0.25, None], None, [0.0, 0.0, 1.0]]
    b = [[0.25, 0.75, None], None, [0.5, 0.0, 0.5]]
    assert mean_matrix([a, b]) == [[0.375, 0.5, None], None, [0.25, 0.0, 0.75]]


def row(method: str, *rates: float, key: str = "excess_flip_rate") -> Row:
    trials = [Trial(method, f"seed{i}", Path(), {}, {key: rate, "frechet": 10 * rate}) for i, rate in enumerate(rates)]
    return Row(method, tuple(trials))


def test_the_verdict_says_what_the_seeds_can_tell() -> None:
    sources = row(UNTRANSLATED, 0.01)
    better = verdict([sources, row("cut", 0.3, 0.2), row("srunit", 0.1, 0.19)])
    assert better.headline == "srunit", "the sources as they are do not compete"
    assert better.text.replace(SPACE, " ") == (
        "Excess flip rate 14.5 %, over 2 runs; 25.0 % by the next. Its worst run is better than the best run of any other. "
        "Its Fréchet distance to the target is 1.45; that of the untranslated sources, 0.100."
    )
    assert "do not tell them apart" in verdict([sources, row("cut", 0.3, 0.2), row("srunit", 0.1, 0.21)]).text
    assert (
        "says nothing of chance; give more --seeds, in another --out." in verdict([sources, row("cut", 0.3, 0.2), row("srunit", 0.1)]).text
    )
    assert "no other" in verdict([sources, row("cut", 0.3, 0.2)]).text
    assert verdict([sources]).headline == "Not known"


def test_what_is_complete_is_not_done_again(world: Path, copied: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stamps(copied)
    monkeypatch.setattr(recipe, "evaluate", lambda *given, **more: pytest.fail("evaluated again"))
    monkeypatch.setattr(recipe, "translate_folder", lambda *given, **more: pytest.fail("translated again"))
    text = (copied / "table.md").read_text(encoding="utf-8")
    assert call(world, copied).markdown == text and calls == []
    changed = {name for name, stamp in stamps(copied).items() if before.get(name) != stamp}
    assert changed == {"compare.json", "table.md", "table.csv", "runs.csv", "report.html"}


def test_a_lost_evaluation_is_made_again(world: Path, copied: Path, calls: Calls) -> None:
    text = (copied / "table.md").read_text(encoding="utf-8")
    (copied / "cut/seed1/evaluation/report.html").unlink()  # killed between its two files
    shutil.rmtree(copied / "cyclegan/seed0/evaluation")
    before = stamps(copied)
    assert call(world, copied).markdown == text and calls == []
    after = stamps(copied)
    changed = {name for name, stamp in after.items() if before.get(name) != stamp and "/" in name}
    remade = {f"{run}/evaluation/{name}" for run in ("cut/seed1", "cyclegan/seed0") for name in ("metrics.json", "report.html")}
    opened = {f"{run}/translated/manifest.jsonl" for run in ("cut/seed1", "cyclegan/seed0")}
    assert remade <= changed <= remade | opened


def test_half_translated_folders_go_on(world: Path, copied: Path, calls: Calls) -> None:
    text, folder = (copied / "table.md").read_text(encoding="utf-8"), copied / "cut/seed0"
    manifest = folder / "translated/manifest.jsonl"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    for line in lines[3:]:
        (folder / "translated" / json.loads(line)["file"]).unlink()
    shutil.rmtree(folder / "evaluation")
    before = stamps(folder / "translated")
    assert call(world, copied).markdown == text and calls == []
    after = stamps(folder / "translated")
    assert len([name for name in after if name.endswith(".png")]) == TESTED
    assert all(after[name] == stamp for name, stamp in before.items() if name.endswith(".png"))


class Crash(Exception):
    """What kills a run without any chance to save."""


def test_a_half_trained_run_goes_on(world: Path, finished: Path, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives the same bits, and so the same table but for the time."""
    add = Record.add

    def crashing(record: Record, moment: Moment) -> None:
        add(record, moment)
        if moment.seen == 5 and calls[-1] == "cyclegan/seed0":
            raise Crash

    monkeypatch.setattr(Record, "add", crashing)
    with pytest.raises(Crash):
        call(world, tmp_path / "out")
    monkeypatch.setattr(Record, "add", add)
    done = stamps(tmp_path / "out/cut/seed0")
    call(world, tmp_path / "out")
    assert calls == ["cut/seed0", "cyclegan/seed0", "cyclegan/seed0 resumed", "cut/seed1", "cyclegan/seed1"]
    assert stamps(tmp_path / "out/cut/seed0") == done
    weights = "cyclegan/seed0/run/model/model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (finished / weights).read_bytes()
    here, there = table(tmp_path / "out/table.csv"), table(finished / "table.csv")
    timed = ("seconds", "images_per_second")
    assert [{k: v for k, v in line.items() if not k.startswith(timed)} for line in here] == [
        {k: v for k, v in line.items() if not k.startswith(timed)} for line in there
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 3}, "seeds: 2 there and 3 here"),
        ({"budget": 8}, "budget: 6 there and 8 here"),
        ({"methods": ("cut",), "settings": SMALL[:8]}, "methods: cut,cyclegan there and cut here"),
        ({"settings": [*SMALL, "optimizer.lr=1"]}, "settings: .* there and .*optimizer.lr=1 here"),
        ({"features": "inception"}, "features: segmenter there and inception here"),
        ({"batch": 2}, "batch: None there and 2 here"),
    ],
)
def test_another_comparison_is_refused(world: Path, finished: Path, calls: Calls, changes: dict[str, Any], said: str) -> None:
    before = stamps(finished)
    with pytest.raises(UserError, match=rf"was begun with other arguments \({said}\); give the same"):
        call(world, finished, **changes)
    assert stamps(finished) == before and calls == []


def test_other_images_and_another_segmenter_are_refused(world: Path, finished: Path, tmp_path: Path, calls: Calls) -> None:
    with pytest.raises(UserError, match=r"test target: .*/target there and .*/source here"):
        call(world, finished, test_target=world / "source")
    trained_again = shutil.copytree(world, tmp_path / "world")
    config = SegmenterModelConfig(network=SegmenterConfig(width=4, halvings=2), classes=CLASSES)
    save_segmenter(trained_again / "segmenter", config, config.network.build(len(CLASSES.names), torch.Generator().manual_seed(1)))
    kept = world.rename(world.with_name("kept"))
    try:
        trained_again.rename(world)
        with pytest.raises(UserError, match="segmenter weights: "):
            call(world, finished)
    finally:
        shutil.rmtree(world)
        kept.rename(world)


def test_a_failing_method_is_reported_and_the_others_are_done(world: Path, tmp_path: Path, calls: Calls, cli: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    arguments = ["compare", "--methods", "cut,cyclegan", "--seeds", 1, "--budget", 6, "--size", 32, "--device", "cpu", "--out", out]
    arguments += ["--source", world / "source", "--target", world / "target", "--segmenter", world / "segmenter"]
    arguments += ["--test-source", world / "test", "--test-labels", world / "labels"]
    arguments += [part for text in [*SMALL, "cut:optimizer.lr=1e30"] for part in ("--set", text)]
    result = cli(*arguments)
    assert result.code == 1, result.stderr
    assert calls == ["cut/seed0", "cyclegan/seed0"]
    said = [line for line in result.stdout.splitlines() if line.startswith("Failed: cut seed0: ")]
    assert len(said) == 1 and "not a finite number" in said[0]
    rows = {line["method"]: line for line in table(out / "table.csv")}
    assert (rows["cut"]["seeds"], rows["cut"]["failed"], rows["cut"]["mean_iou"]) == ("0", "1", "")
    assert rows["cyclegan"]["seeds"] == "1" and float(rows["cyclegan"]["mean_iou"]) > 0
    assert "| cut | 0 of 1 | – | " in result.stdout and "**" not in result.stdout, "nothing is best that is alone"
    assert "not a finite number" in table(out / "runs.csv")[1]["error"]
    assert "not a finite number" in (out / "report.html").read_text(encoding="utf-8")
    assert cli(*arguments).code == 1
    assert [name.split()[0] for name in calls[2:]] == ["cut/seed0"], "what failed is tried again, and only that"


def test_runs_that_are_there_are_taken(world: Path, finished: Path, tmp_path: Path, calls: Calls, cli: Callable[..., Any]) -> None:
    runs = [Path(shutil.copytree(finished / f"cut/seed{k}/run", tmp_path / f"taken{k}")) for k in (0, 1)]
    given = ["--test-source", world / "test", "--test-labels", world / "labels", "--segmenter", world / "segmenter", "--device", "cpu"]
    given += ["--test-target", world / "target", "--out", tmp_path / "out"]
    given += ["--run", f"old={runs[0]}", "--run", f"old={runs[1]}", "--run", f"bare={finished / 'cyclegan/seed0/run/model'}"]
    result = cli("compare", *given)
    assert result.code == 0, result.stderr
    here, there = ({line["method"]: line for line in table(out / "table.csv")} for out in (tmp_path / "out", finished))
    assert list(here) == [UNTRANSLATED, "old", "bare"] and calls == []
    assert {**here["old"], "method": "cut"} == there["cut"], "with its time and memory, which lie in the runs"
    assert here["bare"]["seeds"] == "1" and here["bare"]["seconds"] == here["bare"]["memory_bytes"] == ""
    assert float(here["bare"]["frechet"]) == metrics_of(finished, "cyclegan/seed0")["realism"]["frechet"]["value"]
    shutil.rmtree(runs[1])
    shutil.copytree(finished / "cut/seed0/run", runs[1])
    result = cli("compare", *given)
    assert result.code == 2 and "runs: " in result.stderr, "the second run has become another one"


@pytest.mark.parametrize("kind", ["webp", "shard"])
def test_translations_that_are_named_otherwise_are_found(kind: str, world: Path, tmp_path: Path) -> None:
    """Gray translations of WebP images, which hold none, are TIFF files; those of a shard are in a shard."""
    model = make_model(tmp_path / "model", target=Bands(count=1, ranges=((0, 255),)) if kind == "webp" else RGB)
    test = tmp_path / ("test.tar" if kind == "shard" else "webp")
    images = sorted((world / "test").glob("*.png"))
    if kind == "shard":
        with tarfile.open(test, "w") as tar:
            for image in images:
                tar.add(image, image.name)
    else:
        test.mkdir()
        for image in images:
            Image.open(image).save(test / f"{image.stem}.webp", lossless=True)
    given = UNTRAINED | {"target": None, "test_source": test}
    result = call(world, tmp_path / "out", runs=[("mine", model)], **given)
    assert result.failed == [] and [row.count for row in result.rows][1] == "1"
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") >= 3 * SHOWN
    found = by_name(translations(tmp_path / "out/mine/run0", test))
    assert sorted(found) == [Path(image.stem) for image in images]
    assert {path.suffix for path in found.values()} == {".tif" if kind == "webp" else ".png"}


def test_other_classes_in_the_same_file_are_refused(world: Path, tmp_path: Path) -> None:
    file, model = tmp_path / "classes.json", make_model(tmp_path / "model")
    given = UNTRAINED | {"target": None, "classes": file, "runs": [("mine", model)]}
    file.write_text(json.dumps(streets.classes()))
    call(world, tmp_path / "out", **given)
    before = stamps(tmp_path / "out")
    file.write_text(json.dumps(streets.classes() | {"ignore": [7]}))
    with pytest.raises(UserError, match=r"was begun with other arguments \(classes content: "):
        call(world, tmp_path / "out", **given)
    assert stamps(tmp_path / "out") == before
    file.write_text(json.dumps(streets.classes()))
    arguments = json.loads((tmp_path / "out/compare.json").read_text())
    del arguments["arguments"]["classes_content"]
    (tmp_path / "out/compare.json").write_text(json.dumps(arguments))
    call(world, tmp_path / "out", **given)  # begun by a version that did not tell


def test_other_images_in_the_same_folder_are_refused(world: Path, tmp_path: Path) -> None:
    labels = Path(shutil.copytree(world / "labels", tmp_path / "labels"))
    given = UNTRAINED | {"target": None, "test_labels": labels, "runs": [("mine", make_model(tmp_path / "model"))]}
    call(world, tmp_path / "out", **given)
    before, file = stamps(tmp_path / "out"), sorted(labels.iterdir())[0]
    Image.open(file).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)
    with pytest.raises(UserError, match=r"was begun with other arguments \(test labels content: "):
        call(world, tmp_path / "out", **given)
    assert stamps(tmp_path / "out") == before


TAKEN = [("old", "{finished}/cut/seed0/run")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": (), "settings": ()}, "nothing to compare"),
        ({"methods": (), "runs": TAKEN}, "--source is for training; give --methods NAME,NAME, or leave it out"),
        ({"methods": (), "runs": TAKEN, "source": None, "budget": None, "size": None}, "--set is for training"),
        ({**UNTRAINED, "runs": TAKEN, "val_labels": "{world}/labels"}, "--val-labels is for training"),
        ({**UNTRAINED, "runs": TAKEN, "batch": 2}, "--batch is for training"),
        ({"methods": ("cut", "cyclegna")}, "did you mean cyclegan"),
        ({"methods": ("cut", "cut")}, "cut twice"),
        ({"budget": None}, "no budget"),
        ({"seeds": 0}, "--seeds 0"),
        ({"target": None}, "cut: no target images"),
        ({"settings": [*SMALL, "cyclegan:cycle.weight=-1"]}, "cyclegan: terms.cycle.weight"),
        ({"settings": [*SMALL, "nce.weight=2"]}, "cyclegan has no nce; use --set cut:nce.weight=2"),
        ({"settings": [*SMALL, "generator.widht=2"]}, "cut: .*did you mean width"),
        ({"runs": [("cut", "{finished}/cut/seed0/run")]}, "cut is trained here too"),
        ({"runs": [("a/b", "{finished}/cut/seed0/run")]}, "another name is needed"),
        ({"runs": [(UNTRANSLATED, "{finished}/cut/seed0/run")]}, "another name is needed"),
        ({"runs": [("old", "{finished}/cut/seed0/run"), ("old", "{finished}/cut/seed0/run/model")]}, "is named twice"),
        ({"runs": [("old", "{finished}/nowhere")]}, "does not exist"),
        ({"test_labels": "{world}/target_labels"}, "have no label map"),
        ({"test_source": "{world}/nowhere"}, "no such folder"),
        ({"segmenter": "{world}/source"}, "no segmenter"),
        ({"real_images": "{world}/target"}, "real images come with their labels"),
        ({"val_source": "{world}/test"}, "validation needs"),
        ({"device": "tpu"}, "unknown device"),
        ({"out": "{world}/test/out"}, "lies in the image folder"),
        ({"out": "{world}/source"}, "is not empty"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_training(
    world: Path, finished: Path, tmp_path: Path, calls: Calls, changes: dict[str, Any], said: str
) -> None:
    def placed(value: Any) -> Any:
        if isinstance(value, str):
            return value.format(world=world, finished=finished)
        return [(name, placed(path)) for name, path in value] if isinstance(value, list) and isinstance(value[0], tuple) else value

    changes = {name: placed(value) for name, value in changes.items()}
    out = Path(changes.pop("out", tmp_path / "new/out"))
    before = stamps(world)
    with pytest.raises(UserError, match=said):
        call(world, out, **changes)
    assert calls == [] and not (tmp_path / "new").exists() and stamps(world) == before


def test_a_broken_training_image_is_found_before_the_first_training(world: Path, tmp_path: Path, calls: Calls) -> None:
    shutil.copytree(world / "target", tmp_path / "target")
    (tmp_path / "target/000022.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 8 images cannot be used"):
        call(world, tmp_path / "out", target=tmp_path / "target", test_target=world / "target")
    assert calls == [] and not (tmp_path / "out").exists()


def test_validation_is_passed_on(world: Path, tmp_path: Path, calls: Calls) -> None:
    result = call(
        world,
        tmp_path / "out",
        methods=("cut",),
        seeds=1,
        settings=SMALL[:8],
        val_source=world / "test",
        val_labels=world / "labels",
        val_target=world / "target",
    )
    validations = (tmp_path / "out/cut/seed0/run/validation.jsonl").read_text().splitlines()
    assert len(validations) == 6 and json.loads(validations[-1])["frechet"] is not None
    assert "checkpoints were chosen on the test images" in result.markdown


def test_settings_of_one_method() -> None:
    both = ["cut", "srunit", "cyclegan"]
    given = ["generator.width=8", "cut:nce.patches=4", "cut,srunit:projector.width=2", "cyclegan:data.resize=short:8"]
    assert settings_of("cut", both, given) == ["generator.width=8", "nce.patches=4", "projector.width=2"]
    assert settings_of("srunit", both, given) == ["generator.width=8", "projector.width=2"]
    assert settings_of("cyclegan", both, given) == ["generator.width=8", "data.resize=short:8"], "a colon in a value names no method"
    assert settings_of("cut", ["cut", "srunit"], ["nce.weight=1"]) == ["nce.weight=1"]
    for text, said in {
        "projector.width=2": "cyclegan has no projector; use --set cut,srunit:projector.width=2",
        "terms.nce.weight=1": "cyclegan has no nce; use --set cut,srunit:terms.nce.weight=1",
        "semantic.weight=1": "cut has no semantic; use --set METHOD:semantic.weight=1",
        "semst:nce.weight=1": "unknown method 'semst'",
        "seed=3": "--seeds",
        "cut:seed=3": "--seeds",
    }.items():
        with pytest.raises(UserError, match=re.escape(said)):
            for method in both:
                settings_of(method, both, [text])


def test_training_time(tmp_path: Path) -> None:
    """Steps at 2 images a second, a line of something else, a stretch at 4 after a resume, and a line cut short."""
    log = tmp_path / "log.jsonl"
    lines = [{"seen": 10, "images_per_second": 2.0}, {"seen": 12, "mean_iou": 0.5}, {"seen": 30, "images_per_second": 4.0}]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"seen": 40, "images')
    assert training_time(log) == (30, 10 / 2 + 20 / 4)
    assert training_time(tmp_path / "none.jsonl") == (None, None)


def test_durations_and_sizes() -> None:
    shown = [duration(seconds).replace(SPACE, " ") for seconds in (0.5, 83, 119.4, 120, 750, 7199, 7200, 100_000)]
    assert shown == ["0.500 s", "83.0 s", "119 s", "2.00 min", "12.5 min", "120 min", "2.00 h", "27.8 h"]
    assert gigabytes(1_234_567_890).replace(SPACE, " ") == "1.23 GB" and duration(None) == gigabytes(None) == "–"


# Trainings in a process of their own


@pytest.fixture
def config(world: Path) -> Callable[..., RunConfig]:
    def build(**fields: Any) -> RunConfig:
        settings = settings_of("cut", METHODS, SMALL)
        given = {"source": world / "source", "target": world / "target", "size": 32, "budget": 6, "device": "cpu"}
        return configure("cut", settings=settings, **given | fields)

    return build


def peak() -> int:
    """Of this process' resident memory, in bytes."""
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_the_process_trains_the_same_and_tells_its_memory(config: Callable[..., RunConfig], finished: Path, tmp_path: Path) -> None:
    ballast = np.ones(max(2**30 - peak(), 0) + 2**29, dtype=np.uint8)  # of the caller's, which is not to be counted
    run = tmp_path / "cut/run"
    (run / "samples").mkdir(parents=True)  # of a process that was killed before it began
    train_apart(config(), run, progress=False)
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (finished / "cut/seed0/run" / weights).read_bytes()
    memory = read_memory(run)
    assert memory is not None and memory["what"] == apart.RESIDENT
    assert 1e8 < memory["bytes"] < peak() - len(ballast) / 4, "more than Python, less than this process"


def test_the_largest_memory_of_all_attempts_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Iterator[int] = iter([5, 9, 7])
    monkeypatch.setattr(apart, "peak_memory", lambda device: next(found))
    for _ in range(3):
        apart.record_memory(tmp_path)
    assert read_memory(tmp_path) == {"bytes": 9, "what": apart.RESIDENT}


def test_what_fails_there_is_raised_here(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no images, .*/empty"):
        (tmp_path / "empty").mkdir()
        train_apart(config(source=tmp_path / "empty"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_process_that_dies_is_an_error(config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: popen(["sh", "-c", "read line; kill -KILL $$"], **more))
    with pytest.raises(UserError, match=r"its process ended by SIGKILL, .*run"):
        train_apart(config(), tmp_path / "run", progress=False)


def waited_for(path: Path, seconds: float = 120) -> None:
    """Until there is something."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_goes_on_to_the_process(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    popen, began, ended = subprocess.Popen, tmp_path / "began", tmp_path / "ended"
    name = number.name.removeprefix("SIG")
    script = (
        f"read line; trap 'touch {ended}; exit {code}' {name}; touch {began}; i=0; while [ $i -lt 500 ]; do sleep 0.02; i=$((i+1)); done"
    )
    monkeypatch.setattr(subprocess, "Popen", lambda command, **more: popen(["sh", "-c", script], **more))

    def stop() -> None:
        waited_for(began)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted) as stopped:
        train_apart(config(), tmp_path / "run", progress=False)
    thread.join()
    assert stopped.value.exit_code == code and ended.exists()


def test_a_training_ends_and_saves_when_its_caller_dies(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    run = tmp_path / "run"
    chosen = config(budget=100_000, checkpoint_every=100_000, sample_every=1)
    request = {"config": chosen.model_dump(mode="json"), "run": str(run), "resume": False, "progress": False}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    command = [sys.executable, "-P", "-m", "unflip.recipes.apart"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as child:
        assert child.stdin is not None
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
        waited_for(run / "samples/000000001.png")
        child.stdin.close()  # as the system does for a process that died
        try:
            assert child.wait(60) == 143
        finally:
            child.kill()
    assert (run / "checkpoints/latest").is_file() and (run / "model/config.json").is_file() and read_memory(run) is not None
