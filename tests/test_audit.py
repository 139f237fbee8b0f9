"""The audit: files, copies, looks, class shares, what is likely to flip, and the verdict, each against an independent computation."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from collections.abc import Callable
from itertools import chain, combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from scipy.linalg import sqrtm
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from helpers import rng, untouched_global_rng
from unflip.cli.audit import audit as verb
from unflip.data import duplicates
from unflip.data.duplicates import Copy, dhash, exact_copies, in_both, near_copies
from unflip.data.folders import Entry, find_images
from unflip.data.images import read_rgb
from unflip.data.inventory import Inventory, Kind, colors, take_inventory
from unflip.data.labels import Classes
from unflip.data.shares import BANDS, ClassShares, count, gather
from unflip.errors import UserError
from unflip.evaluation import balance as balance_module
from unflip.evaluation import shares as shares_module
from unflip.evaluation.advice import MATCHED, STRONG, advice, verdict
from unflip.evaluation.audit import Copies, Files, Looks, describe, looks_apart, shared
from unflip.evaluation.balance import GOAL, choose
from unflip.evaluation.reader import Reader
from unflip.evaluation.shares import SPLITS, compare, heights_apart, known, random_differences, total_variation, transport
from unflip.networks.segmenter import SegmenterConfig
from unflip.recipes.audit import audit, text
from unflip.segmenterfolder import SegmenterModelConfig, load_segmenter, save_segmenter

CLASSES = Classes(
    names=("sky", "building", "tree", "road", "void"),
    palette=((70, 130, 180), (70, 70, 70), (107, 142, 35), (128, 64, 128), (0, 0, 0)),
    ignore=(4,),
)


def photo(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth scene of its own, with many colors."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def refused(call: Callable[[], Any], *parts: object) -> str:
    """The one line of the ``UserError`` that the call raises; it holds all ``parts``, and says what to do."""
    with pytest.raises(UserError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and "; " in line
    assert all(str(part) in line for part in parts), line
    return line


# --- copies


def test_difference_hash_by_hand() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (8, 9), dtype=np.uint8)
    expected = 0
    for row in gray.tolist():
        for left, right in pairwise(row):
            expected = 2 * expected + (right > left)
    assert dhash(np.repeat(gray[..., None], 3, 2)) == expected
    large = gray.repeat(5, 0).repeat(7, 1)
    assert dhash(np.repeat(large[..., None], 3, 2)) == expected


def test_copies_that_were_stored_otherwise_are_near_and_others_are_not(tmp_path: Path) -> None:
    image = photo(1)
    jpeg = read_rgb(save(tmp_path / "a.jpg", image, quality=60))
    half = np.array(Image.fromarray(image).resize((32, 24), Image.Resampling.BICUBIC))
    darker = (image * 0.85).astype(np.uint8)
    others = [photo(seed) for seed in range(2, 12)]
    hashes = [dhash(each) for each in (image, jpeg, half, darker, *others)]
    assert {copy.image for copy in near_copies(hashes)} == {0, 1, 2, 3}


@pytest.mark.parametrize("block", [3, 16, 1_024])
def test_near_copies_are_the_nearest_of_all(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    random = np.random.default_rng(4)
    base = [int(value) for value in random.integers(1, 2**63, 4, dtype=np.uint64)]
    hashes = [
        0,
        *(value ^ sum(1 << int(bit) for bit in random.choice(64, size, replace=False)) for value in base for size in (0, 1, 4, 9)),
        0,
    ]

    def nearest(i: int, places: list[int], values: list[int]) -> list[Copy]:
        if hashes[i] == 0:
            return []
        found = [Copy(i, j, bin(hashes[i] ^ values[j]).count("1")) for j in places if values[j]]
        best = min(found, key=lambda copy: copy.distance)
        return [best] if best.distance <= 4 else []

    def ordered(found: list[list[Copy]]) -> list[Copy]:
        return sorted(chain.from_iterable(found), key=lambda copy: (copy.distance, copy.image))

    within = ordered([nearest(i, [j for j in range(len(hashes)) if j != i], hashes) for i in range(len(hashes))])
    assert near_copies(hashes) == within and 4 < len(within) < len(hashes) - 2
    others = hashes[5:8]
    assert near_copies(hashes, others) == ordered([nearest(i, [0, 1, 2], others) for i in range(len(hashes))])
    assert near_copies(hashes, []) == near_copies([], hashes) == near_copies([5]) == []


def test_exact_copies() -> None:
    assert exact_copies(["a", "b", "a", "c", "b", "a"]) == [Copy(2, 0, 0), Copy(4, 1, 0), Copy(5, 0, 0)]
    assert in_both(["a", "x", "b", "b"], ["b", "a", "a"]) == [Copy(0, 1, 0), Copy(2, 0, 0), Copy(3, 0, 0)]
    assert exact_copies(["a", "b"]) == in_both(["a"], ["b"]) == []


# --- files


def test_inventory_lists_bad_files_and_keeps_the_good_ones(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for i in range(4):
        save(folder / f"{i}.png", photo(i, 40 + i, 30))
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:300])
    (folder / "3.png").write_text("no image")
    told: list[tuple[int, int]] = []
    found = take_inventory(find_images(folder), lambda done, total: told.append((done, total)))
    assert [seen.entry for seen in found.seen] == [Entry(folder / "0.png", 40, 30), Entry(folder / "2.png", 42, 30)]
    assert len(found.bad) == 2 and "truncated" in found.bad[0] and str(folder / "1.png") in found.bad[0]
    assert "not an image" in found.bad[1] and str(folder / "3.png") in found.bad[1] and ";" not in found.bad[1]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_kinds_of_images(tmp_path: Path) -> None:
    image = photo(0)
    gray = image.mean(2).astype(np.uint8)
    few = (image // 128) * 255
    stored: dict[str, tuple[Kind, Image.Image]] = {
        "a": ("color", Image.fromarray(image)),
        "b": ("gray", Image.fromarray(gray)),
        "c": ("gray", Image.fromarray(np.repeat(gray[..., None], 3, 2))),
        "d": ("palette", Image.fromarray(image).quantize(200)),
        "e": ("flat", Image.fromarray(few)),
        "f": ("flat", Image.fromarray(few).quantize(8)),
        "g": ("color", Image.fromarray(image).convert("RGBA")),
    }
    for name, (_, pillow) in stored.items():
        pillow.save(tmp_path / f"{name}.png")
    found = take_inventory(find_images(tmp_path))
    assert [seen.kind for seen in found.seen] == [kind for kind, _ in stored.values()]


def test_digests_are_of_the_picture_not_of_the_file(tmp_path: Path) -> None:
    image = photo(0)
    paths = [save(tmp_path / name, image) for name in ("a.png", "b.bmp", "c.tif")]
    paths.append(save(tmp_path / "d.png", image, compress_level=1))
    other = image.copy()
    other[3, 4, 1] ^= 1
    paths += [save(tmp_path / "e.png", other), save(tmp_path / "f.png", image.reshape(64, 48, 3))]
    digests = [seen.digest for seen in take_inventory(paths).seen]
    assert len(set(digests[:4])) == 1 and len(set(digests)) == 3


def test_color_statistics_by_hand() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found = colors(image)
    assert found.shape == (96,)
    for row, column, channel in ((0, 0, 0), (1, 3, 2), (3, 0, 1)):
        field = image[16 * row : 16 * row + 16, 16 * column : 16 * column + 16, channel] / 255
        place = (row * 4 + column) * 3 + channel
        assert found[place] == pytest.approx(field.mean(), abs=1e-5) and found[48 + place] == pytest.approx(field.std(), abs=1e-5)
    enlarged = image.repeat(3, 0).repeat(2, 1)
    assert colors(enlarged) == pytest.approx(found, abs=1e-5), "the resolution plays no part"


def domain(tmp_path: Path) -> Inventory:
    """Five photos of two sizes, of which one is gray, one an exact and one a near copy of the first."""
    image = photo(1)
    for name, pixels in (("0", image), ("1", photo(2, 300, 200)), ("2", image), ("3", (image * 0.9).astype(np.uint8))):
        save(tmp_path / f"{name}.png", pixels)
    save(tmp_path / "4.png", photo(3).mean(2).astype(np.uint8))
    return take_inventory(find_images(tmp_path))


def test_files_are_described(tmp_path: Path) -> None:
    files = describe(tmp_path, domain(tmp_path))
    assert (files.where, files.images, files.bad, files.sizes, files.small) == (str(tmp_path), 5, [], 2, 5)
    assert (files.width, files.height, files.short) == ((64, 64, 300), (48, 48, 200), (48, 48))
    assert files.ratios == (pytest.approx(64 / 48), pytest.approx(300 / 200))
    assert files.kinds == {"in color": 4, "gray": 1} and files.odd == [str(tmp_path / "4.png")] and not files.drawn
    names = [str(tmp_path / f"{i}.png") for i in range(5)]
    save(tmp_path / "5.png", np.zeros((48, 64, 3), np.uint8))
    save(tmp_path / "6.png", photo(4).mean(2).astype(np.uint8))
    more = describe(tmp_path, take_inventory(find_images(tmp_path)))
    assert list(more.kinds.values()) == [4, 2, 1] and more.odd == [names[4], str(tmp_path / "5.png")], "one of each kind, in their order"
    assert files.copies == Copies(1, [(names[2], names[0])], 1, [(names[3], names[0])])


def test_images_in_both_domains(tmp_path: Path) -> None:
    first = domain(tmp_path / "a")
    save(tmp_path / "b/x.png", photo(9))
    save(tmp_path / "b/y.png", photo(1))
    found = shared(first, take_inventory(find_images(tmp_path / "b")))
    there = str(tmp_path / "b/y.png")
    exact = [(str(tmp_path / "a/0.png"), there), (str(tmp_path / "a/2.png"), there)]
    assert found == Copies(2, exact, 1, [(str(tmp_path / "a/3.png"), there)])


# --- looks


def test_looks_in_units_of_two_halves_of_the_target() -> None:
    random = np.random.default_rng(0)
    target, alike = random.standard_normal((400, 3)), random.standard_normal((300, 3))
    with untouched_global_rng():
        near, far = looks_apart(alike, target), looks_apart(alike + np.array([2, 0, 0]), target)
    assert near is not None and far is not None and near.times is not None and far.times is not None
    assert near.images == far.images == 200 and near.halves == far.halves
    assert 0.3 < near.times < 3 and far.distance == pytest.approx(near.distance + 4, rel=0.15)
    assert looks_apart(alike, target) == near, "the same every time"


def test_looks_of_few_images() -> None:
    random = np.random.default_rng(0)
    few = random.standard_normal((4, 3))
    found = looks_apart(few + 1, few)
    assert found is not None and found.images == 2
    assert looks_apart(few, few[:3]) is None and looks_apart(few[:1], few) is None
    assert looks_apart(few, np.ones((4, 3))).times is None  # type: ignore[union-attr]


def test_both_distances_are_of_sets_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """For two sets of one distribution, the bias of small sets must cancel out in the ratio."""
    from unflip.evaluation import audit as module

    sizes: list[tuple[int, int]] = []

    def frechet(a: np.ndarray, b: np.ndarray) -> float:
        sizes.append((len(a), len(b)))
        cross = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
        return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * cross))

    random = np.random.default_rng(2)
    source, target = random.standard_normal((24, 2)), random.standard_normal((20, 2))
    expected = looks_apart(source, target)
    monkeypatch.setattr(module, "frechet", frechet)
    found = looks_apart(source, target)
    assert set(sizes) == {(10, 10)}
    assert found is not None and expected is not None
    assert (found.distance, found.halves) == (pytest.approx(expected.distance, rel=1e-6), pytest.approx(expected.halves, rel=1e-6))


# --- shares


def domain_shares(means: list[float], n: int, seed: int, heights: list[float] | None = None, sharpness: float = 80) -> ClassShares:
    """Images whose class shares scatter about ``means`` (the last: ignored); class ``k`` lies in one stripe, at ``heights[k]``."""
    images = np.random.default_rng(seed).dirichlet(np.array(means) * sharpness + 1e-9, n)
    bands = np.zeros((n, BANDS, len(means)))
    for k in range(len(means)):
        bands[:, int((heights or [0.0] * len(means))[k] * BANDS), k] = images[:, k]
    return gather(bands)


def test_total_variation_with_and_without_ignored_pixels() -> None:
    source, target = domain_shares([0.2, 0.5, 0.1, 0.1, 0.1], 30, 0), domain_shares([0.3, 0.1, 0.3, 0.1, 0.2], 20, 1)
    found = compare(source, target, CLASSES)
    p, q = source.images.mean(0), target.images.mean(0)
    assert found.total_variation_with_ignored == pytest.approx(sum(abs(p - q)) / 2)
    rows = [[row[:4] / row[:4].sum() for row in shares.images] for shares in (source, target)]
    assert found.total_variation == pytest.approx(sum(abs(np.mean(rows[0], 0) - np.mean(rows[1], 0))) / 2)
    assert found.total_variation != pytest.approx(found.total_variation_with_ignored, abs=0.01)
    assert found.source == {name: pytest.approx(p[i]) for i, name in enumerate(CLASSES.names[:4])}
    assert found.target == {name: pytest.approx(q[i]) for i, name in enumerate(CLASSES.names[:4])}
    assert found.ignored == (pytest.approx(p[4]), pytest.approx(q[4]))
    assert (total_variation(np.array([1.0, 0]), np.array([0, 1.0])), total_variation(p, p)) == (1, 0)


def test_images_without_any_class_count_with_void_only() -> None:
    images = np.array([[0.2, 0.3, 0.5], [0, 0, 1], [0.8, 0.2, 0]])
    assert known(images).tolist() == [pytest.approx([0.4, 0.6]), pytest.approx([0.8, 0.2])]
    nothing_ignored = domain_shares([0.25, 0.25, 0.25, 0.25, 0], 5, 0)
    nothing_ignored.images[:, -1] = 0
    assert compare(nothing_ignored, nothing_ignored, CLASSES).ignored is None


@pytest.mark.parametrize("height", [64, 66, 427, 750, 900])
def test_an_image_that_is_ignored_as_a_whole_counts_nowhere(height: int) -> None:
    """Whatever its height: the shares of its stripes do not always add up to 1."""
    ids = np.zeros((height, 4), np.uint8)
    ids[: height // 2] = 1
    shares = gather(count(each, CLASSES) for each in (np.full_like(ids, 255), ids))
    assert len(known(shares.images)) == 1
    assert choose(shares, shares).source.tolist() == [False, True]


def test_chance_agrees_with_all_splits() -> None:
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], 8)
    every = [total_variation(shares[list(part)].mean(0), np.delete(shares, list(part), 0).mean(0)) for part in combinations(range(8), 3)]
    with untouched_global_rng():
        drawn = np.abs(random_differences(shares[:3], shares[3:], 0)).sum(1) / 2
    assert len(drawn) == SPLITS and np.unique(drawn.round(9)).size > 40
    assert set(drawn.round(9)) <= set(np.round(every, 9)), "each is the value of a split of 3 and 5"
    assert drawn.mean() == pytest.approx(np.mean(every), abs=3 * np.std(every) / SPLITS**0.5)


def test_what_chance_makes_is_told() -> None:
    same = [domain_shares([0.3, 0.3, 0.2, 0.15, 0.05], n, seed) for n, seed in ((40, 0), (30, 1))]
    found = compare(*same, CLASSES)
    assert found.total_variation < 2 * found.by_chance and found.by_chance < found.by_chance_95 < 3 * found.by_chance
    assert found.flips == []
    apart = compare(same[0], domain_shares([0.3, 0.1, 0.4, 0.15, 0.05], 30, 2), CLASSES)
    assert apart.total_variation > 2 * apart.by_chance_95


# --- what flips into which


def test_heights_are_compared_by_the_wasserstein_distance() -> None:
    random = np.random.default_rng(0)
    source, target = random.dirichlet(np.ones(BANDS * 4), 2).reshape(2, BANDS, 4)
    source[:, 1] = 0
    found = heights_apart(source, target)
    assert found.shape == (3, 3) and (found[1] == 0).all()
    places = np.arange(BANDS) / BANDS
    for i, j in ((0, 0), (0, 2), (2, 1), (2, 2)):
        assert found[i, j] == pytest.approx(wasserstein_distance(places, places, source[:, i], target[:, j]))


def masses(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    surplus, deficit = random.dirichlet(np.ones(4)) * 0.3, random.dirichlet(np.ones(6)) * 0.3
    surplus[1] = deficit[4] = 0
    return surplus / surplus.sum(), deficit / deficit.sum(), random.uniform(0, 1, (4, 6))


@pytest.mark.parametrize("seed", range(3))
def test_the_plan_is_the_cheapest_one_where_softness_is_small(seed: int) -> None:
    surplus, deficit, cost = masses(seed)
    plan = transport(surplus, deficit, cost, softness=0.002)
    sums = [np.kron(np.eye(4), np.ones(6)), np.kron(np.ones(4), np.eye(6))]
    best = linprog(cost.ravel(), A_eq=np.concatenate(sums), b_eq=np.concatenate([surplus, deficit]))
    assert (plan * cost).sum() == pytest.approx(best.fun, abs=2e-3)
    assert plan == pytest.approx(best.x.reshape(4, 6), abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_the_plan_is_the_one_minimum(seed: int) -> None:
    """Its sums are right, and its gradient on the moved mass is of the form u_i + v_j, as Lagrange asks; it is unique."""
    surplus, deficit, cost = masses(seed)
    plan = transport(surplus, deficit, cost)
    assert plan.sum(1) == pytest.approx(surplus, abs=1e-9) and plan.sum(0) == pytest.approx(deficit, abs=1e-9)
    assert (plan[1] == 0).all() and (plan[:, 4] == 0).all()
    rows, columns = [0, 2, 3], [0, 1, 2, 3, 5]
    gradient = (cost + 0.1 * np.log(np.where(plan > 0, plan, 1)))[np.ix_(rows, columns)]
    assert gradient - gradient[:1] - gradient[:, :1] + gradient[0, 0] == pytest.approx(np.zeros((3, 5)), abs=1e-9)


def test_the_plan_is_proportional_where_nothing_tells_classes_apart() -> None:
    surplus, deficit, _ = masses(0)
    assert transport(surplus, deficit, np.full((4, 6), 0.7)) == pytest.approx(np.outer(surplus, deficit), abs=1e-9)
    assert not transport(np.zeros(2), np.zeros(3), np.zeros((2, 3))).any()


def test_flips_name_the_classes_that_are_too_many_and_where_they_go() -> None:
    classes = Classes(names=("sky", "building", "tree", "road", "grass"), palette=tuple((i, 0, 0) for i in range(5)))  # type: ignore[arg-type]
    heights = [0.05, 0.3, 0.35, 0.8, 0.9, 0]
    source = domain_shares([0.12, 0.35, 0.03, 0.4, 0.1, 0], 60, 0, heights)
    target = domain_shares([0.22, 0.10, 0.18, 0.3, 0.2, 0], 60, 1, heights)
    found = compare(source, target, classes)
    assert [flip.name for flip in found.flips] == ["building", "road"]
    building, road = found.flips
    assert (building.source, building.target) == pytest.approx((found.source["building"], found.target["building"]))
    assert list(building.into) == ["tree", "sky"] and next(iter(road.into)) == "grass"
    assert sum(building.into.values()) == pytest.approx(building.source - building.target, rel=0.12)
    backwards = compare(target, source, classes)
    assert {flip.name for flip in backwards.flips} == {"tree", "grass", "sky"}


def test_flips_are_of_what_is_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one domain ignores more, every class has less of its pixels: that flips nothing, and hides nothing."""
    monkeypatch.setattr(shares_module, "LEAST_PART", 0.0)
    source, target = domain_shares([0.2, 0.5, 0.1, 0.1, 0.1], 40, 0), domain_shares([0.25, 0.15, 0.15, 0.1, 0.35], 40, 1)
    flip = compare(source, target, CLASSES).flips[0]
    assert flip.name == "building" and "void" not in flip.into
    assert (flip.source, flip.target) == pytest.approx((0.5 / 0.9, 0.15 / 0.65), abs=0.06)
    assert sum(flip.into.values()) == pytest.approx(flip.source - flip.target)

    alike = [np.array([0.3, 0.3, 0.3, 0.1, 0.0]), np.array([0.24, 0.24, 0.24, 0.08, 0.2])]
    same = [domain_shares(shares.tolist(), 400, seed, sharpness=1e6) for seed, shares in enumerate(alike)]
    assert compare(*same, CLASSES).flips == [] and compare(*same[::-1], CLASSES).flips == []


