"""Learning from images without labels, and going on from a segmenter that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import refused, rng
from test_segmenter import CLASSES, TINY, lesson, stored, toy
from unflip.data.folders import find_images, survey
from unflip.data.pairs import Images
from unflip.engine.launch import launch
from unflip.evaluation import segmenter as training
from unflip.evaluation.crops import Crops, UnlabeledCrops
from unflip.evaluation.lesson import SelfTraining
from unflip.evaluation.segmenter import class_weights
from unflip.evaluation.self_training import pseudo_label_loss, pseudo_labels
from unflip.networks.segmenter import SegmenterConfig
from unflip.recipes import segmenter as recipe
from unflip.recipes.segmenter import GOING_ON, segmenter
from unflip.segmenterfolder import load_segmenter


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_from_scratch", lambda size: TINY)


def quick(data: list[str], out: Path, **changes: Any) -> Any:
    given = {"budget": 8, "batch": 4, "device": "cpu", "progress": False, "say": lambda line: None, **changes}
    return segmenter(*data, out, **given)


# --- pseudo-labels


def test_what_is_certain_is_believed() -> None:
    probabilities = torch.tensor([[0.97, 0.02, 0.01], [0.9, 0.05, 0.05], [0.005, 0.99, 0.005], [0.01, 0.98, 0.01]])
    logits = probabilities.log().T.reshape(1, 3, 1, 4)
    inside = torch.tensor([[[True, True, True, False]]])
    known = torch.tensor([True, True, True])
    assert pseudo_labels(logits, inside, known, 0.968).tolist() == [[[0, -1, 1, -1]]]
    assert pseudo_labels(logits, inside, known, 0.0).tolist() == [[[0, 0, 1, -1]]]


def test_what_has_no_labels_is_not_meant() -> None:
    logits = torch.tensor([0.0, 9.0, 8.0]).reshape(1, 3, 1, 1)
    known = torch.tensor([True, False, True])
    assert pseudo_labels(logits, torch.ones(1, 1, 1, dtype=torch.bool), known, 0.99).item() == 2


def test_the_loss_is_the_mean_times_the_share() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64).float().requires_grad_()
    labels = torch.randint(-1, 3, (2, 4, 5))
    inside = torch.ones(2, 4, 5, dtype=torch.bool)
    inside[0, 0] = False
    labels[0, 0] = -1
    weights = torch.tensor([0.5, 1.0, 2.0])
    total, believed = 0.0, 0
    for n, i, j in np.ndindex(2, 4, 5):
        label = int(labels[n, i, j])
        if label >= 0:
            scores = logits[n, :, i, j].detach().double().numpy()
            total -= float(weights[label]) * (scores[label] - np.log(np.exp(scores).sum()))
            believed += 1
    pixels = 2 * 4 * 5 - 5
    loss = pseudo_label_loss(logits, labels, inside, weights)
    assert loss.item() == pytest.approx(total / believed * (believed / pixels), rel=1e-6)
    assert torch.autograd.grad(loss, logits)[0][0, :, 0].abs().max() == 0


# --- crops without labels


def test_a_crop_is_there_twice_in_other_colors(tmp_path: Path) -> None:
    images, _ = stored(*map(Path, toy(tmp_path / "data")[:2]))
    crops = UnlabeledCrops(images, lesson(16, budget=10, batch=4))
    pairs = [crops[i] for i in range(30)]
    assert all(plain.shape == other.shape == (3, 16, 16) and inside.dtype == torch.bool for plain, other, inside in pairs)
    assert all(torch.equal(a, b) for one, two in zip(crops[7], crops[7], strict=True) for a, b in [(one, two)])
    slopes = []
    for plain, other, _ in pairs:  # a straight line of each channel, but for what was cut off
        free = (other.abs() < 1).all(0)
        a, b = plain[0][free].numpy(), other[0][free].numpy()
        slope, offset = np.polyfit(a, b, 1)
        assert np.allclose(slope * a + offset, b, atol=1e-5)
        slopes.append(slope)
    assert np.std(slopes) > 0.05


def test_beyond_the_edge_there_is_nothing_to_believe(tmp_path: Path) -> None:
    images, _ = stored(*map(Path, toy(tmp_path / "data", size=16)[:2]))
    inside = torch.stack([UnlabeledCrops(images, lesson(16, budget=10, batch=4, zoom=1.5))[i][2] for i in range(40)])
    shares = inside.float().mean((1, 2))
    assert (shares < 1).any() and (shares == 1).any() and shares.min() > 1 / 1.5**2 - 0.2


# --- the loop


def trained(data: list[str], unlabeled: Images | None, **changes: Any) -> tuple[Any, list[str]]:
    images, labels = stored(*map(Path, data[:2]))
    given = lesson(16, budget=24, batch=4, **changes)
    said: list[str] = []
    network = training.train(
        TINY.build(4, rng(0)),
        Crops(images, labels, [100, 0, 100, 10], given),
        class_weights([100, 0, 100, 10], "balanced"),
        given,
        launch("cpu", "32"),
        lambda seen, news: said.append(news),
        None if unlabeled is None else UnlabeledCrops(unlabeled, given),
    )
    return network, said


def test_it_begins_when_the_teacher_knows_something(tmp_path: Path) -> None:
    data = toy(tmp_path / "data")
    others = Images(survey(find_images(Path(toy(tmp_path / "other", seed=1)[0]))))
    plain, _ = trained(data, None)
    late, said = trained(data, others, self_training=SelfTraining(start=0.5, threshold=0.0))
    assert ["pseudo-labels" in line for line in said] == [False] * 3 + [True] * 3
    assert said[3].endswith("pseudo-labels 100 %")
    never, said = trained(data, others, self_training=SelfTraining(start=0.99))
    assert not any("pseudo-labels" in line for line in said)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), never.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain.parameters(), late.parameters(), strict=True))


def test_nothing_believed_changes_nothing(tmp_path: Path) -> None:
    data = toy(tmp_path / "data")
    others = Images(survey(find_images(Path(toy(tmp_path / "other", seed=1)[0]))))
    plain, _ = trained(data, None)
    doubting, said = trained(data, others, self_training=SelfTraining(start=0.0, threshold=1.0))
    assert said[-1].endswith("pseudo-labels 0 %")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), doubting.parameters(), strict=True))


def test_the_recipe_learns_from_both(tmp_path: Path) -> None:
    data, other = toy(tmp_path / "data"), toy(tmp_path / "other", seed=1)
    said: list[str] = []
    quick(data, tmp_path / "out", unlabeled=other[0], say=said.append)
    assert "8 images and 10 without labels" in said[-1]
    provenance = json.loads((tmp_path / "out/config.json").read_text())["provenance"]
    assert provenance["unlabeled"] == 10
    assert provenance["self_training"] == {"threshold": 0.968, "start": 0.25, "weight": 1.0}
    quick(data, tmp_path / "plain")
    assert "self_training" not in json.loads((tmp_path / "plain/config.json").read_text())["provenance"]


def test_test_images_are_not_learned_from_without_labels_either(tmp_path: Path) -> None:
    data, other = toy(tmp_path / "data"), toy(tmp_path / "other", seed=1)
    test = {"test_images": other[0], "test_labels": other[1]}
    refused(lambda: quick(data, tmp_path / "out", unlabeled=other[0], **test), "10 images are in both --unlabeled and --test-images")
    held_out = "2 images are in both --unlabeled and the held-out part of --images, such as "
    refused(lambda: quick(data, tmp_path / "out", unlabeled=data[0]), held_out, "08.png")
    small = tmp_path / "small"
    small.mkdir()
    Image.new("RGB", (8, 8)).save(small / "a.png")
    refused(lambda: quick(data, tmp_path / "out", unlabeled=small, size="16"), "smaller than the 16x16 crop", "a.png (8x8)")
    assert not (tmp_path / "out").exists()


# --- going on


def test_a_segmenter_is_trained_on(tmp_path: Path) -> None:
    data = toy(tmp_path / "data")
    quick(data, tmp_path / "first")
    quick(data, tmp_path / "second", model=str(tmp_path / "first"), budget=4)
    first, second = load_segmenter(tmp_path / "first"), load_segmenter(tmp_path / "second")
    assert first.config.network == second.config.network
    moved = [float((a - b).detach().abs().max()) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True)]
    assert 0 < max(moved) < 0.01  # one step at a tenth of the rate, which warms up
    provenance = second.config.provenance
    assert provenance["model"] == str(tmp_path / "first")
    assert provenance["weights_before"] == first.config.files["model.safetensors"]
    assert provenance["lr"] == pytest.approx(GOING_ON * first.config.provenance["lr"])


def test_one_labeled_image_is_enough_to_go_on(tmp_path: Path) -> None:
    data, one = toy(tmp_path / "data"), toy(tmp_path / "one", count=1, seed=3)
    test = toy(tmp_path / "test", count=2, seed=4)
    quick(data, tmp_path / "first")
    reading = quick(one, tmp_path / "second", model=str(tmp_path / "first"), test_images=test[0], test_labels=test[1])
    assert reading.images == 2


def test_other_classes_are_refused(tmp_path: Path) -> None:
    data = toy(tmp_path / "data")
    quick(data, tmp_path / "first")
    other = CLASSES.model_copy(update={"names": ("grass", "void", "pole", "brick")})
    (tmp_path / "classes.json").write_text(other.model_dump_json())
    call = [*data[:2], str(tmp_path / "classes.json")]
    refused(lambda: quick(call, tmp_path / "second", model=str(tmp_path / "first")), "grass, void, brick, pole", "grass, void, pole, brick")
    (tmp_path / "run").mkdir()
    refused(lambda: quick(data, tmp_path / "second", model=str(tmp_path / "run")), "no segmenter", tmp_path / "run")
    assert not (tmp_path / "second").exists()


def test_a_network_from_scratch_decides_on_half_the_pixels_of_large_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    strides = {side: recipe._from_scratch(recipe.Size(side, side)).stem_stride for side in (128, 129)}
    assert strides == {128: 1, 129: 2}
    assert isinstance(recipe._from_scratch(recipe.Size(64, 64)), SegmenterConfig)
