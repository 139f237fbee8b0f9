"""MoNCE. Zhan et al., "Modulated contrast for versatile image synthesis", CVPR 2022."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial
from unflip.losses.nce import IdentityNCE, PatchNCE
from unflip.losses.negatives import Transport
from unflip.methods.recipe import Method, Recipe
from unflip.networks import ProjectorConfig

MONCE = Method(
    name="monce",
    title="MoNCE",
    paper="Zhan et al., Modulated contrast for versatile image synthesis, CVPR 2022",
    summary="CUT with negatives weighted by optimal transport: similar ones push harder, and none pushes everybody",
    epochs=400,
    recipe=Recipe(
        projector=ProjectorConfig(),
        terms={
            "adversarial": Adversarial(),
            "nce": PatchNCE(weight=0.5, negatives=Transport()),
            "identity_nce": IdentityNCE(weight=0.5, negatives=Transport()),
        },
    ),
)
