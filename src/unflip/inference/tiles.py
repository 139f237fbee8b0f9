"""Translating an image piece by piece, as if it had been translated whole, where the memory is too small for that.

Convolutions see no further than their kernels: a tile that is read with such a halo around it is right, but for instance norm, whose
statistics are the image's. So all tiles go to the first norm, then on to the second, and so on. What has become of the image at a norm is
kept where the memory allows it, or else made anew from what was kept before: docs/decisions/tiling.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from mmap import mmap
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unflip.inference.translator import Statistics
from unflip.networks import Generator
from unflip.networks.norm import InstanceNorm, Moments
from unflip.networks.program import Operation, State, follow

Read = Callable[[int, int, int, int], Tensor]
"""``read(top, left, bottom, right)``: that part of an image as the network sees it, ``(1, C, bottom - top, right - left)`` in [-1, 1]."""
SIDES = (2048, 1024, 512, 256)
"""Of the tiles that are tried where an image is too large. The larger, the less is computed twice, for their halos."""

Known = dict[int, Moments]
"""The statistics of instance norms, by their places among the operations."""
SAMPLED = 16
"""Tiles from which statistics are estimated, evenly spread; where there are no more, they are exact."""


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` - 1 and columns ``left`` to ``right`` - 1 of an image."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, by: int, within: Box) -> Box:
        """With ``by`` more pixels at each side, where ``within`` has them."""
        top, left = max(self.top - by, within.top), max(self.left - by, within.left)
        return Box(top, left, min(self.bottom + by, within.bottom), min(self.right + by, within.right))

    def cut(self, x: Tensor, inner: Box) -> Tensor:
        """What ``x``, of this part of an image at any resolution, has of ``inner``."""
        scale = (self.bottom - self.top) // x.shape[-2]
        rows = slice((inner.top - self.top) // scale, (inner.bottom - self.top) // scale)
        return x[..., rows, (inner.left - self.left) // scale : (inner.right - self.left) // scale]


@dataclass
class _Area:
    """A part of an image, of whose surroundings nothing is needed, and how far it has come."""

    read: Read
    box: Box
    parts: Sequence[tuple[Box, Box]]
    """What of it goes through the network at once, and what of that counts for statistics. Together they are the whole area."""
    at: int = 0
    kept: State = ()
    """The whole area, as it is before operation ``at``; where nothing is kept, that is the first one."""
    spare: list[Tensor] = field(default_factory=list)
    """Memory of what was kept before that, for what is as large: the system would clear every page of another block."""

    def keep(self, new: State, at: int, untouched: int) -> None:
        """``new``, and of what lies aside already the first ``untouched`` ones."""
        gone = (*self.kept[:1], *self.kept[1 + untouched :])
        self.spare += [each.as_strided((each.numel(),), (1,)) for each in gone]
        self.kept, self.at = (new[0], *self.kept[1 : 1 + untouched], *new[1:]), at


def side_for(generator: Generator, size: tuple[int, int], memory: int) -> int | None:
    """The tiles that an image of ``size`` (height, width) needs where ``memory`` bytes are available; None: it can be translated whole.

    As a whole it may take half of them, and a tile a quarter, for what is kept takes as much as another half.
    """
    each = generator.memory_per_pixel
    if size[0] * size[1] <= memory // 2 // each:
        return None
    return next((side for side in SIDES if (side + 2 * generator.receptive_radius) ** 2 <= memory // 4 // each), SIDES[-1])


class Tiles:
    """An image of ``size`` (height, width) cut into tiles of at most ``tile`` pixels a side, where ``memory`` bytes are available."""

    def __init__(self, generator: Generator, size: tuple[int, int], tile: int, memory: int) -> None:
        self.generator, self.size, self.memory = generator, size, memory
        self.program = generator.program()
        stride = generator.stride
        self.tile = max(tile // stride, 1) * stride
        self.whole = Box(0, 0, *(max(-(-side // stride) * stride, generator.smallest) for side in size))
        """Grown to what the generator takes, as a whole image is."""
        operations = self.program.operations
        self.stops = [at for at, each in enumerate(operations) if isinstance(each, InstanceNorm | nn.BatchNorm2d)]
        """Where tiles wait for each other, if there are statistics to be found or what there is can be kept."""
        self.unknown = {at for at in self.stops if isinstance(norm := operations[at], InstanceNorm) and norm.given is None}
        """Instance norms whose statistics have to be found."""

    def boxes(self) -> list[Box]:
        """The tiles, row by row. They do not overlap."""
        return [
            Box(top, left, min(top + self.tile, self.whole.bottom), min(left + self.tile, self.whole.right))
            for top in range(0, self.whole.bottom, self.tile)
            for left in range(0, self.whole.right, self.tile)
        ]

    def translate(
        self, read: Read, statistics: Statistics = "exact", shown: Callable[[int], None] = lambda done: None
    ) -> Iterator[tuple[Box, Tensor]]:
        """Every tile, row by row, cut to the image, and its translation ``(1, C, height, width)`` in [-1, 1].

        ``shown`` is told how many tiles have gone through the network, of :meth:`work`. Where somebody has fixed the norms' statistics
        (:func:`unflip.inference.clip.fixed`), those hold, and none are found.
        """
        done = 0

        def counted() -> None:
            nonlocal done
            done += 1
            shown(done)

        known: Known = {}
        if self._estimates(statistics):
            self._advance(self._sampled(read), self.unknown, known, counted)
        area = self._all(read)
        self._advance([area], self.unknown - known.keys(), known, counted)
        for box, _ in area.parts:
            (image,) = self._run(area, box, len(self.program.operations), known)
            counted()
            inside = Box(box.top, box.left, min(box.bottom, self.size[0]), min(box.right, self.size[1]))
            if inside.top < inside.bottom and inside.left < inside.right:
                yield inside, box.cut(image, inside)

    def learn(self, images: Sequence[Read], statistics: Statistics = "exact") -> list[Moments]:
        """The statistics of every norm, in their order, over images of this size, as if they were one."""
        known: Known = {}
        if self._estimates(statistics):
            areas = [area for read in images for area in self._sampled(read)]
        else:
            areas = [self._all(read) for read in images]
        self._advance(areas, self.unknown, known)
        return list(known.values())

    def work(self, statistics: Statistics) -> int:
        """How many tiles :meth:`translate` takes through the network, in part or in whole."""
        estimates = self._estimates(statistics)
        work = (1 + len(self._plan([self.whole], frozenset() if estimates else self.unknown))) * len(self.boxes())
        if estimates:
            windows = [window for window, _ in self._samples()]
            work += len(self._plan(windows, self.unknown)) * len(windows)
        return work

    def _estimates(self, statistics: Statistics) -> bool:
        return statistics == "estimated" and bool(self.unknown) and len(self.boxes()) > SAMPLED

    def _all(self, read: Read) -> _Area:
        return _Area(read, self.whole, [(box, box) for box in self.boxes()])

    def _sampled(self, read: Read) -> list[_Area]:
        return [_Area(read, window, [(window, box)]) for window, box in self._samples()]

    def _samples(self) -> list[tuple[Box, Box]]:
        """The tiles whose pixels make estimated statistics, each after all that it depends on."""
        boxes, halo = self.boxes(), self.program.halo(0, len(self.program.operations))
        chosen = [boxes[(2 * i + 1) * len(boxes) // (2 * SAMPLED)] for i in range(SAMPLED)]
        return [(box.grown(halo, self.whole), box) for box in chosen]

    def _plan(self, areas: Sequence[Box], unknown: Set[int]) -> list[tuple[int, bool]]:
        """Where all parts of the ``areas`` stop, and whether what there is then is kept.

        That is at the norms whose statistics are ``unknown``, and wherever it can be kept: less is computed for halos then.
        """
        pixels = sum((box.bottom - box.top) * (box.right - box.left) for box in areas)
        size = next(self.generator.parameters()).element_size() * pixels
        # a quarter, since what was kept before is there until all of it has gone on
        keeps = {at: self.program.per_pixel(at) * size <= self.memory // 4 for at in self.stops}
        return [(at, keeps[at]) for at in self.stops if keeps[at] or at in unknown]

    def _advance(self, areas: Sequence[_Area], unknown: Set[int], known: Known, counted: Callable[[], None] = lambda: None) -> None:
        """Take the ``areas`` as far as they can be kept, and add the statistics of the norms ``unknown`` to ``known``.

        ``counted`` is called after each tile.
        """
        for at, keeps in self._plan([area.box for area in areas], unknown):
            moments = Moments()
            for area in areas:
                kept: State = ()
                for box, seen in area.parts:
                    made = self._run(area, box, at, known)
                    if at in unknown:
                        moments.add(box.cut(made[0], seen))
                    if keeps:
                        kept = kept or _rooms(area, box, made)
                        for whole, part in zip(kept, made, strict=True):
                            area.box.cut(whole, box).copy_(part)
                    counted()
                if keeps:
                    area.keep(kept, at, self.program.untouched(area.at, at))
            if at in unknown:
                known[at] = moments

    def _run(self, area: _Area, box: Box, stop: int, known: Known) -> State:
        """The part ``box`` of ``area`` as it is before operation ``stop``; of what lies aside then, only what is not kept already."""
        window = box.grown(self.program.halo(area.at, stop), area.box)
        if area.kept:
            x, *aside = (area.box.cut(whole, window) for whole in area.kept)
            state: State = (x.clone(), *aside)  # laid out as convolutions want it
        else:
            state = (self._read(area.read, window),)
        x, *aside = follow([self._operation(at, known) for at in range(area.at, stop)], state)
        made = (x, *aside[self.program.untouched(area.at, stop) :])
        return tuple(window.cut(part, box) for part in made)

    def _operation(self, at: int, known: Known) -> Operation:
        operation = self.program.operations[at]
        if at in known and isinstance(operation, InstanceNorm):
            return partial(known[at].normalize, eps=operation.eps)
        return operation

    def _read(self, read: Read, box: Box) -> Tensor:
        rows = _places(box.top, box.bottom, self.size[0], self.whole.bottom)
        columns = _places(box.left, box.right, self.size[1], self.whole.right)
        top, left, bottom, right = min(rows), min(columns), max(rows) + 1, max(columns) + 1
        x = read(top, left, bottom, right)
        if box == (top, left, bottom, right):
            return x
        down, along = ([place - first for place in places] for places, first in ((rows, top), (columns, left)))
        return x.index_select(-2, torch.tensor(down, device=x.device)).index_select(-1, torch.tensor(along, device=x.device))


def _rooms(area: _Area, box: Box, made: State) -> State:
    """For all of ``area`` what ``made`` is for ``box``."""
    rooms = tuple(_room(area, box, part) for part in made)
    sizes = {room.numel() for room in rooms}
    area.spare = [each for each in area.spare if each.numel() in sizes]  # the next ones will be as large, if any
    return rooms


def _room(area: _Area, box: Box, part: Tensor) -> Tensor:
    """The same of one tensor, laid out alike."""
    scale = (box.bottom - box.top) // part.shape[-2]
    size = (*part.shape[:2], (area.box.bottom - area.box.top) // scale, (area.box.right - area.box.left) // scale)
    last = part.stride(1) == 1  # channels
    count = math.prod(size)
    fitting = next((i for i, each in enumerate(area.spare) if (each.numel(), each.dtype) == (count, part.dtype)), None)
    if fitting is not None:
        room = area.spare.pop(fitting)
    elif part.device.type == "cpu":  # beside the heap, which would keep the holes that so large blocks leave
        room = torch.frombuffer(mmap(-1, count * part.element_size()), dtype=part.dtype)
    else:
        room = part.new_empty(count)
    return room.view(size[0], *size[2:], size[1]).permute(0, 3, 1, 2) if last else room.view(size)


def _places(start: int, end: int, length: int, whole: int) -> list[int]:
    """Which rows or columns of an image of ``length`` those from ``start`` to ``end`` are, where it is grown to ``whole``."""
    mirrored = whole - length < length  # as in pad_to_multiple
    return [at if at < length else 2 * (length - 1) - at if mirrored else length - 1 for at in range(start, end)]
