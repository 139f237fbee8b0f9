"""Training: one linear loop. It yields where something is due, so that whoever drives it can log, draw, validate, save or stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor

from unflip.data.bands import RGB, Bands, widened
from unflip.data.pairs import portion
from unflip.data.transforms import holes, to_ids, to_network
from unflip.engine.ema import Ema
from unflip.engine.pool import ImagePool
from unflip.engine.replay import Replay
from unflip.engine.team import Team
from unflip.errors import UserError
from unflip.losses.draws import Draws
from unflip.losses.objective import active
from unflip.methods.players import DiscriminatorPlayer, GeneratorPlayer
from unflip.networks.chain import compile_networks, uncompiled
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
    bands: tuple[Bands, Bands] = (RGB, RGB)
    """Of the images of source and target."""
    team: Team = field(default_factory=Team)
    """The processes that train together; each has its portion of every batch, and pools of its own."""
    images: str = ""
    """A digest of which images the run draws from."""
    seen: int = 0
    """Source images."""
    wrapped: dict[str, Any] = field(default_factory=dict)
    """The players and optimizers as Fabric wants them called."""
    compiled: bool = False
    replays: dict[str, Replay] = field(default_factory=dict)
    """Of the players' turns, by player, where they are recorded."""


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

    def means(self, team: Team, seen: int) -> dict[str, float]:
        """The means so far, over all processes. Refuses what is no number any more, before a run logs, draws or saves it."""
        team.agree(False)  # before anything waits for the device
        means = team.means({name: float(value) / self.counts[name] for name, value in self.sums.items()})
        for name, value in means.items():
            if not math.isfinite(value):
                message = f"{name} is no longer a finite number after {seen:,} images; lower optimizer.lr, or that term's weight"
                team.fail(UserError(message))  # so in all of them
        return means