def test_small_surpluses_are_not_spoken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = (
        domain_shares([0.3, 0.304, 0.196, 0.2, 0], 400, 0, sharpness=1e6),
        domain_shares([0.3, 0.3, 0.2, 0.2, 0], 400, 1, sharpness=1e6),
    )
    assert compare(source, target, CLASSES).flips == []
    monkeypatch.setattr(shares_module, "SMALLEST", 0.002)
    assert [flip.name for flip in compare(source, target, CLASSES).flips] == ["building"]


# --- choosing images


def mixtures(n: int, seed: int, low: float, high: float, ignored: float = 0.0) -> ClassShares:
    """Images of three classes, of which the first covers from ``low`` to ``high``."""
    rng = np.random.default_rng(seed)
    first, rest = rng.uniform(low, high, n), rng.uniform(0.3, 0.7, n)
    images = np.stack([first, (1 - first) * rest, (1 - first) * (1 - rest)], 1) * (1 - ignored)
    return ClassShares(np.concatenate([images, np.full((n, 1), ignored)], 1), np.zeros((BANDS, 4)))


def means(shares: ClassShares, chosen: np.ndarray) -> np.ndarray:
    kept = shares.images[chosen, :-1]
    return (kept / kept.sum(1, keepdims=True)).mean(0)


