"""CUT's projection head "F": a small MLP for each tap, after which features of a patch are compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unflip.config import Config
from unflip.networks.blocks import Initialization, initialize


class ProjectorConfig(Config):
    """The defaults are CUT's and SRUNIT's: 0.560 M parameters for their generator's five taps."""

    width: int = Field(default=256, gt=0, le=2**16)
    init: Initialization = "xavier"

    def build(self, channels: Sequence[int], rng: torch.Generator) -> Projector:
        """The network for taps of the given channel counts, with freshly drawn weights."""
        with torch.random.fork_rng(devices=[]):
            network = Projector(channels, self.width)
        initialize(network, self.init, rng)
        return network


class Projector(nn.Module):
    """Features of patches ``(..., channels of the tap)`` to unit vectors ``(..., width)``."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(c, width), nn.ReLU(inplace=True), nn.Linear(width, width)) for c in channels)

    def forward(self, tap: int, features: Tensor) -> Tensor:
        return F.normalize(self.heads[tap](features), dim=-1, eps=1e-7)
