"""The U-Net generator of pix2pix (Isola et al., CVPR 2017): for imported weights, which translate and are not trained here."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from unflip.networks.blocks import initialize
from unflip.networks.generator import Generator, GeneratorConfig
from unflip.networks.norm import InstanceNorm
from unflip.networks.program import Aside, Operation, Program, flat, follow

FEWEST, MOST = 5, 10
"""Halvings: with fewer it is not the U-Net that was published, and with more, one pixel in the middle is one of thousands."""


class UnetConfig(GeneratorConfig):
    """``kind: unet``. The defaults are those of pix2pix' ``unet_256``: 54.414 M weights and biases.

    It has no taps: everything that its first layers see also goes around the others, so that no layer's features are all that the
    translation is made of, and no method here could be trained with it.
    """

    stride: ClassVar[int] = 256
    """Of the default depth; a generator's own is ``2 ** downs``."""

    kind: Literal["unet"] = "unet"
    width: PositiveInt = 64
    """Channels after the first convolution; 8 x width from the fourth on."""
    downs: Annotated[int, Field(ge=FEWEST, le=MOST)] = 8
    """Halvings: 8 of ``unet_256``, 7 of ``unet_128``."""
    norm: Literal["batch", "instance"] = "batch"
    """``batch``: by the statistics of training. ``instance``: by those of the image."""

    @model_validator(mode="after")
    def _no_taps(self) -> UnetConfig:
        if self.taps:
            raise ValueError("taps: a U-Net has none")
        return self

    def build(self, in_channels: int, out_channels: int, rng: torch.Generator) -> UnetGenerator:
        with torch.random.fork_rng(devices=[]):
            network = UnetGenerator(self, in_channels, out_channels)
        initialize(network, "normal", rng)
        return network


class UnetGenerator(Generator):
    """Halvings and as many doublings, each of which also sees what the halving at its resolution made. ``(N, C, H, W)`` in [-1, 1].

    Batch norm is meant to be in evaluation mode.
    """

    def __init__(self, config: UnetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.taps = in_channels, out_channels, ()
        self.stride = self.smallest = 2**config.downs  # so small an image is a single pixel in the middle
        self.memory_per_pixel = 10 * config.width  # measured: 4 to 5 with channels last, 6 to 8 without, at widths 16 and 64
        norm: type[nn.Module] = InstanceNorm if config.norm == "instance" else nn.BatchNorm2d
        bias = config.norm == "instance"
        widths = [config.width * min(2**i, 8) for i in range(config.downs)]

        def down(i: int) -> nn.Module:
            conv = nn.Conv2d(widths[i - 1] if i else in_channels, widths[i], 4, stride=2, padding=1, bias=bias)
            before = [nn.LeakyReLU(0.2)] if i else []
            return nn.Sequential(*before, conv, *([norm(widths[i])] if 0 < i < config.downs - 1 else []))

        def up(i: int) -> nn.Module:
            seen = widths[i] * (1 if i == config.downs - 1 else 2)
            conv = nn.ConvTranspose2d(seen, widths[i - 1] if i else out_channels, 4, stride=2, padding=1, bias=bias or i == 0)
            return nn.Sequential(nn.ReLU(), conv, norm(widths[i - 1]) if i else nn.Tanh())

        # in the order in which they are applied, as clips want the norms
        self.downs = nn.ModuleList(down(i) for i in range(config.downs))
        self.ups = nn.ModuleList(up(i) for i in reversed(range(config.downs)))
        self.receptive_radius = self.program().radius()

    def run(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        (image,) = follow(self._operations(), (x,))
        return image, ()

    def program(self) -> Program:
        return Program(self._operations(), self.in_channels)

    def _operations(self) -> list[Operation]:
        """Every halving but the last one is put aside, and comes back behind the doubling to its resolution."""
        *outer, middle = (flat(down) for down in self.downs)
        first, *others = (flat(up) for up in self.ups)
        operations = [operation for down in outer for operation in (*down, Aside.PUT)] + middle + first
        return operations + [operation for up in others for operation in (Aside.BESIDE, *up)]

    def encode(self, x: Tensor, last: int | None = None) -> tuple[Tensor, ...]:
        return ()

    def decode(self, features: Tensor, tap: int) -> Tensor:
        raise IndexError("a U-Net has no taps from which its translation could be made")
