"""SRUNIT. Jia et al., "Semantically robust unpaired image translation for data with unmatched semantics statistics", ICCV 2021."""

from __future__ import annotations

from unflip.losses.robustness import Robustness
from unflip.methods.cut import CUT
from unflip.methods.recipe import Method

SRUNIT = Method(
    name="srunit",
    title="SRUNIT",
    paper="Jia et al., Semantically robust unpaired image translation for data with unmatched semantics statistics, ICCV 2021",
    summary="CUT, and what a patch shows must survive small perturbations of its features; for domains with unequal class shares",
    epochs=400,
    recipe=CUT.recipe.model_copy(update={"terms": {**CUT.recipe.terms, "robustness": Robustness()}}),
)
