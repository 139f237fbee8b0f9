"""Validation in training: the rule, its numbers, what is kept of it on the disk, and that it changes nothing else."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from scipy.linalg import sqrtm
from torch import Tensor

import running
import unflip
from helpers import scale_weights, untouched_global_rng
from running import at
from unflip import modelfolder
from unflip.data.images import read_rgb
from unflip.data.labels import Classes
from unflip.engine import checkpoint
from unflip.engine.record import Record
from unflip.engine.trainer import Moment
from unflip.errors import Interrupted, UserError
from unflip.inference.folders import translate_folder
from unflip.inference.torch_backend import TorchTranslator
from unflip.networks.segmenter import SegmenterConfig
from unflip.recipes import models
from unflip.recipes.models import Models
from unflip.recipes.train import configure, train
from unflip.recipes.validate import Point, Validator, choose, spread
from unflip.runs import RunConfig, from_yaml
from unflip.segmenterfolder import HeldOut, Measured, SegmenterModelConfig, save_segmenter

CLASSES = Classes(names=("sky", "void", "tree", "road"), palette=((0, 90, 255), (255, 0, 0), (20, 160, 0), (120, 120, 120)), ignore=(1,))
SMALL = (
    *("generator.width=4", "generator.blocks=1", "discriminator.width=4", "discriminator.layers=2", "projector.width=8"),
    *("nce.patches=8", "optimizer.lr=0.05", "sample_every=1000", "data.resize=short:32"),
)
OFTEN = ("validate_every=2", "checkpoint_every=3", "log_every=1")


class Crash(Exception):
    """What kills a run here without any chance to save."""


def crash() -> None:
    raise Crash


# --- the rule


def point(seen: int, iou: float, frechet: float | None = None) -> Point:
    return Point(seen, iou, 0.5, 0.5, None, frechet)


def test_the_rule_by_example() -> None:
    """Within 10 % of the lowest distance, the highest mean IoU."""
    points = [point(1, 0.9, 20), point(2, 0.5, 10.9), point(3, 0.4, 10), point(4, 0.6, 11.1)]
    assert choose(points, 0.1).chosen.seen == 2
    assert choose(points, 0.12).chosen.seen == 4
    assert choose(points, 0).chosen.seen == 3
    assert choose(points, 10).chosen.seen == 1
    assert choose([*points, point(5, 0.5, 10.9)], 0.1).chosen.seen == 5, "of equal ones the later"
    assert [kept.seen for kept in choose(points, 0.1).kept] == [2, 3]
    assert [kept.seen for kept in choose(points, 0.12).kept] == [2, 3, 4]
    assert [kept.seen for kept in choose([*points, point(5, 0.5, 10)], 0.12).kept] == [4, 5], "2 and 3 can never be better than 5"


def test_without_distances_the_highest_mean_iou_is_chosen() -> None:
    points = [point(1, 0.2), point(2, 0.6), point(3, 0.6), point(4, 0.1)]
    assert choose(points, 0.1) == (points[2], [points[2]])


# Few different values, so that ties are frequent; powers of two, so that tolerances are exact.
VALUES = st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1.0, 1.25, 1.5, 2.0, 2.25, 3.0, 4.0, 6.0]))
RUNS = st.lists(VALUES, min_size=1, max_size=9).map(lambda values: [point(i + 1, iou, far) for i, (iou, far) in enumerate(values)])
TOLERANCES = st.sampled_from([0.0, 0.5, 1.0])


@given(RUNS, TOLERANCES)
def test_the_choice_is_the_rules(points: list[Point], tolerance: float) -> None:
    lowest = min(p.frechet for p in points)
    best, last = -1.0, None
    for p in points:
        if p.frechet <= lowest + tolerance * lowest and p.mean_iou >= best:
            best, last = p.mean_iou, p
    assert choose(points, tolerance).chosen == last


@given(RUNS, TOLERANCES)
def test_what_is_forgotten_on_the_way_is_never_missed(points: list[Point], tolerance: float) -> None:
    """Folders are deleted at some checkpoints only, here at each: what is chosen at the end is still there."""
    there: list[Point] = []
    for i, p in enumerate(points):
        there.append(p)
        kept = choose(points[: i + 1], tolerance).kept
        assert set(kept) <= set(there)
        there = [each for each in there if each in kept]
        assert choose(points[: i + 1], tolerance).chosen in there
        assert choose(there, tolerance).kept == there, "of what is kept, all is worth keeping"


@given(RUNS, TOLERANCES)
def test_all_that_is_kept_can_still_be_chosen(points: list[Point], tolerance: float) -> None:
    """By a next checkpoint that reads nothing right, and whose distance leaves just what is no further than the one in question."""
    for p in choose(points, tolerance).kept:
        following = point(len(points) + 1, -1, p.frechet / (1 + tolerance))
        assert choose([*points, following], tolerance).chosen == p


@given(st.integers(1, 500), st.integers(1, 500))
def test_images_are_evenly_spaced(count: int, most: int) -> None:
    picked = spread(count, most)
    assert len(picked) == min(count, most) and picked[0] == 0 and picked[-1] < count
    steps = {b - a for a, b in zip(picked, [*picked[1:], count], strict=True)}
    assert min(steps) >= 1 and max(steps) - min(steps) <= 1


# --- runs


def write(folder: Path, count: int, size: tuple[int, int], seed: int) -> Path:
    """Smooth images of width x height."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def segmenter(folder: Path, seed: int = 0, held_out: HeldOut | None = None, names: tuple[str, ...] = CLASSES.names) -> Path:
    """A tiny segmenter of random weights that reads all classes."""
    network = SegmenterConfig(width=4, halvings=2).build(4, torch.Generator().manual_seed(seed))
    classes = CLASSES.model_copy(update={"names": names})
    config = SegmenterModelConfig(network=SegmenterConfig(width=4, halvings=2), classes=classes, resize="short:24")
    save_segmenter(folder, config, scale_weights(network, seed + 1).float(), held_out)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images to train and to validate on, and a segmenter. Nobody writes into it."""
    root = tmp_path_factory.mktemp("world")
    write(root / "source", 4, (36, 32), 1)
    write(root / "target", 3, (32, 40), 2)
    write(root / "val/source", 5, (44, 33), 3)
    write(root / "val/target", 4, (40, 40), 4)
    (root / "val/labels").mkdir()
    random = np.random.default_rng(5)
    for i in range(5):
        ids = random.integers(0, 4, (33, 44)).astype(np.uint8)
        Image.fromarray(np.array(CLASSES.palette, dtype=np.uint8)[ids]).save(root / f"val/labels/{i}.png")
    (root / "classes.json").write_text(CLASSES.model_dump_json())
    segmenter(root / "segmenter")
    write(root / "one", 1, (40, 40), 6)
    return root


Build = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def config(world: Path) -> Build:
    """``config("seed=1", budget=4, val_target=None)``: a tiny run that validates."""

    def build(*settings: str, validates: bool = True, **fields: Any) -> RunConfig:
        judged = {"val_source": "val/source", "val_labels": "val/labels", "segmenter": "segmenter", "val_target": "val/target"}
        given = {"source": "source", "target": "target", **(judged if validates else {})}
        places = {name: world / path for name, path in given.items()}
        fields = {**places, "size": 32, "budget": 8, "device": "cpu", **fields}
        return configure("fastcut", settings=[*SMALL, *OFTEN, *settings], **fields)

    return build


def quietly(config: RunConfig, out: Path, **arguments: Any) -> Path:
    return train(config, out, progress=False, say=lambda line: None, **arguments)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]


def points(out: Path) -> list[Point]:
    return [Point.of(line) for line in lines(out)]


def folders(out: Path) -> list[int]:
    """The candidates on the disk, by images seen."""
    return sorted(int(path.name) for path in (out / "validated").iterdir())


def state(out: Path, seen: int) -> dict[str, Tensor]:
    """The moving average in a checkpoint."""
    tensors = load_file(out / f"checkpoints/{seen:09d}/state.safetensors")
    return {name.removeprefix("ema/"): value for name, value in tensors.items() if name.startswith("ema/")}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tree(out: Path) -> dict[str, bytes | None]:
    """Every path, with its content; of the log and the report, which tell how long all took, no more than that they are there."""
    found = running.tree(out)
    return found | dict.fromkeys({"log.jsonl", "report.html"} & found.keys())


@contextlib.contextmanager
def finding(found: dict[int, tuple[float, float]]) -> Iterator[None]:
    """Within the block, validations find these mean IoUs and Fréchet distances, by images seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validator, "__call__", lambda self, translator, seen, progress: point(seen, *found[seen]))
        yield


