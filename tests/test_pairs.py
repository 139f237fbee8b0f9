"""The unpaired stream: even, random where it should be, and a function of nothing but seed and number."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unflip.data import pairs as module
from unflip.data import store
from unflip.data.bands import Bands
from unflip.data.folders import Entry, find_images, survey
from unflip.data.images import Decoded, read
from unflip.data.pairs import Images, Pairs, loader
from unflip.data.transforms import to_ids
from unflip.errors import UserError
from unflip.signals import EXIT_CODES
from unflip.types import Batch, Size

Folder = Callable[..., Path]


@pytest.fixture
def make(images_folder: Folder) -> Callable[..., Pairs]:
    """Pairs of 5 sources and 3 targets of other sizes."""

    def build(
        size: int | str = 16,
        seed: int = 0,
        length: int = 23,
        flip: bool = True,
        resize: str = "none",
        cache: str = "auto",
        shared: bool = True,
        labels: Any = None,
    ) -> Pairs:
        source = survey(find_images(images_folder("source", 5, (24, 20))))
        target = survey(find_images(images_folder("target", 3, (18, 40))))
        stores = (Images(images, resize, cache, shared) for images in (source, target))
        return Pairs(*stores, Size.parse(size), seed, length, flip, labels)

    return build


def same(a: list[Batch], b: list[Batch]) -> bool:
    def equal(x: Batch, y: Batch) -> bool:
        labels = x.labels is y.labels is None or torch.equal(x.labels, y.labels)
        return torch.equal(x.source, y.source) and torch.equal(x.target, y.target) and labels and (x.first, x.step) == (y.first, y.step)

    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def places(images: Images, index: int, crop: torch.Tensor) -> list[tuple[int, int, bool]]:
    """Where (top, left, flipped) the crop lies in the image."""
    image = images[index].permute(2, 0, 1)
    height, width = crop.shape[1:]
    tops, lefts = range(image.shape[1] - height + 1), range(image.shape[2] - width + 1)
    windows = [(top, left, image[:, top : top + height, left : left + width]) for top in tops for left in lefts]
    return [(t, x, flipped) for t, x, w in windows for flipped in (False, True) if torch.equal(w.flip(2) if flipped else w, crop)]


def test_every_image_comes_once_per_epoch_in_ever_new_order(make: Callable[..., Pairs]) -> None:
    stream = make(length=300)
    for side, count in ((0, 5), (1, 3)):
        indices = [stream.indices(i)[side] for i in range(300)]
        epochs = [tuple(indices[start : start + count]) for start in range(0, 300, count)]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len(set(epochs)) > count
    both = Counter(stream.indices(i) for i in range(300))
    assert len(both) == 15 and max(both.values()) < 50  # unpaired: all combinations, about 20 times each
    assert stream.indices(7) == (stream.indices(299), stream.indices(7))[1]  # whatever was asked for in between
    assert [make(length=300, seed=1).indices(i) for i in range(30)] != [stream.indices(i) for i in range(30)]


def test_domains_of_one_size_are_not_paired_by_their_number(images_folder: Folder) -> None:
    images = Images(survey(find_images(images_folder(count=9))))
    stream = Pairs(images, images, size=Size(16, 16), seed=0, length=900, flip=True)
    assert 50 < sum(source == target for source, target in map(stream.indices, range(900))) < 150


def test_crops_are_real_uniform_and_flipped_half_the_time(make: Callable[..., Pairs]) -> None:
    stream = make(size=16, length=1200)
    seen: Counter[tuple[int, int]] = Counter()
    flips = 0
    for i in range(1200):
        source, target, labels = stream[i]
        assert source.shape == target.shape == (3, 16, 16) and source.dtype == torch.uint8 and source.is_contiguous()
        assert labels is None
        if i < 100:
            assert len(places(stream.target, stream.indices(i)[1], target)) == 1
        ((top, left, flipped),) = places(stream.source, stream.indices(i)[0], source)
        seen[top, left] += 1
        flips += flipped
    assert set(seen) == {(top, left) for top in range(5) for left in range(9)}
    chi_square = sum((count - 1200 / 45) ** 2 / (1200 / 45) for count in seen.values())
    assert chi_square < 78.7  # 44 degrees of freedom: 0.999 quantile
    assert abs(flips - 600) < 3.3 * 300**0.5  # standard deviation: sqrt(1200 / 4)


def test_oblong_crops_are_width_by_height(make: Callable[..., Pairs]) -> None:
    stream = make(size="17x9", length=1000)
    seen: Counter[tuple[int, int]] = Counter()
    for i in range(1000):
        source, target, _ = stream[i]
        assert source.shape == target.shape == (3, 9, 17)
        if i < 20:
            assert len(places(stream.target, stream.indices(i)[1], target)) == 1
        ((top, left, _),) = places(stream.source, stream.indices(i)[0], source)
        seen[top, left] += 1
    assert set(seen) == {(top, left) for top in range(12) for left in range(8)}
    assert make(size="18x20")[0][1].shape == (3, 20, 18)  # as wide as the target and as high as the source
    with pytest.raises(UserError, match=r"3 of 3 .* 19x20 crop, such as .*target.000\.png \(18x40\); use .*--set data.resize=19x20"):
        make(size="19x20")
    with pytest.raises(UserError, match=r"5 of 5 .* 18x21 crop, such as .*source"):
        make(size="18x21")


class FirstChannel:
    """Labels that the image itself says: the class of a pixel is its red."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index][..., 0]


