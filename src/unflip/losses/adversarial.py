"""The game between generator and discriminator."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor

from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Game as Form
from unflip.losses.term import Nets, Term
from unflip.types import Step


def generator_loss(fake: Tensor, form: Form) -> Tensor:
    """How far the logits of the translations, any shape, are from "real"; a scalar."""
    if form == "least_squares":  # E (D(G(x)) - 1)^2                             Mao et al., ICCV 2017
        return (fake - 1).square().mean()
    if form == "hinge":  # -E D(G(x))                                            Lim & Ye, 2017
        return -fake.mean()
    return F.softplus(-fake).mean()  # -E log sigmoid(D(G(x)))                   Goodfellow et al., NeurIPS 2014 (non-saturating)


def discriminator_loss(real: Tensor, fake: Tensor, form: Form, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The losses on real images and on translations, from their logits; two scalars. Their mean is what is minimized (CUT, CycleGAN).

    ``weights``: of the logits of real images; None: all the same.
    """
    if form == "least_squares":  # E w (D(y) - 1)^2,  E D(G(x))^2
        on_real, on_fake = (real - 1).square(), fake.square()
    elif form == "hinge":  # E w max(0, 1 - D(y)),  E max(0, 1 + D(G(x)))
        on_real, on_fake = F.relu(1 - real), F.relu(1 + fake)
    else:  # -E w log sigmoid(D(y)),  -E log (1 - sigmoid(D(G(x))))
        on_real, on_fake = F.softplus(-real), F.softplus(fake)
    return (on_real if weights is None else weights * on_real).mean(), on_fake.mean()


class Adversarial(Term):
    """The translation must look like the target domain to the discriminator."""

    weight: NonNegativeFloat = 1.0
    form: Form = "least_squares"

    needs: ClassVar[frozenset[str]] = frozenset({"fake"})

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        return _judged(step.shared(step.fake), nets, self.form)


class Detail(Term):
    """The detail view alone must look like the target too, or the fusion could leave it to the context. HRDA, eq. 9, with its weight
    of 0.1, beside which the fused image counts in full (there: 0.9)."""

    weight: NonNegativeFloat = 0.1

    needs: ClassVar[frozenset[str]] = frozenset({"detail"})

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert step.detail is not None
        return _judged(step.shared(step.detail), nets, nets.game)


def _judged(fake: Tensor, nets: Nets, form: Form) -> Tensor:
    logits = nets.discriminator(fake)
    with full_precision(logits):
        return generator_loss(at_least_float32(logits), form)
