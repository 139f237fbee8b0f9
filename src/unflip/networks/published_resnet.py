"""The published ResNet generators: CycleGAN's, and those of CUT and SRUNIT: antialiased on the way down, up, both or not at all.

Their layers are numbered as they follow each other, ``model.0`` to ``model.31``, those without weights too, so that dropout moves the ones
behind it in its block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count

from torch import Tensor

from unflip.networks.blocks import separable
from unflip.networks.resnet import ResnetConfig
from unflip.networks.wiring import Wiring


def resnet(tensors: Mapping[str, Tensor]) -> Wiring | None:
    """The ResNet that ``tensors`` look like; None: they do not."""
    stem, blocks = tensors.get("model.1.weight"), _blocks(tensors)
    if stem is None or stem.ndim != 4 or stem.shape[2:] != (7, 7) or 0 in stem.shape or not blocks:
        return None
    down, up = "model.7.filt" in tensors, f"model.{blocks[-1] + 1}.filt" in tensors
    config = ResnetConfig(
        width=stem.shape[0],
        blocks=len(blocks),
        downsample="blur" if down else "stride",
        upsample="blur" if up else "transpose",
    )
    last = blocks[-1] + (8 if up else 6) + 2  # two doublings, and the padding ahead of the head
    head = tensors.get(f"model.{last}.bias")
    made = stem.shape[1] if head is None or head.ndim != 1 or len(head) == 0 else len(head)
    wiring = Wiring(config, (stem.shape[1], made), _words(config), "stages.stem", "stages.head.1")
    _wire(wiring, config, dropout=f"model.{blocks[0]}.conv_block.6.weight" in tensors)
    return wiring


def _blocks(tensors: Mapping[str, Tensor]) -> list[int]:
    """The numbers of the residual blocks."""
    found = (re.match(r"model\.(\d{1,6})\.conv_block\.", name) for name in tensors)
    return sorted({int(match[1]) for match in found if match is not None})


def _words(config: ResnetConfig) -> str:
    family = {
        ("blur", "blur"): "the ResNet of CUT and SRUNIT",
        ("stride", "transpose"): "the ResNet of CycleGAN",
        ("stride", "blur"): "the ResNet of CUT with --no_antialias",
        ("blur", "transpose"): "the ResNet of CUT with --no_antialias_up",
    }[config.downsample, config.upsample]
    return f"{family}, {config.blocks} blocks, width {config.width}"


def _wire(wiring: Wiring, config: ResnetConfig, dropout: bool) -> None:
    """All layers, in their order."""
    layers = count()

    def following() -> str:
        return f"model.{next(layers)}"

    def normalized(channels: int) -> None:
        wiring.instance_norm(following(), channels)
        following()  # ReLU

    def blur(channels: int, weights: list[float], total: float) -> None:
        wiring.kernels[f"{following()}.filt"] = separable(weights, total, channels)

    width = config.width
    following()  # padding
    wiring.conv(following(), "stages.stem")
    normalized(width)
    for name in ("down1", "down2"):
        width *= 2
        wiring.conv(following(), f"stages.{name}")
        normalized(width)
        if config.downsample == "blur":
            blur(width, [1, 2, 1], 1)
    second = 6 if dropout else 5
    for i in range(config.blocks):
        block = f"{following()}.conv_block"
        for theirs, ours in ((1, 1), (second, 5)):
            wiring.conv(f"{block}.{theirs}", f"stages.block{i + 1}.body.{ours}")
            wiring.instance_norm(f"{block}.{theirs + 1}", width)
    for name in ("up1", "up2"):
        if config.upsample == "blur":
            blur(width, [1, 3, 3, 1], 4)
        width //= 2
        wiring.conv(following(), f"stages.{name}")
        normalized(width)
    following()  # padding
    wiring.conv(following(), "stages.head.1")
