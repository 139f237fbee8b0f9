"""Pixel-wise terms: what is translated back, or need not be translated, must come out as it was."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor

from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Term
from unflip.types import Step


def mean_absolute_error(output: Tensor, reference: Tensor) -> Tensor:
    """``E |output - reference|`` over all elements, a scalar."""
    with full_precision(output):
        return F.l1_loss(at_least_float32(output), at_least_float32(reference))


class Cycle(Term):
    """``E |F(G(x)) - x|``: cycle consistency. Zhu et al., "Unpaired image-to-image translation", ICCV 2017, eq. 2."""

    weight: NonNegativeFloat = 10.0

    needs: ClassVar[frozenset[str]] = frozenset({"cycled"})

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert step.cycled is not None
        return mean_absolute_error(step.cycled, step.source)


class Identity(Term):
    """``E |G(y) - y|``: a target image needs no translation. Zhu et al., ICCV 2017, section 5.2; half the cycle's weight, as released."""

    weight: NonNegativeFloat = 5.0

    needs: ClassVar[frozenset[str]] = frozenset({"identity"})

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert step.identity is not None
        return mean_absolute_error(step.identity, step.target)
