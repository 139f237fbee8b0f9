"""Geometry consistency: translating a turned image, and turning a translated one, must come to the same.

Fu et al., "Geometry-consistent generative adversarial networks for one-sided unsupervised domain mapping", CVPR 2019.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import NonNegativeFloat
from torch import Tensor

from unflip.losses.reconstruction import mean_absolute_error
from unflip.losses.term import Nets, Term
from unflip.types import Step


class Geometry(Term):
    """``E |G(x) - f^-1(G(f(x)))|`` in the plain view, ``E |G(f(x)) - f(G(x))|`` in the turned one.

    Each view learns from the other's translation and does not move it; over both views this is the published loss.
    """

    weight: NonNegativeFloat = 20.0
    """As released: lambda_AB 10 times lambda_gc 2."""

    needs: ClassVar[frozenset[str]] = frozenset({"fake", "turned"})

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert step.turned is not None
        return mean_absolute_error(step.fake, step.turned.detach())
