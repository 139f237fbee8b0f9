"""SCC. Guo et al., "Alleviating semantics distortion in unsupervised low-level image-to-image translation via structure consistency
constraint", CVPR 2022: one term, pixel-wise mutual information, beside another method's."""

from __future__ import annotations

from unflip.losses.alignment import StructureConsistency
from unflip.methods.cut import CUT
from unflip.methods.cyclegan import CYCLEGAN
from unflip.methods.recipe import Method

PAPER = "Guo et al., Alleviating semantics distortion via structure consistency constraint, CVPR 2022"


def _beside(base: Method, name: str, title: str, summary: str, weight: float) -> Method:
    terms = {**base.recipe.terms, "scc": StructureConsistency(weight=weight)}
    recipe = base.recipe.model_copy(update={"terms": terms})
    return base.model_copy(update={"name": name, "title": title, "paper": PAPER, "summary": summary, "recipe": recipe})


SCC = _beside(CYCLEGAN, "scc", "CycleGAN + SCC", "CycleGAN, and pixels of the translation must tell what the source's were", 5.0)
SCC_CUT = _beside(CUT, "scc_cut", "CUT + SCC", "CUT, and pixels of the translation must tell what the source's were", 0.5)
