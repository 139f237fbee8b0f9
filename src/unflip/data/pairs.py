"""The unpaired stream of crops: a pure function of the seed and the running number of the source image."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from unflip.data.bands import RGB, Bands
from unflip.data.folders import Entry
from unflip.data.images import read
from unflip.data.resize import parse_resize
from unflip.data.standins import read_or_stand_in
from unflip.data.store import Store
from unflip.data.workers import outliving
from unflip.errors import UserError
from unflip.seeding import numpy_rng
from unflip.signals import EXIT_CODES
from unflip.types import Batch, Size


class Images:
    """The images of one domain, decoded and resized, by index; each is decoded once where all of them fit into memory.

    Those of ``bands`` that are plain stay uint8, all others are floats in [-1, 1], NaN where they hold nothing.

    ``cache``: "auto" keeps them where they fit, "memory" always, "none" never. ``shared`` puts them where all loader workers see them;
    False suffices for ``workers=0``.
    """

    def __init__(
        self, entries: Sequence[Entry], resize: str = "none", cache: str = "auto", shared: bool = True, bands: Bands = RGB
    ) -> None:
        self.bands = bands
        self.paths = [entry.path for entry in entries]
        self.resize = str(parse_resize(resize))
        self.sizes = [parse_resize(resize).size_for(entry.width, entry.height) for entry in entries]
        """(width, height) of each image, resized."""
        dtype = torch.uint8 if bands.plain else torch.float32
        self.store = Store([(height, width, bands.count) for width, height in self.sizes], self._decoded, cache, shared, dtype)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """The image, ``(H, W, C)``; not to be written to. Raises ``UserError`` where the file is not what the survey saw."""
        return self.store[index]

    def decode_all(self, after: Callable[[int], None] = lambda done: None) -> None:
        """Decode every image once, so that what is wrong with one is found now; ``after(done)`` is called after each.

        Where images are kept, that is no work lost. Raises ``UserError`` as reading one does.
        """
        for index in range(len(self)):
            self.store[index]
            after(index + 1)

    def _decoded(self, index: int) -> Tensor:
        path, (width, height) = self.paths[index], self.sizes[index]
        found = read(path, self.resize, bands=self.bands)
        image = torch.from_numpy(found.pixels if self.bands.plain else self.bands.normalized(found.pixels, found.valid))
        if image.shape[:2] != (height, width):
            what = f"{image.shape[1]}x{image.shape[0]} instead of {width}x{height}"
            raise UserError(f"image has changed since the run began, {path} ({what}); restore it or start again")
        return image


Item = tuple[Tensor, Tensor, Tensor | None]
News = tuple[str, ...]

MORE_PLACES = 7
"""That are tried where a crop holds too little."""


class Labeling(Protocol):
    """The classes of every source image, by its index."""

    def __getitem__(self, index: int) -> Tensor: ...


class Pairs(Dataset[Item]):
    """Item ``i`` is a crop of a source image and one of an unrelated target image, and depends on nothing but the seed and ``i``.

    ``i`` counts source images since training began, 0 to ``length`` - 1, never epochs. Each domain is passed through in a new order
    each time, every image once, the two domains apart from each other: so any two sizes of domains are both covered evenly.
    ``labels[k]``, where there are any, holds the classes of source image ``k``, ``(H, W)`` uint8 with 255 for ignored pixels, and is cut
    and mirrored with it. Where a file can no longer be read, another image of its domain stands in for it, with its own labels. Raises
    ``UserError`` where an image is smaller than the crop.
    """

    def __init__(
        self, source: Images, target: Images, size: Size, seed: int, length: int, flip: bool, labels: Labeling | None = None
    ) -> None:
        for images in (source, target):
            _refuse_small(images, size)
        self.source, self.target, self.labels = source, target, labels
        self.size, self.seed, self.length, self.flip = size, seed, length, flip
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> Item:
        """``(source, target, labels)``: two ``(C, height, width)`` as :class:`Images` has them, and ``(height, width)`` uint8, 255 where
        ignored, or None."""
        return self.drawn(i)[0]

    def drawn(self, i: int) -> tuple[Item, News]:
        """Item ``i``, and a line for each image that another one stands in for. Raises ``UserError`` where none can."""
        source, target = self.indices(i)
        (image, classes), one = read_or_stand_in(self._labeled, source, len(self.source), "source", self.seed, i)
        other, two = read_or_stand_in(self.target.__getitem__, target, len(self.target), "target", self.seed, i)
        news = tuple(line for line in (one, two) if line is not None)
        place = self._place(image, "source", i)
        shown = self._dithered(place.cut(image), "source", i)
        beside = self._dithered(self._place(other, "target", i).cut(other), "target", i)
        if classes is None:
            return (shown, beside, None), news
        labels = place.cut(classes[..., None])[0]
        return (shown, beside, torch.where(shown[0].isnan(), 255, labels) if shown.is_floating_point() else labels), news

    def _labeled(self, k: int) -> tuple[Tensor, Tensor | None]:
        """Source image ``k`` with its classes."""
        return self.source[k], None if self.labels is None else self.labels[k]

    def indices(self, i: int) -> tuple[int, int]:
        """Which source and which target image item ``i`` is cut from."""
        if not 0 <= i < self.length:
            raise IndexError(f"item {i} of {self.length}")
        return self._index(len(self.source), "source", i), self._index(len(self.target), "target", i)

    def _index(self, count: int, side: str, i: int) -> int:
        epoch, position = divmod(i, count)
        if side not in self._orders or self._orders[side][0] != epoch:
            self._orders[side] = epoch, numpy_rng(self.seed, "order", side, epoch).permutation(count).tolist()
        return self._orders[side][1][position]

    def _dithered(self, crop: Tensor, side: str, i: int) -> Tensor:
        """The crop; where it is all of one color, with noise of one level out of 255.

        Nothing varies in it but rounding errors, which instance norm makes as large as if they were the image: the first gradients are
        then 100 or 100,000 times the usual ones, and Adam's steps far too small for thousands of images.
        """
        if not bool((crop == crop[:, :1, :1]).all()):
            return crop
        noise = torch.from_numpy(numpy_rng(self.seed, "dither", side, i).integers(-1, 2, tuple(crop.shape)))
        if crop.is_floating_point():
            return (crop + noise / 127.5).clamp(-1, 1).to(crop.dtype)
        return (crop.long() + noise).clamp(0, 255).to(crop.dtype)

    def _place(self, image: Tensor, side: str, i: int) -> _Place:
        """Anywhere in the image ``(H, W, C)``, each place equally likely; flipped half the time.

        Where less than half of the crop holds anything, others are tried.
        """
        rng = numpy_rng(self.seed, "crop", side, i)
        height, width, _ = image.shape

        def anywhere() -> _Place:
            top = int(rng.integers(height - self.size.height + 1))
            return _Place(top, int(rng.integers(width - self.size.width + 1)), self.size)

        place = anywhere()
        place = place._replace(flipped=bool(self.flip and rng.random() < 0.5))
        if not image.is_floating_point():
            return place
        share = place.share(image)
        for _ in range(MORE_PLACES):
            if share >= 0.5:
                break
            other = anywhere()._replace(flipped=place.flipped)
            if (more := other.share(image)) > share:
                place, share = other, more
        return place


class _Place(NamedTuple):
    """Of a crop."""

    top: int
    left: int
    size: Size
    flipped: bool = False

    def cut(self, image: Tensor) -> Tensor:
        """``(H, W, C)`` to ``(C, height, width)``."""
        crop = self._inside(image).permute(2, 0, 1)
        return (crop.flip(2) if self.flipped else crop).contiguous()

    def share(self, image: Tensor) -> float:
        """Of the pixels that hold something."""
        return float(self._inside(image)[..., 0].isfinite().float().mean())

    def _inside(self, image: Tensor) -> Tensor:
        return image[self.top : self.top + self.size.height, self.left : self.left + self.size.width]


def loader(
    pairs: Pairs,
    *,
    first: int,
    batch: int,
    workers: int,
    rank: int = 0,
    ranks: int = 1,
    pin_memory: bool = False,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """Batches of ``pairs`` from item ``first`` to the end, ``(N, C, height, width)``; the last one may be short.

    Of ``ranks`` processes that share each batch of ``batch`` images, number ``rank`` gets the :func:`portion` that is its. One that has
    none of a short last batch gets an image of another all the same, so that it takes part in the step.
    The same bits for any number of ``workers`` and any ``first``. The workers live until the iterator is used up, closed or dropped; where
    one is killed, they are started anew. Of both, and of images that others stand in for, a batch has ``news``, of each file once.
    Raises ``UserError``, also for what goes wrong in a worker.
    """

    def start(done: int) -> DataLoader[Any]:
        return DataLoader(
            _Guarded(pairs),
            batch_sampler=_InOrder(max(first, (first // batch + done) * batch), len(pairs), batch, rank, ranks),
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # else it draws from torch's global stream
            prefetch_factor=prefetch if workers else None,
        )

    told: set[str] = set()
    for found, killed in outliving(start):
        if isinstance(found, str):
            raise UserError(found)
        news = [line for line in found.news if line not in told]
        told.update(news)
        yield found._replace(step=found.first // batch, news=(*news, *([killed] if killed else [])))


def portion(count: int, part: int, parts: int) -> range:
    """Which of ``count`` things fall to number ``part`` of ``parts``: all fall to one, in order, and none gets two more than another."""
    return range(part * count // parts, (part + 1) * count // parts)


class _Guarded(Dataset[tuple[int, Item, News] | str]):
    """Items with their numbers, or the one line of their ``UserError``: raised in a worker, it would arrive as a traceback."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __getitem__(self, i: int) -> tuple[int, Item, News] | str:
        try:
            return i, *self.pairs.drawn(i)
        except UserError as error:
            return str(error)


