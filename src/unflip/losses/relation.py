"""Relations between the patches of an image: hDCE and SRC.

Jung et al., "Exploring patch-wise semantic relation for contrastive learning in image-to-image translation tasks", CVPR 2022.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from unflip.losses.draws import Stream, TapShape
from unflip.losses.nce import over_taps
from unflip.losses.negatives import diagonal, relative_weights
from unflip.losses.term import Nets, Term
from unflip.types import Step


def hdce(queries: Tensor, keys: Tensor, temperature: float, gamma: float | Tensor) -> Tensor:
    """PatchNCE without the positive in the denominator, its negatives weighted by what they have in common in the source (hDCE).

    Args:
        queries: unit vectors ``(N, P, D)`` of patches of the translation.
        keys: unit vectors ``(N, P, D)`` of the patches at the same positions of the source; no gradient flows into them.
        temperature: T of the softmax, > 0.
        gamma: of :func:`~unflip.losses.negatives.relative_weights` w, > 0.

    Returns:
        ``mean_{n, i}  log sum_{j != i} exp(w_ij q_i . k_j / T)  -  q_i . k_i / T``, a scalar, below 0 where positives win by far: the
        gradient does not fade there, as PatchNCE's does. 0 for a single patch, which has no negatives.
    """
    keys = keys.detach()
    similarity = queries @ keys.transpose(1, 2)  # (N, P, P); the positives are the diagonal
    if similarity.shape[1] < 2:
        return 0 * similarity.sum()
    logits = similarity * relative_weights(keys @ keys.transpose(1, 2), gamma) / temperature
    negatives = logits.masked_fill(diagonal(logits), -math.inf).logsumexp(2)
    return (negatives - logits.diagonal(dim1=1, dim2=2)).mean()


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The Jensen-Shannon divergence, in [0, log 2], between distributions along the last dimension, given as logarithms."""
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1) / 2


def relation_consistency(queries: Tensor, keys: Tensor) -> Tensor:
    """How differently the patches of translation and source relate to the other patches of their own image (SRC).

    Args:
        queries: unit vectors ``(N, P, D)`` of patches of the translation.
        keys: unit vectors ``(N, P, D)`` of the patches at the same positions of the source; no gradient flows into them.

    Returns:
        ``mean_n sum_i JSD(softmax_j q_i . q_j, softmax_j k_i . k_j)``, a scalar in [0, P log 2]: a sum over patches, as published.
    """
    keys = keys.detach()
    log_p, log_q = ((x @ x.transpose(1, 2)).log_softmax(2) for x in (queries, keys))  # (N, P, P)
    return jensen_shannon(log_p, log_q).sum(1).mean()


class Relations(NamedTuple):
    """What hDCE draws for one step."""

    positions: tuple[Tensor, ...]
    """``(N, P)`` per tap."""
    gamma: Tensor
    """A number, the same for all images."""


class Hdce(Term):
    """Corresponding patches keep their content; hard negatives are those that resemble the positive in the source."""

    weight: NonNegativeFloat = 0.1
    temperature: PositiveFloat = 0.07
    patches: int = Field(default=256, ge=2)
    """Positions compared per tap and image; one is the positive, the others are the negatives."""
    gamma_start: PositiveFloat = 50.0
    """Gamma goes linearly from this to ``gamma_end`` over training; the smaller, the less the unlike negatives count."""
    gamma_end: PositiveFloat = 10.0
    late: float = Field(default=1.0, ge=0, le=1)
    """After this share of training gamma is ``gamma_late`` instead (the paper's setting for Cityscapes: 0.5)."""
    gamma_late: PositiveFloat = 1.0

    needs: ClassVar[frozenset[str]] = frozenset({"features.source", "features.fake"})
    projects: ClassVar[bool] = True
    of: ClassVar[str] = "source"
    """Whose patches are compared."""

    def gamma_at(self, progress: float) -> float:
        """Gamma at ``progress`` in [0, 1]."""
        line = self.gamma_start + (self.gamma_end - self.gamma_start) * progress
        return self.gamma_late if progress > self.late else line

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> Relations:
        positions = stream.positions_at(taps, self.patches, self.of)
        return Relations(positions, torch.full((), self.gamma_at(stream.progress), device=stream.device))

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        return self._between(step.features["fake"], step.features["source"], drawn, nets)

    def _between(self, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], drawn: Relations, nets: Nets) -> Tensor:
        assert nets.projector is not None
        return over_taps(lambda q, k: hdce(q, k, self.temperature, drawn.gamma), outputs, inputs, drawn.positions, nets.projector)


class IdentityHdce(Hdce):
    """hDCE between a target image and its own translation, which ought to change nothing."""

    needs: ClassVar[frozenset[str]] = frozenset({"features.target", "features.identity"})
    of: ClassVar[str] = "target"

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        return self._between(step.features["identity"], step.features["target"], drawn, nets)


class Src(Term):
    """Patches of the translation relate to each other as those of the source do."""

    weight: NonNegativeFloat = 0.05
    patches: int = Field(default=256, ge=2)
    """Positions compared per tap and image. The loss is a sum over them."""

    needs: ClassVar[frozenset[str]] = frozenset({"features.source", "features.fake"})
    projects: ClassVar[bool] = True

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> tuple[Tensor, ...]:
        return stream.positions_at(taps, self.patches)

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert nets.projector is not None
        return over_taps(relation_consistency, step.features["fake"], step.features["source"], drawn, nets.projector)
