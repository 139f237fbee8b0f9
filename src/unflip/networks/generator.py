"""What every generator offers, whatever it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from unflip.config import Config
from unflip.networks.blocks import pad_to_multiple
from unflip.networks.program import Program


class Tap(NamedTuple):
    """A layer of the generator whose activations are used as features: ``(N, channels, H/stride + 2*margin, W/stride + 2*margin)``."""

    name: str
    channels: int
    stride: int
    margin: int = 0

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(channels, h, w) of the features of an image of ``height x width``, both multiples of the generator's stride."""
        return self.channels, height // self.stride + 2 * self.margin, width // self.stride + 2 * self.margin


class GeneratorConfig(Config, ABC):
    """How a generator is built; ``kind`` is its name in the table GENERATORS, or IMPORTED."""

    kind: str
    stride: ClassVar[int]
    """Sides of training crops must be multiples of this."""
    taps: tuple[str, ...] = ()
    """Names of the layers whose activations are features; of what is only translated with, none."""

    @abstractmethod
    def build(self, in_channels: int, out_channels: int, rng: torch.Generator) -> Generator:
        """The network with weights freshly drawn from ``rng``."""


class Generator(nn.Module, ABC):
    """A network that turns an image into an image of the same size. Images are ``(N, C, H, W)`` in [-1, 1].

    Only :meth:`forward` takes any size; the others want sides that are multiples of ``stride`` and at least ``smallest``, as training
    crops are.
    """

    in_channels: int
    out_channels: int
    stride: int
    """Sides must be multiples of this; :meth:`forward` pads to it."""
    smallest: int
    """The shortest side that the layers can take."""
    receptive_radius: int
    """No input pixel further away than this, in pixels, reaches an output pixel through the convolutions. Instance norm is global.

    That of :meth:`program`.
    """
    memory_per_pixel: int
    """Bytes for each pixel that translating a whole image takes, in float32 and without gradient, at most."""
    taps: tuple[Tap, ...]

    @property
    def inner(self) -> Generator:
        """Itself: what wraps a generator has it as ``inner``, too."""
        return self

    @abstractmethod
    def run(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The translation and the features at every tap, in one pass."""

    @abstractmethod
    def program(self) -> Program:
        """What :meth:`run` does to make the translation, operation by operation."""

    @abstractmethod
    def encode(self, x: Tensor, last: int | None = None) -> tuple[Tensor, ...]:
        """The features at the taps 0 to ``last`` (default: all); computes nothing beyond the last one."""

    @abstractmethod
    def decode(self, features: Tensor, tap: int) -> Tensor:
        """The rest of the way from the features at ``tap`` to the translation."""

    def forward(self, x: Tensor) -> Tensor:
        """Translate images of any height and width: pad, run, crop back."""
        height, width = x.shape[-2:]
        image, _ = self.run(pad_to_multiple(x, self.stride, self.smallest))
        return image[..., :height, :width]
