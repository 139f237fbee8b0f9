"""Reading classes with a segmenter: which classes, at which size; and the pass that judges images by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import ColorReader, color_segmenter, held_out, refused
from unflip.data.images import prepare
from unflip.data.labels import IGNORED, Classes
from unflip.errors import UserError
from unflip.evaluation.confusion import Counter, pixel_accuracy
from unflip.evaluation.features import feature_network
from unflip.evaluation.judge import features_of, judge
from unflip.evaluation.labeled import find_labeled, same_names
from unflip.evaluation.pictures import colored, flips
from unflip.evaluation.reader import Reader

CLASSES = Classes(names=("sky", "tree", "road", "void"), palette=((0, 90, 255), (20, 160, 0), (120, 120, 120), (255, 0, 0)), ignore=(3,))


def scene(seed: int = 0, width: int = 12, height: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Labels in squares of 4, some of them ignored, and the image that shows each class in its color."""
    ids = np.random.default_rng(seed).integers(0, 4, (height // 4, width // 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    image = np.array(CLASSES.palette, dtype=np.uint8)[ids]
    return image, np.where(ids == 3, IGNORED, ids).astype(np.uint8)


def test_reads_what_is_shown() -> None:
    reader = Reader(color_segmenter(CLASSES))
    image, labels = scene()
    reading = reader(image)
    assert reading.dtype == np.uint8 and (reading == labels)[labels != IGNORED].all()
    assert set(np.unique(reading)) <= {0, 1, 2}, "an ignored class is never read, not even where its color is shown"


def test_classes_are_found_by_name() -> None:
    """The labels' classes are fewer, in another order and of other colors than the segmenter's; their ids are what is read."""
    asked = Classes(names=("none", "road", "sky"), palette=((1, 1, 1), (2, 2, 2), (3, 3, 3)), ignore=(0,))
    reader = Reader(color_segmenter(CLASSES), asked)
    image = np.array([[CLASSES.palette[0], CLASSES.palette[2]]], dtype=np.uint8)
    assert reader(image).tolist() == [[2, 1]]
    assert reader.logits(image).shape == (2, 1, 2)


def test_unknown_classes_are_refused() -> None:
    asked = Classes(names=("sky", "boat"), palette=((1, 1, 1), (2, 2, 2)))
    with pytest.raises(UserError, match="does not know the class boat, colors; it knows sky, tree, road; ignore boat"):
        Reader(color_segmenter(CLASSES), asked)
    with pytest.raises(UserError, match="does not know the class void"):
        Reader(color_segmenter(CLASSES), Classes(names=("sky", "void"), palette=((1, 1, 1), (2, 2, 2))))


def test_an_image_is_resized_as_in_training_and_its_answer_back() -> None:
    seen = []

    class Spy(ColorReader):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    model = color_segmenter(CLASSES, resize="short:4", network=Spy(CLASSES))
    random = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    reading = Reader(model)(random)
    expected = prepare(Image.fromarray(random), "short:4").pixels
    assert torch.allclose(seen[0], torch.from_numpy(expected).permute(2, 0, 1)[None] / 127.5 - 1)
    assert reading.shape == (8, 12)
    image, labels = scene(3)
    assert (Reader(model)(image) == labels)[labels != IGNORED].mean() > 0.6  # but for the borders of the squares


def test_what_a_device_has_no_memory_for_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(network: ColorReader, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    model = color_segmenter(CLASSES)
    reader, features = Reader(model), feature_network("segmenter", model)
    monkeypatch.setattr(ColorReader, "forward", full)
    refused(lambda: reader(scene()[0]), "not enough memory on cpu for the segmenter to read 12x8 pixels; give smaller images")
    features = replace(features, network=model.network)
    refused(lambda: features(scene()[0]), "not enough memory on cpu for the features (segmenter) of", "12x8 pixels; give smaller images")


def test_judge_counts_every_image_once() -> None:
    reader = Reader(color_segmenter(CLASSES))
    scenes = [scene(seed) for seed in range(5)]
    scenes[2] = (scene(99)[0], scenes[2][1])  # shows something else
    done: list[int] = []
    verdict = judge((image for image, _ in scenes), lambda i: scenes[i][1], 5, reader, lambda rgb: rgb.mean((0, 1)), done.append)
    counter = Counter(CLASSES, 5)
    for image, labels in scenes:
        counter.add(labels, reader(image))
    assert (verdict.reading.total == counter.reading().total).all() and verdict.reading.images == 5
    assert np.argmax(verdict.reading.flipped) == 2 and verdict.reading.flipped[0] == 0
    assert verdict.features == pytest.approx(np.stack([image.mean((0, 1)) for image, _ in scenes]))
    assert done == [1, 2, 3, 4, 5]
    assert judge((image for image, _ in scenes), lambda i: scenes[i][1], 5, reader).features is None


def test_judge_refuses_another_size() -> None:
    image, labels = scene()
    with pytest.raises(UserError, match=r"image 1 of 1 and its labels differ in size \(12x8 and 11x8\)"):
        judge([image], lambda i: labels[:, :-1], 1, Reader(color_segmenter(CLASSES)))


def write(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    for name, array in arrays.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / name)
    return folder


def test_labeled_images_are_found_in_natural_order(tmp_path: Path) -> None:
    names = ["a/2", "a/10", "b/1"]
    scenes = {name: scene(seed) for seed, name in enumerate(names)}
    images = write(tmp_path / "images", {f"{name}.jpg": image for name, (image, _) in scenes.items()})
    labels = write(tmp_path / "labels", {f"{name}.png": ids for name, (_, ids) in scenes.items()})
    found = find_labeled(images, labels, CLASSES, progress=False)
    assert [name.as_posix() for name in found.names] == [f"{name}.jpg" for name in names] and len(found) == 3
    assert all((found.ids(i) == scenes[name][1]).all() for i, name in enumerate(names))
    assert [image.shape for image in found.rgb()] == [(8, 12, 3)] * 3

    sources = write(tmp_path / "sources", {f"{name}.png": image for name, (image, _) in scenes.items()} | {"c/1.png": scene(7)[0]})
    assert same_names(sources, found, "source") == [sources / f"{name}.png" for name in names]
    (sources / "b/1.png").unlink()
    with pytest.raises(UserError, match=r"1 of 3 images have no source image, such as b/1.jpg"):
        same_names(sources, found, "source")
    assert features_of([sources / "a/2.png", sources / "a/10.png"], lambda rgb: rgb.mean((0, 1))) == pytest.approx(
        np.stack([scenes["a/2"][0].mean((0, 1)), scenes["a/10"][0].mean((0, 1))])
    )


def test_what_cannot_be_matched_is_refused(tmp_path: Path) -> None:
    images = write(tmp_path / "images", {"1.png": scene(1)[0], "2.png": scene(2)[0]})
    labels = write(tmp_path / "labels", {"1.png": scene(1)[1]})
    with pytest.raises(UserError, match="1 of 2 images have no label map"):
        find_labeled(images, labels, CLASSES, progress=False)
    write(labels, {"2.png": scene(2, height=4)[1]})
    with pytest.raises(UserError, match="12x4 while its image is 12x8"):
        find_labeled(images, labels, CLASSES, progress=False)
    write(labels, {"2.png": np.full((8, 12), 9, np.uint8)})
    with pytest.raises(UserError, match="gray value 9 is no class"):
        find_labeled(images, labels, CLASSES, progress=False)


def test_pictures_show_where_it_flipped() -> None:
    image, labels = scene(5)
    reading = np.where(labels == 0, 1, labels).astype(np.uint8)
    assert (
        colored(np.array([[0, 2, IGNORED, 3]], np.uint8), CLASSES) == [[CLASSES.palette[0], CLASSES.palette[2], (0, 0, 0), (0, 0, 0)]]
    ).all()
    picture = flips(image, labels, reading, CLASSES)
    wrong = labels == 0
    assert wrong.any() and (picture[wrong] == CLASSES.palette[1]).all()
    assert (picture[~wrong].max(1) == picture[~wrong].min(1)).all() and picture[~wrong].min() > 100, "the rest is pale and gray"


def test_pixels_without_a_label_never_flip() -> None:
    image, labels = scene(5)
    none = np.full_like(labels, IGNORED)
    assert (flips(image, none, np.ones_like(labels), CLASSES).std(2) == 0).all()
    verdict = judge([image, image], lambda i: (labels, none)[i], 2, Reader(color_segmenter(CLASSES)))
    assert verdict.reading.figure(pixel_accuracy).value == 1 and np.isnan(verdict.reading.flipped[1])


def test_held_out_counts_follow_the_order_of_the_classes() -> None:
    counts = np.arange(18).reshape(2, 3, 3)
    model = color_segmenter(CLASSES, held_out=held_out(counts))
    assert (Reader(model).held_out.blocks == counts).all()
    turned = Classes(names=("road", "sky", "other", "tree"), palette=((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)), ignore=(2,))
    found = Reader(model, turned).held_out
    assert found.names == ["road", "sky", "tree"] and found.images == 5 and found.voids == (7, 8)
    own = CLASSES.names.index
    for a, row in enumerate(found.names):
        for b, column in enumerate(found.names):
            assert (found.blocks[:, a, b] == counts[:, own(row), own(column)]).all()


def test_held_out_counts_of_more_classes_say_nothing_of_fewer() -> None:
    model = color_segmenter(CLASSES, held_out=held_out(np.arange(18).reshape(2, 3, 3)))
    assert Reader(model, Classes(names=("sky", "tree"), palette=((1, 1, 1), (2, 2, 2)))).held_out is None
    assert Reader(color_segmenter(CLASSES)).held_out is None
