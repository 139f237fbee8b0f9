"""VSAIT. Theiss, Leverett, Kim, Prakash, "Unpaired image translation via vector symbolic architectures", ECCV 2022."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial
from unflip.losses.hypervector import HypervectorConsistency
from unflip.methods.recipe import Method, OptimizerConfig, Recipe
from unflip.networks.hypervector import HypervectorDiscriminatorConfig

VSAIT = Method(
    name="vsait",
    title="VSAIT",
    paper="Theiss et al., Unpaired image translation via vector symbolic architectures, ECCV 2022",
    summary="hypervectors of the translation's patches, unbound from a learned mapping, must be the source's",
    epochs=8,  # 200,000 steps of one image, at GTA5's 25,000
    recipe=Recipe(
        discriminator=HypervectorDiscriminatorConfig(),
        # the published code averages the losses on translations and on bound hypervectors, so that each counts half
        terms={"adversarial": Adversarial(form="hinge", weight=0.5), "vsa": HypervectorConsistency()},
        optimizer=OptimizerConfig(lr=1e-4, discriminator_lr=4e-4, betas=(0.0, 0.9), weight_decay=1e-4),
    ),
)
