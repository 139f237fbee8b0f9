"""DECENT. Xie, Ho, Zhang, "Unpaired image-to-image translation with density changing regularization", NeurIPS 2022."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial
from unflip.losses.density import Density
from unflip.losses.reconstruction import Identity
from unflip.methods.recipe import Method, Recipe

DECENT = Method(
    name="decent",
    title="DECENT",
    paper="Xie et al., Unpaired image-to-image translation with density changing regularization, NeurIPS 2022",
    summary="common patches must become common patches, rare ones rare ones, by densities learned on the way",
    epochs=400,
    recipe=Recipe(terms={"adversarial": Adversarial(), "identity": Identity(weight=10.0), "density": Density()}),
)
