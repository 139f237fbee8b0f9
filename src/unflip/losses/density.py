"""DECENT's density change: what is common in the source must become something common, what is rare something rare.

Xie, Ho & Zhang, "Unpaired image-to-image translation with density changing regularization", NeurIPS 2022.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from unflip.losses.draws import Stream, TapShape, gather
from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Site, Term
from unflip.networks.blocks import detached
from unflip.networks.flow import Flow
from unflip.types import Step


class Densities(nn.Module):
    """For every tap, a density of the patches of source images and one of the patches of target images."""

    def __init__(self, channels: list[int], width: int, rate: float, rng: torch.Generator) -> None:
        super().__init__()
        self.source = nn.ModuleList(Flow(c, width, rate, rng) for c in channels)
        self.target = nn.ModuleList(Flow(c, width, rate, rng) for c in channels)


def change_variance(before: Tensor, after: Tensor, channels: int) -> Tensor:
    """How unequally log-densities ``(N, P)`` of the patches of N images change; a scalar >= 0, in squared bits per channel.

    ``E_n Var_i (log p_Y(y_i) - log p_X(x_i)) / (channels ln 2)``, with the unbiased variance over the P >= 2 patches of an image. A change
    that all patches share costs nothing.
    """
    return ((after - before) / (channels * math.log(2))).var(-1).mean()


class Density(Term):
    """Patches of the source change their density, when they are translated, all by the same factor.

    The densities are learned along the way, each from its own domain: their likelihood moves them only, the variance the generator only.
    """

    weight: NonNegativeFloat = 0.01
    patches: int = Field(default=256, ge=2)
    """Positions per tap and image."""
    width: PositiveInt = 10
    """Hidden units of the flows for each channel of a tap."""
    rate: PositiveFloat = 5.0
    """The flows learn this many times faster than the generator (as released: 0.001 to 0.0002)."""

    needs: ClassVar[frozenset[str]] = frozenset({"fake", "features.source", "features.target", "features.fake"})

    def build(self, site: Site) -> Densities:
        return Densities([tap.channels for tap in site.taps], self.width, self.rate, site.rng)

    def draw(self, stream: Stream, taps: tuple[TapShape, ...]) -> tuple[tuple[Tensor, Tensor], ...]:
        places = (stream.positions_at(taps, self.patches, of) for of in ("source", "target"))
        return tuple(zip(*places, strict=True))

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        own = nets.own
        assert isinstance(own, Densities)
        variances, likelihoods = [], []
        for tap, (here, there) in enumerate(drawn):
            with full_precision(step.fake):
                wanted = (("source", here), ("target", there), ("fake", here))
                x, y, fake = (gather(at_least_float32(step.features[of][tap]), places) for of, places in wanted)  # (N, P, C)
                before = own.source[tap](x.detach())  # (N, P)
                likelihoods.append(before.mean() + own.target[tap](y.detach()).mean())
                after = detached(own.target[tap])(fake)
                variances.append(change_variance(before.detach(), after, x.shape[-1]))
        likelihood = torch.stack(likelihoods).mean()
        # the likelihood is there for its gradient: with a value of 0, and whatever the variance weighs
        return torch.stack(variances).mean() + (likelihood.detach() - likelihood) / self.weight
