"""Convolutions that compute the same in another way, where that is faster. Their weights are those of ``nn.Conv2d``.

A GPU multiplies matrices in blocks of 8 channels at the least. Where there are 3, the other 5 are computed for nothing: the first and
the last layer of a generator, 2 % of its operations, took a quarter of the time of its convolutions. So one side of the kernel is made
channels. A CPU gains by that in the last layer, and in its translations by Winograd's filtering.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unflip.networks.tracing import compiling, traced
from unflip.networks.winograd import convolve, worth_it

BLOCK = 8


class Conv3x3(nn.Conv2d):
    """A convolution by Winograd's minimal filtering where that is faster."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.stride == (1, 1) and worth_it(x, weight):
            return convolve(x, weight, bias, int(self.padding[0]))
        return super()._conv_forward(x, weight, bias)


class ConvAheadOfNorm(Conv3x3):
    """A convolution whose result an instance norm takes, which undoes the bias. Compiled, it is not even added: that is a pass over memory.

    The bias' gradient is then None; else it is 0, but for rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, None if compiling() else self.bias)


class ConvFromFew(ConvAheadOfNorm):
    """The same from few channels: the columns of the kernel become channels, which are then ``kernel width`` times as many."""

    def forward(self, x: Tensor) -> Tensor:
        if not compiling() or self.in_channels >= BLOCK:
            return super().forward(x)
        out, channels, high, wide = self.weight.shape
        width, more = x.shape[-1] - wide + 1, -channels * wide % BLOCK
        columns = [x[..., i : i + width] for i in range(wide)]
        kernel = self.weight.permute(0, 3, 1, 2).reshape(out, wide * channels, high, 1)
        return F.conv2d(F.pad(torch.cat(columns, 1), (0, 0, 0, 0, 0, more)), F.pad(kernel, (0, 0, 0, 0, 0, more)))


class ConvToFew(nn.Conv2d):
    """A convolution to few channels: what every row of the kernel gives is computed as channels of its own, and then added up.

    On a CPU, too, whose blocks are as large: in less than half the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        blocks = compiling() or (x.device.type == "cpu" and not traced())
        if not blocks or self.out_channels >= BLOCK:
            return super().forward(x)
        assert self.bias is not None
        out, channels, high, wide = self.weight.shape
        height = x.shape[-2] - high + 1
        kernel = self.weight.permute(2, 0, 1, 3).reshape(high * out, channels, 1, wide)
        rows = F.conv2d(x, F.pad(kernel, (0, 0, 0, 0, 0, 0, 0, -high * out % BLOCK)) if compiling() else kernel)
        exact = torch.promote_types(rows.dtype, torch.float32)
        total = self.bias.to(exact)[:, None, None] + sum(rows[:, i * out : (i + 1) * out, i : i + height].to(exact) for i in range(high))
        return total.to(rows.dtype)
