"""Whether what runs is run, or only followed."""

from __future__ import annotations

import torch


def compiling() -> bool:
    """Whether what is traced now becomes kernels of a GPU. A graph that is exported to ONNX is traced, too, and stays as it is."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def traced() -> bool:
    """Whether a graph is made, which other images may go through: nothing may depend on the size of this one."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
