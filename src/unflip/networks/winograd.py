"""3 x 3 convolutions on a CPU with a quarter of the multiplications: Winograd's minimal filtering F(4 x 4, 3 x 3).

Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016: of each tile of 6 x 6 pixels, which overlap by 2, and of the
kernel, 36 numbers are made, whose products, summed over the input channels, give the 4 x 4 pixels in the middle of the output's tile.
The points are 0, 1, -1, 1/2, -2 and infinity: the largest errors are less than half of what they are with 2 in place of 1/2.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from unflip.networks.tracing import traced

CHANNELS = 128
"""At least, on both sides: with fewer, the sums before and after the products take what these save."""
TILES, FEWEST = 512, 128
"""That are computed at once, for a memory that does not grow; and of the image, for which the kernel's numbers are worth making."""

IMAGE = ((2, -3, -4, 3, 2, 0), (0, -2, 1, 5, 2, 0), (0, 2, -5, 1, 2, 0), (0, -4, -2, 4, 2, 0), (0, 1, -2, -1, 2, 0), (0, 2, -3, -4, 3, 2))
"""Twice what a column of a tile is multiplied by."""
KERNEL = ((45, 0, 0), (15, 15, 15), (-15, 15, -15), (-48, -24, -12), (3, -6, 12), (0, 0, 45))
"""45 times what a column of the kernel is multiplied by."""
RESULT = ((8, 8, 8, 8, 8, 0), (0, 8, -8, 4, -16, 0), (0, 8, 8, 2, 32, 0), (0, 8, -8, 1, -64, 8))
"""8 times what a column of the products is multiplied by."""


def worth_it(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`convolve` can do it, and is faster: one image on a CPU, channels last in memory, and no gradient wanted."""
    return (
        not traced()  # asked first: the others would be conditions of the graph
        and type(x) is Tensor  # and no stand-in for one
        and x.device.type == "cpu"
        and len(x) == 1
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= CHANNELS
        and -(-x.shape[-2] // 4) * -(-x.shape[-1] // 4) >= FEWEST
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """``F.conv2d`` of one image ``(1, C, H, W)`` with a kernel ``(K, C, 3, 3)``; channels last, as ``x`` has them."""
    image, kernel, result = _matrices(x.dtype)
    _, channels, height, width = x.shape
    out, high, wide = len(weight), height + 2 * padding - 2, width + 2 * padding - 2
    across = -(-wide // 4)
    numbers = (kernel @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(36 * out, channels, 1, 1)
    pixels, y = x[0].permute(1, 2, 0), x.new_empty(high, wide, out)
    rows = max(1, TILES // across)
    for top in range(0, high, 4 * rows):
        down = min(rows, -(-(high - top) // 4))
        first = max(top - padding, 0)
        strip = pixels[first : top - padding + 4 * down + 2]
        above = first - top + padding
        strip = F.pad(strip, (0, 0, padding, 4 * across + 2 - width - padding, above, 4 * down + 2 - len(strip) - above))
        tiles = strip.unfold(0, 6, 4).unfold(1, 6, 4).permute(0, 1, 3, 4, 2).reshape(-1, 36, channels)
        # 36 matrix products as oneDNN's convolution: MKL's products do not use all of a CPU's instructions where AMD made it, and with one
        # thread `conv2d` would take them
        numbered = (image @ tiles).view(1, -1, 1, 36 * channels).permute(0, 3, 1, 2)
        products = torch.mkldnn_convolution(numbered, numbers, None, (0, 0), (1, 1), (1, 1), 36)
        part = result @ products.permute(0, 2, 3, 1).view(-1, 36, out)
        if bias is not None:
            part += bias
        y[top : top + 4 * down] = part.view(down, across, 4, 4, out).transpose(1, 2).reshape(4 * down, 4 * across, out)[: high - top, :wide]
    return y[None].permute(0, 3, 1, 2)


@lru_cache
def _matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """For the rows and the columns of a tile at once: ``(36, 36)``, of a kernel ``(36, 9)``, and of the products ``(16, 36)``."""
    with torch.inference_mode(False):
        wide = (torch.tensor(each, dtype=torch.float64, device="cpu") / by for each, by in ((IMAGE, 2), (KERNEL, 45), (RESULT, 8)))
        image, kernel, result = (torch.kron(each, each).to(dtype) for each in wide)
        return image, kernel, result
