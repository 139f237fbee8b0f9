"""DistanceGAN, one-sided. Benaim & Wolf, "One-sided unsupervised domain mapping", NeurIPS 2017."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial
from unflip.losses.distance import Distance
from unflip.methods.recipe import Method, Recipe
from unflip.networks import PatchGANConfig, ResnetConfig

DISTANCEGAN = Method(
    name="distancegan",
    title="DistanceGAN",
    paper="Benaim and Wolf, One-sided unsupervised domain mapping, NeurIPS 2017",
    summary="halves of an image, or the images of a batch, must stay as far apart as they were; one generator, one way",
    epochs=200,
    recipe=Recipe(
        generator=ResnetConfig(downsample="stride", upsample="transpose", init="normal"),
        discriminator=PatchGANConfig(downsample="stride", init="normal"),
        terms={"adversarial": Adversarial(), "distance": Distance()},
        pool=50,
    ),
)
