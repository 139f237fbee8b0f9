"""A block neural autoregressive flow: a density over vectors whose logarithm is exact. De Cao, Titov & Aziz, UAI 2019."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BlockTriangular(nn.Module):
    """A linear layer with ``a`` inputs and ``b`` outputs for each of ``channels`` dimensions; dimension i sees the dimensions up to i.

    Its blocks on the diagonal are positive, so that stacked with increasing activations it is increasing in each dimension. The length
    of every row is a parameter of its own (weight normalization).
    """

    def __init__(self, channels: int, a: int, b: int, rate: float, rng: torch.Generator) -> None:
        super().__init__()
        self.rate = rate
        seen = b + a * torch.arange(1, channels + 1)[:, None, None, None]  # inputs and outputs of each block of rows
        weight = (6 / seen).sqrt() * (2 * torch.rand(channels, b, channels, a, generator=rng) - 1)
        length = (1 - torch.rand(channels, b, generator=rng)).log()
        bias = (2 * torch.rand(channels * b, generator=rng) - 1) / math.sqrt(channels * b)
        self.weight, self.length, self.bias = (nn.Parameter(value / rate) for value in (weight, length, bias))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(..., channels * a)`` to ``(..., channels * b)``, and the logarithms of the diagonal blocks ``(channels, b, a)``."""
        weight, length, bias = self.rate * self.weight, self.rate * self.length, self.rate * self.bias
        eye = torch.eye(len(weight), dtype=torch.bool, device=x.device)[:, None, :, None]
        below = torch.ones_like(eye[:, 0, :, 0], dtype=x.dtype).tril(-1)[:, None, :, None]
        matrix = weight.masked_fill(~eye, -math.inf).exp() + weight * below  # (channels, b, channels, a)
        scale = length - matrix.square().sum((2, 3)).log() / 2  # (channels, b)
        matrix = matrix * scale.exp()[:, :, None, None]
        logs = weight.diagonal(dim1=0, dim2=2).permute(2, 0, 1) + scale[:, :, None]
        return F.linear(x, matrix.flatten(2).flatten(0, 1), bias), logs


class Flow(nn.Module):
    """``log p(x)`` of vectors ``(..., channels)``, in nats: ``(...)``.

    ``y = B tanh(A x + a) + b`` with block triangular A and B is standard normal, so ``log p(x) = log N(y) + sum_i log dy_i / dx_i``.
    """

    def __init__(self, channels: int, width: int, rate: float, rng: torch.Generator) -> None:
        """``width``: hidden units of each dimension. ``rate``: the flow learns this many times faster under Adam than its learning rate
        says, because what Adam moves is a parameter divided by it."""
        super().__init__()
        self.expand = BlockTriangular(channels, 1, width, rate, rng)
        self.contract = BlockTriangular(channels, width, 1, rate, rng)

    def forward(self, x: Tensor) -> Tensor:
        hidden, first = self.expand(x)  # (..., C * K), (C, K, 1)
        y, second = self.contract(hidden.tanh())  # (..., C), (C, 1, K)
        tanh_slope = 2 * (math.log(2) - hidden - F.softplus(-2 * hidden))  # log (1 - tanh^2), exact also where tanh is 1
        paths = tanh_slope.unflatten(-1, first.shape[:2]) + first[..., 0] + second[:, 0]  # (..., C, K): through each hidden unit
        slope = paths.logsumexp(-1)  # (..., C): log dy_i / dx_i
        log_density: Tensor = (slope - y.square() / 2 - math.log(2 * math.pi) / 2).sum(-1)
        return log_density
