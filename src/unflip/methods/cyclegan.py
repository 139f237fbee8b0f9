"""CycleGAN. Zhu, Park, Isola, Efros, "Unpaired image-to-image translation using cycle-consistent adversarial networks", ICCV 2017."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial
from unflip.losses.reconstruction import Cycle, Identity
from unflip.methods.recipe import Method, Recipe
from unflip.networks import PatchGANConfig, ResnetConfig

CYCLEGAN = Method(
    name="cyclegan",
    title="CycleGAN",
    paper="Zhu et al., Unpaired image-to-image translation using cycle-consistent adversarial networks, ICCV 2017",
    summary="two generators, one each way; what is translated there and back must be what it was",
    epochs=200,
    recipe=Recipe(
        sides=2,
        generator=ResnetConfig(downsample="stride", upsample="transpose", init="normal"),
        discriminator=PatchGANConfig(downsample="stride", init="normal"),
        terms={"adversarial": Adversarial(), "cycle": Cycle(), "identity": Identity()},
        pool=50,
    ),
)
