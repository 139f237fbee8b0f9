"""The published U-Net generators of pix2pix, ``unet_128`` and ``unet_256``, with batch or instance norm.

Each level holds the next one: ``model.model.1.model.3.model.3...``. A level's halving comes before what it holds and its doubling after.
Dropout is behind all of these, and moves no number.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from unflip.errors import UserError
from unflip.networks.unet import FEWEST, MOST, UnetConfig
from unflip.networks.wiring import Wiring


def unet(tensors: Mapping[str, Tensor], where: Path) -> Wiring | None:
    """The U-Net that ``tensors`` look like; None: they do not.

    Raises ``UserError`` where it is one that is too shallow or too deep.
    """
    first, last = tensors.get("model.model.0.weight"), tensors.get("model.model.3.weight")
    for end in (first, last):
        if end is None or end.ndim != 4 or end.shape[2:] != (4, 4) or 0 in end.shape:
            return None
    assert first is not None and last is not None
    downs = 1
    while downs <= MOST and f"{_level(downs)}.1.weight" in tensors:
        downs += 1
    if not FEWEST <= downs <= MOST:
        raise UserError(
            f"{where} is a U-Net of {downs} levels; known are those of {FEWEST} to {MOST}, as unet_128 with 7 and unet_256 with 8"
        )
    batch = f"{_level(1)}.2.running_mean" in tensors and f"{_level(1)}.2.weight" in tensors
    config = UnetConfig(width=first.shape[0], downs=downs, norm="batch" if batch else "instance")
    what = f"the U-Net of pix2pix for {2**downs} x {2**downs} pixels, {config.norm} norm, width {config.width}"
    wiring = Wiring(config, (first.shape[1], last.shape[1]), what, "downs.0.0", f"ups.{downs - 1}.1", transposed=True)
    _wire(wiring, config)
    return wiring


def _level(i: int) -> str:
    """What the names of level ``i`` begin with, 0 being the outermost."""
    return "model.model" + (".1.model" if i else "") + ".3.model" * (i - 1)


def _wire(wiring: Wiring, config: UnetConfig) -> None:
    bias = config.norm == "instance"

    def norm(published: str, ours: str, channels: int) -> None:
        if config.norm == "batch":
            wiring.batch_norm(published, ours)
        else:
            wiring.instance_norm(published, channels)

    widths = [config.width * min(2**i, 8) for i in range(config.downs)]
    innermost = config.downs - 1
    for i in range(config.downs):
        up = f"ups.{innermost - i}"
        if i == 0:
            wiring.conv("model.model.0", "downs.0.0", bias)
            wiring.conv("model.model.3", f"{up}.1")
            continue
        wiring.conv(f"{_level(i)}.1", f"downs.{i}.1", bias)
        doubling = 3 if i == innermost else 5
        if i < innermost:
            norm(f"{_level(i)}.2", f"downs.{i}.2", widths[i])
        wiring.conv(f"{_level(i)}.{doubling}", f"{up}.1", bias)
        norm(f"{_level(i)}.{doubling + 1}", f"{up}.2", widths[i - 1])