def test_labels_are_cut_and_mirrored_with_their_image(make: Callable[..., Pairs]) -> None:
    plain = make(size="16x12", length=60)
    labeled = make(size="16x12", length=60, labels=FirstChannel(plain.source))
    ignored = 0
    for i in range(60):
        source, target, labels = labeled[i]
        assert torch.equal(source, plain[i][0]) and torch.equal(target, plain[i][1])  # labels change no crop
        assert labels.dtype == torch.uint8 and torch.equal(labels, source[0])
        ids = to_ids(labels)
        assert ids.dtype == torch.int64 and torch.equal(ids == -1, labels == 255)
        assert torch.equal(ids[ids >= 0], labels[labels < 255].long())
        ignored += int((ids == -1).sum())
    assert ignored, "no pixel was ignored: this shows nothing of 255"
    expected = list(loader(labeled, first=0, batch=4, workers=0))
    assert all(batch.labels.shape == (4, 12, 16) for batch in expected)
    assert torch.equal(torch.cat([batch.labels for batch in expected]), torch.stack([labeled[i][2] for i in range(60)]))
    assert same(list(loader(labeled, first=0, batch=4, workers=2)), expected)
    assert all(batch.labels is None for batch in loader(plain, first=0, batch=4, workers=0))


def test_flip_off_flips_nothing_and_moves_no_crop(make: Callable[..., Pairs]) -> None:
    plain, flipping = make(flip=False), make(flip=True)
    for i in range(20):
        ((*place, flipped),) = places(plain.source, plain.indices(i)[0], plain[i][0])
        assert not flipped
        assert places(flipping.source, flipping.indices(i)[0], flipping[i][0])[0][:2] == tuple(place)


def test_source_and_target_are_cropped_apart(make: Callable[..., Pairs]) -> None:
    stream = make()
    same_flip = [
        places(stream.source, stream.indices(i)[0], stream[i][0])[0][2] == places(stream.target, stream.indices(i)[1], stream[i][1])[0][2]
        for i in range(23)
    ]
    assert 3 < sum(same_flip) < 20


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bits_for_any_number_of_workers(make: Callable[..., Pairs], workers: int) -> None:
    alone = list(loader(make(), first=0, batch=4, workers=0))
    assert same(list(loader(make(), first=0, batch=4, workers=workers)), alone)
    assert [batch.first for batch in alone] == [0, 4, 8, 12, 16, 20]
    assert [len(batch.source) for batch in alone] == [len(batch.target) for batch in alone] == [4] * 5 + [3]
    assert all(batch.source.dtype == torch.uint8 and batch.source.shape[1:] == (3, 16, 16) for batch in alone)


