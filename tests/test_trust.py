"""Trust maps: the clues against independent computations, what the shipped weights find, and ``translate --trust``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from sklearn.metrics import roc_auc_score

import unflip
from helpers import make_model
from unflip.data import streets
from unflip.errors import UserError
from unflip.evaluation.pictures import DOUBT, doubted
from unflip.inference import clues, trust
from unflip.inference.folders import translate_folder, trust_folder
from unflip.inference.translator import Translator
from unflip.seeding import numpy_rng

Array = np.ndarray[Any, Any]
TREE, BUILDING = streets.CLASSES.index("tree"), streets.CLASSES.index("building")


def painted(index: int, width: int = 96, height: int = 64) -> tuple[Array, Array, Array]:
    """A render, a "translation" of it whose trees on the right are painted as its buildings, and where that is."""
    shares = streets.Shares(building=0.6, tree=0.8)
    source, ids = streets.scene(index, width=width, height=height, look="render", shares=shares)
    photo, _ = streets.scene(index, width=width, height=height, look="photo", shares=shares)
    flipped = (ids == TREE) & (np.arange(width) >= width // 2)
    colors = photo[ids == BUILDING]
    random = np.random.default_rng(index)
    photo[flipped] = colors[random.integers(len(colors), size=int(flipped.sum()))]
    return source, photo, flipped


def scenes() -> list[tuple[Array, Array, Array]]:
    """Those of the first twenty that show enough of both."""
    found = [painted(index) for index in range(20)]
    return [scene for scene in found if scene[2].mean() > 0.02]


# --- the clues


def test_the_readers_probabilities_are_those_of_gaussians() -> None:
    random = np.random.default_rng(0)
    of = random.integers(3, size=200)
    looks = random.standard_normal((200, 4)) @ random.standard_normal((4, 4)) + 3 * of[:, None] * np.array([1, 0, -1, 2])
    scaled = (looks - looks.mean(0)) / looks.std(0)
    own = [np.cov(scaled[of == k].T, bias=True) for k in range(3)]
    mixed = [0.5 * c + 0.5 * np.mean(own, axis=0) + 0.05 * np.eye(4) for c in own]
    density = np.stack([multivariate_normal(scaled[of == k].mean(0), mixed[k]).pdf(scaled) for k in range(3)], axis=1)
    expected = density / density.sum(1, keepdims=True)
    found = clues.posteriors(looks, of, 3)
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.abs(clues.posteriors(looks, of[::-1].copy(), 3) - expected).max() > 0.3, "nothing depends on the kinds"


def test_a_kind_without_patches_is_never_read() -> None:
    looks = np.random.default_rng(1).standard_normal((30, 2))
    found = clues.posteriors(looks, np.repeat([0, 2], 15), 3)
    assert (found[:, 1] == 0).all() and found.sum(1) == pytest.approx(1)


def test_kinds_are_as_tight_as_scikit_learns() -> None:
    random = np.random.default_rng(2)
    points = random.standard_normal((400, 3)) + 6 * random.integers(2, size=(400, 3))
    centers, of = clues.kinds(points, 6, numpy_rng(0, "test"))
    inertia = np.square(points - centers[of]).sum()
    ours_by_theirs = KMeans(6, init=centers, n_init=1).fit(points).inertia_
    best = KMeans(6, n_init=20, random_state=0).fit(points).inertia_
    assert inertia == pytest.approx(ours_by_theirs, rel=0.02) and inertia < 1.5 * best
    assert inertia < 0.5 * np.square(points - points.mean(0)).sum()


def test_there_are_no_more_kinds_than_colors() -> None:
    points = np.repeat(np.eye(3), 20, axis=0)
    centers, of = clues.kinds(points, 10, numpy_rng(0, "test"))
    assert len(centers) == 3 and len(np.unique(of)) == 3


def test_what_is_painted_as_another_kind_is_misread() -> None:
    there, elsewhere = [], []
    for source, translation, flipped in scenes():
        x, y = (trust.shrunk(image, (64, 96)) for image in (source, translation))
        found = clues.reading(clues.halved(x), clues.looks(y))
        assert found.shape == (4, 32, 48) and (found[[1, 3]] >= -1e-3).all() and (found[2] <= 0).all()
        cells = flipped.reshape(32, 2, 48, 2)
        there.append(np.exp(found[0])[cells.all((1, 3))].mean())
        elsewhere.append(np.exp(found[0])[~cells.any((1, 3))].mean())
    assert np.mean(there) > 1.8 * np.mean(elsewhere)


def test_what_is_read_of_kinds_whose_looks_are_apart() -> None:
    colors = torch.tensor([[[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]]).expand(1, 3, 2, 4)  # two kinds: 6 patches and 2
    looks = torch.tensor([[[0.0, 0.1, 0.0, 9.0], [0.1, 0.0, 0.1, 9.1]]])[None]
    misread, surprise, share, doubt = clues.reading(colors, looks)
    assert share.ravel() == pytest.approx(np.log(np.where(colors[0, 0].numpy() > 0, 0.25, 0.75)).ravel())
    assert np.exp(misread).max() == pytest.approx(0.02, abs=1e-2) and surprise.max() < 0.05 and doubt.max() < 0.05
    swapped = looks.clone()
    swapped[..., 0, 0] = 9.0  # a patch of the frequent kind looks like the rare one
    misread, surprise, _, _ = clues.reading(colors, swapped)
    assert misread.argmax() == surprise.argmax() == 0 and np.exp(misread[0, 0]) > 1, "1 is the mean distance, pairs of equals included"


def test_likeness_of_an_edge_that_is_gone() -> None:
    x = torch.zeros(1, 3, 12, 12)
    x[..., 6:] = 1
    more, other = clues.likeness(x, torch.zeros_like(x), 2)[0]
    spread = float(x.std()) + 0.05
    # beside the edge, three of the eight are beyond it; the others are as alike in both
    assert more[5, 5] == pytest.approx(3 / 8 * (np.exp(-np.sqrt(3) / spread) - 1), abs=1e-6)
    assert other[5, 5] == pytest.approx(-float(more[5, 5]))
    assert more[5, 2] == other[5, 2] == 0
    assert torch.equal(clues.likeness(x, x, 5), torch.zeros(1, 2, 12, 12))
    there = clues.likeness(torch.zeros_like(x), x, 2)[0]
    assert torch.allclose(there[0], -more) and torch.allclose(there[1], other)


def test_edges_of_both_images_are_told_apart() -> None:
    flat, edged = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    edged[..., 9:] = 1
    found = dict(zip(clues.NAMES, clues.clues(flat, edged)[0], strict=True))
    assert found["fine edges of the source"] == pytest.approx(np.log(0.02), abs=1e-5)
    fine, coarse = (found[f"{size} edges of the translation"] for size in ("fine", "coarse"))
    assert fine[0].argmax() == 4 and fine[0, 4] == pytest.approx(np.log(0.02 + 0.5)) and (fine[:, :4] < -3.8).all()
    assert coarse[0, [3, 4, 5]] == pytest.approx(np.log(0.02 + 0.5 / 3), abs=1e-5)


def test_clues_of_an_unchanged_image_are_the_lowest_there_are() -> None:
    source, _, _ = painted(0)
    x = trust.shrunk(source, (64, 96))
    found = dict(zip(clues.NAMES, clues.clues(x, x)[0], strict=True))
    assert found["more likeness within 2"].abs().max() == found["other likeness within 5"].abs().max() == 0
    color, change = found["color"], found["change"]
    assert torch.allclose(color, torch.tensor(0.03).log()) and torch.allclose(change, torch.tensor(0.03).log())
    color, change = clues.clues(x, x + 0.2)[0, :2]  # brighter: no change of color
    assert torch.allclose(color, torch.tensor(0.03).log(), atol=1e-4) and torch.allclose(change, torch.tensor(0.23).log(), atol=1e-5)


# --- the maps


def test_flips_are_found_better_than_by_change() -> None:
    truth = np.concatenate([flipped.ravel() for _, _, flipped in scenes()])
    doubt = np.concatenate([1 - trust.trust_map(source, translation).ravel() for source, translation, _ in scenes()])
    change = np.concatenate([np.abs(s.astype(float) - t).mean(2).ravel() for s, t, _ in scenes()])
    assert len(scenes()) >= 8 and truth.sum() > 1_000
    assert roc_auc_score(truth, doubt) > max(0.8, roc_auc_score(truth, change) + 0.1)


def test_a_faithful_translation_is_trusted_more() -> None:
    for index in range(6):
        source, translation, flipped = painted(index)
        faithful, _ = streets.scene(index, width=96, height=64, look="photo", shares=streets.Shares(building=0.6, tree=0.8))
        if flipped.mean() > 0.02:
            assert trust.trust_map(source, faithful)[flipped].mean() > trust.trust_map(source, translation)[flipped].mean() + 0.1


def test_a_map_is_a_function_of_the_images_only() -> None:
    source, translation, _ = painted(4)
    first = trust.trust_map(source, translation)
    torch.manual_seed(5)
    assert (trust.trust_map(source.copy(), translation.copy()) == first).all()
    assert first.dtype == np.float32 and first.shape == translation.shape[:2] and first.min() >= 0 and first.max() <= 1 and first.std() > 0


def test_large_images_are_judged_like_small_ones() -> None:
    source, translation, _ = painted(3)
    small = trust.trust_map(source, translation)
    large = trust.trust_map(*(np.repeat(np.repeat(image, 3, 0), 3, 1) for image in (source, translation)))
    assert large.shape == (192, 288)
    assert np.corrcoef(small.ravel(), large[1::3, 1::3].ravel())[0, 1] > 0.98


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (3, 7001), (65, 64), (700, 300)])
def test_any_size(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    found = trust.trust_map(image, image[::-1].copy())
    assert found.shape == size and np.isfinite(found).all()
    assert trust.trust_map(image[: max(1, size[0] // 2)], image).shape == size, "the source may have been resized for the model"


@pytest.mark.parametrize("color", [0, 128, 255])
def test_flat_images(color: int) -> None:
    flat = np.full((20, 30, 3), color, np.uint8)
    assert np.isfinite(trust.trust_map(flat, flat)).all()
    assert np.isfinite(trust.trust_map(flat, painted(0)[0])).all() and np.isfinite(trust.trust_map(painted(0)[0], flat)).all()


def test_memory_is_bounded() -> None:
    for size in ((64, 96), (30_000, 300), (300, 30_000), (9_000, 9_000), (1, 1_000_000), (500_000, 2)):
        height, width = trust.working_size(*size)
        assert height * width <= 1.05 * trust.MOST_PIXELS and height % 2 == width % 2 == 0 and min(height, width) >= 8


def test_the_picture_of_a_map() -> None:
    image = painted(0)[1]
    ramp = np.linspace(0, 1, image.shape[0] * image.shape[1], dtype=np.float32).reshape(image.shape[:2])
    found = doubted(image, ramp)
    assert found.shape == image.shape and found.dtype == np.uint8
    assert (found[0, 0] == DOUBT).all() and np.ptp(found[-1, -1].astype(int)) <= 1, "orange where there is no trust, gray where there is"


# --- folders


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a/1.png", "2.png", "3.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(painted(ord(name[-5]))[0]).save(path)
    return tmp_path / "images"


def test_every_translation_gets_a_map(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = translate_folder(unflip.load(model, device="cpu"), images, out, trust=True, progress=False)
    maps = trust_folder(out)
    assert maps == tmp_path / "out_trust"
    assert sorted(path.relative_to(maps).as_posix() for path in maps.rglob("*.*")) == ["2.png", "3.png", "a/1.png"]
    lines = {line["file"]: line for line in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}
    assert lines.pop("")["status"] == "begun"
    for name in ("a/1.png", "2.png"):  # stored without loss
        expected = trust.trust_map(*(np.asarray(Image.open(folder / name).convert("RGB")) for folder in (images, out)))
        with Image.open(maps / name) as stored:
            assert stored.mode == "L" and "calibrated on made streets" in stored.text["Description"]
            assert np.abs(np.asarray(stored) / 255 - expected).max() <= 0.5 / 255 + 1e-6
        assert lines[name]["trust"] == outcome.trust[name] == pytest.approx(expected.mean(), abs=1e-4)


def test_maps_that_are_missing_are_made_later(model: Path, images: Path, tmp_path: Path) -> None:
    translator, out = unflip.load(model, device="cpu"), tmp_path / "out"
    assert translate_folder(translator, images, out, progress=False).done == 3 and not trust_folder(out).exists()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")}
    found = translate_folder(translator, images, out, trust=True, progress=False)
    assert (found.done, found.skipped, len(found.trust)) == (0, 3, 3), "there are translations already"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*g")} == before and len(before) == 3, "translated again"
    (trust_folder(out) / "2.png").unlink()
    assert list(translate_folder(translator, images, out, trust=True, progress=False).trust) == ["2.png"]
    again = translate_folder(translator, images, out, trust=True, progress=False)
    assert (again.done, again.skipped, again.trust) == (0, 3, {})


def made_anew(translator: Translator, images: Path, out: Path) -> list[str]:
    """The images whose trust maps a call makes, which then are as those of a call on a new folder."""
    found = translate_folder(translator, images, out, trust=True, progress=False)
    new = out.with_name("new")
    translate_folder(translator, images, new, trust=True, progress=False)
    for name in ("a/1.png", "2.png"):  # stored without loss, so that it does not matter when a map is made
        assert (trust_folder(out) / name).read_bytes() == (trust_folder(new) / name).read_bytes()
    for folder in (new, trust_folder(new)):
        shutil.rmtree(folder)
    return sorted(found.trust)


def test_maps_are_those_of_the_translations_that_are_there(model: Path, images: Path, tmp_path: Path) -> None:
    translator, out = unflip.load(model, device="cpu"), tmp_path / "out"
    translate_folder(translator, images, out, trust=True, progress=False)
    Image.fromarray(painted(9)[0]).save(images / "2.png")
    assert translate_folder(translator, images, out, progress=False).done == 1
    assert made_anew(translator, images, out) == ["2.png"]
    assert made_anew(translator, images, out) == []
    shutil.rmtree(out)
    other = unflip.load(make_model(tmp_path / "other", seed=8), device="cpu")
    assert translate_folder(other, images, out, progress=False).done == 3
    assert made_anew(other, images, out) == ["2.png", "3.jpg", "a/1.png"]


def test_a_damaged_translation_gets_no_map_and_the_rest_do(model: Path, images: Path, tmp_path: Path) -> None:
    translator, out = unflip.load(model, device="cpu"), tmp_path / "out"
    translate_folder(translator, images, out, progress=False)
    (out / "2.png").write_bytes((out / "2.png").read_bytes()[:-800])
    found = translate_folder(translator, images, out, trust=True, progress=False)
    assert sorted(found.trust) == ["3.jpg", "a/1.png"] and len(found.failed) == 1
    assert f"{out / '2.png'} " in found.failed[0] and "replace or remove it" in found.failed[0]
    (out / "2.png").unlink()
    assert list(translate_folder(translator, images, out, trust=True, progress=False).trust) == ["2.png"]


def test_two_images_of_one_name_cannot_have_maps(model: Path, images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "3.jpg", images / "2.jpg")
    translator = unflip.load(model, device="cpu")
    with pytest.raises(UserError, match=r"2\.(jpg|png) and 2\.(jpg|png) would have one trust map"):
        translate_folder(translator, images, tmp_path / "out", trust=True, progress=False)
    assert not (tmp_path / "out").exists()
    assert translate_folder(translator, images, tmp_path / "out", progress=False).done == 4


def test_maps_never_lie_among_the_source_images(model: Path, images: Path, tmp_path: Path) -> None:
    images.rename(tmp_path / "x_trust")
    with pytest.raises(UserError, match="lies in that of the source images"):
        translate_folder(unflip.load(model, device="cpu"), tmp_path / "x_trust", tmp_path / "x", trust=True, progress=False)
    assert not (tmp_path / "x").exists()


def test_what_lies_where_the_maps_belong_is_not_overwritten(model: Path, images: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out_trust/2.png"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError, match="which unflip did not write"):
        translate_folder(unflip.load(model, device="cpu"), images, tmp_path / "out", trust=True, progress=False)
    assert mine.read_text() == "mine" and not (tmp_path / "out").exists()
    translate_folder(unflip.load(model, device="cpu"), images, tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="which unflip did not write"):
        translate_folder(unflip.load(model, device="cpu"), images, tmp_path / "out", trust=True, progress=False)
    assert mine.read_text() == "mine"


def test_the_folder_beside_out_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert trust_folder(Path(".")) == tmp_path / "a/b_trust" and trust_folder(Path("..")) == tmp_path / "a_trust"
    with pytest.raises(UserError, match="no folder can stand beside"):
        trust_folder(Path("/"))


def test_the_verb_names_the_least_trusted(
    cli: Callable[..., Any], model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("translate", model, "images", "--out", "out", "--trust")
    assert result.code == 0, result.stderr
    first, second, *named = result.stdout.splitlines()
    assert first == "out: 3 translated" and second.startswith("out_trust: 3 trust maps, a score calibrated on made streets")
    means = [float(line.split()[0]) for line in named]
    assert means == sorted(means) and {line.split()[1] for line in named} == {"a/1.png", "2.png", "3.jpg"}
    assert cli("translate", model, "images", "--out", "out", "--trust").stdout == "out: 0 translated, 3 already there\n"


def test_two_sided_models_have_maps_both_ways(tmp_path: Path, images: Path) -> None:
    model = make_model(tmp_path / "two", sides=2)
    for direction in ("forward", "backward"):
        out = tmp_path / direction
        assert translate_folder(unflip.load(model, device="cpu", direction=direction), images, out, trust=True, progress=False).done == 3
        assert len(list(trust_folder(out).rglob("*.png"))) == 3
