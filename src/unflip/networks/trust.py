"""The network that turns what two images show of each other into the odds that a translation flipped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 16
DILATIONS = (1, 1, 2, 4, 8, 1)


class TrustNetwork(nn.Module):
    """Clues ``(N, C, h, w)`` to the logit of a flip at every pixel of an image of a ``size`` (height, width), ``(N, H, W)``.

    Residual dilated convolutions: every decision sees 18 places to each side, since what happened to a tree shows at its crown as a whole.
    Borders are continued, so that a small image will do. The clues are standardized by ``mean`` and ``deviation``, ``(C, 1, 1)``, those of
    the clues that the network is fitted on. The weights are always the same at first.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, clues: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.inside = _convolution(clues, 1)
            self.middle = nn.ModuleList(_convolution(WIDTH, dilation) for dilation in DILATIONS)
            self.outside = nn.Conv2d(WIDTH, 1, 1)
        self.register_buffer("mean", torch.zeros(clues, 1, 1))
        self.register_buffer("deviation", torch.ones(clues, 1, 1))

    def forward(self, clues: Tensor, size: tuple[int, int]) -> Tensor:
        """The logits, judged at the clues' resolution and enlarged."""
        h = self.inside((clues - self.mean) / self.deviation).relu()
        for convolution in self.middle:
            h = h + convolution(h).relu()
        return F.interpolate(self.outside(h), size, mode="bilinear", align_corners=False)[:, 0]


def _convolution(channels: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(channels, WIDTH, 3, padding=dilation, dilation=dilation, padding_mode="replicate")