def test_images_are_chosen_until_the_mixtures_match() -> None:
    source, target = mixtures(60, 0, 0.1, 0.8), mixtures(50, 1, 0.3, 1.0, ignored=0.2)
    whole = total_variation(means(source, np.ones(60, bool)), means(target, np.ones(50, bool)))
    found = choose(source, target)
    assert whole > 0.15 and found.total_variation <= GOAL
    assert found.total_variation == pytest.approx(total_variation(means(source, found.source), means(target, found.target)))
    assert 30 < found.source.sum() < 60 and 25 < found.target.sum() < 50
    again = choose(source, target)
    assert np.array_equal(again.source, found.source) and np.array_equal(again.target, found.target)
    # of those left out, the source showed too little of the first class, and the target too much
    assert source.images[~found.source, 0].mean() < source.images[found.source, 0].mean()
    assert target.images[~found.target, 0].mean() > target.images[found.target, 0].mean()


def test_every_step_leaves_out_the_image_that_is_most_in_the_way() -> None:
    source, target = mixtures(7, 3, 0.0, 0.6), mixtures(5, 4, 0.4, 1.0)

    def apart(s: list[int], t: list[int]) -> float:
        return float(((source.images[s].mean(0) - target.images[t].mean(0)) ** 2).sum())

    s, t = list(range(7)), list(range(5))
    path = []
    while len(s) > 2 or len(t) > 2:
        now = apart(s, t)
        options = [((now - apart([j for j in s if j != i], t)) * len(s), "source", i) for i in s if len(s) > 2]
        options += [((now - apart(s, [j for j in t if j != i])) * len(t), "target", i) for i in t if len(t) > 2]
        gain, side, i = max(options)
        if gain <= 0:
            break
        (s if side == "source" else t).remove(i)
        path.append((sorted(s), sorted(t)))
    assert len(path) > 3
    for s, t in path:
        distance = total_variation(source.images[s].mean(0), target.images[t].mean(0))
        found = choose(source, target, goal=distance + 1e-12, least=0.25)
        first = next(
            k for k, (a, b) in enumerate(path) if total_variation(source.images[a].mean(0), target.images[b].mean(0)) <= distance + 1e-12
        )
        assert (np.flatnonzero(found.source).tolist(), np.flatnonzero(found.target).tolist()) == path[first]


