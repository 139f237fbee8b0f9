"""SRC + hDCE. Jung, Kwon, Ye, "Exploring patch-wise semantic relation for contrastive learning [...]", CVPR 2022."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial
from unflip.losses.relation import Hdce, IdentityHdce, Src
from unflip.methods.recipe import Method, Recipe
from unflip.networks import ProjectorConfig

HNEG_SRC = Method(
    name="hneg_src",
    title="SRC + hDCE",
    paper="Jung et al., Exploring patch-wise semantic relation for contrastive learning in image-to-image translation tasks, CVPR 2022",
    summary="CUT with hard negatives from the source, and patches that relate to each other as in the source",
    epochs=400,
    # the paper's horse2zebra; its Cityscapes has src.weight=0.1 hdce.late=0.5 identity_hdce.late=0.5
    recipe=Recipe(
        projector=ProjectorConfig(),
        terms={
            "adversarial": Adversarial(),
            "hdce": Hdce(weight=0.05),
            "identity_hdce": IdentityHdce(weight=0.05),
            "src": Src(),
        },
    ),
)
