"""Training: one linear loop. It yields where something is due, so that whoever drives it can log, draw, validate, save or stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor

from unflip.data.transforms import to_ids, to_network
from unflip.engine.ema import Ema
from unflip.engine.pool import ImagePool
from unflip.errors import UserError
from unflip.losses.objective import active
from unflip.methods.players import DiscriminatorPlayer, GeneratorPlayer
from unflip.runs import RunConfig
from unflip.schedules import constant_then_linear
from unflip.types import Batch


@dataclass
class Training:
    """Everything that changes as a run goes on, and is saved with it."""

    config: RunConfig
    fabric: Fabric
    generator: GeneratorPlayer
    discriminator: DiscriminatorPlayer
    optimizers: dict[str, torch.optim.Optimizer]
    ema: Ema
    pools: dict[str, ImagePool]
    images: str = ""
    """A digest of which images the run draws from."""
    seen: int = 0
    """Source images."""
    wrapped: dict[str, Any] = field(default_factory=dict)
    """The players and optimizers as Fabric wants them called."""


class Moment(NamedTuple):
    """A point of a run where something is due."""

    seen: int
    due: frozenset[str]
    """Some of "log", "sample", "validate", "checkpoint", "end", "stop"."""
    parts: dict[str, float]
    """At "log": every part of the losses, unweighted, averaged over its evaluations since the last log."""
    rate: float
    """The generators' learning rate in the last step."""
    images_per_second: float


class Averages:
    """Means of the parts, kept on their device: reading them is the only thing that waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, parts: dict[str, Tensor]) -> None:
        """Count one step's parts, scalars by name."""
        for name, value in parts.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def refuse_non_finite(self, seen: int) -> None:
        """Stop a run before it logs, draws or saves what is no number any more."""
        for name, value in self.sums.items():
            if not torch.isfinite(value):
                raise UserError(f"{name} is no longer a finite number after {seen:,} images; lower optimizer.lr, or that term's weight")

    def read(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


def assemble(config: RunConfig, channels: tuple[int, int], fabric: Fabric) -> Training:
    """Freshly drawn networks and their optimizers, on the device of ``fabric``."""
    generator = GeneratorPlayer(config, channels, config.seed)
    discriminator = DiscriminatorPlayer(config, channels, config.seed)
    ema = Ema(generator.generators, config.ema.half_life, config.ema.share)
    ema.network.to(fabric.device)
    training = Training(
        config,
        fabric,
        generator,
        discriminator,
        optimizers={},
        ema=ema,
        pools={side: ImagePool(config.pool, config.seed, side) for side in discriminator.networks},
    )
    for name, player in (("generator", generator), ("discriminator", discriminator)):
        optimizer = torch.optim.Adam(
            player.parameters(), config.optimizer.rate(name), config.optimizer.betas, weight_decay=config.optimizer.weight_decay, fused=True
        )
        training.optimizers[name] = optimizer
        training.wrapped[name], training.wrapped[f"{name}_optimizer"] = fabric.setup(player, optimizer)
    return training


def train(training: Training, batches: Iterable[Batch], asked_to_stop: Callable[[], bool] = lambda: False) -> Iterator[Moment]:
    """Play every batch; yield after those after which something is due. ``batches`` continue where ``training.seen`` stands.

    Where ``asked_to_stop`` says so, the next moment has a checkpoint and "stop" due, and is the last.
    """
    config = training.config
    every = {"log": config.log_every, "sample": config.sample_every, "checkpoint": config.checkpoint_every}
    if config.validates:
        every["validate"] = config.validate_every
    averages = Averages()
    clock, counted = time.monotonic(), training.seen
    for batch in batches:
        before = training.seen
        parts, rate = play(training, batch)
        averages.add(parts)
        due = {name for name, interval in every.items() if training.seen // interval > before // interval}
        if training.seen >= config.budget:
            due |= {*every, "end"}
        elif asked_to_stop():
            due |= {"log", "checkpoint", "stop"}
        if not due:
            continue
        averages.refuse_non_finite(training.seen)
        means = averages.read() if "log" in due else {}
        speed = (training.seen - counted) / max(time.monotonic() - clock, 1e-9)
        yield Moment(training.seen, frozenset(due), means, rate, speed)
        clock, counted = time.monotonic(), training.seen
        if "stop" in due:
            return


def play(training: Training, batch: Batch) -> tuple[dict[str, Tensor], float]:
    """One step of both players: generators first, then the discriminators on the detached translations."""
    config, fabric = training.config, training.fabric
    progress = batch.first / config.budget
    share = constant_then_linear(progress, config.optimizer.constant)
    for player, optimizer in training.optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = share * config.optimizer.rate(player)

    source, target = (to_network(images.to(fabric.device, non_blocking=True)) for images in (batch.source, batch.target))
    labels = None if batch.labels is None else to_ids(batch.labels.to(fabric.device, non_blocking=True))
    batch = Batch(source, target, batch.first, batch.step, labels)
    images = len(source)
    weights = active(config.terms, progress, batch.step)
    draws = training.generator.draw(weights, batch, config.size, seed=config.seed, progress=progress)

    opponents = training.discriminator.frozen()
    total, parts, shown = training.wrapped["generator"](batch, draws, weights, opponents)
    _step(training, "generator", total)

    shown = {view: (real, training.pools[view].query(fake, batch.first)) for view, (real, fake) in shown.items()}
    total, judged = training.wrapped["discriminator"](shown)
    _step(training, "discriminator", total)

    training.seen = batch.first + images
    training.ema.update(training.generator.generators, training.seen, images)
    return {**parts, **judged}, share * config.optimizer.lr


def _step(training: Training, player: str, total: Tensor) -> None:
    optimizer = training.wrapped[f"{player}_optimizer"]
    optimizer.zero_grad(set_to_none=True)
    training.fabric.backward(total)
    optimizer.step()