def test_domains_that_match_lose_nothing_and_those_that_cannot_keep_a_quarter() -> None:
    same = choose(mixtures(40, 0, 0.2, 0.6), mixtures(30, 1, 0.2, 0.6))
    assert same.source.all() and same.target.all()
    apart = choose(mixtures(40, 0, 0.0, 0.2), mixtures(30, 1, 0.8, 1.0))
    assert (apart.source.sum(), apart.target.sum()) == (10, 8) and apart.total_variation > 0.5
    empty = mixtures(6, 2, 0.2, 0.6)
    empty.images[2] = [0, 0, 0, 1]
    found = choose(empty, mixtures(6, 3, 0.2, 0.6))
    assert not found.source[2] and found.source.sum() >= 2
    one = choose(mixtures(1, 0, 0.0, 0.1), mixtures(1, 1, 0.9, 1.0))
    assert one.source.all() and one.target.all()


def test_large_domains_are_balanced_by_several_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = mixtures(900, 0, 0.1, 0.8), mixtures(700, 1, 0.3, 1.0)
    slow = choose(source, target)
    monkeypatch.setattr(balance_module, "STEPS", 50)
    fast = choose(source, target)
    assert fast.total_variation <= GOAL
    assert abs(int(fast.source.sum()) - int(slow.source.sum())) < 45 and abs(int(fast.target.sum()) - int(slow.target.sum())) < 45