def assemble(config: RunConfig, bands: tuple[Bands, Bands], fabric: Fabric, team: Team | None = None) -> Training:
    """Freshly drawn networks and their optimizers, on the device of ``fabric``, for images of source and target as ``bands`` says."""
    channels = bands[0].count, bands[1].count
    team = team or Team()
    pool = max(1, config.pool // team.size) if config.pool else 0
    with team.together():
        generator = GeneratorPlayer(config, channels, config.seed)
        discriminator = DiscriminatorPlayer(config, channels, config.seed)
        compiled = config.compiles(fabric.device)
    torch.backends.cudnn.benchmark = compiled  # crops are of one size, and steps many
    if compiled:
        compile_networks([*generator.generators.values(), *discriminator.networks.values()])
    ema = Ema(generator.generators, config.ema.half_life, config.ema.share)
    ema.network.to(fabric.device)
    training = Training(
        config,
        fabric,
        generator,
        discriminator,
        optimizers={},
        ema=ema,
        pools={side: ImagePool(pool, config.seed, side) for side in discriminator.networks},
        bands=bands,
        team=team,
        compiled=compiled,
    )
    for name, player in (("generator", generator), ("discriminator", discriminator)):
        player.to(fabric.device)
        rate: float | Tensor = config.optimizer.rate(name)
        rate = torch.tensor(rate, device=fabric.device) if compiled else rate  # read when a recorded step is replayed
        optimizer = torch.optim.Adam(
            player.parameters(), rate, config.optimizer.betas, weight_decay=config.optimizer.weight_decay, fused=True, capturable=compiled
        )
        training.optimizers[name] = optimizer
        training.wrapped[name], training.wrapped[f"{name}_optimizer"] = fabric.setup(player, optimizer)
    if compiled and team.size == 1 and config.accumulate == 1:  # else what one piece gave is still needed when the next is played
        pool_handle, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(fabric.device)
        training.replays = {name: Replay(pool_handle, stream) for name in training.optimizers}
    return training


def train(training: Training, batches: Iterable[Batch], asked_to_stop: Callable[[], bool] = lambda: False) -> Iterator[Moment]:
    """Play every batch; yield after those after which something is due. ``batches`` continue where ``training.seen`` stands.

    Where ``asked_to_stop`` says so, in any process, the next moment has a checkpoint and "stop" due, and is the last. All processes have
    the same moments. Raises ``UserError`` in all where a batch raised it in one.
    """
    config, team = training.config, training.team
    every = {"log": config.log_every, "sample": config.sample_every, "checkpoint": config.checkpoint_every}
    if config.validates:
        every["validate"] = config.validate_every
    averages = Averages()
    clock, counted = time.monotonic(), training.seen
    coming = iter(batches)
    while batch := _next(coming, team):
        stopping = team.agree(asked_to_stop())
        before = training.seen
        with team.noticing():
            parts, rate = play(training, batch)
        averages.add(parts)
        due = {name for name, interval in every.items() if training.seen // interval > before // interval}
        if training.seen >= config.budget:
            due |= {*every, "end"}
        elif stopping or (team.size == 1 and asked_to_stop()):
            due |= {"log", "checkpoint", "stop"}
        if not due:
            continue
        means = averages.means(team, training.seen)
        if "log" in due:
            averages = Averages()
        speed = (training.seen - counted) / max(time.monotonic() - clock, 1e-9)
        yield Moment(training.seen, frozenset(due), means if "log" in due else {}, rate, speed)
        clock, counted = time.monotonic(), training.seen
        if "stop" in due:
            return


def _next(batches: Iterator[Batch], team: Team) -> Batch | None:
    try:
        return next(batches, None)
    except UserError as error:
        team.fail(error)


def play(training: Training, batch: Batch) -> tuple[dict[str, Tensor], float]:
    """One step of both players: generators first, then the discriminators on the detached translations.

    ``batch`` is this process' portion of the step's images. It is played in ``accumulate`` pieces, whose gradients are added up.
    """
    config = training.config
    start = batch.step * config.batch
    whole = min(config.batch, config.budget - start)
    progress = start / config.budget
    rate = constant_then_linear(progress, config.optimizer.constant)
    for player, optimizer in training.optimizers.items():
        for group in optimizer.param_groups:
            _set(group, rate * config.optimizer.rate(player))

    weights = active(config.terms, progress, batch.step)
    with uncompiled(training.compiled and whole < config.batch):  # the last batch
        parts = _both_turns(training, batch, whole, weights, progress)

    training.seen = start + whole
    training.ema.update(training.generator.generators, training.seen, whole)
    return parts, rate * config.optimizer.lr


def _both_turns(training: Training, batch: Batch, whole: int, weights: dict[str, float], progress: float) -> dict[str, Tensor]:
    """The step's parts."""
    config = training.config
    pieces = [(_moved(training, piece), share) for piece, share in _pieces(batch, whole, training)]
    parts: dict[str, Tensor] = {}
    shown: list[dict[str, tuple[Tensor, Tensor]]] = []
    for k, (piece, share) in enumerate(pieces, 1):
        draws = training.generator.draw(weights, piece, config.size, seed=config.seed, progress=progress)
        found, pairs = _turn(training, "generator", piece._replace(first=0, step=0), draws, weights, share, k == len(pieces))
        _add(parts, found, share)
        shown.append({view: (real, training.pools[view].query(fake, piece.first)) for view, (real, fake) in pairs.items()})
    for k, ((_, share), pairs) in enumerate(zip(pieces, shown, strict=True), 1):
        _add(parts, _turn(training, "discriminator", pairs, share, k == len(pieces)), share)
    return parts


def _turn(training: Training, player: str, *given: Any) -> Any:
    """What a player does with a piece of a batch, recorded where that can be."""
    turns: dict[str, Callable[..., Any]] = {"generator": _generator_turn, "discriminator": _discriminator_turn}
    function = partial(turns[player], training)
    return training.replays[player](function, *given) if player in training.replays else function(*given)


def _generator_turn(
    training: Training, piece: Batch, draws: Draws, weights: dict[str, float], share: float, last: bool
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """The generators' player on a piece: its parts, and what each view's discriminator is to tell apart. With the ``last``, its step."""
    with _local(training, "generator", not last):
        total, found, pairs = training.wrapped["generator"](piece, draws, weights, training.discriminator.frozen())
        training.fabric.backward(share * total)
    if last:
        _step(training, "generator")
    return found, pairs


def _discriminator_turn(training: Training, pairs: dict[str, tuple[Tensor, Tensor]], share: float, last: bool) -> dict[str, Tensor]:
    """The discriminators' player on a piece: its parts. With the ``last``, its step."""
    with _local(training, "discriminator", not last):
        total, found = training.wrapped["discriminator"](pairs)
        training.fabric.backward(share * total)
    if last:
        _step(training, "discriminator")
    return found


def _pieces(batch: Batch, whole: int, training: Training) -> Iterator[tuple[Batch, float]]:
    """The pieces of this process' batch, and what their means count for: the mean over all processes and pieces is to be that over the
    step's ``whole`` images. A process without a portion has one piece that counts for nothing."""
    team, labels = training.team, batch.labels
    mine = len(portion(whole, team.rank, team.size))
    count = min(training.config.accumulate, len(batch.source))
    for k in range(count):
        part = portion(len(batch.source), k, count)
        cut = slice(part.start, part.stop)
        piece = Batch(batch.source[cut], batch.target[cut], batch.first + part.start, batch.step, None if labels is None else labels[cut])
        yield piece, len(part) * team.size / whole if mine else 0.0


def _moved(training: Training, batch: Batch) -> Batch:
    """On the device, as the networks see it."""
    device = training.fabric.device
    labels = None if batch.labels is None else to_ids(batch.labels.to(device, non_blocking=True))
    source, target = (to_network(images.to(device, non_blocking=True)) for images in (batch.source, batch.target))
    return seen_by_networks(Batch(source, target, batch.first, batch.step, labels), training.bands)


def seen_by_networks(batch: Batch, bands: tuple[Bands, Bands]) -> Batch:
    """Both domains with as many bands, and with 0 where they hold nothing."""
    source, target = (widened(images, max(each.count for each in bands)) for images in (batch.source, batch.target))
    if not any(each.masked for each in bands):
        return batch._replace(source=source, target=target)
    (source, there), (target, here) = holes(source), holes(target)
    return batch._replace(source=source, target=target, valid=(there, here))


def _local(training: Training, player: str, local: bool) -> AbstractContextManager[Any]:
    """With ``local``, gradients stay in this process for now: they go to the others with those of the last piece."""
    if training.team.size == 1:
        return nullcontext()
    return training.fabric.no_backward_sync(training.wrapped[player], enabled=local)


def _add(parts: dict[str, Tensor], found: dict[str, Tensor], share: float) -> None:
    for name, value in found.items():
        parts[name] = parts[name] + share * value if name in parts else share * value


def _set(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _step(training: Training, player: str) -> None:
    optimizer = training.wrapped[f"{player}_optimizer"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
