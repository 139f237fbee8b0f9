"""Float32 islands: parts of a step that keep full precision when the rest runs in bfloat16 or TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def full_precision(x: Tensor) -> Iterator[None]:
    """No autocast, and no TF32 in convolutions and matrix products, on the device of ``x``.

    Inputs must be cast by the caller, with :func:`at_least_float32`. Gradients are computed later, with the settings of that time.
    """
    with torch.autocast(x.device.type, enabled=False):
        if x.device.type != "cuda":
            yield
            return
        before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is where it is more precise."""
    return x if x.dtype == torch.float64 else x.float()
