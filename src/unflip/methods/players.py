"""The two players: networks with an objective, that step together. A player's forward is one graph: batch and draws in, losses out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unflip.losses import Nets
from unflip.losses.adversarial import Adversarial, discriminator_loss
from unflip.losses.draws import Draws, TapShape
from unflip.losses.objective import evaluate, needs
from unflip.losses.precision import at_least_float32, full_precision
from unflip.methods.passes import FORWARD, SIDES, translate
from unflip.methods.recipe import Recipe
from unflip.networks import Generator
from unflip.seeding import torch_rng
from unflip.types import Batch


def frozen(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """``network`` as a function whose weights receive no gradient, however it is wrapped elsewhere."""
    state = {name: value.detach() for name, value in network.state_dict(keep_vars=True).items()}
    return lambda x: functional_call(network, state, (x,))


class GeneratorPlayer(nn.Module):
    """The generators and projectors, by direction, and the weighted terms that they minimize."""

    def __init__(self, recipe: Recipe, channels: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.terms = recipe.terms
        self.generators = nn.ModuleDict()
        self.projectors = nn.ModuleDict()
        for side in SIDES[recipe.sides]:
            ends = channels if side == FORWARD else channels[::-1]
            generator = recipe.generator.build(*ends, torch_rng(seed, "init", "generator", side))
            self.generators[side] = generator
            if recipe.projector is not None:
                widths = [tap.channels for tap in generator.taps]
                self.projectors[side] = recipe.projector.build(widths, torch_rng(seed, "init", "projector", side))

    def tap_shapes(self, size: int) -> dict[str, tuple[TapShape, ...]]:
        """The sizes of the features for square crops of ``size`` pixels, by direction."""
        return {
            side: tuple(TapShape(tap.name, *tap.shape(size, size)) for tap in generator.taps)
            for side, generator in self._generators().items()
        }

    def _generators(self) -> dict[str, Generator]:
        return dict(self.generators.items())  # type: ignore[arg-type]

    def forward(
        self, batch: Batch, draws: Draws, weights: Mapping[str, float], discriminators: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The total to minimize, its parts, and the translations by direction; the latter two detached."""
        generators = self._generators()
        steps = translate(generators, batch, draws, needs(self.terms, weights))
        projectors: dict[str, Any] = dict(self.projectors.items())
        nets = {side: Nets(generators[side], projectors.get(side), discriminators[side]) for side in steps}
        total, parts = evaluate(self.terms, weights, steps, draws, nets)
        return total, parts, {side: step.fake.detach() for side, step in steps.items()}


class DiscriminatorPlayer(nn.Module):
    """A discriminator for the target of every direction."""

    def __init__(self, recipe: Recipe, channels: tuple[int, int], seed: int) -> None:
        super().__init__()
        adversarial = recipe.terms["adversarial"]
        assert isinstance(adversarial, Adversarial)
        self.form = adversarial.form
        self.networks = nn.ModuleDict()
        for side in SIDES[recipe.sides]:
            seen = channels[1] if side == FORWARD else channels[0]
            self.networks[side] = recipe.discriminator.build(seen, torch_rng(seed, "init", "discriminator", side))

    def frozen(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The discriminators as the generators' opponents: functions with fixed weights."""
        return {side: frozen(network) for side, network in self.networks.items()}

    def forward(self, reals: Mapping[str, Tensor], fakes: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimize, ``(loss on real + loss on fake) / 2`` summed over the directions, and its parts, detached."""
        sums: dict[str, Tensor] = {}
        for side, network in self.networks.items():
            real, fake = network(torch.cat([reals[side], fakes[side]])).split([len(reals[side]), len(fakes[side])])
            with full_precision(real):
                losses = discriminator_loss(at_least_float32(real), at_least_float32(fake), self.form)
            for name, loss in zip(("real", "fake"), losses, strict=True):
                sums[name] = sums[name] + loss if name in sums else loss
        total = (sums["real"] + sums["fake"]) / 2
        return total, {f"discriminator_{name}": value.detach() for name, value in sums.items()}
