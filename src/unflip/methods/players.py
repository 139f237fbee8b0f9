"""The two players: networks with an objective, that step together. A player's forward is one graph: batch and draws in, losses out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unflip.losses import Nets, Site
from unflip.losses.adversarial import Adversarial, discriminator_loss
from unflip.losses.draws import Draws, Stream, TapShape
from unflip.losses.objective import evaluate, needs
from unflip.losses.precision import at_least_float32, full_precision
from unflip.methods.passes import BACKWARD, SIDES, View, translate, valid_in_views
from unflip.methods.recipe import Recipe
from unflip.networks import Generator
from unflip.networks.blocks import detached
from unflip.networks.multiscale import build
from unflip.seeding import torch_rng
from unflip.types import Batch, Shown, Size


class GeneratorPlayer(nn.Module):
    """The generators and projectors, by direction, with the networks of single terms, and the weighted terms that they minimize."""

    def __init__(self, recipe: Recipe, channels: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.terms = recipe.terms
        self.bands = channels
        channels = (max(channels),) * 2  # of images, which repeat their bands where the other domain has more
        self.generators = nn.ModuleDict()
        self.projectors = nn.ModuleDict()
        self.own = nn.ModuleDict()
        self.fixed_weights: dict[str, str] = {}
        """Of the terms, by key."""
        views = recipe.views(Size(4, 4), labels=True)
        self.directions = {name: view.direction for name, view in views.items()}
        self.game = _adversarial(recipe).form
        for side in SIDES[recipe.sides]:
            self.generators[side] = build(recipe.generator, recipe.multiscale, *channels, torch_rng(seed, "init", "generator", side))
            taps = self.inner(side).taps
            if recipe.projector is not None:
                widths = [tap.channels for tap in taps]
                self.projectors[side] = recipe.projector.build(widths, torch_rng(seed, "init", "projector", side))
            for name, term in recipe.terms.items():
                if term.weight == 0 or not any(term.needs <= view.provides for view in views.values() if view.direction == side):
                    continue
                with torch.random.fork_rng(devices=[]):
                    own = term.build(Site(taps, channels, torch_rng(seed, "init", name, side)))
                self.fixed_weights |= {f"terms.{name}.{field}": digest for field, digest in term.fixed_weights(own).items()}
                if own is not None:
                    self.own[f"{side}_{name}"] = own

    def inner(self, side: str) -> Generator:
        """The generator of a direction, without what wraps it."""
        inner = self.generators[side].inner
        assert isinstance(inner, Generator)
        return inner

    def shapes(self, view: View) -> tuple[TapShape, ...]:
        """Of the features at the taps in a view."""
        return tuple(TapShape(tap.name, *tap.shape(view.size.height, view.size.width)) for tap in self.inner(view.direction).taps)

    def draw(self, weights: Mapping[str, float], batch: Batch, size: Size, *, seed: int, progress: float) -> Draws:
        """All random choices of one step with crops of ``size``, for the active terms in every view that they apply to."""

        def stream(*path: str, valid: Mapping[str, Tensor] = {}) -> Stream:
            return Stream(seed, path, batch.first, len(batch.source), batch.source.device, batch.step, progress, valid)

        flip = self.recipe.flip_equivariance and bool(stream("flip").once().integers(2))
        windows = self._windows(stream("window"), size) if self.recipe.multiscale else None
        valid = valid_in_views(self.directions, self.recipe.turn, batch, flip, windows)
        drawn: dict[str, dict[str, Any]] = {}
        for name, view in self.recipe.views(size, batch.labels is not None).items():
            shapes = self.shapes(view)
            applying = [term for term in weights if self.terms[term].needs <= view.provides]
            drawn[name] = {term: self.terms[term].draw(stream(term, name, valid=valid.get(name, {})), shapes) for term in applying}
        return Draws(flip, drawn, windows)

    def _windows(self, stream: Stream, size: Size) -> Tensor:
        """Where each crop's detail window lies: anywhere on the grid that both views share, or where the crop ends."""
        stride = 2 * self.recipe.generator.stride
        last = np.array([size.height // 2, size.width // 2])
        return stream.each(lambda rng: np.minimum(stride * rng.integers(-(-last // stride) + 1), last))

    def forward(
        self, batch: Batch, draws: Draws, weights: Mapping[str, float], discriminators: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Shown]]:
        """The total to minimize, its parts, and what each view's discriminator is to tell apart; all but the total detached."""
        generators, projectors, own = (dict[str, Any](networks.items()) for networks in (self.generators, self.projectors, self.own))
        steps = translate(generators, self.recipe.turn, batch, draws, needs(self.terms, weights), self.bands)

        def nets(view: str, term: str) -> Nets:
            side = self.directions[view]
            mine = own.get(f"{side}_{term}")
            return Nets(self.inner(side), projectors.get(side), discriminators[view], mine, self.game, side == BACKWARD)

        total, parts = evaluate(self.terms, weights, steps, draws.terms, nets)
        return total, parts, {view: step.shown() for view, step in steps.items()}


class DiscriminatorPlayer(nn.Module):
    """A discriminator for every view."""

    def __init__(self, recipe: Recipe, channels: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.game = _adversarial(recipe).form
        self.networks = nn.ModuleDict()
        for name in recipe.views(Size(4, 4)):
            self.networks[name] = recipe.discriminator.build(max(channels), torch_rng(seed, "init", "discriminator", name))
        self.fixed_weights = {f"discriminator.{field}": digest for field, digest in recipe.discriminator.fixed_weights().items()}

    def frozen(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The discriminators as the generators' opponents: functions with fixed weights."""
        return {view: detached(network) for view, network in self.networks.items()}

    def forward(self, shown: Mapping[str, Shown]) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to minimize, ``(loss on real + loss on fake) / 2`` summed over the views, and its parts, detached."""
        sums: dict[str, Tensor] = {}
        for view, network in self.networks.items():
            images, weights = shown[view][:2], shown[view].weights
            real, fake = network(torch.cat(images)).split([len(each) for each in images])
            weights = None if weights is None else F.adaptive_avg_pool2d(weights, real.shape[-2:])  # of a logit: of its part of the image
            with full_precision(real):
                losses = discriminator_loss(at_least_float32(real), at_least_float32(fake), self.game, weights)
            for name, loss in zip(("real", "fake"), losses, strict=True):
                sums[name] = sums[name] + loss if name in sums else loss
        total = (sums["real"] + sums["fake"]) / 2
        return total, {f"discriminator_{name}": value.detach() for name, value in sums.items()}


def _adversarial(recipe: Recipe) -> Adversarial:
    term = recipe.terms["adversarial"]
    assert isinstance(term, Adversarial)
    return term
