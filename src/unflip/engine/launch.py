"""Devices and precision, by Lightning Fabric."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import torch

from unflip.devices import choose_device, choose_precision
from unflip.errors import UserError
from unflip.fabric import DDPStrategy, Fabric, LightningEnvironment, TorchElasticEnvironment
from unflip.torchrun import processes


def launch(device: str, precision: str, *, many: bool = False, idles: bool = True) -> Fabric:
    """A Fabric on one device, or with ``many`` on one for each process that torchrun started; each calls this.

    bf16 is autocast: weights and optimizer stay in float32. ``idles``: some parameters may have no gradient in a step, as where a term is
    off, or a tap was not drawn; several processes must then find out which.
    """
    chosen = choose_device(device)
    mode: Any = "bf16-mixed" if choose_precision(precision, chosen) == "bf16" else "32-true"
    local, nodes = processes() if many else (1, 1)
    if chosen.type == "cuda" and local > torch.cuda.device_count():
        raise UserError(f"{local} processes on this machine, which has {torch.cuda.device_count()} GPUs; start one for each GPU at most")
    several = local * nodes > 1
    # gradients are never long in coming: whoever is at work on something else is waited for by the team
    strategy: Any = DDPStrategy(find_unused_parameters=idles, broadcast_buffers=False, timeout=timedelta(minutes=10)) if several else "auto"
    # not looked for: a batch script's variables count tasks that it has not started
    plugins: Any = [TorchElasticEnvironment() if several else LightningEnvironment()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on other devices and interactive use, not ours to follow
        fabric = Fabric(accelerator=chosen.type, devices=local, num_nodes=nodes, strategy=strategy, plugins=plugins, precision=mode)
        talk = logging.getLogger("lightning_fabric")
        level = talk.level
        talk.setLevel(logging.WARNING)  # every process would say that it is there
        fabric.launch()
        talk.setLevel(level)
    return fabric


def machine(fabric: Fabric) -> dict[str, Any]:
    """What a run's record says of where it ran."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(fabric.device) if fabric.device.type == "cuda" else "cpu",
        "precision": str(fabric._precision.precision),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        **({"processes": fabric.world_size} if fabric.world_size > 1 else {}),
    }
