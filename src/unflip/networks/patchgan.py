"""The PatchGAN discriminator (Isola et al., CVPR 2017): judges every 70 x 70 patch of an image for itself."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unflip.networks.blocks import BlurDown, Initialization, initialize
from unflip.networks.chain import Chain, chain
from unflip.networks.convolutions import ConvAheadOfNorm
from unflip.networks.discriminator import DiscriminatorConfig
from unflip.networks.norm import InstanceNorm


class PatchGANConfig(DiscriminatorConfig):
    """``kind: patchgan``. The defaults are CUT's and SRUNIT's: 2.765 M parameters, 70 x 70 patches."""

    kind: Literal["patchgan"] = "patchgan"
    width: int = Field(default=64, gt=0, le=2**14)
    layers: int = Field(default=3, gt=0, le=16)
    """Halvings; 3 gives the 70 x 70 PatchGAN."""
    downsample: Literal["blur", "stride"] = "blur"
    init: Initialization = "xavier"

    @property
    def smallest(self) -> int:
        """The shortest image side for which the last layers still see more than one position."""
        return 4 * 2**self.layers

    @property
    def patch(self) -> int:
        side, stride = 1, 1
        for _ in range(self.layers):
            side += (3 if self.downsample == "stride" else 3 + 2) * stride  # a kernel of 4, and one of 3 for the blur
            stride *= 2
        return side + 2 * 3 * stride

    def build(self, in_channels: int, rng: torch.Generator) -> PatchGAN:
        with torch.random.fork_rng(devices=[]):
            network = PatchGAN(self, in_channels)
        initialize(network, self.init, rng)
        return network


class PatchGAN(nn.Module):
    """``(N, C, H, W)`` in [-1, 1] to logits ``(N, 1, h, w)``, one for each patch; 30 x 30 for an image of 256 x 256."""

    def __init__(self, config: PatchGANConfig, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for i in range(config.layers + 1):
            width = config.width * min(2**i, 8)
            halve = i < config.layers
            strided = halve and config.downsample == "stride"
            conv = ConvAheadOfNorm if i > 0 else nn.Conv2d
            layers.append(conv(channels, width, 4, stride=2 if strided else 1, padding=1))
            if i > 0:
                layers.append(InstanceNorm(width))
            layers.append(nn.LeakyReLU(0.2))
            if halve and not strided:
                layers.append(BlurDown(width))
            channels = width
        layers.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        self.chain: Chain = chain

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(list(self.layers), x)