def test_lists_of_chosen_images_match_by_their_own_audit(world: Path) -> None:
    before = audit(**given(world))
    found = audit(**given(world, balance=world / "lists", out=world / "audit"))
    assert before.balance is None and before.shares is not None and found.balance is not None
    assert found.shares == before.shares and found.verdict == before.verdict
    lists = {side: world / f"lists/{side}.txt" for side in ("source", "target")}
    again = audit(**given(world, **lists))
    assert again.shares is not None
    assert (again.source.images, again.target.images) == (found.balance.source, found.balance.target)
    assert again.shares.total_variation == pytest.approx(found.balance.total_variation)
    assert again.shares.total_variation < before.shares.total_variation
    assert any("audit --balance DIR" in line for line in before.advice)
    assert any("train --balance M" in line for line in found.advice) and not any("audit --balance" in line for line in found.advice)
    (line,) = (line for line in text(found) if line.startswith("balance"))
    assert f"{found.balance.source} of 12 source and {found.balance.target} of 10 target images" in line
    assert f"--source {lists['source']} --target {lists['target']}" in line
    assert json.loads((world / "audit/audit.json").read_text())["balance"]["source"] == found.balance.source
    assert "After choosing" in (world / "audit/report.html").read_text()
    audit(**given(world, balance=world / "lists", source_labels=None, segmenter=segmenter(world)))  # its own lists are written again


