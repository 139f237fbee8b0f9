"""Pixels into the networks and out again."""

from __future__ import annotations

import torch
from torch import Tensor


def to_network(image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 ``(N, C, H, W)``, 0 to 255, to floats in [-1, 1]. Floats are there already."""
    if image.is_floating_point():
        return image.to(dtype)
    # Computed in float32 at least, and rounded once.
    wide = torch.promote_types(dtype, torch.float32)
    return (image.to(wide) / 127.5 - 1).to(dtype)


def to_image(image: Tensor) -> Tensor:
    """Floats in [-1, 1] to uint8, rounded to nearest; values beyond are clamped. Undoes ``to_network`` exactly."""
    wide = image.to(torch.promote_types(image.dtype, torch.float32))
    return ((wide + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_ids(labels: Tensor) -> Tensor:
    """Labels as stored, uint8 with 255 for ignored pixels, to int64 with -1."""
    return torch.where(labels == 255, -1, labels.long())


def holes(image: Tensor) -> tuple[Tensor, Tensor]:
    """An image ``(N, C, H, W)`` with 0 where it holds nothing (NaN), and where it is valid, ``(N, 1, H, W)``, boolean."""
    valid = ~image.isnan().any(1, keepdim=True)
    return torch.where(valid, image, 0.0), valid


def widened(x: Tensor, count: int) -> Tensor:
    """Bands ``(..., C, H, W)`` repeated in turn until there are ``count`` at least: so domains of different counts share their networks."""
    if x.shape[-3] >= count:
        return x
    return x[..., [k % x.shape[-3] for k in range(count)], :, :]


def narrowed(x: Tensor, count: int) -> Tensor:
    """``count`` bands of ``(..., C, H, W)``, each the mean of those that :func:`widened` would make of it."""
    if x.shape[-3] == count:
        return x
    return torch.stack([x[..., k::count, :, :].mean(-3) for k in range(count)], -3)