def test_a_start_in_the_middle_is_the_tail_of_the_whole(make: Callable[..., Pairs]) -> None:
    whole = list(loader(make(), first=0, batch=3, workers=0))
    assert same(list(loader(make(), first=9, batch=3, workers=1)), whole[3:])
    assert list(loader(make(), first=23, batch=3, workers=0)) == []
    # Another batch size cuts the same stream elsewhere.
    other = list(loader(make(), first=7, batch=5, workers=0))
    assert torch.equal(torch.cat([b.source for b in other]), torch.cat([b.source for b in whole])[7:])
    assert torch.equal(torch.cat([b.target for b in other]), torch.cat([b.target for b in whole])[7:])


def test_another_seed_is_another_stream(make: Callable[..., Pairs]) -> None:
    assert not same(list(loader(make(seed=1), first=0, batch=4, workers=0)), list(loader(make(), first=0, batch=4, workers=0)))


@pytest.mark.parametrize("resize", ["none", "short:17", "31x22"])
def test_a_cache_changes_no_bit(make: Callable[..., Pairs], resize: str) -> None:
    on, none = make(resize=resize, cache="memory"), make(resize=resize, cache="none")
    assert on.source.store.pixels is not None and on.source.store.pixels.is_shared() and none.source.store.pixels is None
    expected = list(loader(none, first=0, batch=4, workers=0))
    for _ in range(2):  # filled by the first pass, used by the second
        assert same(list(loader(on, first=0, batch=4, workers=0)), expected)


def test_workers_fill_one_cache_together(make: Callable[..., Pairs]) -> None:
    stream = make(cache="memory")
    expected = list(loader(stream, first=0, batch=4, workers=2))
    assert stream.source.store.filled.all() and stream.target.store.filled.all()  # in this process, too
    for path in [*stream.source.paths, *stream.target.paths]:
        path.unlink()
    assert same(list(loader(stream, first=0, batch=4, workers=2)), expected)


def test_each_image_is_decoded_once_where_cached(make: Callable[..., Pairs], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []

    def count(path: Path, resize: str, bands: Bands) -> Decoded:
        decoded.append(path)
        return read(path, resize, bands=bands)

    monkeypatch.setattr(module, "read", count)
    stream = make(cache="memory", shared=False)
    assert stream.source.store.pixels is not None and not stream.source.store.pixels.is_shared()
    list(loader(stream, first=0, batch=4, workers=0))
    assert len(decoded) == 8


def test_auto_keeps_only_what_fits(make: Callable[..., Pairs], monkeypatch: pytest.MonkeyPatch) -> None:
    source = 3 * 5 * 24 * 20
    monkeypatch.setattr(store, "_free_shared_memory", lambda: 2 * source)
    monkeypatch.setattr(store, "available_memory", lambda: 4 * source)
    assert make().source.store.pixels is not None
    monkeypatch.setattr(store, "_free_shared_memory", lambda: 2 * source - 1)
    assert make().source.store.pixels is None and make(shared=False).source.store.pixels is not None
    assert make(cache="memory").source.store.pixels is not None
    monkeypatch.setattr(store, "_free_shared_memory", lambda: source - 1)
    with pytest.raises(UserError, match="/dev/shm"):
        make(cache="memory")
    monkeypatch.setattr(store, "available_memory", lambda: 4 * source - 1)
    assert make(shared=False).source.store.pixels is None


def test_memory_is_measured() -> None:
    assert 2**26 < store.available_memory() < 2**50
    assert 0 <= store._free_shared_memory() <= 2**62


def test_small_images_are_refused_up_front(make: Callable[..., Pairs]) -> None:
    with pytest.raises(UserError, match=r"5 of 5 .* 22x22 crop, such as .*source.000\.png \(24x20\); use --set data.resize=short:22$"):
        make(size=22)
    with pytest.raises(UserError, match=r"3 of 3 .*target"):
        make(size=20)
    assert make(size=18)[0][1].shape == (3, 18, 18)  # as wide as the target itself
    assert make(size=22, resize="short:22")[0][0].shape == (3, 22, 22)
    with pytest.raises(UserError, match="16x16"):
        make(resize="15x99")


@pytest.mark.parametrize(
    ("sizes", "remedy"),
    [
        ([(64, 50)] * 20, "use --size 48 or less, or --set data.resize=short:64"),
        ([(64, 64)] * 19 + [(1, 1)], "use --set data.resize=short:64, or remove them"),
        ([(64, 64)] * 19 + [(64, 40)], "use --size 40 or less, or --set data.resize=short:64, or remove them"),
    ],
)
def test_what_helps_against_small_images_can_be_done(sizes: list[tuple[int, int]], remedy: str) -> None:
    class Few:
        paths = [Path(f"{k}.png") for k in range(20)]

        def __len__(self) -> int:
            return 20

    few = Few()
    few.sizes = sizes  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=f"; {re.escape(remedy)}$"):
        module._refuse_small(few, Size(64, 64))  # type: ignore[arg-type]


