"""VSAIT: what is unbound from the translation's hypervectors must be the source's.

Theiss et al., "Unpaired image translation via vector symbolic architectures", ECCV 2022.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from unflip.losses.adversarial import discriminator_loss, generator_loss
from unflip.losses.precision import at_least_float32, full_precision
from unflip.losses.term import Nets, Setting, Site, Term
from unflip.networks.blocks import detached
from unflip.networks.features import rgb
from unflip.networks.hypervector import HypervectorConfig, Judge, Mapping, hypervectors
from unflip.types import Step


def consistency(source: Tensor, fake: Tensor, mapping: Tensor) -> Tensor:
    """``1 - cos(H(G(x)) * M(H(x)), H(x))`` of each place, for hypervectors ``(N, D, h, w)``; ``(N, h, w)`` in [0, 2]."""
    unbound = fake * mapping
    lengths = ((unbound.square().sum(1) + 1e-12) * (source.square().sum(1) + 1e-12)).sqrt()
    return 1 - (unbound * source).sum(1) / lengths


class Symbols(nn.Module):
    """The term's own networks: the mapping, and its opponent."""

    def __init__(self, dimension: int, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.mapping = Mapping(dimension, rng)
        self.judge = Judge(dimension, width, rng)


GAME = 10.0
"""The weight of the mapping's and the judge's game, whatever the term's own: their weight decay stands beside it."""


class HypervectorConsistency(Term):
    """``E 1 - cos(H(G(x)) * M(H(x)), H(x))``, with H the hypervectors of the image's patches and M a learned mapping.

    The mapping plays a game of its own: source hypervectors bound with it, ``H(x) * M(H(x))``, must pass a judge for hypervectors of
    target images. That game moves only mapping and judge, and is left out of the value.
    """

    weight: NonNegativeFloat = 10.0
    vectors: HypervectorConfig = HypervectorConfig()
    width: PositiveInt = 1024
    """Of the judge."""

    needs: ClassVar[frozenset[str]] = frozenset({"fake"})

    def problem(self, setting: Setting) -> str | None:
        if min(setting.width, setting.height) >= self.vectors.stride:
            return None
        return f"needs images of at least {self.vectors.stride} pixels a side for the layers {', '.join(self.vectors.layers)}"

    def remark(self) -> str | None:
        return self.vectors.remark()

    def build(self, site: Site) -> Symbols:
        hypervectors(self.vectors)
        return Symbols(self.vectors.dimension, self.width, site.rng)

    def fixed_weights(self, own: nn.Module | None) -> dict[str, str]:
        return self.vectors.fixed_weights("vectors")

    def __call__(self, step: Step, drawn: Any, nets: Nets) -> Tensor:
        own = nets.own
        assert isinstance(own, Symbols)
        hypervectors_of = hypervectors(self.vectors)
        with torch.no_grad():  # at once, as 0.5 GB of directions are read each time
            source, target = hypervectors_of(torch.cat([rgb(step.source), rgb(step.target)])).chunk(2)
        fake, mapping = hypervectors_of(step.fake), own.mapping(source)
        with full_precision(fake):
            loss = consistency(*(at_least_float32(x) for x in (source, fake, mapping.detach()))).mean()
        game = self.game(own, source * mapping, target)
        return loss + (game - game.detach()) * (GAME / self.weight if self.weight else 0.0)

    def game(self, own: Symbols, bound: Tensor, target: Tensor) -> Tensor:
        """What moves the mapping, and what moves the judge, for bound source and target hypervectors ``(N, D, h, w)``; a scalar."""
        logits = detached(own.judge)(bound), own.judge(target), own.judge(bound.detach())
        with full_precision(bound):
            passing, real, imitated = (at_least_float32(x) for x in logits)
            on_target, on_bound = discriminator_loss(real, imitated, "hinge")
            return generator_loss(passing, "hinge") + (on_target + on_bound) / 2
