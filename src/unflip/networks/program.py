"""A generator as operations one after the other, between which it can be left and gone on with.

Translating by tiles needs that (:mod:`unflip.inference.tiles`), and that it is known how much around a part of an image an operation sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unflip.networks.blocks import BlurDown, BlurUp, Reflect, ResidualBlock
from unflip.networks.norm import InstanceNorm

State = tuple[Tensor, ...]
"""What goes through the operations, and after it whatever has been put aside; the last of that is the first that is needed again."""


class Aside(Enum):
    """What is done with what goes through, and with what lies aside."""

    PUT = auto()
    """It is put aside, and goes on."""
    ADD = auto()
    """What was put aside last is added to it."""
    BESIDE = auto()
    """The same, as further channels, which come first."""


Operation = Aside | Callable[[Tensor], Tensor]


class Shape(NamedTuple):
    """Of one tensor of a state: ``(N, channels, H / scale, W / scale)``."""

    channels: int
    scale: int


class Sight(NamedTuple):
    """What a layer sees: with ``up`` 1 that of a convolution, else that of a transposed one, whose stride ``up`` is."""

    kernel: int = 1
    padding: int = 0
    down: int = 1
    up: int = 1
    """How many times fewer and more pixels it gives than it takes."""

    def takes(self, start: int, end: int) -> tuple[int, int]:
        """Of which rows (or columns) of its input those from ``start`` to ``end``, without that, of its output are made."""
        if self.up == 1:
            return start * self.down - self.padding, (end - 1) * self.down - self.padding + self.kernel
        return -(-(start + self.padding - self.kernel + 1) // self.up), (end - 1 + self.padding) // self.up + 1


POINTWISE = (InstanceNorm, nn.BatchNorm2d, nn.ReLU, nn.LeakyReLU, nn.Tanh)
"""Norms, too: whoever translates by tiles gives them their statistics."""


def sight(layer: nn.Module) -> Sight:
    """Of a layer of a generator."""
    if isinstance(layer, POINTWISE):
        return Sight()
    if isinstance(layer, Reflect):
        return Sight(padding=layer.padding[0])
    if isinstance(layer, BlurDown):
        return Sight(3, 1, down=2)
    if isinstance(layer, BlurUp):
        return Sight(4, 1, up=2)
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d), f"nobody knows how far a {type(layer).__name__} sees"
    stride = {"up" if isinstance(layer, nn.ConvTranspose2d) else "down": layer.stride[0]}
    return Sight(layer.kernel_size[0], int(layer.padding[0]), **stride)


def flat(module: nn.Module) -> list[Operation]:
    """Its operations."""
    if isinstance(module, nn.Sequential):
        return [operation for layer in module for operation in flat(layer)]
    if isinstance(module, ResidualBlock):
        return [Aside.PUT, *flat(module.body), Aside.ADD]
    return [module]


def follow(operations: Sequence[Operation], state: State) -> State:
    """``state`` through ``operations``."""
    for operation in operations:
        x, *aside = state
        if operation is Aside.PUT:
            state = (x, *aside, x)
        elif operation is Aside.ADD:
            state = (aside[-1] + x, *aside[:-1])
        elif operation is Aside.BESIDE:
            state = (torch.cat([aside[-1], x], 1), *aside[:-1])
        else:
            assert not isinstance(operation, Aside)
            state = (operation(x), *aside)
    return state


class Program:
    """The ``operations`` of a generator, from an image of ``channels``, and what there is before each of them."""

    def __init__(self, operations: Sequence[Operation], channels: int) -> None:
        self.operations = list(operations)
        self.sights = [sight(each) if isinstance(each, nn.Module) else Sight() for each in self.operations]
        self.shapes: list[tuple[Shape, ...]] = [(Shape(channels, 1),)]
        """Of the state before each operation, and at the end."""
        for operation, seen in zip(self.operations, self.sights, strict=True):
            self.shapes.append(_shapes(operation, seen, self.shapes[-1]))

    def takes(self, start: int, stop: int, first: int, end: int) -> tuple[int, int]:
        """Of which rows (or columns) before operation ``start`` those from ``first`` to ``end`` before operation ``stop`` are made.

        What comes back from aside adds nothing to that: whatever lies between sees at least its own place.
        """
        for seen in reversed(self.sights[start:stop]):
            first, end = seen.takes(first, end)
        return first, end

    def halo(self, start: int, stop: int) -> int:
        """Pixels of the image that a part of it needs at each side, to come from operation ``start`` to ``stop``.

        Such a part begins and ends on pixels of the lowest resolution on the way.
        """
        first, end = self.takes(start, stop, 0, 0)
        coarsest = max(state[0].scale for state in self.shapes[start : stop + 1])
        return -(-max(-first, end) * self.shapes[start][0].scale // coarsest) * coarsest

    def radius(self) -> int:
        """How far away the furthest pixel of an image is of which one of its translation is made."""
        seen = ((at, *self.takes(0, len(self.operations), at, at + 1)) for at in range(max(state[0].scale for state in self.shapes)))
        return max(max(at - first, end - 1 - at) for at, first, end in seen)

    def untouched(self, start: int, stop: int) -> int:
        """How many of those that lie aside at ``start`` still do at ``stop``, the first ones."""
        return min(len(state) for state in self.shapes[start : stop + 1]) - 1

    def per_pixel(self, at: int) -> float:
        """Numbers that the state before operation ``at`` has for each pixel of the image."""
        return sum(shape.channels / shape.scale**2 for shape in self.shapes[at])


def _shapes(operation: Operation, seen: Sight, state: tuple[Shape, ...]) -> tuple[Shape, ...]:
    x, *aside = state
    if operation is Aside.PUT:
        return (x, *aside, x)
    if operation is Aside.ADD:
        return (x, *aside[:-1])
    if operation is Aside.BESIDE:
        return (Shape(aside[-1].channels + x.channels, x.scale), *aside[:-1])
    return (Shape(getattr(operation, "out_channels", x.channels), x.scale * seen.down // seen.up), *aside)
