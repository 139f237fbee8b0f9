"""Terms. ``TERMS`` is the table of all that a method, or ``--set``, can name."""

from __future__ import annotations

from unflip.losses.adversarial import Adversarial, Detail
from unflip.losses.alignment import Structure, StructureConsistency, Texture
from unflip.losses.density import Density
from unflip.losses.distance import Distance
from unflip.losses.geometry import Geometry
from unflip.losses.hypervector import HypervectorConsistency
from unflip.losses.nce import IdentityNCE, PatchNCE
from unflip.losses.reconstruction import Cycle, Identity
from unflip.losses.relation import Hdce, IdentityHdce, Src
from unflip.losses.robustness import Robustness
from unflip.losses.self_similarity import SelfSimilarity
from unflip.losses.semantic import Semantic
from unflip.losses.term import Nets, Setting, Site, Term

TERMS: dict[str, type[Term]] = {
    "adversarial": Adversarial,
    "detail": Detail,
    "nce": PatchNCE,
    "identity_nce": IdentityNCE,
    "cycle": Cycle,
    "identity": Identity,
    "robustness": Robustness,
    "hdce": Hdce,
    "identity_hdce": IdentityHdce,
    "src": Src,
    "self_similarity": SelfSimilarity,
    "vsa": HypervectorConsistency,
    "geometry": Geometry,
    "distance": Distance,
    "density": Density,
    "semantic": Semantic,
    "scc": StructureConsistency,
    "structure": Structure,
    "texture": Texture,
}

__all__ = ["TERMS", "Nets", "Setting", "Site", "Term"]
