"""SemST. Zhao, Cui, You, Kuo, "SemST: semantically consistent multi-scale image translation via structure-texture alignment", WACV 2024.

Published are the four ingredients: hard negatives in a contrastive loss, alignment of structure and of texture by mutual information, and
prediction from context and detail together. Estimator, features, weights and fusion are our completion: docs/methods/semst.md says which.
"""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial, Detail
from unflip.losses.alignment import Structure, Texture
from unflip.losses.nce import IdentityNCE, PatchNCE
from unflip.losses.negatives import Hard
from unflip.methods.recipe import Method, Recipe
from unflip.networks import MultiscaleConfig, ProjectorConfig

SEMST = Method(
    name="semst",
    title="SemST",
    paper="Zhao et al., SemST: Semantically consistent multi-scale image translation via structure-texture alignment, WACV 2024",
    summary="CUT with hard negatives, structure and texture aligned by mutual information, context and detail seen together",
    notes="Published: the four ingredients. Ours: their estimator, features, layers, weights and fusion (the paper's are not known to us). "
    "Each can be switched off: --set nce.negatives.kind=uniform --set identity_nce.negatives.kind=uniform, --set structure.weight=0, "
    "--set texture.weight=0, --set multiscale=null --set detail.weight=0.",
    epochs=400,
    recipe=Recipe(
        projector=ProjectorConfig(),
        multiscale=MultiscaleConfig(),
        terms={
            "adversarial": Adversarial(),
            "detail": Detail(),
            "nce": PatchNCE(weight=0.5, negatives=Hard()),
            "identity_nce": IdentityNCE(weight=0.5, negatives=Hard()),
            "structure": Structure(),
            "texture": Texture(),
        },
    ),
)
