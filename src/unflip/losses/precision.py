"""Float32 islands: parts of a step that keep full precision when the rest runs in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of ``x``. Inputs must be cast by the caller: ``x.float()`` leaves float64 tests exact."""
    return torch.autocast(x.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is where it is more precise."""
    return x if x.dtype == torch.float64 else x.float()
