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


def generator_loss(fake: Tensor, form: Form, weights: Tensor | None = None) -> Tensor:
    """How far the logits of the translations, any shape, are from "real"; a scalar.

    ``weights``: of the pixels of the translations, ``(N, 1, H, W)``, for logits ``(N, 1, h, w)``; None: all weigh the same.
    """
    if form == "least_squares":  # E (D(G(x)) - 1)^2                             Mao et al., ICCV 2017
        return _mean((fake - 1).square(), weights)
    if form == "hinge":  # -E D(G(x))                                            Lim & Ye, 2017
        return -_mean(fake, weights)
    return _mean(F.softplus(-fake), weights)  # -E log sigmoid(D(G(x)))          Goodfellow et al., NeurIPS 2014 (non-saturating)


def discriminator_loss(real: Tensor, fake: Tensor, form: Form, weights: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """The losses on real images and on translations, from their logits; two scalars. Their mean is what is minimized (CUT, CycleGAN).

    ``weights``: of the pixels of both, as in :func:`generator_loss`.
    """
    of_real, of_fake = weights or (None, None)
    if form == "least_squares":  # E (D(y) - 1)^2,  E D(G(x))^2
        return _mean((real - 1).square(), of_real), _mean(fake.square(), of_fake)
    if form == "hinge":  # E max(0, 1 - D(y)),  E max(0, 1 + D(G(x)))
        return _mean(F.relu(1 - real), of_real), _mean(F.relu(1 + fake), of_fake)
    # -E log sigmoid(D(y)),  -E log (1 - sigmoid(D(G(x))))
    return _mean(F.softplus(-real), of_real), _mean(F.softplus(fake), of_fake)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Of what logits give; each weighs what the pixels of its part of the image do on average."""
    if weights is None:
        return values.mean()
    height, width = values.shape[-2:]
    return (F.adaptive_avg_pool2d(weights, (height, width)) * values).mean()


class Adversarial(Term):
    """The translation must look like the target domain to the discriminator."""

    weight: NonNegativeFloat = 1.0
    form: Form = "least_squares"

    needs: ClassVar[frozenset[str]] = frozenset({"fake"})

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        return _judged(step, step.fake, nets, self.form)


class Detail(Term):
    """The detail view alone must look like the target too, or the fusion could leave it to the context. HRDA, eq. 9, with its weight
    of 0.1, beside which the fused image counts in full (there: 0.9)."""

    weight: NonNegativeFloat = 0.1

    needs: ClassVar[frozenset[str]] = frozenset({"detail"})

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert step.detail is not None
        return _judged(step, step.detail, nets, nets.game)


def _judged(step: Step, fake: Tensor, nets: Nets, form: Form) -> Tensor:
    logits = nets.discriminator(step.shared(fake))
    with full_precision(logits):
        return generator_loss(at_least_float32(logits), form, step.weights and step.weights[0])
