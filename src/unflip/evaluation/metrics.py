"""What is told of a reading: the part of metrics.json that does not depend on the target's images."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from unflip.evaluation.confusion import (
    Floats,
    Reading,
    class_accuracy,
    excess_flip_rate,
    flip_matrix,
    flip_rate,
    mean_iou,
    normalized,
    per_class_iou,
    pixel_accuracy,
)


def flip_metrics(reading: Reading, real: Reading | None) -> dict[str, Any]:
    """Accuracies, intersection over union and flips, each with its interval and the number of images.

    ``real``: how the same segmenter reads real images; without it, ``excess_flip_rate`` and the flip matrix are None.
    """
    scalars = {"pixel_accuracy": pixel_accuracy, "class_accuracy": class_accuracy, "mean_iou": mean_iou, "flip_rate": flip_rate}
    labeled = reading.total.sum(1)
    excess = None if real is None else reading.figure(partial(excess_flip_rate, shown=real.total.sum(1) > 0), real)
    return {
        "format": 1,
        "images": reading.images,
        "block": reading.sizes[0],
        **{name: reading.figure(of).plain() for name, of in scalars.items()},
        "pixel_accuracy_void_wrong": reading.void_as_wrong().plain(),
        "excess_flip_rate": excess and excess.plain(),
        "per_class_iou": {name: iou.plain() for name, iou in zip(reading.names, reading.figures(per_class_iou), strict=True)},
        "class_shares": dict(zip(reading.names, (labeled / labeled.sum()).tolist(), strict=True)),
        "flips": {
            "classes": reading.names,
            "confusion": _rows(normalized(reading.total)),
            "real": None if real is None else _rows(normalized(real.total)),
            "matrix": None if real is None else _rows(flip_matrix(reading.total, real.total)),
        },
    }


def _rows(matrix: Floats) -> list[list[float | None]]:
    """For JSON, which has no NaN."""
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]