class _InOrder(Sampler[list[int]]):
    """The numbers ``first`` to ``end`` - 1, ``batch`` at a time, of which process ``rank`` of ``ranks`` gets its portion."""

    def __init__(self, first: int, end: int, batch: int, rank: int, ranks: int) -> None:
        self.first, self.end, self.batch, self.rank, self.ranks = first, end, batch, rank, ranks

    def __iter__(self) -> Iterator[list[int]]:
        for start in self._starts():
            whole = range(max(start, self.first), min(start + self.batch, self.end))
            mine = portion(len(whole), self.rank, self.ranks)
            yield list(whole[mine.start : mine.stop]) or [whole[min(mine.start, len(whole) - 1)]]

    def __len__(self) -> int:
        return len(self._starts())

    def _starts(self) -> range:
        """Batches end at multiples of their size, wherever a run goes on."""
        return range(self.first - self.first % self.batch if self.first < self.end else self.end, self.end, self.batch)


def _collate(items: list[tuple[int, Item, News] | str]) -> Batch | str:
    samples = []
    for item in items:
        if isinstance(item, str):
            return item
        samples.append(item)
    source, target = (torch.stack(images) for images in zip(*((s, t) for _, (s, t, _), _ in samples), strict=True))
    labels = [found for _, (_, _, found), _ in samples if found is not None]
    news = tuple(dict.fromkeys(line for _, _, lines in samples for line in lines))
    return Batch(source, target, first=samples[0][0], step=0, labels=torch.stack(labels) if labels else None, news=news)


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole process group; the parent needs its workers until it has saved."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)


def _refuse_small(images: Images, size: Size) -> None:
    small = [index for index, (width, height) in enumerate(images.sizes) if width < size.width or height < size.height]
    if small:
        (width, height), path = images.sizes[small[0]], images.paths[small[0]]
        what = f"{len(small)} of {len(images)} images are smaller than the {size} crop"
        smallest = min(min(images.sizes[index]) for index in small) // 4 * 4
        fits = f"use --size {smallest} or less, or " if smallest >= 32 else ""
        resized = f"--set data.resize={f'short:{size.width}' if size.width == size.height else size}"
        few = ", or remove them" if len(small) <= len(images) // 10 else ""
        remedy = f"{fits}{resized if fits else f'use {resized}'}{few}"
        raise UserError(f"{what}, such as {path} ({width}x{height}); {remedy}")
