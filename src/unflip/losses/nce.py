"""PatchNCE: a patch of the translation must resemble its own source patch more than any other patch of that source image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, SerializeAsAny, field_validator
from torch import Tensor

from unflip.config import by_kind
from unflip.losses.draws import Stream, TapShape, gather
from unflip.losses.negatives import NEGATIVES, UNIFORM, NegativesConfig
from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Term
from unflip.networks import Projector
from unflip.types import Step


def patch_nce(queries: Tensor, keys: Tensor, temperature: float, negatives: NegativesConfig = UNIFORM) -> Tensor:
    """InfoNCE over the patches of each image. Park et al., "Contrastive learning for unpaired image-to-image translation", 2020, eq. 3.

    Args:
        queries: unit vectors ``(N, P, D)`` of patches of the translation.
        keys: unit vectors ``(N, P, D)`` of the patches at the same positions of the source; no gradient flows into them.
        temperature: of the softmax, > 0.
        negatives: how the patches ``j != i`` are weighted.

    Returns:
        ``mean_{n, i}  -log  exp(q_i . k_i / T) / sum_j exp(q_i . k_j / T)``, a scalar >= 0, with the sum's negatives weighted. The other
        images of the batch are no negatives, so the value does not depend on how images are batched.
    """
    keys = keys.detach()
    similarity = queries @ keys.transpose(1, 2)  # (N, P, P); the positives are the diagonal
    # a single patch has no negatives to weigh
    logits = (negatives if similarity.shape[1] > 1 else UNIFORM).logits(similarity, keys, temperature)
    positive = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
    return F.cross_entropy(logits.flatten(0, 1), positive.flatten())


def over_taps(
    loss: Callable[[Tensor, Tensor], Tensor],
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    positions: Sequence[Tensor],
    projector: Projector,
) -> Tensor:
    """The mean over the taps of ``loss(queries, keys)`` of projected features ``(N, C, h, w)`` of an output and of its input."""
    total = outputs[0].new_zeros((), dtype=torch.float32)
    for tap, (output, source, places) in enumerate(zip(outputs, inputs, positions, strict=True)):
        queries = projector(tap, gather(output, places))
        with torch.no_grad():
            keys = projector(tap, gather(source, places))
        with full_precision(queries):
            total = total + loss(at_least_float32(queries), at_least_float32(keys))
    return total / len(outputs)


class PatchNCE(Term):
    """Corresponding patches of source and translation keep their content."""

    weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 0.07
    patches: int = Field(default=256, ge=2)
    """Positions compared per tap and image; one is the positive, the others are the negatives."""
    negatives: SerializeAsAny[NegativesConfig] = UNIFORM
    """How the negatives are weighted: ``uniform`` (CUT), ``hard``, ``source`` or ``transport`` (MoNCE)."""

    needs: ClassVar[frozenset[str]] = frozenset({"features.source", "features.fake"})
    projects: ClassVar[bool] = True
    of: ClassVar[str] = "source"
    """Whose patches are compared."""

    @field_validator("negatives", mode="before")
    @classmethod
    def _negatives_by_kind(cls, value: Any) -> Any:
        return by_kind(value, NEGATIVES, "negatives")

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> tuple[Tensor, ...]:
        return stream.positions_at(taps, self.patches, self.of)

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert nets.projector is not None
        return over_taps(self.loss, step.features["fake"], step.features["source"], drawn, nets.projector)

    def chance(self, taps: tuple[TapShape, ...]) -> float | None:
        alike = [torch.ones(1, min(self.patches, tap.height * tap.width), 1) for tap in taps]
        return sum(float(self.loss(each, each)) for each in alike) / len(alike)

    def loss(self, queries: Tensor, keys: Tensor) -> Tensor:
        """At one tap."""
        return patch_nce(queries, keys, self.temperature, self.negatives)


class IdentityNCE(PatchNCE):
    """PatchNCE between a target image and its own translation, which ought to change nothing."""

    needs: ClassVar[frozenset[str]] = frozenset({"features.target", "features.identity"})
    of: ClassVar[str] = "target"

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert nets.projector is not None
        return over_taps(self.loss, step.features["identity"], step.features["target"], drawn, nets.projector)
