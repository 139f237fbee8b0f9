"""The moving average of weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from unflip.schedules import ema_decay


class Ema:
    """A copy of ``network`` whose weights follow it slowly: ``average += (1 - decay) * (weights - average)``, ``decay`` by images."""

    def __init__(self, network: nn.Module, half_life: float, share: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.half_life, self.share = half_life, share

    @torch.no_grad()
    def update(self, network: nn.Module, images_seen: int, batch: int) -> None:
        """After a step of ``batch`` images, of which ``images_seen`` have been seen with it."""
        decay = ema_decay(images_seen, batch, self.half_life, self.share)
        averages: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averages, [p.detach() for p in network.parameters()], 1 - decay)