# --- verdict and advice


COMPARED = compare(domain_shares([0.3, 0.3, 0.2, 0.15, 0.05], 9, 0), domain_shares([0.3, 0.3, 0.2, 0.15, 0.05], 9, 1), CLASSES)


@pytest.mark.parametrize(
    ("tv", "chance", "level"),
    [
        (0.02, 0.04, "matched"),
        (MATCHED, 0.04, "matched"),
        (0.101, 0.04, "mildly mismatched"),
        (STRONG, 0.04, "mildly mismatched"),
        (0.26, 0.04, "strongly mismatched"),
        (0.26, 0.30, "unknown"),
        (0.05, 0.30, "matched"),
    ],
)
def test_verdict_by_stated_thresholds(tv: float, chance: float, level: str) -> None:
    found, reason = verdict(dataclasses.replace(COMPARED, total_variation=tv, by_chance_95=chance), None)
    assert found == level and f"{tv:.3f}" in reason


def test_looks_alone_give_no_verdict() -> None:
    assert verdict(None, None)[0] == "unknown"
    level, reason = verdict(None, Looks(12.0, 0.5, 40))
    assert level == "unknown" and "24 times as far apart as two halves of the target" in reason and "label maps or a segmenter" in reason
    assert "times" not in verdict(None, Looks(12.0, 0.0, 40))[1]


NONE = Copies(0, [], 0, [])
FILES = Files("here", 100, [], 1, (512, 512, 512), (300, 300, 300), (300, 300), (1.7, 1.7), 0, {"in color": 100}, [], NONE)


def advised(level: str = "matched", both: Copies = NONE, read: dict[str, str] | None = None, **of_source: Any) -> list[str]:
    return advice(level, dataclasses.replace(FILES, **of_source), FILES, both, read or {})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bad": ["a", "b"]}, "2 of 102 source images cannot be used"),
        (
            {"kinds": {"in color": 97, "gray": 3}, "odd": ["here/x.png"]},
            "3 of 100 source images are gray, most are in color (such as here/x.png)",
        ),
        (
            {"kinds": {"in color": 96, "gray": 3, "of few flat colors, as label maps are": 1}, "odd": ["here/x.png", "here/y.png"]},
            "1 of 100 source images are of few flat colors, as label maps are, most are in color (such as here/y.png)",
        ),
        ({"copies": Copies(4, [("b", "a")], 0, [])}, "4 source images are copies of others (such as b of a)"),
        ({"both": Copies(5, [("a", "b")], 0, [])}, "5 source images are in the target, too, such as a"),
        ({"short": (70, 300)}, "--size 68 or less, or --set data.resize=short:256"),
        ({"short": (20, 300)}, "(smallest: 20): use --set data.resize=short:256"),
        ({"short": (600, 600)}, "(600 and 300 px on the shorter side): --set data.resize=short:300"),
        ({"ratios": (1.0, 1.7)}, "source images are of mixed shapes (width / height from 1.00 to 1.70)"),
        ({"kinds": {"of few flat colors, as label maps are": 100}, "read": {"source": "segmenter, M"}}, "give --source-labels"),
        ({"level": "mildly mismatched"}, "compare --method srunit with --method fastcut"),
        ({"level": "mildly mismatched"}, "audit --balance DIR chooses"),
        ({"level": "mildly mismatched"}, "train --balance M"),
        ({"level": "strongly mismatched"}, "expect flips: compare --method srunit with --method fastcut"),
        (
            {"level": "strongly mismatched", "kinds": {"of few flat colors, as label maps are": 100}},
            "expect flips: --method srunit, which flipped least from label maps",
        ),
        ({"level": "unknown"}, "as long as the mixtures are unknown"),
    ],
)
def test_advice_where_there_is_something_to_advise(change: dict[str, Any], says: str) -> None:
    plain, lines = advised(), advised(**change)
    assert len(plain) == 1 and "--method" in plain[0] and says not in plain[0]
    assert any(says in line for line in lines), lines


def test_advice_for_large_images_and_label_maps_as_source() -> None:
    large = dataclasses.replace(FILES, width=(2048, 2048, 2048), height=(1024, 1024, 1024), short=(1024, 1024))
    (line, _) = advice("matched", large, large, NONE, {})
    assert "a crop of 256 px sees 3% of an image" in line and "--set data.resize=short:256" in line
    lines = advised("strongly mismatched", kinds={"of few flat colors, as label maps are": 100})
    assert any("--source-labels DIR --classes FILE and" in line and "--set semantic.segmenter=DIR" in line for line in lines)


# --- the whole


