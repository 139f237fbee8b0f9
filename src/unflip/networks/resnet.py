"""The ResNet generator of CycleGAN and CUT (after Johnson et al., ECCV 2016), antialiased or not."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unflip.networks.blocks import BlurDown, BlurUp, Initialization, Reflect, ReLU, ResidualBlock, initialize
from unflip.networks.chain import Chain, chain
from unflip.networks.convolutions import Conv3x3, ConvAheadOfNorm, ConvFromFew, ConvToFew
from unflip.networks.generator import Generator, GeneratorConfig, Tap
from unflip.networks.norm import InstanceNorm
from unflip.networks.program import Program, flat


class ResnetConfig(GeneratorConfig):
    """``kind: resnet``. The defaults are CUT's and SRUNIT's: 11.378 M parameters."""

    stride: ClassVar[int] = 4

    kind: Literal["resnet"] = "resnet"
    width: int = Field(default=64, gt=0, le=2**14)
    """Channels after the first convolution; 4 x width in the residual blocks."""
    blocks: int = Field(default=9, gt=0, le=1000)
    downsample: Literal["blur", "stride"] = "blur"
    """``blur``: convolution, then antialiased halving. ``stride``: strided convolution (CycleGAN)."""
    upsample: Literal["blur", "transpose"] = "blur"
    """``blur``: antialiased doubling, then convolution. ``transpose``: transposed convolution (CycleGAN)."""
    init: Initialization = "xavier"
    taps: tuple[str, ...] = ()
    """Names of the layers whose activations are features. Default: CUT's "0, 4, 8, 12, 16", which are pad, down1, down2, block1, block5."""

    @model_validator(mode="after")
    def _known_taps(self) -> ResnetConfig:
        if not self.taps:
            self._fill(taps=tuple(dict.fromkeys(("pad", "down1", "down2", "block1", f"block{min(5, self.blocks)}"))))
        places = ["pad", "stem", "down1", "down2", *(f"block{i + 1}" for i in range(self.blocks))]
        if [place for place in places if place in self.taps] != list(self.taps):
            raise ValueError(f"taps must be some of {', '.join(places)}, in this order, each once")
        return self

    def build(self, in_channels: int, out_channels: int, rng: torch.Generator) -> ResnetGenerator:
        with torch.random.fork_rng(devices=[]):  # the layers' own first weights, which are overwritten, are drawn from torch's global state
            network = ResnetGenerator(self, in_channels, out_channels)
        initialize(network, self.init, rng)
        return network


class ResnetGenerator(Generator):
    """Stem, two halvings, residual blocks, two doublings, head. Input and output ``(N, C, H, W)`` in [-1, 1]."""

    stride = ResnetConfig.stride
    smallest = 8  # the bottleneck is then 2 x 2: reflection needs two pixels, instance norm more than one

    def __init__(self, config: ResnetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.memory_per_pixel = 48 * config.width  # measured: 30 to 37 with channels last, 40 to 47 without, at widths 16 to 64
        self.stages = nn.Sequential()
        taps: dict[str, Tap] = {}
        scale = 1

        def add(name: str, *layers: nn.Module, tap: Tap | None = None) -> None:
            self.stages.add_module(name, layers[0] if len(layers) == 1 else nn.Sequential(*layers))
            if tap is not None:
                taps[name] = tap

        width = config.width
        add("pad", Reflect(3), tap=Tap("pad", in_channels, 1, margin=3))
        add("stem", (nn.Conv2d if "stem" in config.taps else ConvFromFew)(in_channels, width, 7), tap=Tap("stem", width, 1))
        add("stem_act", InstanceNorm(width), ReLU())
        for name in ("down1", "down2"):
            if config.downsample == "blur":
                add(name, Conv3x3(width, 2 * width, 3, padding=1), tap=Tap(name, 2 * width, scale))
                add(f"{name}_act", InstanceNorm(2 * width), ReLU(), BlurDown(2 * width))
                scale *= 2
            else:
                add(name, nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), tap=Tap(name, 2 * width, 2 * scale))
                scale *= 2
                add(f"{name}_act", InstanceNorm(2 * width), ReLU())
            width *= 2
        for i in range(config.blocks):
            add(f"block{i + 1}", ResidualBlock(width), tap=Tap(f"block{i + 1}", width, scale))
        for name in ("up1", "up2"):
            if config.upsample == "blur":
                add(f"{name}_blur", BlurUp(width))
                scale //= 2
                add(name, ConvAheadOfNorm(width, width // 2, 3, padding=1))
            else:
                add(name, nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1))
                scale //= 2
            width //= 2
            add(f"{name}_act", InstanceNorm(width), ReLU())
        add("head", Reflect(3), ConvToFew(width, out_channels, 7), nn.Tanh())

        self.receptive_radius = self.program().radius()
        names = [name for name, _ in self.stages.named_children()]
        self.taps = tuple(taps[name] for name in config.taps)
        self._tap_stages = [names.index(name) for name in config.taps]
        ends = [*(names.index(name) for name in taps if name in config.taps or name.startswith("block")), len(names) - 1]
        self._segments = [(before + 1, end) for before, end in pairwise((-1, *ends))]
        self.chain: Chain = chain

    def _walk(self, x: Tensor, first: int, last: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Apply the stages ``first`` to ``last``; the result, and the activations at the taps on the way.

        A tap, and each block, ends a segment that is compiled for itself: so blocks are alike, and compiled once.
        """
        stages, features = list(self.stages), []
        for start, end in self._segments:
            if first <= start and end <= last:
                x = self.chain(stages[start : end + 1], x)
                if end in self._tap_stages:
                    features.append(x)
        return x, tuple(features)

    def run(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self._walk(x, 0, len(self.stages) - 1)

    def program(self) -> Program:
        return Program(flat(self.stages), self.in_channels)

    def encode(self, x: Tensor, last: int | None = None) -> tuple[Tensor, ...]:
        return self._walk(x, 0, self._tap_stages[-1 if last is None else last])[1]

    def decode(self, features: Tensor, tap: int) -> Tensor:
        return self._walk(features, self._tap_stages[tap] + 1, len(self.stages) - 1)[0]
