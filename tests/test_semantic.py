"""The label-aware term, the segmenter that it asks, and the segmenter's folder."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from helpers import CHANNELS, SIZE, Players, batch, images, noise, reach, rng, same, scale_weights, small_recipe, untouched_global_rng
from unflip.data import streets
from unflip.data.labels import Classes
from unflip.errors import UserError
from unflip.files import sha256
from unflip.losses import TERMS, Nets, Setting, Site
from unflip.losses.draws import Stream
from unflip.losses.fixed import FixedSegmenter
from unflip.losses.semantic import Semantic, cross_entropy
from unflip.methods import METHODS, Recipe
from unflip.networks.multiscale import cut
from unflip.networks.segmenter import Segmenter, SegmenterConfig
from unflip.runs import collect, validate
from unflip.segmenterfolder import SegmenterModelConfig, load_segmenter, read_segmenter, save_segmenter
from unflip.types import Step

CLASSES = Classes(names=("sky", "road", "car", "void"), palette=((0, 0, 9), (1, 0, 0), (2, 0, 0), (3, 0, 0)), ignore=(3,))
SMALL = SegmenterConfig(width=4, halvings=2)


def some_labels(n: int = 2, size: int = SIZE, classes: int = 3, seed: int = 0) -> Tensor:
    """Class ids, of which about a quarter are -1."""
    return torch.from_numpy(np.random.default_rng([seed, n, size]).integers(-1, classes, (n, size, size)))


def small_segmenter(classes: int = 4, seed: int = 3) -> Segmenter:
    return scale_weights(SMALL.build(classes, rng()), seed)


def with_fake(fake: Tensor, labels: Tensor, source: Tensor | None = None) -> Step:
    return Step(fake if source is None else source, fake, fake, labels=labels)


def nets(own: nn.Module | None) -> Nets:
    return Nets(None, None, None, own)  # type: ignore[arg-type]


def by_hand(logits: np.ndarray, labels: np.ndarray) -> float:
    """Pixel by pixel, in Python's own floats."""
    of_images = []
    for image, ids in zip(logits, labels, strict=True):
        losses = []
        for y in range(ids.shape[0]):
            for x in range(ids.shape[1]):
                if ids[y, x] >= 0:
                    z = [float(value) for value in image[:, y, x]]
                    losses.append(math.log(math.fsum(math.exp(value) for value in z)) - z[ids[y, x]])
        of_images.append(math.fsum(losses) / len(losses) if losses else 0.0)
    return math.fsum(of_images) / len(of_images)


def slopes(function: Callable[[Tensor], float], x: Tensor, points: int = 12, h: float = 1e-5) -> tuple[list[int], list[float]]:
    """Central differences at some places of ``x``."""
    places = np.random.default_rng(0).choice(x.numel(), min(points, x.numel()), replace=False).tolist()
    found = []
    for place in places:
        ends = [x.detach().clone() for _ in range(2)]
        for moved, sign in zip(ends, (1, -1), strict=True):
            moved.view(-1)[place] += sign * h
        found.append((function(ends[0]) - function(ends[1])) / (2 * h))
    return places, found


# --- cross-entropy


@pytest.mark.parametrize("n", [1, 3])
def test_cross_entropy(n: int) -> None:
    logits, labels = 3 * noise(n, 4, 6, 5), some_labels(n, 6, 4)[:, :, :5]
    assert (labels == -1).any()
    leaf = logits.clone().requires_grad_()
    value = cross_entropy(leaf, labels)
    value.backward()
    assert math.isclose(float(value.detach()), by_hand(logits.numpy(), labels.numpy()), rel_tol=1e-12)
    places, expected = slopes(lambda x: by_hand(x.numpy(), labels.numpy()), logits, 60)
    assert np.abs(expected).max() > 1e-3
    assert np.allclose(leaf.grad.flatten()[places], expected, atol=1e-8)
    assert (leaf.grad.movedim(1, -1)[labels == -1] == 0).all()