@pytest.fixture(scope="module")
def finished(config: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of which all checkpoints are kept."""
    settings = ("checkpoint_every=2", "keep=99", "validation.tolerance=0.5", "tensorboard=true")
    return quietly(config(*settings, budget=16), tmp_path_factory.mktemp("finished") / "run")


def test_every_interval_and_the_end_are_validated(config: Build, finished: Path, tmp_path: Path) -> None:
    assert [line["seen"] for line in lines(finished)] == [2, 4, 6, 8, 10, 12, 14, 16]
    out = quietly(config("validate_every=4", batch=3, budget=10), tmp_path / "run")
    assert [line["seen"] for line in lines(out)] == [6, 9, 10]


def test_the_report_has_the_curves(config: Build, finished: Path, tmp_path: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    chosen = lines(finished)[-1]["chosen"]
    assert f"The checkpoint at {chosen} images seen was chosen." in html
    for title in ("During training", "Mean IoU", "Fréchet distance", "The last samples", "adversarial", "config.yaml"):
        assert title in html, title
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html), "self-contained"
    points = [float(x) for x in re.findall(r"<circle[^>]*cx=\"([0-9.]+)\"", html)]
    assert len(points) >= 2 * 8, "every validation is a point of two curves"
    alone = quietly(config(validates=False), tmp_path / "alone")
    html = (alone / "report.html").read_text(encoding="utf-8")
    assert "During training" not in html and "adversarial" in html and "<svg" in html


def test_the_numbers_are_those_of_what_translate_writes(world: Path, finished: Path, tmp_path: Path) -> None:
    """The last weights, through files, with metrics computed here by hand."""
    translate_folder(TorchTranslator(modelfolder.load(finished / "last")), world / "val/source", tmp_path, progress=False)
    network = SegmenterConfig(width=4, halvings=2).build(4, torch.Generator())
    network.load_state_dict(load_file(world / "segmenter/model.safetensors"))

    def prepared(image: Image.Image) -> Tensor:
        width, height = (round(side * 24 / min(image.size)) for side in image.size)
        small = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
        return torch.from_numpy(small).permute(2, 0, 1)[None] / 127.5 - 1

    @torch.no_grad()
    def features(folder: Path, count: int) -> np.ndarray:
        return np.concatenate([network.pooled(prepared(Image.open(folder / f"{i}.png"))).double().numpy() for i in range(count)])

    right, union, shown, labeled = np.zeros(4), np.zeros(4), np.zeros(4), 0
    for i in range(5):
        image = Image.open(tmp_path / f"{i}.png")
        assert image.size == (44, 33) and np.array(image).std() > 10, "nearly gray, anything would agree"
        with torch.no_grad():
            logits = torch.nn.functional.interpolate(network(prepared(image)), (33, 44), mode="bilinear")[0]
        logits[1] = -np.inf  # an ignored class is never read
        read = logits.argmax(0).numpy()
        colors = read_rgb(world / f"val/labels/{i}.png")
        truth = np.argmax([(colors == color).all(2) for color in CLASSES.palette], axis=0)
        counted = truth != 1
        labeled += counted.sum()
        for c in (0, 2, 3):
            right[c] += ((read == c) & (truth == c)).sum()
            union[c] += (((read == c) | (truth == c)) & counted).sum()
            shown[c] += (read == c).sum()
    assert (shown > 0).sum() >= 2, "all is read as one class, anything would agree"
    a, b = features(tmp_path, 5), features(world / "val/target", 4)
    product = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    distance = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * np.trace(product)

    last = lines(finished)[-1]
    assert last["mean_iou"] == pytest.approx((right / union.clip(1))[[0, 2, 3]].mean(), abs=1e-9)
    assert last["pixel_accuracy"] == pytest.approx(right.sum() / labeled, abs=1e-9)
    assert last["flip_rate"] == pytest.approx(1 - right.sum() / labeled, abs=1e-9)
    assert last["excess_flip_rate"] is None
    assert last["frechet"] == pytest.approx(distance, rel=1e-3)  # SciPy's root of a singular matrix is not exact


def test_the_model_is_the_chosen_checkpoint_and_last_the_last(finished: Path) -> None:
    choice = choose(points(finished), 0.5)
    chosen = choice.chosen
    assert chosen.seen != 16, "make another world: the last is chosen, and any rule would do"
    for name, seen in (("model", chosen.seen), ("last", 16)):
        folder = finished / name
        assert equal(load_file(folder / "model.safetensors"), state(finished, seen))
        assert modelfolder.load(folder).config.provenance["images_seen"] == seen
    assert unflip.load(finished, device="cpu").config.provenance["images_seen"] == chosen.seen
    assert [line["chosen"] for line in lines(finished)] == [choose(points(finished)[: i + 1], 0.5).chosen.seen for i in range(8)]
    assert len({p.mean_iou for p in points(finished)}) > 4 and len({p.frechet for p in points(finished)}) == 8


def test_what_can_still_be_chosen_is_kept_as_model_folders(finished: Path) -> None:
    kept = choose(points(finished), 0.5).kept
    assert folders(finished) == [p.seen for p in kept] and len(kept) < 8
    for p in kept:
        folder = finished / f"validated/{p.seen:09d}"
        assert equal(load_file(folder / "model.safetensors"), state(finished, p.seen))
        found = modelfolder.load(folder).config.provenance
        assert (found["images_seen"], found["validation"]["checkpoints"]) == (p.seen, {"this": p._asdict()})
        assert (folder / "projector.safetensors").is_file()


def test_the_card_says_what_was_chosen_by_which_rule(finished: Path) -> None:
    chosen, last = choose(points(finished), 0.5).chosen, points(finished)[-1]
    found = modelfolder.read_config(finished / "model").provenance["validation"]
    assert found["checkpoints"] == {"chosen": chosen._asdict(), "last": last._asdict()} and found["images"] == 5
    assert found["rule"] == (
        "the highest mean IoU among the validated ones whose Fréchet distance is within 50 % of the lowest (of equals the later)"
    )
    for name, said in (("model", "These weights are the chosen ones"), ("last", "These weights are not the chosen ones")):
        card = (finished / name / "README.md").read_text()
        assert f"Chosen is the checkpoint of {found['rule']}. {said}." in card and "{" not in card
        for which, p in (("chosen", chosen), ("last", last)):
            [row] = [line for line in card.splitlines() if line.startswith(f"| {which} |")]
            numbers = [f"{x:.4g}" for x in (p.mean_iou, p.pixel_accuracy, p.flip_rate)]
            assert row == f"| {which} | {p.seen} | {' | '.join(numbers)} | unknown | {p.frechet:.4g} |"


def test_tensorboard_shows_the_curves(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(finished / "tensorboard"))
    reader.Reload()
    for name in ("mean_iou", "frechet", "flip_rate", "pixel_accuracy"):
        expected = [(line["seen"], pytest.approx(line[name], rel=1e-6)) for line in lines(finished)]
        assert [(event.step, event.value) for event in reader.Scalars(f"validation/{name}")] == expected
    assert not {"validation/seen", "validation/chosen", "validation/excess_flip_rate"} & set(reader.Tags()["scalars"])


def test_both_are_said(config: Build, tmp_path: Path) -> None:
    said: list[str] = []
    found = {2: (0.5, 10.0), 4: (0.25, 10.5), 6: (0.75, 12.0), 8: (0.125, 10.25)}
    with finding(found):
        train(config(), tmp_path / "run", progress=False, say=said.append)
    rule = "the highest mean IoU among the validated ones whose Fréchet distance is within 10 % of the lowest (of equals the later)"
    assert f"validation of 5 translations every 2 images; chosen is {rule}" in said
    assert "validated at 6 images: mean IoU 0.75, pixel accuracy 0.5, flip rate 0.5, Fréchet distance 12; chosen so far: 2" in said
    assert said[-2].startswith("chosen: 2 images seen: mean IoU 0.5, ") and said[-2].endswith(f"({tmp_path / 'run/model'}), {rule}")
    assert said[-1].startswith("last: 8 images seen: mean IoU 0.125, ") and str(tmp_path / "run/last") in said[-1]
    before = tree(tmp_path / "run")
    again: list[str] = []
    train(config(), tmp_path / "run", resume=True, progress=False, say=again.append)
    assert "complete" in again[0] and again[1:] == said[-2:] and tree(tmp_path / "run") == before


def test_without_a_target_the_mean_iou_alone_decides(config: Build, tmp_path: Path) -> None:
    said: list[str] = []
    out = train(config(val_target=None), tmp_path / "run", progress=False, say=said.append)
    found = points(out)
    assert all(p.frechet is None for p in found)
    best = max(found, key=lambda p: (p.mean_iou, p.seen))
    assert modelfolder.read_config(out / "model").provenance["images_seen"] == best.seen and folders(out) == [best.seen]
    assert any(line.endswith("chosen is the highest mean IoU among the validated ones (of equals the later)") for line in said)
    assert not any("Fréchet" in line for line in said)


def test_the_excess_flip_rate_follows_from_the_segmenters_held_out_images(config: Build, tmp_path: Path, finished: Path) -> None:
    """Which it reads perfectly here: then all flips are in excess."""
    none = Measured(value=None, low=None, high=None, n=2)
    perfect = HeldOut(
        pixel_accuracy=none,
        class_accuracy=none,
        mean_iou=none,
        per_class_iou={},
        sizes=(2,),
        voids=(0,),
        blocks=(((9, 0, 0), (0, 9, 0), (0, 0, 9)),),
    )
    out = quietly(config(segmenter=segmenter(tmp_path / "segmenter", held_out=perfect), budget=2), tmp_path / "run")
    [line] = lines(out)
    assert line["excess_flip_rate"] == pytest.approx(line["flip_rate"], rel=1e-12)
    assert {name: value for name, value in line.items() if name != "excess_flip_rate"}.items() <= lines(finished)[0].items()


def test_the_same_images_at_every_validation(config: Build, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, asked = TorchTranslator.decoded, []

    def watched(self: TorchTranslator, image: Tensor, size: tuple[int, int]) -> Any:
        asked.append(image.numpy().tobytes())
        return decoded(self, image, size)

    monkeypatch.setattr(TorchTranslator, "decoded", watched)
    quietly(config("validation.images=3", budget=6), tmp_path / "run")
    expected = [read_rgb(world / f"val/source/{i}.png", "short:32").tobytes() for i in (0, 1, 3)]
    assert asked[0] in expected, "the largest one is tried before the training"
    assert asked[1:] == 3 * expected


# --- nothing else is changed by it


def test_a_run_that_validates_computes_the_same_bits(config: Build, tmp_path: Path) -> None:
    with untouched_global_rng():
        judged = quietly(config("ema.half_life=3"), tmp_path / "judged")
    alone = quietly(config("ema.half_life=3", validates=False), tmp_path / "alone")
    for seen in (6, 8):
        name = f"checkpoints/{seen:09d}/state.safetensors"
        assert (judged / name).read_bytes() == (alone / name).read_bytes()
    assert (judged / "last/model.safetensors").read_bytes() == (alone / "model/model.safetensors").read_bytes()
    assert not {path.name for path in alone.iterdir()} & {"last", "validated", "validation.jsonl"}
    for a, b in zip(*((json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()) for out in (judged, alone)), strict=True):
        assert a | {"images_per_second": 0} == b | {"images_per_second": 0}


def test_a_run_without_validation_has_none_due(config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, due = Record.add, dict[int, frozenset[str]]()

    def noted(record: Record, moment: Moment) -> None:
        due[moment.seen] = moment.due
        add(record, moment)

    monkeypatch.setattr(Record, "add", noted)
    for validates, expected in ((False, []), (True, [2, 4, 5])):
        quietly(config(validates=validates, budget=5), tmp_path / f"{validates}")
        assert [seen for seen, names in due.items() if "validate" in names] == expected
    assert config(validates=False).validate_every == 2, "the interval is there all the same"


# --- stopped and resumed


@pytest.fixture(scope="module")
def whole(config: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quietly(config(), tmp_path_factory.mktemp("whole") / "run")


def test_a_stopped_run_has_chosen_among_what_it_has(config: Build, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with at(4, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(config(), out)
    assert lines(out) == lines(whole)[:2]
    found = {name: modelfolder.read_config(out / name).provenance for name in ("model", "last")}
    assert found["model"]["images_seen"] == choose(points(out), 0.1).chosen.seen and found["last"]["images_seen"] == 5
    assert found["model"]["validation"]["checkpoints"]["last"] == {"seen": 5}, "it was not validated"
    assert "| last | 5 | unknown | unknown | unknown | unknown | unknown |" in (out / "last/README.md").read_text()
    quietly(config(), out, resume=True)
    assert after_a_stop(out) == after_a_stop(whole)


def after_a_stop(out: Path) -> dict[str, bytes | None]:
    """All but the older checkpoint: a stop makes one where the whole run made none."""
    return {name: content for name, content in tree(out).items() if not name.startswith("checkpoints/00000000") or "8" in name}


def test_a_run_stopped_before_its_first_validation(config: Build, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with at(1, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(config("validate_every=4"), out)
    assert modelfolder.read_config(out / "model").provenance["images_seen"] == 2 and not (out / "validated").exists()
    assert "chosen" not in modelfolder.read_config(out / "model").provenance["validation"]["checkpoints"]
    quietly(config("validate_every=4"), out, resume=True)
    assert [line["seen"] for line in lines(out)] == [4, 8]


FOUND = {2: (0.5, 9.0), 4: (0.4, 10.0), 6: (0.6, 9.4), 8: (0.5, 8.9)}
"""At the checkpoints after 3, 6 and 8 images, [2], [2, 6] and [6, 8] are kept, of which 2, 6 and 6 are chosen."""


@pytest.fixture(scope="module")
def expected(config: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
    """What a run leaves that finds this, and is not killed."""
    with finding(FOUND):
        out = quietly(config(), tmp_path_factory.mktemp("expected") / "run")
    assert folders(out) == [6, 8]
    return tree(out)


KILLS: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "before a validation": (Validator, "__call__", (2, 4)),
    "before a model folder is written": (Models, "_write", (1, 2, 3, 4, 5)),
    "before a line is written": (Record, "add_validation", (1, 3)),
    "before the model is written": (models.modelfolder, "copy", (2, 3)),
    "before a checkpoint is written": (checkpoint, "save", (1, 2, 3)),
    "before what can no longer be chosen is deleted": (Models, "prune", (2, 3, 4)),
}


@pytest.mark.parametrize(("where", "call"), [(where, call) for where, (_, _, calls) in KILLS.items() for call in calls])
def test_a_killed_run_ends_as_one_that_was_not(
    config: Build, expected: dict[str, bytes | None], tmp_path: Path, where: str, call: int
) -> None:
    """Killed when it gets to this place for the first, second, ... time; resumed from its last checkpoint, if there is one."""
    owner, name, _ = KILLS[where]
    out, calls = tmp_path / "run", list[int]()

    def deadly(*arguments: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise Crash
        return original(*arguments, **more)

    with finding(FOUND):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
            original = getattr(owner, name)
            patch.setattr(owner, name, deadly)
            quietly(config(), out)
        quietly(config(), out, resume=True)
    assert tree(out) == expected


def test_what_a_killed_process_leaves_is_cleared_away(config: Build, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with at(5, crash), pytest.raises(Crash):
        quietly(config(), out)
    assert [line["seen"] for line in lines(out)] == [2, 4], "the second one is later than the checkpoint"
    (out / "validated/.000000004.tmp").mkdir()
    (out / "validated/000000007").mkdir()
    with open(out / "validation.jsonl", "a") as file:
        file.write('{"seen": 2, "mean_i')
    with at(4, crash), pytest.raises(Crash):
        quietly(config(), out, resume=True)
    assert [line["seen"] for line in lines(out)] == [2] and folders(out) == [2], "of what is not yet there again, nothing is told"
    quietly(config(), out, resume=True)
    assert tree(out) == tree(whole)


@pytest.mark.parametrize("killed", ["between checkpoints", "before the second checkpoint is written"])
def test_what_could_be_chosen_at_the_checkpoint_outlives_what_came_after_it(config: Build, tmp_path: Path, killed: str) -> None:
    """The run is killed after a validation that makes the earlier ones needless, goes on elsewhere, where that one comes out worse."""
    out, chosen = tmp_path / "run", config("checkpoint_every=4")
    save = checkpoint.save

    def saved(folder: Path, training: Any) -> None:
        if training.seen > 4:
            crash()
        save(folder, training)

    with pytest.MonkeyPatch.context() as patch, finding({2: (0.5, 10), 4: (0.4, 9.5), 6: (0.6, 9), 8: (0.1, 99)}), pytest.raises(Crash):
        patch.setattr(checkpoint, "save", saved)
        with at(7, crash) if killed == "between checkpoints" else contextlib.nullcontext():
            quietly(chosen, out)
    assert folders(out) == [2, 4, 6]
    with finding({6: (0.1, 12), 8: (0.2, 11)}):
        quietly(chosen, out, resume=True)
    assert [(p.seen, p.mean_iou) for p in points(out)] == [(2, 0.5), (4, 0.4), (6, 0.1), (8, 0.2)]
    assert modelfolder.load(out).config.provenance["images_seen"] == 2 and folders(out) == [2, 4]


def test_needless_candidates_are_not_written_and_those_that_become_so_deleted_at_a_checkpoint(config: Build, tmp_path: Path) -> None:
    seen_at: dict[int, list[int]] = {}
    out = tmp_path / "run"
    with contextlib.ExitStack() as stack:
        stack.enter_context(finding({2: (0.5, 10), 4: (0.6, 9), 6: (0.1, 30), 8: (0.7, 8.9)}))
        for seen in (5, 7, 8):
            stack.enter_context(at(seen, lambda seen=seen: seen_at.update({seen: folders(out)})))
        quietly(config("checkpoint_every=7"), out)
    assert seen_at == {5: [2, 4], 7: [2, 4], 8: [4]} and folders(out) == [8]


def test_a_run_is_not_resumed_with_another_validation(config: Build, world: Path, tmp_path: Path) -> None:
    places = {"val_source": tmp_path / "val", "segmenter": tmp_path / "segmenter"}
    shutil.copytree(world / "val/source", places["val_source"])
    shutil.copytree(world / "segmenter", places["segmenter"])
    chosen = config(**places)
    with at(4, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(chosen, tmp_path / "run")
    with pytest.raises(UserError, match=r"validation.tolerance is 0.1 there and 0.2 here"):
        quietly(config("validation.tolerance=0.2", **places), tmp_path / "run", resume=True)
    shutil.rmtree(places["segmenter"])
    segmenter(places["segmenter"], seed=4)
    with pytest.raises(UserError, match=r"validation\.segmenter, .*segmenter, has other weights than when the run in .*run began"):
        quietly(chosen, tmp_path / "run", resume=True)


# --- before the training


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"val_labels": None}, "validation needs all of --val-source DIR, --val-labels DIR, --segmenter M; give --val-labels DIR, too"),
        ({"val_source": None, "segmenter": None}, "give --val-source DIR and --segmenter M, too"),
        ({"val_source": None, "val_labels": None, "segmenter": None}, "--val-target is of use only in a validation"),
        ({"val_source": "one", "val_labels": "one"}, "one validation image only"),
        ({"val_target": "one"}, "one validation target only"),
        ({"val_target": "val/source"}, "validation source and target are the same folder"),
        ({"val_labels": "source"}, "1 of 5 images have no label map, such as"),
        ({"val_labels": "val/source"}, "is no class"),
        ({"val_source": "nowhere"}, "no such folder or list"),
        ({"segmenter": "val"}, "segmenter"),
        ({"segmenter": "boats"}, "the segmenter does not know the class tree"),
        ({"out": "val/source/run"}, "its samples would be taken for images"),
        ({"out": "val/target/run"}, "its samples would be taken for images"),
    ],
)
def test_what_is_wrong_is_found_before_the_training(config: Build, world: Path, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    if given.get("segmenter") == "boats":
        given = {"segmenter": segmenter(tmp_path / "boats", names=("sky", "void", "boat", "road")), "classes": world / "classes.json"}
    out = world / given["out"] if "out" in given else tmp_path / "run"
    places = {name: value and world / value for name, value in given.items() if name != "out"}
    before = tree(world)
    with pytest.raises(UserError, match=said) as refused:
        quietly(config(**places), out)
    assert "\n" not in str(refused.value) and not out.exists() and tree(world) == before


@pytest.mark.parametrize("cache", ["auto", "none"])
@pytest.mark.parametrize(
    ("spoil", "said"), [("kind", "uint16 with 1 band, where .* is needed, .*2.png"), ("middle", "broken or truncated image, .*2.png")]
)
def test_a_validation_image_that_cannot_be_decoded_is_found_before_the_training(
    config: Build, world: Path, tmp_path: Path, spoil: str, said: str, cache: str
) -> None:
    """Neither the header nor the end of the file, all that the survey reads, tells of it; and it is not the largest one."""
    folder = shutil.copytree(world / "val/source", tmp_path / "source")
    if spoil == "kind":
        Image.fromarray(np.zeros((33, 44), np.uint16)).save(folder / "2.png")
    else:
        data = bytearray((folder / "2.png").read_bytes())
        data[len(data) // 2 : -20] = b"\xff" * (len(data) - len(data) // 2 - 20)
        (folder / "2.png").write_bytes(data)
    with pytest.raises(UserError, match=said) as refused:
        quietly(config(f"data.cache={cache}", val_source=folder), tmp_path / "run")
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["validation.images=1", "validation.tolerance=-0.1", "validation.tolerance=.inf", "validate_every=-1"])
def test_settings_out_of_range(config: Build, setting: str) -> None:
    with pytest.raises(UserError, match=setting.split("=")[0].replace(".", r"\.")):
        config(setting)


def test_an_image_too_large_for_the_device_is_found_before_the_training(
    config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(TorchTranslator, "decoded", full)
    with pytest.raises(UserError, match=r"too large for the memory of the device \(43x32\), .*; give smaller ones, or set data.resize"):
        quietly(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_remarks_on_what_flatters(config: Build, world: Path, tmp_path: Path) -> None:
    said: list[str] = []
    shutil.copytree(world / "val/labels", tmp_path / "labels")
    for i in range(4):
        Image.fromarray(np.zeros((32, 36), np.uint8)).save(tmp_path / f"labels/{i}.png")
    learned = {"source_labels": tmp_path / "labels", "classes": world / "classes.json", "val_labels": tmp_path / "labels"}
    chosen = config(
        f"semantic.segmenter={world / 'segmenter'}",
        "data.resize=short:24",
        "discriminator.layers=1",
        val_source=world / "source",
        size=24,
        budget=1,
        **learned,
    )
    out = train(chosen, tmp_path / "run", progress=False, say=said.append)
    remarks = modelfolder.read_config(out / "model").provenance["remarks"]
    assert set(remarks) <= set(said)
    for text in ("4 of 4 images are source images of the training, too", "which the generator learns to please", "no excess flip rate"):
        assert any(remark.startswith("validation: ") and text in remark for remark in remarks), text


# --- configurations


def test_the_interval_follows_the_budget(config: Build, tmp_path: Path) -> None:
    assert config("validate_every=0", budget=1000).validate_every == 100
    assert config("validate_every=0", budget=10**6).validate_every == 5_000
    assert config("validate_every=0", budget=3).validate_every == 1
    quietly(config("validate_every=0", budget=1), tmp_path / "run")
    again = configure(file=tmp_path / "run/config.yaml", budget=40)
    assert again.validate_every == 4


def test_a_config_is_complete_and_works_from_anywhere(
    config: Build, world: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    judged = {"val_source": "val/source", "val_labels": "val/labels", "segmenter": "segmenter", "val_target": "val/target"}
    here = configure("fastcut", settings=[*SMALL, *OFTEN], source="source", target="target", size=32, budget=8, device="cpu", **judged)
    assert here == config()
    monkeypatch.chdir(tmp_path)
    written = from_yaml(whole / "config.yaml")
    assert written == config() and yaml.safe_load((whole / "config.yaml").read_text()) == written.model_dump(mode="json")
    assert written.validation.segmenter == world / "segmenter" and written.data.val_target == world / "val/target"
    assert tree(quietly(configure(file=whole / "config.yaml"), Path("again"))) == tree(whole)
    assert configure(file=whole / "config.yaml", settings=["validation.images=7"]).validation.images == 7


def test_a_segmenter_of_the_hub_is_no_path(config: Build) -> None:
    assert str(config(segmenter="owner/name").validation.segmenter) == "owner/name"


def test_classes_may_be_those_of_the_validation_alone(config: Build, world: Path) -> None:
    chosen = config(classes=world / "classes.json")
    assert chosen.data.classes == CLASSES and "semantic" not in chosen.terms
    with pytest.raises(UserError, match="labels need both"):
        config(classes=world / "classes.json", validates=False)


def test_flags_reach_the_run(cli: Callable[..., Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    call = ["train", "--source", "source", "--target", "target", "--method", "fastcut", "--size", 32, "--budget", 4, "--device", "cpu"]
    call += [word for setting in (*SMALL, *OFTEN) for word in ("--set", setting)]
    judged = ["--val-source", "val/source", "--val-labels", "val/labels", "--segmenter", "segmenter", "--val-target", "val/target"]
    out = tmp_path / "run"
    result = cli(*call, *judged, "--out", out)
    assert result.code == 0 and "chosen: " in result.stderr and "last: 4 images seen" in result.stderr
    assert [line["seen"] for line in lines(out)] == [2, 4]
    refused = cli(*call, *judged[:4], "--out", tmp_path / "other")
    assert refused.code == 2 and refused.stderr.count("\n") == 1 and "give --segmenter M, too" in refused.stderr
    assert not (tmp_path / "other").exists()