def test_mixed_sizes_in_one_domain(images_folder: Folder) -> None:
    paths = [path for width in (16, 33, 48) for path in find_images(images_folder(f"w{width}", 2, (width, 64 - width)))]
    images = Images(survey(paths), cache="memory")
    for i, path in enumerate(paths):
        assert np.array_equal(images[i].numpy(), np.asarray(Image.open(path)))
    for i, path in enumerate(paths):  # no image has overwritten its neighbor
        assert np.array_equal(images[i].numpy(), np.asarray(Image.open(path)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_files_that_change_meanwhile_are_named_in_one_line(make: Callable[..., Pairs], workers: int, cache: str) -> None:
    """Another one stands in for each, of which tests/test_faults.py has more."""
    stream = make(cache=cache)
    Image.new("RGB", (20, 24)).save(stream.source.paths[2])
    (line,) = [line for batch in loader(stream, first=0, batch=4, workers=workers) for line in batch.news]
    assert re.fullmatch(r"image has changed .*002\.png \(20x24 instead of 24x20\); another source image stands in for it", line)
    stream.source.paths[2].write_bytes(b"gone")
    (line,) = [line for batch in loader(stream, first=0, batch=4, workers=workers) for line in batch.news]
    assert re.fullmatch(r"not an image .*002\.png; another source image stands in for it", line)
    for path in stream.source.paths:
        path.write_bytes(b"gone")
    with pytest.raises(UserError, match=r"^5 source images in a row cannot be read[^\n]*$"):
        list(loader(make_uncached(stream), first=0, batch=4, workers=workers))


def make_uncached(stream: Pairs) -> Pairs:
    """The same pairs, of images of which none has been read."""
    entries = [Entry(path, *size) for path, size in zip(stream.source.paths, stream.source.sizes, strict=True)]
    return Pairs(Images(entries, cache="none"), stream.target, stream.size, stream.seed, stream.length, stream.flip)


def test_no_global_randomness_is_read_or_touched(make: Callable[..., Pairs]) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    for workers in (0, 1):
        list(loader(make(), first=0, batch=4, workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs Linux to list processes")
def test_workers_outlive_signals_and_end_with_the_iterator(make: Callable[..., Pairs]) -> None:
    before = set(children())
    batches = loader(make(length=200), first=0, batch=4, workers=2, prefetch=1)
    expected = list(loader(make(length=200), first=0, batch=4, workers=0))
    seen = [next(batches), next(batches)]  # one from each worker, so both are up
    workers = set(children()) - before
    assert len(workers) >= 2
    for number in EXIT_CODES:
        for pid in workers:
            os.kill(pid, number)
        seen.append(next(batches))
    seen += [next(batches) for _ in range(20)]
    assert same(seen, expected[: 22 + len(EXIT_CODES)])
    started = time.monotonic()
    del batches
    assert not workers & set(children()) and time.monotonic() - started < 30


def test_numbers_beyond_the_stream_do_not_exist(make: Callable[..., Pairs]) -> None:
    stream = make(length=5)
    assert len(stream) == 5 and all(a[0].shape == b[0].shape for a, b in pairwise(stream[i] for i in range(5)))
    for i in (-1, 5):
        with pytest.raises(IndexError):
            stream[i]


def test_an_unknown_cache_setting_is_refused(images_folder: Folder) -> None:
    with pytest.raises(UserError, match="auto, memory or none"):
        Images(survey(find_images(images_folder())), cache="yes")
