"""Training a segmenter: the crops, the loss, the verb; its folder; and networks of transformers in its place."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import types
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score
from torch import Tensor, nn

from helpers import lively, refused, rng, same, untouched_global_rng
from unflip.data.folders import find_images, survey
from unflip.data.images import read_rgb
from unflip.data.labels import Classes, Labels, read_labels
from unflip.data.pairs import Images
from unflip.engine.launch import launch
from unflip.errors import Interrupted, MissingExtra
from unflip.evaluation import crops as cropping
from unflip.evaluation import segmenter as training
from unflip.evaluation.crops import Crops
from unflip.evaluation.lesson import Lesson
from unflip.evaluation.reader import Reader
from unflip.evaluation.segmenter import class_weights, rate, weighted_cross_entropy
from unflip.networks import pretrained
from unflip.networks.pretrained import find_pretrained
from unflip.networks.segmenter import SegmenterConfig
from unflip.recipes import segmenter as recipe
from unflip.recipes.segmenter import segmenter
from unflip.segmenterfolder import SegmenterModelConfig, distinct_colors, load_segmenter, read_segmenter, save_segmenter

CLASSES = Classes(names=("grass", "void", "brick", "pole"), palette=((0, 99, 0), (0, 0, 0), (180, 60, 40), (90, 90, 90)), ignore=(1,))
COLORS = np.array([(60, 140, 60), (128, 128, 128), (170, 80, 60), (60, 70, 160)])
"""Of the classes in photos, about."""
TINY = SegmenterConfig(width=4, halvings=2)


def toy(folder: Path, count: int = 10, size: int = 32, seed: int = 0) -> list[str]:
    """Noisy photos of grass, bricks, a thin pole and some void, with their label maps: the arguments that name them."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for i in range(count):
        random = np.random.default_rng([seed, i])
        ids = np.zeros((size, size), np.uint8)
        ids[: int(random.integers(size // 4, 3 * size // 4))] = 2
        column = int(random.integers(3, size - 3))
        ids[:, column : column + 2] = 3
        ids[-3:, :5] = 1
        photo = COLORS[ids] + random.normal(0, 12, (size, size, 3))
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(folder / f"images/{i:02}.png")
        Image.fromarray(ids).save(folder / f"labels/{i:02}.png")
    (folder / "classes.json").write_text(CLASSES.model_dump_json())
    return [str(folder / "images"), str(folder / "labels"), str(folder / "classes.json")]


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path, Path]:
    images, labels, classes = map(Path, toy(tmp_path / "data"))
    return images, labels, classes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe trains a tiny network."""
    monkeypatch.setattr(recipe, "_from_scratch", lambda size: TINY)


def quick(data: tuple[Path, Path, Path], out: Path, **changes: Any) -> Any:
    given = {"budget": 8, "batch": 4, "device": "cpu", "progress": False, "say": lambda line: None, **changes}
    return segmenter(*data, out, **given)


def stored(images: Path, labels: Path, classes: Classes = CLASSES) -> tuple[Images, Labels]:
    entries = survey(find_images(images))
    maps = [entry._replace(path=labels / entry.path.name) for entry in entries]
    return Images(entries, shared=False), Labels(maps, classes, shared=False)


# --- the loss and its weights


def test_weights_of_classes() -> None:
    pixels = [900, 0, 75, 25]
    share = [0.9, 0, 0.075, 0.025]
    raw = [1 / math.sqrt(0.9), 0, 1 / math.sqrt(0.075), 1 / math.sqrt(0.025)]
    mean = sum(s * w for s, w in zip(share, raw, strict=True))
    weights = class_weights(pixels, "balanced")
    assert np.allclose(weights, np.array(raw) / mean, rtol=1e-6) and weights.dtype == torch.float32
    assert weights[3] / weights[0] == pytest.approx(6)  # 36 times as rare
    assert class_weights(pixels, "plain").tolist() == [1, 0, 1, 1]


def test_cross_entropy_pixel_by_pixel() -> None:
    random = np.random.default_rng(0)
    logits, weights = random.normal(0, 2, (2, 4, 5, 3)), np.array([0.5, 0, 2, 3])
    labels = random.choice([-1, 0, 2, 3], (2, 5, 3))
    losses = []
    for n, y, x in np.ndindex(labels.shape):
        if labels[n, y, x] >= 0:
            scores = logits[n, :, y, x]
            losses.append(weights[labels[n, y, x]] * (np.log(np.exp(scores).sum()) - scores[labels[n, y, x]]))
    given = torch.tensor(logits, requires_grad=True)
    loss = weighted_cross_entropy(given, torch.from_numpy(labels), torch.from_numpy(weights).float())
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    loss.backward()
    moved = given.grad.abs().sum(1) > 0
    assert (moved.numpy() == (labels >= 0)).all()  # what is ignored has no gradient, everything else has


def test_nothing_labeled_is_no_loss() -> None:
    logits = torch.randn(1, 4, 6, 6, generator=rng(), requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((1, 6, 6), -1), torch.ones(4))
    loss.backward()
    assert loss == 0 and logits.grad.abs().max() == 0


def test_the_rate_rises_and_falls() -> None:
    assert rate(0) == 0 and rate(0.025) == pytest.approx(0.5) and rate(0.05) == 1 and rate(0.525) == pytest.approx(0.5)
    assert rate(1) == pytest.approx(0)


# --- the crops


def coded(folder: Path, width: int, height: int, count: int = 1, void: int = 0) -> tuple[Images, Labels]:
    """Images whose red and green are column and row, and whose labels are both as well: what belongs together can be checked."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    y, x = np.mgrid[:height, :width]
    classes = Classes(names=tuple(f"c{i}" for i in range(64)), palette=tuple((i, 0, 1) for i in range(64)))
    for k in range(count):
        Image.fromarray(np.stack([4 * x, 4 * y, 0 * x + k], -1).astype(np.uint8)).save(folder / f"images/{k:02}.png")
        ids = (x // 8 + 8 * (y // 8)).astype(np.uint8)
        ids[:void] = 255
        Image.fromarray(ids).save(folder / f"labels/{k:02}.png")
    return stored(folder / "images", folder / "labels", classes)


@pytest.fixture
def plain_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cropping, "_recolored", lambda x, rng: x)


def lesson(size: str | int = 16, **changes: Any) -> Lesson:
    return Lesson(**{"budget": 100, "size": size, **changes})


def pixels_of(x: Tensor) -> np.ndarray:
    return ((x.numpy() + 1) * 127.5).round().astype(int)


@pytest.mark.usefixtures("plain_colors")
def test_a_crop_is_a_window_with_its_labels(tmp_path: Path) -> None:
    images, labels = coded(tmp_path, 60, 40)
    crops = Crops(images, labels, [1] * 64, lesson("20x12", zoom=1))
    corners, mirrored = set(), 0
    for i in range(60):
        x, y = crops[i]
        assert x.shape == (3, 12, 20) and y.shape == (12, 20) and x.dtype == torch.float32 and y.dtype == torch.int64
        columns, rows = pixels_of(x)[0] // 4, pixels_of(x)[1] // 4
        assert (y.numpy() == columns // 8 + 8 * (rows // 8)).all()
        flipped = columns[0, 0] > columns[0, 1]
        ordered = columns[:, ::-1] if flipped else columns
        assert (ordered == ordered[0, 0] + np.arange(20)).all() and (rows == rows[0, 0] + np.arange(12)[:, None]).all()
        corners.add((int(ordered[0, 0]), int(rows[0, 0])))
        mirrored += bool(flipped)
    columns, rows = (set(side) for side in zip(*corners, strict=True))
    assert len(corners) > 50 and min(columns) < 8 and max(columns) > 32 and max(columns) <= 40 and min(rows) < 6 and 22 < max(rows) <= 28
    assert 18 < mirrored < 42


@pytest.mark.usefixtures("plain_colors")
def test_zoomed_crops_keep_image_and_labels_together(tmp_path: Path) -> None:
    images, labels = coded(tmp_path, 60, 40)
    crops = Crops(images, labels, [1] * 64, lesson(24, zoom=1.5))
    steps = []
    for i in range(40):
        x, y = crops[i]
        column = pixels_of(x)[0] / 4
        steps.append(abs(column[12, 18] - column[12, 6]) / 12)
        # where each is sure of its class: away from borders of classes
        inner = (np.abs(column % 8 - 4) < 2.5) & (np.abs(pixels_of(x)[1] / 4 % 8 - 4) < 2.5) & (y.numpy() >= 0)
        expected = column // 8 + 8 * (pixels_of(x)[1] / 4 // 8)
        assert inner.sum() > 50 and (y.numpy() == expected)[inner].all()
    assert 0.62 < min(steps) < 0.75 and 1.35 < max(steps) < 1.55  # image pixels to a pixel of the crop


@pytest.mark.usefixtures("plain_colors")
def test_zoomed_labels_are_not_shifted(tmp_path: Path) -> None:
    """Every label is that of the nearest pixel, so that on average they lie where the image does."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    x = np.tile(np.arange(60, dtype=np.uint8), (40, 1))
    Image.fromarray(np.stack([4 * x] * 3, -1)).save(tmp_path / "images/0.png")
    Image.fromarray(x).save(tmp_path / "labels/0.png")
    classes = Classes(names=tuple(f"c{i}" for i in range(60)), palette=tuple((i, 0, 1) for i in range(60)))
    crops = Crops(*stored(tmp_path / "images", tmp_path / "labels", classes), [1] * 60, lesson(24, zoom=1.5))
    off = [y.numpy()[:, 2:-2] - pixels_of(x)[0, :, 2:-2] / 4 for x, y in (crops[i] for i in range(30)) if y.min() >= 0]
    assert len(off) > 20 and max(np.abs(each).max() for each in off) < 0.9 and abs(np.mean(off)) < 0.1


@pytest.mark.usefixtures("plain_colors")
def test_beyond_the_image_there_are_no_labels(tmp_path: Path) -> None:
    images, labels = coded(tmp_path, 24, 24)
    crops = Crops(images, labels, [1] * 64, lesson(24, zoom=1.5))
    padded = 0
    for i in range(20):
        x, y = crops[i]
        step = abs(int(pixels_of(x)[0, 12, 13]) - int(pixels_of(x)[0, 12, 11])) / 8
        inside = y.numpy() >= 0
        assert inside.any(0).sum() * inside.any(1).sum() == inside.sum()  # a rectangle
        if step > 1.2:
            padded += 1
            assert inside.sum() == pytest.approx((24 / step) ** 2, rel=0.35) and not inside.all()
        if step < 0.95:
            assert inside.all()
    assert padded > 2


def test_half_of_the_crops_show_a_rare_class(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    ids = np.zeros((64, 64), np.uint8)
    ids[50, 11] = 3
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "images/0.png")
    Image.fromarray(ids).save(tmp_path / "labels/0.png")
    images, labels = stored(tmp_path / "images", tmp_path / "labels")
    crops = Crops(images, labels, [4095, 0, 0, 1], lesson(16, zoom=1))
    assert crops.rare == [3]
    found = [(y == 3).nonzero() for _, y in (crops[i] for i in range(200))]
    shown = [place[0].tolist() for place in found if len(place)]
    assert 85 < len(shown) < 125  # half of them, and those that come across it anyway: 1 in 15
    assert len({tuple(place) for place in shown}) > 40  # anywhere in the crop
    never = Crops(images, labels, [1, 0, 0, 1], lesson(16, zoom=1))
    assert never.rare == [] and sum(bool((never[i][1] == 3).any()) for i in range(100)) < 25


def test_a_window_shows_its_spot() -> None:
    random = np.random.default_rng(0)
    for spot in (0, 5, 19):
        for window in (1, 7, 20, 26):
            starts = {cropping._place(random, 20, window, spot) for _ in range(200)}
            lowest, highest = sorted((0, 20 - window))
            allowed = set(range(lowest, highest + 1))
            assert starts == {start for start in allowed if start <= spot < start + window}
    assert {cropping._place(random, 20, 18, None) for _ in range(50)} == {0, 1, 2}


def test_crops_depend_on_seed_and_number_only(tmp_path: Path) -> None:
    images, labels = coded(tmp_path, 30, 30, count=5)
    first, again, other = (Crops(images, labels, [1] * 64, lesson(16, seed=seed)) for seed in (3, 3, 4))
    with untouched_global_rng():
        items = [first[i] for i in range(10)]
    for i in reversed(range(10)):
        assert all(torch.equal(a, b) for a, b in zip(items[i], again[i], strict=True))
    assert not torch.equal(items[0][0], other[0][0])
    assert sorted(first._order(i) for i in range(5, 10)) == list(range(5)) != [first._order(i) for i in range(5, 10)]
    assert all(x.min() >= -1 and x.max() <= 1 for x, _ in items)


def test_colors_change_within_bounds() -> None:
    x = torch.linspace(-0.5, 0.5, 3)[:, None].expand(3, 3)[:, None]
    seen = torch.stack([cropping._recolored(x, np.random.default_rng(i)) for i in range(300)])
    middle = seen[:, 1, 0, 0]  # of mid-gray: moved by brightness alone
    assert -0.2 <= middle.min() < -0.15 and 0.15 < middle.max() <= 0.2
    spread = (seen[:, 2, 0, 0] - seen[:, 0, 0, 0]).log()
    assert -0.41 < spread.min() < -0.25 and 0.25 < spread.max() < 0.41


# --- training


def trained(images: Images, labels: Labels, seed: int = 0, **changes: Any) -> nn.Module:
    given = lesson(16, budget=12, batch=4, seed=seed, **changes)
    crops = Crops(images, labels, [100, 0, 100, 10], given)
    weights = class_weights([100, 0, 100, 10], "balanced")
    return training.train(TINY.build(4, rng(seed)), crops, weights, given, launch("cpu", "32"))


def test_training_repeats_itself(data: tuple[Path, Path, Path]) -> None:
    images, labels = stored(*data[:2])
    with untouched_global_rng():
        first = trained(images, labels)
    again, other = trained(images, labels), trained(images, labels, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight) and not first.training


def test_threads_change_nothing(data: tuple[Path, Path, Path]) -> None:
    given = lesson(16, budget=10, batch=4)
    crops = Crops(*stored(*data[:2]), [1, 0, 1, 1], given)
    alone, together = (list(training._batches(crops, given, threads)) for threads in (0, 3))
    assert [len(images) for images, _ in alone] == [4, 4, 2]
    assert all(torch.equal(a, b) for one, other in zip(alone, together, strict=True) for a, b in zip(one, other, strict=True))


def test_dropout_differs_from_step_to_step(data: tuple[Path, Path, Path]) -> None:
    class Drawing(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            drawn.append(float(torch.rand(())))
            return super().forward(x)

    runs = []
    for seed in (0, 0, 1):
        drawn: list[float] = []
        given = lesson(16, budget=12, batch=4, seed=seed)
        crops = Crops(*stored(*data[:2]), [1, 0, 1, 1], given)
        training.train(Drawing(3, 4, 1), crops, torch.ones(4), given, launch("cpu", "32"))
        runs.append(drawn)
    assert len(set(runs[0])) == 3 and runs[0] == runs[1] != runs[2]


def test_statistics_of_batch_norm_come_along(data: tuple[Path, Path, Path]) -> None:
    given = lesson(16, budget=200, batch=4)
    crops = Crops(*stored(*data[:2]), [1, 0, 1, 1], given)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    averaged = training.train(network, crops, torch.ones(4), given, launch("cpu", "32"))
    assert averaged[1].num_batches_tracked == 50 and averaged[1].running_mean.abs().max() > 0
    assert not torch.equal(averaged[0].weight, network[0].weight)  # an average, not the last


@pytest.mark.usefixtures("small")
def test_a_loss_that_is_no_number_is_one_line(data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "weighted_cross_entropy", lambda logits, labels, weights: logits.sum() * math.inf)
    refused(lambda: quick(data, tmp_path / "new/out"), "loss is", "after 0 images", "--precision 32")
    assert not (tmp_path / "new").exists()


def test_crops_that_the_device_has_no_memory_for_are_one_line(
    data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(training, "weighted_cross_entropy", full)
    refused(lambda: quick(data, tmp_path / "out"), "not enough memory on cpu to learn from 4 crops of 32x32 pixels", "a smaller --batch or")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_leaves_nothing(
    number: int, code: int, data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = training.weighted_cross_entropy

    def stopped(*given: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return loss(*given)

    monkeypatch.setattr(training, "weighted_cross_entropy", stopped)
    with pytest.raises(Interrupted, match="stopped after 4 images; nothing is saved") as caught:
        quick(data, tmp_path / "out")
    assert caught.value.exit_code == code and not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("image", "number", "code"), [(1, signal.SIGINT, 130), (2, signal.SIGTERM, 143)], ids=["first", "last"])
def test_stopped_while_it_reads_it_leaves_the_network(
    image: int, number: int, code: int, data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not go on as if nobody had asked, as an adaptation would with its next network."""
    read, asked = Reader.__call__, iter(range(1, 9))

    def stopped(reader: Reader, rgb: np.ndarray) -> np.ndarray:
        if next(asked) == image:
            os.kill(os.getpid(), number)
        return read(reader, rgb)

    monkeypatch.setattr(Reader, "__call__", stopped)
    with pytest.raises(Interrupted, match=r"stopped while reading held-out images; the network is saved, .*out, but") as caught:
        quick(data, tmp_path / "out")
    assert caught.value.exit_code == code and load_segmenter(tmp_path / "out").held_out is None


# --- the verb


@pytest.mark.usefixtures("small")
def test_it_learns_and_says_how_well_it_reads(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Everything that is kept of the held-out images is counted again, from the files and by scikit-learn."""
    said: list[str] = []
    out = tmp_path / "out"
    reading = quick(data, out, budget=600, say=said.append)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "heldout.json", "model.safetensors"]
    assert said[0] == f"held out: the last 2 of 10 images, from {data[0] / '08.png'} on"
    model = load_segmenter(out)
    assert model.config.classes == CLASSES and model.config.provenance["images"] == 8
    reader = Reader(model)
    truths, readings = [], []
    for i in (8, 9):
        truth = read_labels(data[1] / f"{i:02}.png", CLASSES)
        truths.append(truth[truth >= 0])
        readings.append(reader(read_rgb(data[0] / f"{i:02}.png"))[truth >= 0])
    counted = confusion_matrix(np.concatenate(truths), np.concatenate(readings), labels=CLASSES.kept)
    held_out = model.held_out
    assert held_out is not None and sum(held_out.sizes) == 2 and held_out.voids == (2 * 15,)
    assert (np.sum(held_out.blocks, 0) == counted).all() and (reading.total == counted).all()
    assert counted.trace() / counted.sum() > 0.9 and held_out.pixel_accuracy.value == pytest.approx(counted.trace() / counted.sum())
    ious = jaccard_score(np.concatenate(truths), np.concatenate(readings), labels=CLASSES.kept, average=None)
    assert [each.value for each in held_out.per_class_iou.values()] == pytest.approx(list(ious))
    assert list(held_out.per_class_iou) == ["grass", "brick", "pole"] and held_out.mean_iou.value == pytest.approx(ious.mean())
    assert ious.mean() > 0.75
    card = (out / "README.md").read_text()
    assert "On 2 real images" in card and f"| pixel accuracy | {held_out.pixel_accuracy.value:.3f} | unknown to unknown |" in card
    assert f"| IoU of pole | {ious[2]:.3f} |" in card and "| budget | 600 |" in card


@pytest.mark.usefixtures("small")
def test_other_images_to_measure_on(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    images, labels, _ = map(Path, toy(tmp_path / "others", count=9, size=40, seed=1))
    reading = quick(data, tmp_path / "out", test_images=images, test_labels=labels, resize="short:24")
    held_out = load_segmenter(tmp_path / "out").held_out
    assert held_out is not None and held_out.sizes == (3, 3, 3) and held_out.voids == (45,) * 3  # three images each
    assert np.sum(held_out.blocks) == reading.total.sum() == 9 * (40 * 40 - 15)  # at the images' own size
    config = read_segmenter(tmp_path / "out")[1]
    assert config.resize == "short:24" and config.provenance["images"] == 10 and config.provenance["size"] == 24
    assert held_out.mean_iou.low is not None and held_out.mean_iou.low <= held_out.mean_iou.value <= held_out.mean_iou.high


@pytest.mark.usefixtures("small")
def test_two_runs_are_one(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        quick(data, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.usefixtures("small")
def test_a_class_that_nothing_shows(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    values = CLASSES.model_dump(mode="json")
    values["names"].append("car")
    values["palette"].append([1, 2, 3])
    data[2].write_text(json.dumps(values))
    said: list[str] = []
    quick(data, tmp_path / "out", say=said.append)
    assert any("no pixel to learn from shows car" in line for line in said)
    held_out = load_segmenter(tmp_path / "out").held_out
    assert held_out is not None and held_out.per_class_iou["car"].value is None
    assert "| IoU of car | unknown |" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("spoil", "changes", "says"),
    [
        ("", {"size": 48}, "8 of 8 images are smaller than the 48x48 crop"),
        ("", {"size": "x"}, "--size: not a size in pixels, 'x'"),
        ("", {"weights": "some"}, "--weights: Input should be 'balanced' or 'plain'"),
        ("", {"budget": 0}, "--budget: Input should be greater than 0"),
        ("", {"test_images": Path("a")}, "--test-images and --test-labels belong together"),
        ("", {"model": "resnet"}, "--model resnet is no network; give unet"),
        ("", {"resize": "half"}, "not a resize, 'half'"),
        ("unnamed", {}, "1 of 8 images have no label map, such as "),
        ("all unnamed", {}, "8 of 8 images have no label map, such as "),
        ("other size", {}, "31x32 while its image is 32x32, "),
        ("unknown class", {}, "gray value 9 is no class (1024 pixels), "),
        ("one image", {}, "one image only, "),
        ("the same", {}, "10 images are in both --images and --test-images, such as "),
        ("full", {}, "is not empty; choose another folder"),
    ],
)
def test_what_is_wrong_is_one_line(
    spoil: str, changes: dict[str, Any], says: str, data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels, _ = data
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    if spoil == "unnamed":
        (labels / "03.png").unlink()
    elif spoil == "all unnamed":
        labels.rename(tmp_path / "labels")
        labels.mkdir()
        shutil.copy(tmp_path / "labels/00.png", labels / "other.png")
    elif spoil == "other size":
        Image.open(labels / "02.png").crop((0, 0, 31, 32)).save(labels / "02.png")
    elif spoil == "unknown class":
        Image.new("L", (32, 32), 9).save(labels / "02.png")
    elif spoil == "one image":
        for i in range(1, 10):
            (images / f"{i:02}.png").unlink()
    elif spoil == "the same":
        changes = {"test_images": images, "test_labels": labels}
    elif spoil == "full":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    refused(lambda: quick(data, out, **changes), says)
    assert [path.name for path in out.iterdir()] == ["notes.txt"] if spoil == "full" else not out.exists()


@pytest.mark.parametrize("which", ["images", "test_images", "unlabeled"])
def test_images_of_other_kinds_are_refused(which: str, data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Wherever they are, before any training."""
    images, labels, _ = map(Path, toy(tmp_path / "others", seed=1))
    folder = data[0] if which == "images" else images
    for name in ("04.png", "07.png"):
        Image.fromarray(np.zeros((32, 32), np.uint16)).save(folder / name)
    changes = {"images": {}, "test_images": {"test_images": images, "test_labels": labels}, "unlabeled": {"unlabeled": images}}[which]
    said = "2 of 10 images are not 8-bit gray or color, such as"
    refused(lambda: quick(data, tmp_path / "out", **changes), said, folder / "04.png", "(uint16 with 1 band)")
    assert not (tmp_path / "out").exists()


def test_a_held_out_image_that_is_damaged_is_found_before_the_training(
    data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its middle, where neither its header nor its end tells of it."""
    monkeypatch.delattr(recipe, "training_loop")
    image = bytearray((data[0] / "09.png").read_bytes())
    image[len(image) // 2 : -20] = b"\xff" * (len(image) - len(image) // 2 - 20)
    (data[0] / "09.png").write_bytes(image)
    refused(lambda: quick(data, tmp_path / "out"), "broken or truncated image", "09.png")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small")
def test_a_held_out_image_that_vanishes_costs_the_reading_only(
    data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(data, tmp_path / "whole")
    learn = recipe.training_loop

    def trained(*given: Any) -> nn.Module:
        network = learn(*given)
        (data[0] / "09.png").unlink()
        return network

    monkeypatch.setattr(recipe, "training_loop", trained)
    refused(lambda: quick(data, tmp_path / "out"), "09.png")
    assert load_segmenter(tmp_path / "out").held_out is None
    whole, left = (tmp_path / name / "model.safetensors" for name in ("whole", "out"))
    assert left.read_bytes() == whole.read_bytes()


# --- the folder


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("shape", [(19, 33), (8, 8), (5, 3)])
def test_logits_have_the_size_of_the_image(stem_stride: int, shape: tuple[int, int]) -> None:
    network = SegmenterConfig(width=4, halvings=2, stem_stride=stem_stride).build(5, rng())
    assert network(torch.zeros(2, 3, *shape)).shape == (2, 5, *shape)
    assert network.pooled(torch.zeros(2, 3, *shape)).shape == (2, 16)


def test_folders_of_before_have_nothing_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    save_segmenter(folder, SegmenterModelConfig(network=TINY, classes=CLASSES), TINY.build(4, rng()))
    values = json.loads((folder / "config.json").read_text())
    del values["network"]["stem_stride"]
    (folder / "config.json").write_text(json.dumps(values))
    assert load_segmenter(folder).held_out is None and not (folder / "heldout.json").exists()
    assert "not seen" not in (folder / "README.md").read_text()


@pytest.mark.usefixtures("small")
def test_a_damaged_heldout_is_one_line(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    quick(data, tmp_path / "out")
    file = tmp_path / "out/heldout.json"
    whole = json.loads(file.read_text())
    for change in ({"blocks": [[[1, 2], [3, 4]]]}, {"sizes": [1, 1]}, {"voids": []}, {"blocks": [[[1, 2, 3], [1, 2, 3], [1, 2]]]}):
        file.write_text(json.dumps(whole | change))
        refused(lambda: load_segmenter(tmp_path / "out"), file, "does not fit the configuration")
    file.write_text(json.dumps({key: value for key, value in whole.items() if key != "voids"}))
    refused(lambda: load_segmenter(tmp_path / "out"), file, "voids: is missing")
    file.write_text("{")
    refused(lambda: load_segmenter(tmp_path / "out"), file)


# --- networks of transformers


def segformer(folder: Path, labels: tuple[str, ...] = ("road", "sky", "sky", "car", "pole"), **changes: Any) -> nn.Module:
    """A tiny SegFormer with lively weights, saved as transformers does."""
    transformers = pytest.importorskip("transformers")
    values = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16}
    config = transformers.SegformerConfig(**values, id2label=dict(enumerate(labels)), **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.SegformerForSemanticSegmentation(config).eval()
        with torch.no_grad():
            model.decode_head.classifier.weight.mul_(20)
            model.decode_head.batch_norm.running_mean.normal_()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def hub_model(tmp_path: Path) -> tuple[Path, nn.Module]:
    model = segformer(tmp_path / "hub")
    (tmp_path / "hub/preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}))
    return tmp_path / "hub", model


def test_a_transformers_folder_is_a_segmenter(hub_model: tuple[Path, nn.Module], capfd: pytest.CaptureFixture[str]) -> None:
    folder, model = hub_model
    with untouched_global_rng():
        loaded = load_segmenter(folder)
    assert capfd.readouterr() == ("", "")
    assert loaded.config.classes.names == ("road", "sky (1)", "sky (2)", "car", "pole") and loaded.held_out is None
    assert len(set(loaded.config.classes.palette)) == 5 and loaded.config.resize == "none"
    assert not loaded.network.training and read_segmenter(folder) == (folder, loaded.config)
    x = torch.rand(2, 3, 64, 96, generator=rng()) * 2 - 1
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        theirs = model(((x + 1) / 2 - mean) / deviation, output_hidden_states=True)
        expected = nn.functional.interpolate(theirs.logits, (64, 96), mode="bilinear")
        assert same(loaded.network(x), lively(expected), 1e-5)
        assert same(loaded.network.pooled(x), theirs.hidden_states[-1].mean((2, 3)), 1e-5)
        assert loaded.network(x[..., :50, :33]).shape == (2, 5, 50, 33)
    reading = Reader(loaded)(np.zeros((37, 41, 3), np.uint8))
    assert reading.shape == (37, 41) and reading.max() < 5


def test_how_the_processor_wants_its_colors(hub_model: tuple[Path, nn.Module]) -> None:
    folder, model = hub_model
    x = torch.rand(1, 3, 32, 32, generator=rng()) * 2 - 1

    def logits(**processor: Any) -> Tensor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        with torch.no_grad():
            return load_segmenter(folder).network(x)

    def theirs(x: Tensor) -> Tensor:
        with torch.no_grad():
            return nn.functional.interpolate(model(x).logits, (32, 32), mode="bilinear")

    assert same(logits(do_normalize=False, image_mean=[0.4] * 3), theirs((x + 1) / 2), 1e-5)
    assert same(logits(do_flip_channel_order=True), theirs(((x + 1) / 2).flip(1)), 1e-5)
    (folder / "preprocessor_config.json").unlink()
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        assert same(load_segmenter(folder).network(x), theirs(((x + 1) / 2 - mean) / deviation), 1e-5)


def test_fine_tuned_it_needs_nothing_of_the_original(
    hub_model: tuple[Path, nn.Module], data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = hub_model
    with untouched_global_rng():
        for name in ("one", "two"):
            quick(data, tmp_path / name, model=str(folder))
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    shutil.rmtree(folder)
    monkeypatch.setattr(pretrained, "_downloaded", lambda *given: pytest.fail("it asked the hub"))
    loaded = load_segmenter(tmp_path / "one")
    assert loaded.config.classes == CLASSES and loaded.config.network.kind == "transformers"
    assert loaded.config.network.mean == (0.4, 0.5, 0.6) and loaded.config.provenance["lr"] == 1e-4
    assert str(tmp_path) not in json.dumps(loaded.config.network.model_dump())
    assert loaded.network(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 32, 32) and not loaded.network.training
    before, after = (network.segformer.state_dict() for network in (model, loaded.network.model))  # type: ignore[operator,union-attr]
    moved = max(float((before[key] - after[key]).abs().max()) for key in before)
    assert 0 < moved < 1e-3  # two steps of at most 1e-4 from where it was
    held_out = loaded.held_out
    assert held_out is not None and np.sum(held_out.blocks) == Reader(loaded).held_out.total.sum() == 2 * (32 * 32 - 15)


def test_what_was_fine_tuned_is_trained_on(hub_model: tuple[Path, nn.Module], data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    quick(data, tmp_path / "one", model=str(hub_model[0]))
    quick(data, tmp_path / "two", model=str(tmp_path / "one"))
    one, two = (load_segmenter(tmp_path / name) for name in ("one", "two"))
    assert two.config.network == one.config.network and two.config.provenance["lr"] == 1e-4
    assert two.config.provenance["weights_before"] == one.config.files["model.safetensors"]
    moved = max(float((a - b).abs().max()) for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True))
    assert 0 < moved < 1e-3  # from there, not from the model of before, and not from nowhere


def test_what_is_no_such_network_is_one_line(hub_model: tuple[Path, nn.Module], data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folder, model = hub_model
    whole = json.loads((folder / "config.json").read_text())

    def rewritten(**changes: Any) -> None:
        (folder / "config.json").write_text(json.dumps(whole | changes))

    rewritten(model_type="bert")
    refused(lambda: load_segmenter(folder), "a bert model, not one for semantic segmentation", folder)
    rewritten(id2label={"0": "a", "2": "b"})
    refused(lambda: load_segmenter(folder), folder)
    rewritten(hidden_sizes="many")
    refused(lambda: load_segmenter(folder), "cannot load", folder)
    rewritten()
    (folder / "preprocessor_config.json").write_text("[")
    refused(lambda: load_segmenter(folder), "not valid JSON", "preprocessor_config.json")
    (folder / "preprocessor_config.json").unlink()
    weights = folder / "model.safetensors"
    torch.save(model.state_dict(), folder / "pytorch_model.bin")  # a pickle
    weights.unlink()
    refused(lambda: load_segmenter(folder), "cannot load", "safetensors")
    assert not (tmp_path / "out").exists()


def test_an_encoder_alone_can_only_be_fine_tuned(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    segformer(tmp_path / "whole")
    config = transformers.SegformerConfig.from_pretrained(tmp_path / "whole")
    transformers.SegformerForImageClassification(config).save_pretrained(tmp_path / "encoder")
    refused(lambda: load_segmenter(tmp_path / "encoder"), "lacks decode_head", "fine-tune")
    network_config, network = find_pretrained(tmp_path / "encoder").adapted(CLASSES.names, 0)  # type: ignore[union-attr]
    again = find_pretrained(tmp_path / "encoder").adapted(CLASSES.names, 0)[1]  # type: ignore[union-attr]
    other = find_pretrained(tmp_path / "encoder").adapted(CLASSES.names, 1)[1]  # type: ignore[union-attr]
    heads = [each.model.decode_head.classifier.weight for each in (network, again, other)]  # type: ignore[union-attr]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2]) and heads[0].shape[0] == 4
    assert network_config.config["id2label"] == {"0": "grass", "1": "void", "2": "brick", "3": "pole"}
    rebuilt = network_config.build(4, rng())
    rebuilt.load_state_dict(network.state_dict())
    x = torch.rand(1, 3, 32, 32, generator=rng())
    assert same(rebuilt.eval()(x), network.eval()(x), 1e-6)
    refused(lambda: network_config.build(5, rng()), "4 classes")


def test_a_network_of_one_size_is_refused_before_training(
    data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segformer(tmp_path / "hub")

    def fussy(self: nn.Module, *given: Any, **options: Any) -> None:
        raise ValueError("Input image size (32*32) doesn't match model (64*64).\nSo there.")

    monkeypatch.setattr(pytest.importorskip("transformers").SegformerForSemanticSegmentation, "forward", fussy)
    monkeypatch.setattr(recipe, "training_loop", lambda *given: pytest.fail("it was trained"))
    refused(lambda: quick(data, tmp_path / "out", model=str(tmp_path / "hub")), "does not read images of 32x32", "64*64", "--resize")
    assert not (tmp_path / "out").exists()


def hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., str]) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=answer))


def test_by_hub_id(hub_model: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = hub_model
    asked: list[tuple[str, list[str]]] = []

    def download(repository: str, revision: str | None, allow_patterns: list[str], etag_timeout: float) -> str:
        assert revision is None
        asked.append((repository, allow_patterns))
        assert etag_timeout <= 10
        return str(folder)

    hub(monkeypatch, download)
    for name in ("nvidia/mit-b0", "hub:nvidia/mit-b0"):
        loaded = load_segmenter(name)
        assert loaded.folder == folder and loaded.config.provenance == {"model": name}
        assert read_segmenter(name) == (folder, loaded.config)
    assert {repository for repository, _ in asked} == {"nvidia/mit-b0"}
    assert [any("safetensors" in each for each in patterns) for _, patterns in asked] == [True, False] * 2
    assert not any(pattern.endswith((".bin", ".pt", ".pth", ".pkl", ".py", "*")) for _, patterns in asked for pattern in patterns)
    asked.clear()
    refused(lambda: load_segmenter(folder / "none"), "no segmenter")  # a path is no hub id
    refused(lambda: load_segmenter("none"), "no segmenter")
    assert not asked


def test_a_revision_is_asked_for_and_what_it_was_is_recorded(
    hub_model: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    shutil.copytree(hub_model[0], tmp_path / commit)
    asked: list[tuple[str, str]] = []

    def download(repository: str, revision: str, **options: Any) -> str:
        asked.append((repository, revision))
        return str(tmp_path / commit)

    hub(monkeypatch, download)
    for name in ("nvidia/mit-b0@v1.0", "hub:nvidia/mit-b0@refs/pr/3"):
        assert load_segmenter(name).config.provenance == {"model": name, "revision": commit}
    assert asked == [("nvidia/mit-b0", "v1.0"), ("nvidia/mit-b0", "refs/pr/3")]


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*given: Any, **options: Any) -> str:
        raise OSError("Cannot reach it.\nCheck your connection.")

    hub(monkeypatch, offline)
    refused(lambda: load_segmenter("nvidia/mit-b0"), "there is no folder nvidia/mit-b0", "Cannot reach it. Check", "check the name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(lambda: load_segmenter("nvidia/mit-b0"), "no folder nvidia/mit-b0", "pip install 'unflip[metrics]'")


def test_without_transformers(hub_model: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"transformers is not installed; run: pip install 'unflip\[metrics\]'"):
        load_segmenter(hub_model[0])


def test_colors_of_unnamed_palettes_differ() -> None:
    colors = distinct_colors(254)
    assert len(set(colors)) == 254
    nearby = [np.abs(np.subtract(a, b)).sum() for a, b in pairwise(colors)]
    assert min(nearby) > 60
