"""Lightning Fabric, without what it would import for nothing.

Fabric asks which torchmetrics there is by importing it, and with it transformers, torchvision, SciPy and the compiler of torch: as long
again as torch itself takes, before every training. Only its SpikeDetection wants to know, which is not used here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _missing(package: str) -> Iterator[None]:
    """``package`` cannot be imported meanwhile, unless it is already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment] # the import system's own sign of a module that is not there
    try:
        yield
    finally:
        del sys.modules[package]


with _missing("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

__all__ = ["DDPStrategy", "Fabric", "LightningEnvironment", "TorchElasticEnvironment"]
