"""Counts of what is read as what: every metric against scikit-learn and torchmetrics, intervals against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, jaccard_score
from torchmetrics.classification import MulticlassJaccardIndex

from unflip.data.labels import IGNORED, Classes
from unflip.evaluation import confusion as c
from unflip.evaluation.confusion import Counter, Reading, from_plain
from unflip.evaluation.metrics import flip_metrics

CLASSES = Classes(names=("sky", "void", "tree", "car", "person"), palette=tuple((i, i, 9) for i in range(5)), ignore=(1,))
KEPT = CLASSES.kept


def images(count: int = 12, seed: int = 0, wrong: float = 0.3, kept: tuple[int, ...] = KEPT) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels with ignored pixels, and readings of which some are wrong; every image of its own difficulty and shares."""
    random = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        labels = random.choice(kept, (6, 8), p=random.dirichlet(np.ones(len(kept)))).astype(np.uint8)
        reading = np.where(random.random(labels.shape) < wrong * 2 * random.random(), random.choice(kept, labels.shape), labels)
        labels[random.random(labels.shape) < 0.1] = IGNORED
        pairs.append((labels, reading.astype(np.uint8)))
    return pairs


def counted(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Reading:
    counter = Counter(CLASSES, len(pairs))
    for labels, reading in pairs:
        counter.add(labels, reading)
    return counter.reading()


def flat(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All labeled pixels, and what they are read as."""
    labels, reading = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    return labels[labels != IGNORED], reading[labels != IGNORED]


def test_the_confusion_is_scikit_learns() -> None:
    pairs = images()
    assert (counted(pairs).total == confusion_matrix(*flat(pairs), labels=KEPT)).all()
    assert sum(counted(pairs).voids) == sum((labels == IGNORED).sum() for labels, _ in pairs) > 0


def test_metrics_are_scikit_learns() -> None:
    pairs = images()
    labels, reading = flat(pairs)
    total = counted(pairs).total
    assert c.pixel_accuracy(total) == pytest.approx(accuracy_score(labels, reading), abs=1e-15)
    assert c.flip_rate(total) == pytest.approx(1 - accuracy_score(labels, reading), abs=1e-15)
    assert c.class_accuracy(total) == pytest.approx(balanced_accuracy_score(labels, reading), abs=1e-15)
    assert c.per_class_iou(total) == pytest.approx(jaccard_score(labels, reading, labels=KEPT, average=None), abs=1e-15)
    assert c.mean_iou(total) == pytest.approx(jaccard_score(labels, reading, labels=KEPT, average="macro"), abs=1e-15)
    assert c.normalized(total) == pytest.approx(confusion_matrix(labels, reading, labels=KEPT, normalize="true"), abs=1e-15)


def test_mean_iou_is_torchmetrics() -> None:
    labels, reading = (torch.from_numpy(ids).long() for ids in flat(images()))
    theirs = MulticlassJaccardIndex(5, ignore_index=1, average="none").double()(reading, labels)
    assert c.per_class_iou(counted(images()).total) == pytest.approx(theirs[list(KEPT)].numpy(), abs=1e-6)


def test_pixels_without_a_class_count_as_wrong_only_where_that_is_said() -> None:
    pairs = images()
    labels, reading = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    whole = counted(pairs)
    assert whole.void_as_wrong().value == pytest.approx((labels == reading).mean(), abs=1e-15)
    assert whole.void_as_wrong().value < whole.figure(c.pixel_accuracy).value


def test_classes_that_do_not_occur_are_left_out_even_where_they_are_read() -> None:
    labels, reading = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    reading[0] = 2
    total, _ = c.confusion(labels, reading, CLASSES)
    assert c.mean_iou(total) == c.class_accuracy(total) == 0.75
    assert np.isnan(c.per_class_iou(total)[1:]).all() and np.isnan(c.recalls(total)[1:]).all()
    assert np.isnan(c.normalized(total)[1:]).all()


def test_a_reading_of_an_ignored_class_is_refused() -> None:
    labels = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="not among the classes"):
        c.confusion(labels, np.ones((2, 2), np.uint8), CLASSES)
    c.confusion(np.full((2, 2), IGNORED, np.uint8), np.ones((2, 2), np.uint8), CLASSES)  # where nothing is labeled, nothing is read


def test_excess_is_what_remains_beyond_real_images_of_the_same_shares() -> None:
    """Real images that confuse a tenth of the trees with cars; translations that confuse half of them, with other shares of classes."""
    real = np.array([[100, 0, 0, 0], [0, 90, 10, 0], [0, 0, 50, 0], [0, 0, 0, 0]])
    mine = np.array([[20, 0, 0, 0], [0, 30, 30, 0], [0, 0, 20, 0], [0, 0, 0, 7]])  # persons: on no real image, left out
    assert c.excess_flip_rate(mine, real) == pytest.approx((30 - 0.1 * 60) / 100)
    assert c.excess_flip_rate(real, real) == 0
    assert c.excess_flip_rate(real, mine) < 0
    matrix = c.flip_matrix(mine, real)
    assert matrix[1] == pytest.approx([0, -0.4, 0.4, 0]) and matrix[0] == pytest.approx([0, 0, 0, 0])
    assert np.isnan(matrix[3]).all()


def test_swapped_classes_show_as_that_swap() -> None:
    pairs = images(kept=(0, 2, 3, 4), wrong=0)
    swap = np.arange(256, dtype=np.uint8)
    swap[[2, 3]] = 3, 2
    matrix = c.flip_matrix(counted([(labels, swap[reading]) for labels, reading in pairs]).total, counted(pairs).total)
    assert matrix == pytest.approx(np.array([[0, 0, 0, 0], [0, -1, 1, 0], [0, 1, -1, 0], [0, 0, 0, 0]]))


@given(st.integers(1, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_split_and_merge_give_the_same(count: int, data: st.DataObject) -> None:
    pairs = images(count, seed=count)
    cut = data.draw(st.integers(0, count))
    whole, parts = counted(pairs), [counted(part) for part in (pairs[:cut], pairs[cut:]) if part]
    merged = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    assert (merged.total == whole.total).all() and merged.images == whole.images == count
    assert sum(merged.voids) == sum(whole.voids) and merged.flipped == pytest.approx(whole.flipped, nan_ok=True)
    for metric in (c.pixel_accuracy, c.class_accuracy, c.mean_iou):
        assert merged.figure(metric).value == whole.figure(metric).value
    assert merged.void_as_wrong().value == whole.void_as_wrong().value


def test_blocks_are_neighbors() -> None:
    pairs = images(11)
    reading = counted(pairs)
    assert c.block_length(11) == 3 and reading.sizes == (3, 3, 3, 2)
    for i, block in enumerate(reading.blocks):
        assert (block == counted(pairs[3 * i : 3 * i + 3]).total).all()
    assert [c.block_length(n) for n in (1, 2, 8, 9, 27, 1000)] == [1, 2, 2, 3, 3, 10]


def test_flip_rates_of_single_images() -> None:
    pairs = images()
    pairs[3][0][:] = IGNORED
    expected = [np.nan if i == 3 else 1 - accuracy_score(*flat([pair])) for i, pair in enumerate(pairs)]
    assert counted(pairs).flipped == pytest.approx(expected, nan_ok=True)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """The share of wrong pixels is 0.2 in the long run, and alike in neighboring images: blocks see that, single images would not."""
    covered = alone = 0
    trials = 150
    for trial in range(trials):
        random = np.random.default_rng(trial)
        drift = np.repeat(random.random(27) < 0.2, 4)[:105]  # four neighbors are alike
        pairs = [(np.zeros((1, 1), np.uint8), np.full((1, 1), 2 * wrong, np.uint8)) for wrong in drift]
        reading = counted(pairs)
        low, high = reading.figure(c.flip_rate)[1:3]
        covered += low <= 0.2 <= high
        singly = Reading(CLASSES, np.stack([c.confusion(*pair, CLASSES)[0] for pair in pairs]), (1,) * 105, (0,) * 105)
        low, high = singly.figure(c.flip_rate)[1:3]
        alone += low <= 0.2 <= high
    assert covered / trials >= 0.85
    assert alone / trials <= covered / trials - 0.1


def test_an_interval_is_the_bootstraps() -> None:
    reading = counted(images(30))
    figure = reading.figure(c.mean_iou)
    random = np.random.default_rng(1)
    drawn = [c.mean_iou(reading.blocks[random.integers(len(reading.blocks), size=len(reading.blocks))].sum(0)) for _ in range(4_000)]
    assert figure.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.01)
    assert figure.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.01)
    assert figure.low < figure.value < figure.high and figure.n == 30
    assert reading.figure(c.mean_iou) == figure, "the same every time"
    assert reading.figure(c.mean_iou, seed=1) != figure


def test_both_sides_are_resampled() -> None:
    mine, few, many = counted(images(60, seed=1)), counted(images(4, seed=2)), counted(images(60, seed=2))
    widths = [figure.high - figure.low for figure in (mine.figure(c.excess_flip_rate, real) for real in (few, many))]
    assert widths[0] > 1.5 * widths[1]
    assert mine.figure(c.excess_flip_rate, many).value == pytest.approx(c.excess_flip_rate(mine.total, many.total))


def test_a_class_that_few_real_images_show_is_not_left_out_of_the_interval() -> None:
    """Trees in one of eight blocks of real images: a resample without them says nothing of the rate that is asked for."""
    labels, misread = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    labels[:5], misread[:5], misread[:3] = 2, 2, 3
    sky, almost = np.zeros_like(labels), labels.copy()
    almost[0, :5] = 3  # a tenth of the trees, as real images are read
    mine, real = counted([(labels, misread)] * 24), counted([(labels, almost)] * 3 + [(sky, sky)] * 21)
    assert len(real.blocks) == 8
    excess = flip_metrics(mine, real)["excess_flip_rate"]
    assert excess["low"] == pytest.approx(excess["value"]) == pytest.approx(0.3 - 0.1 * 0.5)
    assert mine.figure(c.excess_flip_rate, real).low == 0, "that is what comes of leaving trees out"


def test_many_classes_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = counted(images(20))
    before = reading.figures(c.per_class_iou)
    monkeypatch.setattr(c, "_CHUNK", 7 * reading.blocks[0].size)
    assert reading.figures(c.per_class_iou) == before


def test_one_block_has_no_interval() -> None:
    figure = counted(images(1)).figure(c.pixel_accuracy)
    assert np.isnan([figure.low, figure.high]).all() and figure.plain() == {"value": figure.value, "low": None, "high": None, "n": 1}
    assert np.isnan(counted(images(1)).void_as_wrong().low)
    mixed = counted(images(9)).figure(c.excess_flip_rate, counted(images(1)))
    assert np.isnan(mixed.low) and not np.isnan(mixed.value)


def test_nothing_labeled_is_not_defined() -> None:
    empty = counted([(np.full((2, 2), IGNORED, np.uint8), np.zeros((2, 2), np.uint8))] * 9)
    for metric in (c.pixel_accuracy, c.flip_rate, c.class_accuracy, c.mean_iou):
        assert empty.figure(metric).plain() == {"value": None, "low": None, "high": None, "n": 9}


def test_written_and_read_again() -> None:
    reading = counted(images())
    again = from_plain(reading.plain(), CLASSES)
    assert (again.blocks == reading.blocks).all() and again.sizes == reading.sizes and again.voids == reading.voids
    other = CLASSES.model_copy(update={"ignore": (1, 2)})
    with pytest.raises(ValueError, match="none of 3 classes"):
        from_plain(reading.plain(), other)
    with pytest.raises(ValueError, match="different classes"):
        reading + Reading(other, reading.blocks, reading.sizes, reading.voids)
