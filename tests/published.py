"""Generators whose tensors are named and numbered as the published ones are, for the tests of what is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import scale_weights

Ends = tuple[int, int]


class Down(nn.Module):
    """Half the size, blurred by the binomial."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", (torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=len(self.filt))


class Up(nn.Module):
    """Twice the size: the published kernel is that of bilinear interpolation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3, 3, 1])
        self.register_buffer("filt", (line[:, None] * line / 16).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear")


class Block(nn.Module):
    def __init__(self, channels: int, norm: Any, bias: bool, dropout: bool) -> None:
        super().__init__()

        def half() -> list[nn.Module]:
            return [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), norm(channels)]

        self.conv_block = nn.Sequential(*half(), nn.ReLU(), *([nn.Dropout()] if dropout else []), *half())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class Resnet(nn.Module):
    """``down`` and ``up``: antialiased there."""

    def __init__(
        self,
        blocks: int = 2,
        width: int = 4,
        ends: Ends = (3, 3),
        down: bool = True,
        up: bool = True,
        dropout: bool = False,
        norm: Any = nn.InstanceNorm2d,
    ) -> None:
        super().__init__()
        bias = norm is nn.InstanceNorm2d
        made: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(ends[0], width, 7, bias=bias), norm(width), nn.ReLU()]
        for wide in (width, 2 * width):
            made += [nn.Conv2d(wide, 2 * wide, 3, 1 if down else 2, 1, bias=bias), norm(2 * wide), nn.ReLU()]
            made += [Down(2 * wide)] if down else []
        made += [Block(4 * width, norm, bias, dropout) for _ in range(blocks)]
        for wide in (4 * width, 2 * width):
            if up:
                made += [Up(wide), nn.Conv2d(wide, wide // 2, 3, 1, 1, bias=bias)]
            else:
                made += [nn.ConvTranspose2d(wide, wide // 2, 3, 2, 1, 1, bias=bias)]
            made += [norm(wide // 2), nn.ReLU()]
        self.model = nn.Sequential(*made, nn.ReflectionPad2d(3), nn.Conv2d(width, ends[1], 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Level(nn.Module):
    """One level of a U-Net, around what is ``inside``."""

    def __init__(self, outer: int, inner: int, norm: Any, inside: nn.Module | None, dropout: bool) -> None:
        super().__init__()
        bias = norm is nn.InstanceNorm2d
        down: list[nn.Module] = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        if inside is not None:
            down += [norm(inner), inside]
        up = [nn.ReLU(), nn.ConvTranspose2d(inner * (1 if inside is None else 2), outer, 4, 2, 1, bias=bias), norm(outer)]
        self.model = nn.Sequential(*down, *up, *([nn.Dropout()] if dropout else []))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1)


class Unet(nn.Module):
    def __init__(self, downs: int = 5, width: int = 2, ends: Ends = (3, 3), norm: Any = nn.BatchNorm2d, dropout: bool = False) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(downs)]
        level: nn.Module | None = None
        for i in reversed(range(1, downs)):
            level = Level(widths[i - 1], widths[i], norm, level, dropout and 3 < i < downs - 1)
        assert level is not None
        first = nn.Conv2d(ends[0], width, 4, 2, 1, bias=norm is nn.InstanceNorm2d)
        self.model = nn.Module()
        self.model.model = nn.Sequential(first, level, nn.ReLU(), nn.ConvTranspose2d(2 * width, ends[1], 4, 2, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model.model(x)


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4, 1, 1))


def lively(network: nn.Module, seed: int = 7) -> nn.Module:
    """In evaluation mode, with weights and statistics under which the output is far from gray."""
    random = torch.Generator().manual_seed(seed)
    for norm in scale_weights(network, seed).float().eval().modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=random)
            nn.init.normal_(norm.bias, 0, 0.2, generator=random)
            norm.running_mean.normal_(0, 0.3, generator=random)
            norm.running_var.uniform_(0.3, 1.5, generator=random)
    return network


def saved(network: nn.Module, path: Path, **options: Any) -> Path:
    """As the published code saves it."""
    torch.save(network.state_dict(), path, **options)
    return path