def test_every_image_counts_the_same_however_much_of_it_is_labeled() -> None:
    logits, labels = noise(3, 4, 6, 6), some_labels(3, 6, 4)
    labels[0, 1:] = -1
    singles = [cross_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]
    assert torch.allclose(cross_entropy(logits, labels), torch.stack(singles).mean(), rtol=1e-12)
    labels[2] = -1
    assert torch.allclose(cross_entropy(logits, labels), (singles[0] + singles[1]) / 3, rtol=1e-12)


def test_where_nothing_is_labeled_there_is_nothing_to_learn() -> None:
    logits = noise(2, 4, 6, 6).requires_grad_()
    value = cross_entropy(logits, torch.full((2, 6, 6), -1))
    value.backward()
    assert float(value.detach()) == 0 and (logits.grad == 0).all()


def test_cross_entropy_of_large_logits() -> None:
    logits = torch.tensor([1e4, -1e4], dtype=torch.float32).view(1, 2, 1, 1).requires_grad_()
    for label, expected in ((0, 0.0), (1, 2e4)):
        value = cross_entropy(logits, torch.tensor([[[label]]]))
        assert float(value.detach()) == expected
        assert torch.autograd.grad(value, logits)[0].isfinite().all()


# --- the network


def test_size_of_the_network() -> None:
    network = SegmenterConfig().build(12, rng())
    assert 1.2e6 < sum(parameter.numel() for parameter in network.parameters()) < 1.25e6


