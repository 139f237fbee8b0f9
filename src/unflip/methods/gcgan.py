"""GcGAN. Fu, Gong, Wang, Batmanghelich, Zhang, Tao, "Geometry-consistent generative adversarial networks", CVPR 2019."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial
from unflip.losses.geometry import Geometry
from unflip.losses.reconstruction import Identity
from unflip.methods.recipe import Method, Recipe
from unflip.networks import PatchGANConfig, ResnetConfig

GCGAN = Method(
    name="gcgan",
    title="GcGAN",
    paper="Fu et al., Geometry-consistent generative adversarial networks for one-sided unsupervised domain mapping, CVPR 2019",
    summary="a turned image must translate to the turned translation; one generator, one way",
    epochs=200,
    recipe=Recipe(
        generator=ResnetConfig(downsample="stride", upsample="transpose"),
        discriminator=PatchGANConfig(downsample="stride"),
        terms={"adversarial": Adversarial(), "geometry": Geometry(), "identity": Identity()},
        turn="rotate",
        pool=50,
    ),
)
