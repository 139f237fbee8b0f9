"""Class shares of label maps, and mismatched splits by K-means on them."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from helpers import untouched_global_rng
from unflip.data import streets
from unflip.data.folders import Entry, find_images, relative_names
from unflip.data.labels import Classes, read_classes
from unflip.data.shares import BANDS, count, gather, label_shares
from unflip.data.unmatched import split_by_shares, write_lists
from unflip.errors import MissingExtra, UserError

CLASSES = Classes(names=("a", "void", "b", "c"), palette=((1, 0, 0), (0, 0, 0), (2, 0, 0), (3, 0, 0)), ignore=(1,))


# --- shares


@pytest.mark.parametrize("height", [3, 16, 37])
def test_pixels_are_counted_by_class_and_stripe(height: int) -> None:
    ids = np.random.default_rng(height).choice([0, 1, 2, 3, 255], (height, 11)).astype(np.uint8)
    found = count(ids, CLASSES)
    assert found.shape == (BANDS, 4) and found.sum() == pytest.approx(1)
    for band in range(BANDS):
        rows = [ids[y] for y in range(height) if y * BANDS // height == band]
        for column, values in enumerate([(0,), (2,), (3,), (1, 255)]):  # ids 1 and 255 are ignored
            expected = sum(int((row == value).sum()) for row in rows for value in values)
            assert found[band, column] == pytest.approx(expected / ids.size)


def test_every_image_counts_the_same_whatever_its_size() -> None:
    large, small = np.zeros((40, 40), np.uint8), np.full((4, 4), 2, np.uint8)
    found = gather(count(ids, CLASSES) for ids in (large, small))
    assert found.images.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert found.bands.sum(0).tolist() == [0.5, 0.5, 0, 0]


def test_shares_of_label_maps(tmp_path: Path) -> None:
    streets.write(tmp_path / "images", count=5, look="render", labels=tmp_path / "labels", width=48, height=32)
    classes = read_classes(tmp_path / "classes.json")
    maps = [Entry(path, 48, 32) for path in find_images(tmp_path / "labels")]
    told: list[int] = []
    found = label_shares(maps, classes, told.append)
    assert told == [1, 2, 3, 4, 5]
    for i, shares in enumerate(found.images):
        _, ids = streets.scene(i, look="render", width=48, height=32)
        assert shares.tolist() == pytest.approx([*((ids == k).mean() for k in range(len(classes.names))), 0])
    assert found.bands.sum(0) == pytest.approx(found.images.mean(0))
    sky = list(classes.names).index("sky")
    assert found.bands[:4, sky].sum() > 10 * found.bands[-4:, sky].sum(), "stripe 0 is at the top"


# --- the split


def two_kinds(n: int, m: int, seed: int = 0) -> np.ndarray:
    """Shares of ``n`` images with much of the first class, and then ``m`` with much of the last, shuffled alike in themselves."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.dirichlet([12, 4, 2], n), rng.dirichlet([2, 4, 12], m)])


def test_split_minimizes_the_squares_within_both_parts() -> None:
    shares = np.random.default_rng(3).dirichlet([1, 1, 1], 9)
    (split,) = split_by_shares(shares)

    def squares(chosen: np.ndarray) -> float:
        return sum(((part - part.mean(0)) ** 2).sum() for part in (shares[chosen], shares[~chosen]))

    every = [np.array(chosen) for chosen in product([False, True], repeat=9) if 0 < sum(chosen) < 9]
    assert squares(split) == pytest.approx(min(map(squares, every)))


def test_the_larger_part_is_the_source_and_a_tie_goes_to_the_first_image() -> None:
    first, last = np.arange(17) < 10, np.arange(17) < 7
    assert (split_by_shares(two_kinds(10, 7))[0] == first).all()
    assert (split_by_shares(two_kinds(7, 10))[0] == ~last).all()
    assert (split_by_shares(two_kinds(6, 6))[0] == (np.arange(12) < 6)).all()
    assert (split_by_shares(two_kinds(6, 6)[::-1])[0] == (np.arange(12) < 6)).all()


def test_other_sets_go_to_the_nearer_center_and_tell_the_split_nothing() -> None:
    fitted, other = two_kinds(10, 7), np.random.default_rng(1).dirichlet([1, 1, 1], 40)
    split, applied = split_by_shares(fitted, other)
    assert (split == split_by_shares(fitted)[0]).all()
    centers = fitted[split].mean(0), fitted[~split].mean(0)
    nearer = [np.linalg.norm(row - centers[0]) < np.linalg.norm(row - centers[1]) for row in other]
    assert applied.tolist() == nearer and 0 < sum(nearer) < 40


def test_the_split_is_the_same_every_time_and_leaves_the_random_state_alone() -> None:
    shares = np.random.default_rng(5).dirichlet([1, 1, 1, 1], 60)
    with untouched_global_rng():
        first = split_by_shares(shares)[0]
    assert (first == split_by_shares(shares)[0]).all()


def test_streets_of_two_mixtures_are_told_apart(tmp_path: Path) -> None:
    for name, mixture in (("few", streets.Shares(building=0.05, tree=0.95)), ("many", streets.Shares(building=0.95, tree=0.05))):
        streets.write(tmp_path / "x", count=12, look="render", labels=tmp_path / name, shares=mixture, width=48, height=32)
    classes = read_classes(tmp_path / "classes.json")
    maps = [Entry(path, 48, 32) for name in ("few", "many") for path in find_images(tmp_path / name)]
    (split,) = split_by_shares(label_shares(maps, classes).images)
    assert max((split == (np.arange(24) < 12)).mean(), (split == (np.arange(24) >= 12)).mean()) >= 0.9


def test_images_that_are_all_alike_cannot_be_split() -> None:
    for shares in (np.full((5, 2), 0.5), np.array([[0.2, 0.8]])):
        with pytest.raises(UserError, match=r"one and the same class shares cannot be split; give"):
            split_by_shares(shares)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtra, match=r"scikit-learn is not installed; run: pip install 'unflip\[metrics\]'"):
        split_by_shares(two_kinds(3, 3))


def test_lists_of_a_split_are_read_back(images_folder, tmp_path: Path) -> None:
    folder = images_folder("photos", count=4)
    (folder / "000.png").rename(folder / "# 1.png")
    paths = [*find_images(folder), *find_images(images_folder("more/of them", count=1))]
    chosen = np.array([True, False, True, True, False])
    of_source, of_target = ([path for path, taken in zip(paths, part, strict=True) if taken] for part in (chosen, ~chosen))
    source, target = write_lists(tmp_path / "photos", of_source, of_target)
    assert (source, target) == (tmp_path / "photos/source.txt", tmp_path / "photos/target.txt")
    assert [path.resolve() for path in find_images(source)] == of_source
    assert [path.resolve() for path in find_images(target)] == of_target
    assert str(tmp_path) not in source.read_text(), "relative: the folder may move"


def test_images_of_a_list_have_the_names_that_they_have_in_their_folder(images_folder, tmp_path: Path) -> None:
    town, field = images_folder("photos/town", count=2), images_folder("photos/field", count=2)
    here = tmp_path / "photos"
    of_source, of_target = find_images(town), find_images(field)
    source, target = write_lists(tmp_path / "lists", of_source, of_target, (here, None))
    assert relative_names(find_images(source), source) == [path.relative_to(here) for path in of_source]
    assert relative_names(find_images(target), target) == [path.relative_to(field) for path in of_target]