@pytest.mark.parametrize("size", [(32, 32), (45, 70), (33, 1), (1, 1), (7, 40)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    network = SegmenterConfig(width=8).build(5, rng())
    x = torch.randn(2, 3, *size, generator=rng(1)).requires_grad_()
    logits = network(x)
    assert logits.shape == (2, 5, *size)
    logits.square().sum().backward()
    assert x.grad.isfinite().all() and (x.grad != 0).any()


def test_an_image_is_read_the_same_in_any_batch_and_mode() -> None:
    network = small_segmenter()
    x = images(3, 20)
    together = network(x)
    assert together.std() > 0.3
    assert same(torch.cat([network.eval()(x[i : i + 1]) for i in range(3)]), together)
    others = network(torch.cat([x[:1], x[1:].flip(0)]))
    assert same(others[:1], together[:1]) and not same(others[1:], together[1:], 1e-3)


def test_what_a_pixel_sees() -> None:
    network = SegmenterConfig(width=4).build(2, rng()).double()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.fill_(1 / layer.weight[0].numel())
    x = torch.ones(1, 3, 256, 32, dtype=torch.float64)
    rows = {
        at: reach(network, x, lambda y, at=at: y[0, 0, at, 16])[0] for at in (124, 125)
    }  # the edge between two cells of the coarsest grid
    assert max(max(at - seen[0], seen[-1] - at) for at, seen in rows.items()) == 107


@pytest.mark.parametrize("n", [1, 2])
def test_gradients_of_the_network(n: int) -> None:
    """Also for single images, for which PyTorch's instance norm goes wrong in some memory layouts."""
    network, labels = small_segmenter(), some_labels(n, 16)
    x = images(n, 16)
    leaf = x.clone().requires_grad_()
    cross_entropy(network(leaf), labels).backward()
    places, expected = slopes(lambda moved: float(cross_entropy(network(moved), labels).detach()), x)
    assert np.abs(expected).max() > 1e-4 and np.allclose(leaf.grad.flatten()[places], expected, rtol=1e-4, atol=1e-8)
    weight = network.down[1][0].weight
    place, h = (0, 1, 1, 1), 1e-5
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[place] += sign * h
        ends.append(float(cross_entropy(network(x), labels).detach()))
        with torch.no_grad():
            weight[place] -= sign * h
    assert math.isclose(float(weight.grad[place]), (ends[0] - ends[1]) / (2 * h), rel_tol=1e-4, abs_tol=1e-8)


def test_weights_come_from_the_given_numbers_alone() -> None:
    with untouched_global_rng():
        a, b, c = (SMALL.build(4, rng(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_it_learns_to_read_streets() -> None:
    scenes = [streets.scene(i, look="photo", width=32, height=32) for i in range(48)]
    x = torch.from_numpy(np.stack([image for image, _ in scenes])).permute(0, 3, 1, 2) / 127.5 - 1
    y = torch.from_numpy(np.stack([ids for _, ids in scenes])).long()
    network = SegmenterConfig(width=8, halvings=3).build(8, rng())
    optimizer = torch.optim.Adam(network.parameters(), 3e-3, (0.5, 0.999))
    for step in range(40):
        i = torch.arange(4 * step, 4 * step + 4) % 40
        optimizer.zero_grad()
        cross_entropy(network(x[i]), y[i]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = float((network(x[40:]).argmax(1) == y[40:]).float().mean())
    most_frequent = float(torch.bincount(y[40:].flatten()).max() / y[40:].numel())
    assert accuracy > 0.7 and accuracy > most_frequent + 0.2


# --- the segmenter's folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "segmenter"
    save_segmenter(where, SegmenterModelConfig(network=SMALL, classes=CLASSES, provenance={"images": 7}), SMALL.build(4, rng(5)))
    return where


def test_a_saved_segmenter_reads_as_before(folder: Path) -> None:
    loaded = load_segmenter(folder)
    x = images(2, 19).float()
    assert torch.equal(loaded.network(x), SMALL.build(4, rng(5))(x))
    assert not loaded.network.training and loaded.config.classes == CLASSES and loaded.config.network == SMALL
    config = json.loads((folder / "config.json").read_text())
    assert config["kind"] == "segmenter" and config["classes"]["names"] == list(CLASSES.names)
    assert config["files"] == {"model.safetensors": sha256(folder / "model.safetensors")}
    assert "| images | 7 |" in (folder / "README.md").read_text()
    (folder.parent / "run").mkdir()
    shutil.move(folder, folder.parent / "run" / "model")
    assert load_segmenter(folder.parent / "run").config == loaded.config


def test_a_resize_has_one_spelling() -> None:
    assert SegmenterModelConfig(classes=CLASSES, resize="short:0064").resize == "short:64"
    assert SegmenterModelConfig(classes=CLASSES).resize == "none"


def test_what_is_no_segmenter_is_one_line(folder: Path) -> None:
    def line(path: Path = folder) -> str:
        with pytest.raises(UserError) as caught:
            load_segmenter(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert str(folder / "none") in line(folder / "none")
    file, whole = folder / "config.json", json.loads((folder / "config.json").read_text())

    def rewritten(**changes: Any) -> str:
        file.write_text(json.dumps(whole | changes))
        return line()

    assert "a translator, not a segmenter" in rewritten(kind="translator", generator={})
    assert "network.width" in rewritten(network={"width": 1})
    assert "3 names and 4 colors" in rewritten(classes=whole["classes"] | {"names": ["a", "b", "c"]})
    assert "does not fit the configuration" in rewritten(network={"width": 8, "halvings": 2})
    assert "resize: not a resize, 'half'" in rewritten(resize="half")
    assert "SHA-256" in rewritten(files={"model.safetensors": "0" * 64})
    for text in ("{", "[]", "3"):
        file.write_text(text)
        assert str(folder) in line()
    file.write_text(json.dumps(whole))
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in line()


# --- the term, with a fixed segmenter


def site(channels: tuple[int, int] = CHANNELS) -> Site:
    return Site((), channels, rng(1))


def test_a_fixed_segmenter_judges_the_translation(folder: Path) -> None:
    term = Semantic(segmenter=folder, classes=CLASSES)
    own = term.build(site())
    judge = load_segmenter(folder).network.double()
    before = {key: value.clone() for key, value in judge.state_dict().items()}
    labels, fake, source = some_labels(), images(2, seed=4).requires_grad_(), images(2, seed=5).requires_grad_()
    value = term(with_fake(fake, labels, source), term.draw(stream(0.0), ()), nets(own))
    expected = by_hand(judge(fake.detach()).detach().numpy(), labels.numpy())
    assert math.isclose(float(value.detach()), expected, rel_tol=1e-6)
    value.backward()
    leaf = fake.detach().clone().requires_grad_()
    cross_entropy(judge(leaf), labels).backward()
    assert same(fake.grad, leaf.grad, 1e-9) and (fake.grad != 0).any() and source.grad is None
    assert all(torch.equal(value, before[key]) for key, value in own._held[0].state_dict().items())  # type: ignore[operator, union-attr]


def test_a_fixed_segmenter_is_neither_trained_nor_saved(folder: Path) -> None:
    own = Semantic(segmenter=folder, classes=CLASSES).build(site())
    assert not list(own.parameters()) and not own.state_dict() and isinstance(own, FixedSegmenter)
    own.half()
    assert own(images(1).half()).dtype == torch.float32  # what reads in half precision would judge in it


def test_what_the_segmenter_ignores_it_does_not_know(folder: Path) -> None:
    """Its output for a class that it ignores was never taught anything, though it has a name and a place."""
    names, palette = ("void", "sky", "car"), ((3, 0, 0), (0, 0, 9), (2, 0, 0))
    counted = Semantic(segmenter=folder, classes=Classes(names=names, palette=palette))
    said = counted.problem(setting())
    assert said is not None and "does not know the class void" in said and str(folder) in said and "\n" not in said
    assert "it knows sky, road, car;" in said and "ignore void" in said
    with pytest.raises(UserError, match="does not know the class void"):
        counted.build(site())

    ignored = Semantic(segmenter=folder, classes=Classes(names=names, palette=palette, ignore=(0,)))
    assert ignored.problem(setting()) is None
    own = ignored.build(site())
    assert isinstance(own, FixedSegmenter) and own.ids(torch.tensor([0, 1, 2, -1])).tolist() == [-1, 0, 2, -1]


def test_what_is_ignored_in_front_moves_no_other_class(tmp_path: Path) -> None:
    """A class's place among the outputs counts the ignored ones before it."""
    classes = Classes(names=("void", "sky", "road"), palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)), ignore=(0,))
    save_segmenter(tmp_path / "segmenter", SegmenterModelConfig(network=SMALL, classes=classes), SMALL.build(3, rng(5)))
    run = Classes(names=("road", "sky"), palette=((2, 2, 2), (1, 1, 1)))
    own = Semantic(segmenter=tmp_path / "segmenter", classes=run).build(site())
    assert isinstance(own, FixedSegmenter) and own.ids(torch.tensor([0, 1, -1])).tolist() == [2, 1, -1]


@pytest.mark.parametrize(("of_segmenter", "of_run"), [("short:256", "none"), ("none", "512x256"), ("short:256", "short:512")])
def test_a_segmenter_reads_images_of_its_own_scale(of_segmenter: str, of_run: str, tmp_path: Path) -> None:
    folder = tmp_path / "segmenter"
    save_segmenter(folder, SegmenterModelConfig(network=SMALL, classes=CLASSES, resize=of_segmenter), SMALL.build(4, rng(5)))
    term = Semantic(segmenter=folder, classes=CLASSES)
    said = term.problem(setting(of_run))
    assert said is not None and str(folder) in said and "\n" not in said
    assert f"set data.resize={of_segmenter}" in said and f"a segmenter for {of_run}" in said
    assert term.problem(setting(of_segmenter)) is None
    assert Semantic(classes=CLASSES).problem(setting(of_run)) is None, "one that is trained along learns at the run's scale"


def test_a_run_at_another_scale_than_the_segmenters_is_refused(tmp_path: Path) -> None:
    folder, data = tmp_path / "segmenter", {"source": "a", "target": "b", "source_labels": "c", "classes": CLASSES}
    save_segmenter(folder, SegmenterModelConfig(network=SMALL, classes=CLASSES, resize="short:64"), SMALL.build(4, rng(5)))
    values = collect("fastcut", settings=[f"semantic.segmenter={folder}"], size=64, budget=10, data=data)
    with pytest.raises(UserError, match=r"term semantic: .* set data\.resize=short:64"):
        validate(values)
    resized = validate(values | {"data": data | {"resize": "short:064"}})
    assert resized.data.resize == "short:64"


def test_classes_are_matched_by_name(folder: Path, tmp_path: Path) -> None:
    """A run whose classes are in another order and without one of the segmenter's has the value that the segmenter's own order gives."""
    names = ("lamp", "car", "sky")
    other = Classes(names=names, palette=((9, 9, 9), (1, 1, 1), (2, 2, 2)), ignore=(0,))
    labels = some_labels(classes=3, seed=2)  # of the run: 1 is car, 2 is sky
    in_segmenters_order = torch.tensor([-1, 2, 0, -1])[labels]  # -1 is the last place
    fake = images(2, seed=4)
    terms = [Semantic(segmenter=folder, classes=classes) for classes in (other, CLASSES)]
    values = [
        term(with_fake(fake, ids), None, nets(term.build(site()))) for term, ids in zip(terms, (labels, in_segmenters_order), strict=True)
    ]
    assert torch.equal(*values) and float(values[0]) > 0.1
    unknown = Classes(names=("sky", "tree"), palette=((0, 0, 0), (1, 1, 1)))
    said = Semantic(segmenter=folder, classes=unknown).problem(setting())
    assert said is not None and "does not know the class tree" in said and str(folder) in said and "\n" not in said


# --- the term, with a segmenter trained along


def stream(progress: float) -> Stream:
    return Stream(0, ("semantic",), 0, 2, torch.device("cpu"), 0, progress)


def setting(resize: str = "none") -> Setting:
    return Setting(SIZE, SIZE, 1, (), resize)


def gradients(term: Semantic, own: nn.Module, progress: float) -> tuple[float, Tensor | None, dict[str, Tensor]]:
    """The term's value, the translation's gradient and the segmenter's."""
    fake = images(2, seed=4).requires_grad_()
    own.zero_grad()
    value = term(with_fake(fake, some_labels(), images(2, seed=5)), term.draw(stream(progress), ()), nets(own))
    value.backward()
    return float(value.detach()), fake.grad, {name: parameter.grad.clone() for name, parameter in own.named_parameters()}


def test_each_half_moves_only_its_own_network() -> None:
    term, own = Semantic(classes=CLASSES), small_segmenter()
    value, of_fake, of_own = gradients(term, own, 0.5)

    learns = cross_entropy(own(images(2, seed=5)), some_labels())
    expected = torch.autograd.grad(learns, list(own.parameters()))
    for gradient, name in zip(expected, of_own, strict=True):
        assert same(of_own[name], gradient) and (gradient != 0).any(), name
    leaf = images(2, seed=4).requires_grad_()
    judges = cross_entropy(own(leaf), some_labels())
    assert of_fake is not None and same(of_fake, torch.autograd.grad(judges, leaf)[0]) and (of_fake != 0).any()
    assert math.isclose(value, float(learns.detach() + judges.detach()), rel_tol=1e-12)


def test_it_learns_before_it_judges() -> None:
    term, own = Semantic(classes=CLASSES, judge_from=0.2), small_segmenter()
    early, of_fake, learning = gradients(term, own, 0.199)
    assert of_fake is None
    late, of_fake, still_learning = gradients(term, own, 0.2)
    assert of_fake is not None and late > early
    assert all(torch.equal(learning[name], still_learning[name]) for name in learning)
    assert Semantic(classes=CLASSES).draw(stream(0.09), ()) is False and Semantic(classes=CLASSES).draw(stream(0.1), ()) is True
    assert Semantic(judge_from=0).draw(stream(0.0), ()) is True


@pytest.mark.parametrize("fixed", [True, False])
def test_nothing_labeled_moves_nothing(fixed: bool, folder: Path) -> None:
    term = Semantic(segmenter=folder if fixed else None, classes=CLASSES, network=SMALL)
    own, fake = term.build(site()).double(), images(2).requires_grad_()
    value = term(with_fake(fake, torch.full((2, SIZE, SIZE), -1), fake.detach()), True, nets(own))
    value.backward()
    assert float(value.detach()) == 0 and (fake.grad == 0).all()
    assert all((parameter.grad == 0).all() for parameter in own.parameters())


def test_what_the_term_says_of_itself(folder: Path) -> None:
    said = Semantic().problem(setting())
    assert said is not None and "--source-labels DIR --classes FILE" in said
    assert Semantic(classes=CLASSES).problem(setting()) is None
    assert Semantic(classes=CLASSES, segmenter=folder).problem(setting()) is None
    none = Semantic(classes=CLASSES, segmenter=folder / "none").problem(setting())
    assert none is not None and str(folder / "none") in none and "\n" not in none
    assert "trained along" in (Semantic(classes=CLASSES).remark() or "")
    remark = Semantic(classes=CLASSES, segmenter=folder).remark() or ""
    assert f"segmenter {folder.name}" in remark and str(folder.parent) not in remark, "a model card goes to others"
    assert Semantic().needs == {"fake", "labels", "plain"}
    with pytest.raises(UserError, match="1 and translations of 3 channels"):
        Semantic(classes=CLASSES).build(site((1, 3)))
    with pytest.raises(ValidationError):
        Semantic(judge_from=1.0)


def test_the_path_of_the_classes_becomes_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(CLASSES.model_dump_json())
    term = Semantic.model_validate({"classes": str(path)})
    assert term.classes == CLASSES
    path.unlink()  # a saved configuration needs the file no more
    assert Semantic.model_validate_json(term.model_dump_json()) == term


def test_own_segmenter_has_an_output_for_every_class() -> None:
    own = Semantic(classes=CLASSES, network=SMALL).build(site())
    assert own(images(1).float()).shape == (1, 4, SIZE, SIZE)
    assert all(parameter.requires_grad for parameter in own.parameters())


# --- within a method


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("method", ["cut", "fastcut"])
def test_steps_of_a_method_with_labels(method: str, fixed: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TERMS, "semantic", Semantic)
    recipe = small_recipe(METHODS[method].recipe)
    values = recipe.model_dump()["terms"]
    values["semantic"] = {"segmenter": folder if fixed else None, "classes": CLASSES, "network": SMALL}
    recipe = small_recipe(recipe, terms=values)
    players = Players.of(recipe, lr=1e-2)
    own = [parameter.clone() for parameter in players.generator.own.parameters()]
    losses = []
    for _ in range(4):
        step = batch(n=2)._replace(labels=some_labels())
        losses.append(players.play(step, progress=0.5)["semantic"])
    assert all(math.isfinite(loss) and loss > 0 for loss in losses) and len(set(losses)) == 4
    moved = [not torch.equal(a, b) for a, b in zip(own, players.generator.own.parameters(), strict=True)]
    assert (not moved) if fixed else all(moved)
    if not fixed:
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("changes", [{"turn": "rotate"}, {"turn": "flip"}, {"multiscale": {}}, {"sides": 2, "turn": "rotate"}])
@pytest.mark.parametrize("fixed", [True, False])
def test_the_segmenter_sees_plain_images_only(fixed: bool, changes: dict[str, Any], folder: Path) -> None:
    semantic = {"segmenter": folder if fixed else None, "classes": CLASSES, "network": SMALL}
    players = Players.of(small_recipe(Recipe(terms={"adversarial": {}, "semantic": semantic}, **changes)))
    weights, data = players.weights(), batch(size=64)._replace(labels=some_labels(size=64))
    draws = players.draws(weights, size=64)
    _, parts, shown = players.generator(data, draws, weights, players.discriminator.frozen())

    source, labels, judge = data.source, data.labels, load_segmenter(folder).network.double()
    if draws.windows is not None:
        source, labels = (cut(x, draws.windows, (32, 32)) for x in (source, labels))
    expected = torch.zeros(())
    if not fixed:
        assert list(players.generator.own) == ["to_target_semantic"]
        judge = players.generator.own["to_target_semantic"]
        expected = cross_entropy(judge(source), labels)
    expected = expected + cross_entropy(judge(shown["to_target"][1]), labels)
    assert len(shown) > 1 and math.isclose(float(parts["semantic"]), float(expected.detach()), rel_tol=1e-6)


def test_read_segmenter_leaves_the_weights_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert read_segmenter(folder) == (folder, SegmenterModelConfig.model_validate_json((folder / "config.json").read_text()))
