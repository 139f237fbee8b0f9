"""Sample grids: the same inputs through the run, so that progress can be seen."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unflip.data.transforms import narrowed, to_image, widened
from unflip.engine.training import Training
from unflip.files import write_bytes
from unflip.methods.passes import FORWARD
from unflip.types import Batch

GAP = 2


@torch.no_grad()
def draw_samples(training: Training, fixed: Batch, path: Path) -> None:
    """Write a grid: one column for each image; rows: source, its translation, and for two-sided methods target and its translation.

    ``fixed``: images ``(N, C, S, S)`` in [-1, 1]; of more than three bands, the first three are shown. The translations are the moving
    average's: what the run's model would give.
    """
    rows: list[Tensor] = []
    for side, generator in training.ema.network.items():  # type: ignore[operator]
        images, given, made = fixed.source, *training.bands
        if side != FORWARD:
            images, given, made = fixed.target, made, given
        translations = torch.cat([generator(image[None].to(training.fabric.device)).cpu() for image in images])
        rows += [widened(narrowed(images, given.count), 3)[:, :3], widened(narrowed(translations, made.count), 3)[:, :3]]
    write_bytes(path, png(grid(rows)))


def grid(rows: list[Tensor]) -> np.ndarray:
    """Rows of images ``(N, 3, S, S)`` in [-1, 1] as one ``(H, W, 3)`` uint8 picture with thin white gaps."""
    cells = [[to_image(image).permute(1, 2, 0).numpy() for image in row] for row in rows]
    padded = [[np.pad(cell, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for cell in row] for row in cells]
    return np.concatenate([np.concatenate(row, axis=1) for row in padded])


def png(pixels: np.ndarray) -> bytes:
    """``(H, W, 3)`` uint8 as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
