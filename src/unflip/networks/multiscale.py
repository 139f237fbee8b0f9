"""Multi-scale prediction: a generator that sees the whole at half resolution and a part of it at full resolution, and fuses the two.

The pattern is HRDA's (Hoyer, Dai, Van Gool, "HRDA: Context-aware high-resolution domain-adaptive semantic segmentation", ECCV 2022,
eq. 4-7), carried over from segmentation to translation; docs/methods/semst.md says what is whose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unflip.config import Config
from unflip.networks.blocks import initialize, pad_to_multiple, without_margin
from unflip.networks.generator import Generator, GeneratorConfig
from unflip.types import GivenSize, Size


class MultiscaleConfig(Config):
    """Context at half resolution, detail at full resolution in windows half as wide and high as the training crop."""

    attention: int = Field(default=32, gt=0, le=2**14)
    """Channels of the head that weighs detail against context."""
    window: GivenSize | None = None
    """The detail windows that ``translate`` cuts an image into. Default: those of training, half the training crop."""


def build(
    generator: GeneratorConfig, multiscale: MultiscaleConfig | None, in_channels: int, out_channels: int, rng: torch.Generator
) -> Generator | Multiscale:
    """The generator, wrapped where a run is to be multi-scale, with weights freshly drawn from ``rng``."""
    inner = generator.build(in_channels, out_channels, rng)
    if multiscale is None:
        return inner
    with torch.random.fork_rng(devices=[]):
        network = Multiscale(inner, multiscale)
    initialize(network.attention, "xavier", rng)
    return network


def halve(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N, C, H/2, W/2)``: the mean of every 2 x 2 pixels, which aliases nothing and shifts nothing."""
    return F.avg_pool2d(x, 2)


class Multiscale(nn.Module):
    """One generator for both views, and a small head that reads off the context how far to trust the detail, position by position."""

    def __init__(self, inner: Generator, config: MultiscaleConfig) -> None:
        super().__init__()
        self.inner = inner
        self.window = config.window or Size(256, 256)
        self.stride = 2 * inner.stride
        """Sides of crops and places of windows are multiples of this: then both views meet the generator's grid. Only the last window of a
        row or column, which ends where the image ends, may meet just the detail's grid, at a multiple of half of this."""
        self.attention = nn.Sequential(
            nn.Conv2d(inner.taps[-1].channels, config.attention, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(config.attention, 1, 1)
        )

    def trust(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """The share of the detail at every position, ``(N, 1, *size)`` in (0, 1), from the context's features at the last tap.

        HRDA's eq. 6: attention is predicted from the context and upsampled.
        """
        inside = without_margin(features, self.inner.taps[-1].margin)
        return enlarged(self.attention(inside).sigmoid(), size)

    def forward(self, x: Tensor) -> Tensor:
        """Translate images of any height and width: the context at once, the detail in overlapping windows."""
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, self.stride, 2 * self.inner.smallest)
        size = x.shape[-2:]
        context, features = self.inner.run(halve(x))
        share = self.trust(features[-1], size)
        del features  # their memory is the windows' now
        image = (1 - share) * enlarged(context, size) + share * self.by_windows(x)
        return image[..., :height, :width]

    def by_windows(self, x: Tensor) -> Tensor:
        """The detail view of whole images ``(N, C, H, W)``: overlapping windows, blended so that none of their edges shows.

        Without gradient, as many windows go through the generator at once as have no more pixels than the context.
        """
        height, width = x.shape[-2:]
        high, wide = min(self.window.height, height), min(self.window.width, width)
        ramp = torch.outer(tent(high), tent(wide)).to(x)
        corners = [(top, left) for top in _starts(height, high, self.stride) for left in _starts(width, wide, self.stride)]
        together = 1 if torch.is_grad_enabled() else max(1, height * width // (4 * high * wide))
        total, weights = x.new_zeros(len(x), self.inner.out_channels, height, width), x.new_zeros(height, width)
        for i in range(0, len(corners), together):
            group = corners[i : i + together]
            parts = self.inner.run(torch.cat([x[..., top : top + high, left : left + wide] for top, left in group]))[0]
            for (top, left), part in zip(group, parts.unflatten(0, (len(group), len(x))), strict=True):
                total[..., top : top + high, left : left + wide] += part * ramp
                weights[top : top + high, left : left + wide] += ramp
        return total / weights


def fuse(context: Tensor, share: Tensor, detail: Tensor, places: Tensor) -> Tensor:
    """The translation inside each image's window: ``(1 - a) * context, enlarged + a * detail``. HRDA, eq. 7.

    Args:
        context: the whole crop at half resolution, translated, ``(N, C, H/2, W/2)``.
        share: a, for the whole crop, ``(N, 1, H, W)``.
        detail: the window, translated, ``(N, C, H/2, W/2)``.
        places: top and left of each window in the crop, ``(N, 2)``.
    """
    height, width = detail.shape[-2:]
    whole = enlarged(context, share.shape[-2:])
    inside, a = (cut(x, places, (height, width)) for x in (whole, share))
    return (1 - a) * inside + a * detail


def cut(x: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """The windows ``(N, ..., *size)`` at ``places`` ``(N, 2)``, (top, left), of ``x`` ``(N, ..., H, W)``."""
    # not by slices, whose corners the host would have to read
    rows, columns = (places[:, k, None] + torch.arange(length, device=x.device) for k, length in enumerate(size))
    between = [1] * (x.ndim - 3)
    return x.take_along_dim(rows.view(len(x), *between, -1, 1), -2).take_along_dim(columns.view(len(x), *between, 1, -1), -1)


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` at ``size`` (height, width), as the context is enlarged to the detail."""
    return F.interpolate(x, list(size), mode="bilinear", align_corners=False)


def tent(length: int) -> Tensor:
    """Blending weights along one side of a window: rising to its middle and falling again, above 0 everywhere."""
    places = torch.arange(length) + 0.5
    return torch.minimum(places, length - places) / length * 2


def _starts(whole: int, window: int, stride: int) -> Iterator[int]:
    """Where windows begin: every half window, on the stride's grid, and at last, on the grid or not, one that ends where the image ends."""
    yield from range(0, whole - window, step_of(window, stride))
    yield whole - window


def step_of(window: int, stride: int) -> int:
    """From one window to the next."""
    return max(window // 2 // stride * stride, stride)
