"""SRUNIT's semantic robustness: what a patch shows must survive a translation from slightly perturbed features.

Jia et al., "Semantically robust unpaired image translation for data with unmatched semantics statistics", ICCV 2021. The three forms,
and what the published code computes, are argued in docs/decisions/robustness.md.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor

from unflip.losses.draws import Stream, TapShape, gather
from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Term
from unflip.networks.blocks import detached
from unflip.types import Step

Form = Literal["paper", "as_released", "relative"]

DEFAULTS: dict[str, dict[str, float]] = {
    "paper": {"weight": 1.84, "noise": 1e-3},
    "as_released": {"weight": 1e-3, "noise": 1e-3},
    "relative": {"weight": 1.84, "noise": 0.1},
}
"""1.84 is the expected weight of the published defaults: 1e-3 * E[1/m] / 5 with m uniform in [1e-7, 1e-3]."""


class Perturbation(NamedTuple):
    """The random choices of one step."""

    tap: int
    positions: Tensor
    """``(N, P)``: where clean and perturbed features are compared."""
    direction: Tensor
    """``(N, C, h, w)``: standard normal; its direction at each position is what counts."""
    uniform: Tensor
    """``(N, 1, h, w)`` in [0, 1): decides the magnitude at each position."""


def magnitudes(uniform: Tensor, noise: float, floor: float) -> tuple[Tensor, float]:
    """Noise magnitudes ``m`` uniform in ``[floor * noise, noise]``, and the constant ``c`` with ``E[c / m] = 1``.

    ``E[1/m] = ln(1/floor) / (noise * (1 - floor))`` is finite only because of the floor.
    """
    low = floor * noise
    return low + (noise - low) * uniform, (noise - low) / math.log(1 / floor)


def unit(direction: Tensor) -> Tensor:
    """``direction`` ``(N, C, h, w)`` scaled to length 1 over the channels of each position."""
    return direction / (direction.square().sum(1, keepdim=True).sqrt() + 1e-12)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance over the last dimension, with a gradient also at 0."""
    return ((a - b).square().sum(-1) + 1e-12).sqrt()


class Robustness(Term):
    """``E d(F(h), F(h')) / m`` with h' the features of the image that G makes of h + noise of magnitude m; one tap a step."""

    form: Form = "paper"
    """``paper``: divides by the magnitude that was added, normalized to an expected factor of 1. ``as_released``: the published code's
    arithmetic. ``relative``: as ``paper``, with the magnitude a fraction of the features' own length at each position."""
    weight: NonNegativeFloat = 1.84
    """Default by form: 1.84, 0.001 and 1.84."""
    noise: float = Field(default=1e-3, gt=0)
    """The largest magnitude: absolute, or for ``relative`` a share of the features' length. Default by form: 0.001, 0.001 and 0.1."""
    floor: float = Field(default=0.1, gt=0, lt=1)
    """The smallest magnitude, as a share of the largest (not ``as_released``)."""
    start: float = Field(default=0.25, ge=0, lt=1)
    patches: int = Field(default=256, ge=1)
    update: Literal["v1", "v2"] = "v2"
    """``v2``: the term moves generator and projector. ``v1``: the generator only."""
    float32: bool = False
    """Compute the perturbed branch in float32, without TF32, where the rest runs in bfloat16. Noise is added in float32 in any case."""

    needs: ClassVar[frozenset[str]] = frozenset({"features.source"})
    projects: ClassVar[bool] = True

    @model_validator(mode="after")
    def _defaults_of_form(self) -> Robustness:
        self._fill(**{key: value for key, value in DEFAULTS[self.form].items() if key not in self.model_fields_set})
        return self

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> Perturbation:
        tap = int(stream.once().integers(len(taps)))
        shape = taps[tap]
        direction = stream.normal(shape.channels, shape.height, shape.width)
        return Perturbation(tap, stream.positions(shape, self.patches), direction, stream.uniform(1, shape.height, shape.width))

    def perturb(self, h: Tensor, drawn: Perturbation) -> tuple[Tensor, Tensor]:
        """The perturbed features, and the factor ``(N, 1, h, w)`` by which distances are multiplied at each position."""
        direction = unit(drawn.direction.to(h.dtype))
        uniform = drawn.uniform.to(h.dtype)
        if self.form == "as_released":
            return h + direction * self.noise, 1 / (1e-7 + (self.noise - 1e-7) * uniform)
        m, c = magnitudes(uniform, self.noise, self.floor)
        length = h.detach().square().sum(1, keepdim=True).sqrt() if self.form == "relative" else 1.0
        return h + direction * m * length, c / m

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        assert nets.projector is not None
        projector = detached(nets.projector) if self.update == "v1" else nets.projector
        h = at_least_float32(step.features["source"][drawn.tap])
        with full_precision(h) if self.float32 else nullcontext():
            perturbed, factor = self.perturb(h, drawn)
            image = step.finish(nets.generator.decode(perturbed, drawn.tap))
            again = nets.generator.encode(image, drawn.tap)[-1]
            # the reference is the clean source, not the clean translation: at vanishing noise the term aligns source and translation
            clean, moved = (projector(drawn.tap, gather(f, drawn.positions)) for f in (h, again))
        with full_precision(h):
            apart = distance(at_least_float32(clean), at_least_float32(moved))
            loss = (apart * gather(factor, drawn.positions).squeeze(-1)).mean()
        # the published code divides by its number of taps although it evaluates one
        return loss / len(step.features["source"]) if self.form == "as_released" else loss