def scene(seed: int, building: float) -> np.ndarray:
    """Class ids ``(48, 64)``: sky, below it building and tree side by side, then road, and a stripe of void."""
    random = np.random.default_rng(seed)
    ids = np.zeros((48, 64), np.uint8)
    ids[10:32] = 2
    ids[10:32, : int(64 * np.clip(building + random.normal(0, 0.05), 0, 1))] = 1
    ids[32 + random.integers(0, 3) :] = 3
    ids[:, 60:] = 4
    return ids


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Two domains of 12 and 10 photos with label maps: many buildings in the source, many trees in the target."""
    for side, n, building, seed in (("source", 12, 0.85, 0), ("target", 10, 0.2, 100)):
        for i in range(n):
            ids = scene(seed + i, building)
            save(tmp_path / side / f"{i}.png", photo(seed + i))
            save(tmp_path / f"{side}_labels/{i}.png", np.array(CLASSES.palette, dtype=np.uint8)[ids])
    (tmp_path / "classes.json").write_text(CLASSES.model_dump_json())
    return tmp_path


def given(world: Path, **changes: Any) -> dict[str, Any]:
    arguments = {
        "source": world / "source",
        "target": world / "target",
        "source_labels": world / "source_labels",
        "target_labels": world / "target_labels",
        "classes": world / "classes.json",
        "device": "cpu",
        "progress": False,
    }
    return arguments | changes


def segmenter(world: Path) -> Path:
    network = SegmenterConfig(width=4, halvings=1)
    save_segmenter(world / "reads", SegmenterModelConfig(network=network, classes=CLASSES), network.build(5, rng()))
    return world / "reads"


def test_a_mismatch_is_found_and_explained(world: Path) -> None:
    found = audit(**given(world, out=world / "out", command="unflip audit it"))
    assert found.verdict == "strongly mismatched" and found.shares is not None
    ids = [np.stack([scene(seed + i, building) for i in range(n)]) for n, building, seed in ((12, 0.85, 0), (10, 0.2, 100))]
    p, q = ([(maps == k).mean() for k in range(5)] for maps in ids)
    assert found.shares.total_variation_with_ignored == pytest.approx(sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2)
    assert found.shares.source["building"] == pytest.approx(p[1]) and found.shares.target["tree"] == pytest.approx(q[2])
    assert [(flip.name, next(iter(flip.into))) for flip in found.shares.flips] == [("building", "tree")]

    lines = text(found)
    assert all("\n" not in line for line in lines)
    p, q = (np.mean([(one == 1).sum() / (one != 4).sum() for one in maps]) for maps in ids)  # 4 is ignored
    said = f"flips    building ({100 * p:.1f} % -> {100 * q:.1f} % of what is not ignored) is likely to be turned into tree"
    assert any(line.startswith(said) for line in lines), lines
    assert any(f"total variation {found.shares.total_variation:.3f}" in line for line in lines)

    values = json.loads((world / "out/audit.json").read_text())
    assert values["shares"]["total_variation"] == found.shares.total_variation and values["looks"]["times"] == found.looks.times  # type: ignore[union-attr]
    assert values["source"]["images"] == 12 and values["target"]["width"] == [64, 64, 64] and values["advice"] == found.advice
    assert values["made"]["command"] == "unflip audit it"
    page = (world / "out/report.html").read_text()
    assert "Strongly mismatched" in page and "building" in page and "unflip audit it" in page and page.count("data:image") == 12


def test_domains_of_one_mixture_match(world: Path) -> None:
    for i in range(10):
        save(world / f"target_labels/{i}.png", np.array(CLASSES.palette, dtype=np.uint8)[scene(200 + i, 0.85)])
    found = audit(**given(world))
    assert found.verdict == "matched" and found.shares is not None and found.shares.flips == []
    assert not (world / "out").exists()


def test_without_labels_it_still_reports(world: Path) -> None:
    found = audit(world / "source", world / "target", device="cpu", progress=False)
    assert found.shares is None and found.looks is not None and found.looks.images == 5 and found.verdict == "unknown"
    lines = text(found)
    assert not any(line.startswith(("classes", "flips")) for line in lines)
    assert any(line.startswith("looks") and "times as far apart" in line for line in lines)


def test_a_segmenter_reads_what_has_no_labels(world: Path) -> None:
    model = segmenter(world)
    read = Reader(load_segmenter(model))
    ids = {side: [read(read_rgb(path)) for path in find_images(world / side)] for side in ("source", "target")}
    expected = {side: [np.mean([(each == k).mean() for each in maps]) for k in range(4)] for side, maps in ids.items()}
    whole = audit(world / "source", world / "target", segmenter=model, device="cpu", progress=False)
    assert whole.shares is not None and whole.shares.ignored is None
    assert list(whole.shares.source.values()) == pytest.approx(expected["source"])
    assert list(whole.shares.target.values()) == pytest.approx(expected["target"])
    assert whole.read == {"source": f"segmenter, {model}", "target": f"segmenter, {model}"}

    half = audit(**given(world, target_labels=None, segmenter=model))
    labeled = audit(**given(world)).shares
    assert half.shares is not None and labeled is not None and half.shares.source == labeled.source
    assert list(half.shares.target.values()) == pytest.approx(expected["target"])
    assert half.read["source"].startswith("label maps") and half.read["target"].startswith("segmenter")


def test_bad_files_are_listed_and_the_rest_is_looked_at(world: Path) -> None:
    (world / "source/3.png").write_text("broken")
    (world / "target/0.png").write_bytes((world / "target/0.png").read_bytes()[:200])
    (world / "target/1.png").write_bytes((world / "target/2.png").read_bytes())
    found = audit(**given(world, out=world / "out"))
    assert len(found.source.bad) == len(found.target.bad) == 1 and (found.source.images, found.target.images) == (11, 9)
    assert "3.png" in found.source.bad[0] and found.target.copies.exact == 1
    assert found.shares is not None and any("11 images and 1 that cannot be used" in line for line in text(found))
    labels = [scene(i, 0.85) for i in range(12) if i != 3]
    assert found.shares.source["building"] == pytest.approx(np.mean([(ids == 1).mean() for ids in labels]))
    page = (world / "out/report.html").read_text()
    assert "1 source images that cannot be used" in page and "look exactly alike" in page


def test_the_verb_prints_and_its_exit_code_tells_of_bad_files(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {name: value for name, value in given(world).items() if name != "progress"}
    arguments["context"] = SimpleNamespace(obj="unflip audit")
    verb(**arguments)
    printed = capsys.readouterr()
    assert printed.err == "" and "verdict  strongly mismatched" in printed.out
    (world / "source/3.png").write_text("broken")
    with pytest.raises(typer.Exit) as end:
        verb(**arguments)
    printed = capsys.readouterr()
    assert end.value.exit_code == 1 and "verdict  strongly mismatched" in printed.out
    assert printed.err.startswith("bad: ") and "3.png" in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target": "source"}, "source and target are the same"),
        ({"source": "nothing"}, "no such folder or list"),
        ({"target_labels": "nothing"}, "no such folder or list"),
        ({"target_labels": None}, "--source-labels without --target-labels; give both, or a --segmenter that reads the target"),
        ({"source_labels": None}, "--target-labels without --source-labels; give both, or a --segmenter that reads the source"),
        ({"classes": None}, "without --classes; give the classes.json"),
        ({"source_labels": None, "target_labels": None}, "without labels; add --source-labels and --target-labels, or --segmenter"),
        ({"segmenter": "reads"}, "has nothing to read where both domains have labels"),
        ({"source_labels": None, "target_labels": None, "segmenter": "nothing"}, "no segmenter"),
        ({"classes": "nothing.json"}, "cannot read the classes"),
        ({"device": "tpu"}, "unknown device"),
        ({"out": "source"}, "is not empty and holds no audit"),
        ({"out": "classes.json"}, "is not empty and holds no audit"),
        ({"balance": "source"}, "holds other files than source.txt and target.txt"),
        ({"balance": "classes.json"}, "holds other files than"),
        ({"balance": "classes.json/lists"}, "a part of that path is a file"),
        ({"balance": "lists", "source_labels": None, "target_labels": None, "classes": None}, "needs to know what the images show"),
    ],
)
def test_wrong_calls_are_one_line(change: dict[str, Any], says: str, world: Path) -> None:
    segmenter(world)
    paths = {name: value if value is None or name == "device" else world / value for name, value in change.items()}
    before = sorted(world.rglob("*"))
    refused(lambda: audit(**given(world, **{"out": world / "new/out", **paths})), says)
    assert sorted(world.rglob("*")) == before, "nothing is left behind"


def test_what_is_in_shards_cannot_be_listed(world: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "source.tar", "w") as tar:
        for path in find_images(world / "source"):
            tar.add(path, path.name)
    call = given(world, source=tmp_path / "source.tar", source_labels=None, target_labels=None, classes=None, segmenter=segmenter(world))
    refused(lambda: audit(**call, balance=tmp_path / "lists"), "a list cannot name what is in shards; unpack them, or leave it out")
    assert not (tmp_path / "lists").exists()


def test_labels_that_do_not_fit_are_one_line(world: Path) -> None:
    (world / "source_labels/4.png").unlink()
    refused(lambda: audit(**given(world)), "1 of 12 images have no label map", "4.png")
    for path in find_images(world / "source_labels"):
        path.rename(path.with_name(f"label {path.name}"))
    refused(lambda: audit(**given(world)), "12 of 12 images have no label map")
    save(world / "target_labels/5.png", np.array(CLASSES.palette, dtype=np.uint8)[scene(0, 0.5)][:40])
    refused(lambda: audit(**given(world, source_labels=None, segmenter=segmenter(world))), "64x40 while its image is 64x48")
    save(world / "target_labels/5.png", np.full((48, 64, 3), 9, np.uint8))
    refused(lambda: audit(**given(world, source_labels=None, segmenter=segmenter(world))), "color (9, 9, 9) is no class")


def test_a_domain_without_any_good_image_is_one_line(world: Path) -> None:
    for path in find_images(world / "target"):
        path.write_text("broken")
    refused(lambda: audit(**given(world)), "none of the 10 images can be used", world / "target", "0.png")


def test_an_audit_is_written_over_an_earlier_one(world: Path) -> None:
    audit(world / "source", world / "target", out=world / "out", device="cpu", progress=False)
    audit(**given(world, out=world / "out"))
    assert json.loads((world / "out/audit.json").read_text())["shares"] is not None
    assert {path.name for path in (world / "out").iterdir()} == {"audit.json", "report.html"}


def test_one_image_each_is_enough_for_a_report(world: Path) -> None:
    for side in ("source", "target"):
        for path in find_images(world / side)[1:]:
            path.unlink()
    found = audit(**given(world, out=world / "out"))
    assert found.looks is None and "looks    too few images to compare" in text(found)
    assert found.shares is not None and found.verdict == "unknown" and "give more" in found.reason
    assert (world / "out/report.html").is_file()


def test_lists_take_the_place_of_folders(world: Path) -> None:
    (world / "few.txt").write_text("\n".join(f"source/{i}.png" for i in range(5)))
    found = audit(**given(world, source=str(world / "few.txt"), classes=str(world / "classes.json")))
    assert found.source.images == 5 and found.source.where == str(world / "few.txt")


def test_no_global_random_state_is_used(world: Path) -> None:
    with untouched_global_rng():
        audit(**given(world, target_labels=None, segmenter=segmenter(world)))
