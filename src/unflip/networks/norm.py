"""Instance norm, and the moments that it takes of an image, also where that comes in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unflip.networks.tracing import compiling, traced

STRIP = 2**14
"""Pixels whose moments are taken at once: float32, in which a CPU adds them up one after the other, loses digits of more."""


class InstanceNorm(nn.InstanceNorm2d):
    """Every channel of every image to mean 0 and variance 1; no weights. ``(N, C, H, W)`` to the same.

    A single image whose channels come last in memory keeps them there, where the CPU's convolutions are fastest. Where gradients are
    wanted, or for several images, such a layout is given up. Compiled, it keeps every layout.
    """

    given: Callable[[Tensor], Tensor] | None = None
    """What is done instead, where ``x`` is an image of several (:mod:`unflip.inference.clip`)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.given is not None:
            return self.given(x)
        if compiling():
            normalized: Tensor = _Normalized.apply(x, self.eps)
            return normalized
        if x.device.type != "cpu":
            return super().forward(x)
        alone = not traced() and len(x) == 1 and not torch.is_grad_enabled() and not x.is_contiguous()
        if alone and x.is_contiguous(memory_format=torch.channels_last):
            moments = Moments()
            moments.add(x)
            return moments.normalize(x, self.eps)
        # groups of one channel: in less than half the time, and with a gradient that is right, which `instance_norm`'s of a single image is
        # not where what comes in has channels last. With channels last of its own it would take the difference of two large sums
        return F.group_norm(x.contiguous(), x.shape[1], eps=self.eps)


@dataclass
class Moments:
    """Mean and variance of every channel ``(1, C, 1, 1)``, float64, of the pixels seen so far."""

    count: int = 0
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    """The sum of squared differences from the mean."""

    def add(self, x: Tensor) -> None:
        """The pixels of ``(N, C, h, w)``. Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm", 1979."""
        rows = max(1, STRIP // (len(x) * x.shape[-1])) if x.device.type == "cpu" else x.shape[-2]
        for strip in x.split(rows, -2):
            variance, mean = (each.double().view(1, -1, 1, 1) for each in _moments(strip))
            count = strip.numel() // strip.shape[1]
            total, apart = self.count + count, mean - self.mean
            self.squares = self.squares + variance * count + apart.square() * (self.count * count / total)
            self.mean = self.mean + apart * (count / total)
            self.count = total

    def normalize(self, x: Tensor, eps: float) -> Tensor:
        """``x`` with mean 0 and variance 1, if it is made like what has been seen."""
        assert isinstance(self.squares, Tensor) and isinstance(self.mean, Tensor)
        wide = _wide(x)
        mean, variance = (each.flatten().to(wide.dtype) for each in (self.mean, self.squares / self.count))
        return F.batch_norm(wide, mean, variance, training=False, eps=eps).to(x.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of every channel of ``(N, C, h, w)``."""
    wide = _wide(x)
    if x.device.type != "cpu" or x.stride(1) != 1:
        return torch.var_mean(wide, (0, 2, 3), correction=0)
    # 30 times as fast where channels come last
    mean, variance = torch.batch_norm_update_stats(wide.contiguous(memory_format=torch.channels_last), None, None, 0.0)
    return variance, mean


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Normalized(torch.autograd.Function):
    """Instance norm with its gradient in closed form, whose two sums take one pass; derived from the formula, they would take two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        wide = _wide(x)
        variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, mean, scale)
        return ((wide - mean) * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        normalized, wide = (x.to(mean.dtype) - mean) * scale, gradient.to(mean.dtype)
        along = (wide * normalized).mean((2, 3), keepdim=True)
        return (scale * (wide - wide.mean((2, 3), keepdim=True) - along * normalized)).to(x.dtype), None
