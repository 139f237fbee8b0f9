"""How near translations are to a reference that is aligned pixel by pixel, such as the map of an aerial photo: GcGAN's map metrics.

Fu et al., CVPR 2019, as their ``evaluate_maps.py`` computes them, but for one thing: it resizes all images to 256 x 256 before, and here
they are compared at their own size. For published figures, give images of 256 x 256.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unflip.data.images import Array, read_rgb
from unflip.errors import UserError
from unflip.evaluation.realism import mean_figure

DELTA = 5
"""Below so many of 255 steps, a pixel counts as right."""


class Nearness(NamedTuple):
    """Of one image to its reference."""

    within: float
    """The share of pixels whose largest difference over the channels is below delta."""
    rmse: float
    """``sqrt(sum of diff^2 over pixels and channels / pixels)``: channels are summed, not averaged; 0 to 441.7."""


def nearness(translated: Array, reference: Array, delta: int = DELTA) -> Nearness:
    """Compare two images ``(H, W, 3)`` uint8 of one size."""
    difference = translated.astype(np.int64) - reference
    within = (np.abs(difference).max(-1) < delta).mean()
    return Nearness(float(within), float(np.sqrt((difference**2).sum(-1).mean())))


def map_metrics(
    translated: Sequence[Path],
    references: Sequence[Path],
    delta: int = DELTA,
    progress: Callable[[int], None] = lambda done: None,
    seed: int = 0,
) -> dict[str, Any]:
    """The means over pairs of image files, with intervals by bootstrap over neighbors; ``progress(done)`` is called after each pair.

    Raises:
        UserError: the two images of a pair differ in size, or one cannot be read.
    """
    pairs = []
    for path, wanted in zip(translated, references, strict=True):
        image, reference = read_rgb(path), read_rgb(wanted)
        if image.shape != reference.shape:
            sizes = " and ".join(f"{width}x{height}" for height, width in (image.shape[:2], reference.shape[:2]))
            raise UserError(f"a translation and its reference differ in size ({sizes}), {path} and {wanted}; resize the one or the other")
        pairs.append(nearness(image, reference, delta))
        progress(len(pairs))
    within, rmse = (mean_figure(values, seed).plain() for values in np.array(pairs, dtype=np.float64).T)
    return {"delta": delta, "within": within, "rmse": rmse}
