"""Weights of a patch's negatives: which other patches of the source push a patch of the translation away, and how hard.

Patch i of the translation has the similarities ``s_ij = q_i . k_j`` to the patches of the source, cosines in [-1, 1]. PatchNCE's logits
are ``s_ij / T``; the positive is ``j = i``. The kinds here change the logits of the negatives only, by weights without gradient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from unflip.config import Config


def diagonal(x: Tensor) -> Tensor:
    """Where the positives are in ``x`` ``(N, P, P)``: ``(P, P)``, boolean."""
    return torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)


@torch.no_grad()
def hard_log_weights(similarity: Tensor, relation: Tensor, beta: float, guard: float, cap: float) -> Tensor:
    """``log W_ij`` with ``W_ij = (P - 1) exp(beta s_ij) / sum_{l != i} exp(beta s_il)``: importance weights towards a von Mises-Fisher
    distribution around the query. Robinson et al., "Contrastive learning with hard negative samples", ICLR 2021.

    A negative too much like the positive in the source itself is probably no negative: where ``relation`` is above ``guard``, W is at
    most ``cap``.

    Args:
        similarity: ``s_ij`` ``(N, P, P)``.
        relation: ``k_i . k_j`` ``(N, P, P)`` between patches of the source, cosines in [-1, 1].
        beta: concentration, >= 0; at 0 every W is 1.

    Returns:
        ``(N, P, P)``, 0 on the diagonal. Before the guard, each row's W have the mean 1.
    """
    positives = diagonal(similarity)
    score = (beta * similarity).masked_fill(positives, -math.inf)
    top = score.amax(-1, keepdim=True)
    mean = (score - top).exp().sum(-1, keepdim=True) / (similarity.shape[-1] - 1)
    weights = (score - top) - mean.log()
    guarded = weights.clamp(max=math.log(cap) if cap > 0 else -math.inf)
    return torch.where(relation > guard, guarded, weights).masked_fill(positives, 0.0)


@torch.no_grad()
def relative_weights(relation: Tensor, gamma: float | Tensor) -> Tensor:
    """``exp((r_ij - max_{l != i} r_il) / gamma)``: a softmax over the negatives divided by its largest entry, in (0, 1].

    The weights of Jung et al., CVPR 2022, as their code has them: they multiply the logits, and a smaller gamma is the harder one.

    Args:
        relation: ``r_ij = k_i . k_j`` ``(N, P, P)`` between patches of the source.

    Returns:
        ``(N, P, P)``, 1 on the diagonal.
    """
    positives = diagonal(relation)
    top = relation.masked_fill(positives, -math.inf).amax(-1, keepdim=True)
    return ((relation - top) / gamma).exp().masked_fill(positives, 1.0)


@torch.no_grad()
def transport_log_plan(affinity: Tensor, eps: float, iterations: int) -> Tensor:
    """The logarithm of the matrix with rows and columns that sum to 1 and a diagonal of 0 that maximizes
    ``sum_ij plan_ij affinity_ij + eps * entropy(plan)``, by Sinkhorn's iterations in the log domain.

    Zhan et al., "Modulated contrast for versatile image synthesis", CVPR 2022: every patch of the translation hands out,
    and every patch of the source takes in, the same total weight.

    Args:
        affinity: ``(N, P, P)``; its diagonal is not read.
        eps: of the entropy, > 0. At 0 the plan would be an assignment.
        iterations: the columns sum to 1 exactly, the rows as far as it has converged.
    """
    kernel = (affinity / eps).masked_fill(diagonal(affinity), -math.inf)
    columns = kernel.new_zeros(kernel.shape[0], 1, kernel.shape[2])
    for _ in range(iterations):
        rows = -(kernel + columns).logsumexp(2, keepdim=True)
        columns = -(kernel + rows).logsumexp(1, keepdim=True)
    return rows + kernel + columns


class NegativesConfig(Config, ABC):
    """How the negatives are weighted; ``kind`` is its name in the table NEGATIVES."""

    kind: str

    @model_validator(mode="after")
    def _kind_is_given(self) -> NegativesConfig:
        self.model_fields_set.add("kind")  # what a method sets is kept without the defaults, and kind tells which defaults
        return self

    @abstractmethod
    def logits(self, similarity: Tensor, keys: Tensor, temperature: float) -> Tensor:
        """The logits ``(N, P, P)`` of the softmax over the patches of the source; those on the diagonal are ``s_ii / T``.

        Args:
            similarity: ``s_ij`` ``(N, P, P)``, with gradient.
            keys: unit vectors ``(N, P, D)`` of the source, without gradient; ``P >= 2``.
        """


class Uniform(NegativesConfig):
    """``kind: uniform``. CUT: all negatives count the same."""

    kind: Literal["uniform"] = "uniform"

    def logits(self, similarity: Tensor, keys: Tensor, temperature: float) -> Tensor:
        return similarity / temperature


class Hard(NegativesConfig):
    """``kind: hard``. Negatives count the more, the more they resemble the patch of the translation."""

    kind: Literal["hard"] = "hard"
    beta: NonNegativeFloat = 1.0
    """Concentration, per unit of cosine; 0: as uniform. Robinson's code multiplies ``s / T``: its beta is this one times the temperature,
    so that its default of 1 is 14.3 here."""
    guard: float = Field(default=0.9, ge=-1)
    """Negatives whose cosine with the positive, in the source, is above this are taken for the same thing; 2: none are."""
    cap: NonNegativeFloat = 1.0
    """The largest weight of such a negative; 1: as in PatchNCE, 0: left out."""

    def logits(self, similarity: Tensor, keys: Tensor, temperature: float) -> Tensor:
        relation = keys @ keys.transpose(1, 2)
        return similarity / temperature + hard_log_weights(similarity, relation, self.beta, self.guard, self.cap)


class Source(NegativesConfig):
    """``kind: source``. Negatives count the more, the more they resemble the positive in the source; the weights multiply the logits."""

    kind: Literal["source"] = "source"
    gamma: PositiveFloat = 10.0
    """Temperature of the weights: the smaller, the less the unlike ones count (those with ``s_ij > 0``: a weight brings a logit nearer to
    0 from below, too). A weight is at least ``exp(-2 / gamma)``."""

    def logits(self, similarity: Tensor, keys: Tensor, temperature: float) -> Tensor:
        return similarity * relative_weights(keys @ keys.transpose(1, 2), self.gamma) / temperature


class Transport(NegativesConfig):
    """``kind: transport``. MoNCE: weights by optimal transport, so that no patch is everybody's hard negative."""

    kind: Literal["transport"] = "transport"
    cost: Literal["hard", "easy"] = "hard"
    """``hard``: similar negatives get the weight. ``easy``: dissimilar ones."""
    eps: PositiveFloat = 1.0
    """The smaller, the more the weight of a patch lies on few negatives."""
    mass: PositiveFloat = 1.0
    """The weights' mean."""
    iterations: PositiveInt = 50

    def logits(self, similarity: Tensor, keys: Tensor, temperature: float) -> Tensor:
        plan = transport_log_plan(similarity if self.cost == "hard" else -similarity, self.eps, self.iterations)
        weights = plan + math.log(self.mass * (similarity.shape[-1] - 1))
        return similarity / temperature + weights.masked_fill(diagonal(similarity), 0.0)


UNIFORM = Uniform()
NEGATIVES: dict[str, type[NegativesConfig]] = {"uniform": Uniform, "hard": Hard, "source": Source, "transport": Transport}
