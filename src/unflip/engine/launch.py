"""Devices and precision, by Lightning Fabric."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from lightning_fabric import Fabric

from unflip.devices import choose_device, choose_precision


def launch(device: str, precision: str) -> Fabric:
    """A Fabric on one device. bf16 is autocast: weights and optimizer stay in float32."""
    chosen = choose_device(device)
    mode: Any = "bf16-mixed" if choose_precision(precision, chosen) == "bf16" else "32-true"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on other devices and interactive use, not ours to follow
        fabric = Fabric(accelerator=chosen.type, devices=1, precision=mode)
        fabric.launch()
    return fabric


def machine(fabric: Fabric) -> dict[str, Any]:
    """What a run's record says of where it ran."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu",
        "precision": str(fabric._precision.precision),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
