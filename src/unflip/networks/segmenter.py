"""The network that reads classes off an image: a small encoder-decoder CNN, trained from scratch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unflip.config import Config
from unflip.networks.blocks import initialize, pad_to_multiple


class SegmenterConfig(Config):
    """``kind: unet``, after Ronneberger et al., MICCAI 2015. The defaults have 1.23 M parameters and see up to 107 pixels around each.

    Why not torchvision's smallest, lraspp_mobilenet_v3_large: its batch norm is meaningless for the single crops of GAN training, it
    decides at an eighth of the resolution, where poles and people are gone, and without ImageNet a few hundred images teach it little.
    """

    kind: Literal["unet"] = "unet"
    width: int = Field(default=16, ge=4, le=2**12)
    """Channels at full resolution; twice as many at each halving, up to eight times."""
    halvings: int = Field(default=4, gt=0, le=16)
    stem_stride: Literal[1, 2] = 1
    """2: all of it works at half the resolution, and its decisions are enlarged; a quarter of the time, and twice the view."""

    def build(self, classes: int, rng: torch.Generator, in_channels: int = 3) -> Segmenter:
        """The network with weights freshly drawn from ``rng``."""
        with torch.random.fork_rng(devices=[]):
            network = Segmenter(self, classes, in_channels)
        initialize(network, "xavier", rng, gain=math.sqrt(2))  # keeps the size of signals through ReLUs (He et al., ICCV 2015)
        return network


class Segmenter(nn.Module):
    """Images ``(N, C, H, W)`` in [-1, 1], of any size, to logits ``(N, K, H, W)``.

    Group norm: what it does to an image does not depend on the rest of the batch, and is the same in training and after.
    """

    def __init__(self, config: SegmenterConfig, classes: int, in_channels: int) -> None:
        super().__init__()
        widths = [config.width * min(2**i, 8) for i in range(config.halvings + 1)]
        self.stem_stride = config.stem_stride
        self.stride = config.stem_stride * 2**config.halvings
        self.stem = _block(in_channels, widths[0], stride=config.stem_stride)
        self.down = nn.ModuleList(_block(fine, coarse, stride=2) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(_block(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        *passed, x = self._encoded(x)
        for up, fine in zip(reversed(self.up), reversed(passed), strict=True):
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = up(torch.cat([fine, x], dim=1))
        x = self.head(x)
        if self.stem_stride > 1:
            x = nn.functional.interpolate(x, scale_factor=float(self.stem_stride), mode="bilinear")
        return x[..., :height, :width]

    def pooled(self, x: Tensor) -> Tensor:
        """The coarsest features of images ``(N, C, H, W)`` in [-1, 1], averaged over the image: ``(N, D)``."""
        return self._encoded(x)[-1].mean((2, 3))

    def _encoded(self, x: Tensor) -> list[Tensor]:
        """The features at every resolution, the finest first."""
        levels = [self.stem(pad_to_multiple(x, self.stride, self.stride))]
        for down in self.down:
            levels.append(down(levels[-1]))
        return levels


def _block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """Two 3x3 convolutions, each with group norm and ReLU; the first one strides."""
    layers: list[nn.Module] = []
    for first, inputs in ((True, channels), (False, width)):
        layers += [
            nn.Conv2d(inputs, width, 3, stride=stride if first else 1, padding=1, bias=False),
            nn.GroupNorm(math.gcd(width, 8), width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
