"""F-LSeSim and L-LSeSim. Zheng, Cham, Cai, "The spatially-correlative loss for various image translation tasks", CVPR 2021."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial
from unflip.losses.self_similarity import SelfSimilarity
from unflip.methods.recipe import Method, OptimizerConfig, Recipe

LSESIM = Method(
    name="lsesim",
    title="LSeSim",
    paper="Zheng et al., The spatially-correlative loss for various image translation tasks, CVPR 2021",
    summary="every place keeps its likeness to its surroundings, as a network pretrained on ImageNet sees them",
    epochs=400,
    recipe=Recipe(
        terms={"adversarial": Adversarial(), "self_similarity": SelfSimilarity()},
        pool=50,
        optimizer=OptimizerConfig(lr=1e-4),
    ),
)
