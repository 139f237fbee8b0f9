"""The records that travel through one training step. Images are ``(N, C, H, W)`` floats in [-1, 1]."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, PlainSerializer
from torch import Tensor


class Size(NamedTuple):
    """Of an image, in pixels."""

    width: int
    height: int

    @classmethod
    def parse(cls, value: Any) -> Size:
        """From ``256``, ``"256"``, ``"512x256"`` (width first) or a pair. Raises ``ValueError``, in one line."""
        if isinstance(value, tuple | list) and len(value) == 2 and all(type(side) is int for side in value):
            width, height = value
        else:
            match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value).strip())
            if match is None:
                raise ValueError(f"not a size in pixels, {value!r}; give 256, or 512x256 (width first)")
            width, height = int(match[1]), int(match[2] or match[1])
        if min(width, height) < 1:
            raise ValueError(f"a size must be at least 1 pixel, not {value}")
        return cls(width, height)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def short(self) -> int | str:
        """As one would type it: the side of a square, else width x height."""
        return self.width if self.width == self.height else str(self)


GivenSize = Annotated[Size, BeforeValidator(Size.parse), PlainSerializer(lambda size: size.short)]
"""A field of a config: takes what :meth:`Size.parse` does, and is written as one would type it."""


class Batch(NamedTuple):
    """One unpaired batch. ``source[i]`` and ``target[i]`` have nothing to do with each other.

    ``first`` is the running number, since training began, of its first source image, and ``step`` that of the step it belongs to. With
    the run's seed they decide every random choice made for this batch. Processes that share a step share its number, not their images'.
    """

    source: Tensor
    target: Tensor
    first: int
    step: int
    labels: Tensor | None = None
    """Class ids of the source, ``(N, H, W)``: int64 with -1 for ignored pixels; from the loader, uint8 with 255."""
    valid: tuple[Tensor, Tensor] | None = None
    """Where source and target hold something, ``(N, 1, H, W)`` boolean; None: everywhere. From the loader, NaN says so instead."""
    weights: Tensor | None = None
    """What every pixel of the target weighs to the discriminator, ``(N, 1, H, W)``, 1 on average; None: all the same."""
    news: tuple[str, ...] = ()
    """From the loader, a line for every file that could not be read and for which another stands in, and for every start of its workers."""


class Shown(NamedTuple):
    """What a view's discriminator is to tell apart, ``(N, C, H, W)``."""

    real: Tensor
    fake: Tensor
    weights: Tensor | None = None
    """What every pixel of ``real`` weighs, ``(N, 1, H, W)``; None: all the same."""


def _as_is(image: Tensor) -> Tensor:
    return image


@dataclass(frozen=True)
class Step:
    """What the generators produced in one view of one step; never a discriminator's output, which changes within the step.

    ``features[of]`` holds the generator's activations, one tensor ``(N, C, h, w)`` per tap, of the image named ``of``
    ("source", "target", "fake" or "identity").
    """

    source: Tensor
    target: Tensor
    fake: Tensor
    """The translation, G(source)."""
    identity: Tensor | None = None
    """G(target): a translation that ought to change nothing."""
    cycled: Tensor | None = None
    """The inverse generator's translation back, F(G(source))."""
    turned: Tensor | None = None
    """f^-1(G(f(source))), the translation of the turned source, turned back; in the turned view itself, f(G(source))."""
    detail: Tensor | None = None
    """What the detail view alone makes of the source, before it is fused with the context."""
    labels: Tensor | None = None
    """Class ids of the source, ``(N, H, W)`` int64; -1: ignored."""
    valid: tuple[Tensor, Tensor] | None = None
    """Where source and target hold something, ``(N, 1, H, W)`` boolean; None: everywhere. All images here are 0 where theirs does not."""
    weights: Tensor | None = None
    """What every pixel of the target weighs, ``(N, 1, H, W)``; None: all the same."""
    features: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    finish: Callable[[Tensor], Tensor] = field(default_factory=lambda: _as_is)
    """What becomes of an image that the generator makes of ``features["source"]`` before anything reads it, as of the translation: 0 where
    that source holds nothing, and bands that repeat each other made alike."""

    def shown(self) -> Shown:
        """What the discriminator is to tell apart; nothing of it has a gradient."""
        return Shown(self.shared(self.target), self.shared(self.fake.detach()), self.weights)

    def shared(self, image: Tensor) -> Tensor:
        """``image``, of source or target, where both of them hold something: so that holes do not tell a translation from a target."""
        return image if self.valid is None else image * (self.valid[0] & self.valid[1])
