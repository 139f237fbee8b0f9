"""CUT and FastCUT. Park, Efros, Zhang, Zhu, "Contrastive learning for unpaired image-to-image translation", ECCV 2020."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial
from unflip.losses.nce import IdentityNCE, PatchNCE
from unflip.methods.recipe import Method, OptimizerConfig, Recipe
from unflip.networks import ProjectorConfig

PAPER = "Park et al., Contrastive learning for unpaired image-to-image translation, ECCV 2020"

CUT = Method(
    name="cut",
    title="CUT",
    paper=PAPER,
    summary="patches of the translation must find their own source patch; the base of SRUNIT and SemST",
    epochs=400,
    recipe=Recipe(
        projector=ProjectorConfig(),
        terms={"adversarial": Adversarial(), "nce": PatchNCE(weight=0.5), "identity_nce": IdentityNCE(weight=0.5)},
    ),
)

FASTCUT = Method(
    name="fastcut",
    title="FastCUT",
    paper=PAPER,
    summary="CUT without its identity half, ten times the contrast, mirrored sources: half the memory, faster",
    epochs=200,
    recipe=Recipe(
        projector=ProjectorConfig(),
        terms={"adversarial": Adversarial(), "nce": PatchNCE(weight=10.0)},
        flip_equivariance=True,
        optimizer=OptimizerConfig(constant=0.75),
    ),
)
