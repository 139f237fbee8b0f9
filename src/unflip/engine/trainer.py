"""Training: one linear loop. It yields where something is due, so that whoever drives it can log, draw, validate, save or stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unflip.data.bands import Bands
from unflip.data.pairs import portion
from unflip.data.transforms import holes, to_ids, to_network, widened
from unflip.engine.guard import unless_finite
from unflip.engine.team import Team
from unflip.engine.training import Training
from unflip.errors import UserError
from unflip.losses.draws import Draws
from unflip.losses.objective import active
from unflip.networks.chain import uncompiled
from unflip.schedules import constant_then_linear
from unflip.types import Batch, Shown

ROW = 5
"""So many steps in a row whose numbers are wrong: it is the weights that are, and they do not mend."""


class Moment(NamedTuple):
    """A point of a run where something is due."""

    seen: int
    due: frozenset[str]
    """Some of "log", "sample", "validate", "checkpoint", "end", "stop"; or "back" alone, and the training is to go back to a checkpoint."""
    parts: dict[str, float]
    """At "log": every part of the losses, unweighted, averaged over its evaluations since the last log."""
    rate: float
    """The generators' learning rate in the last step."""
    images_per_second: float
    health: dict[str, float] = {}
    """At "log": "contrast" and "variety" of the translations as shares of the target's, where there were enough."""
    events: tuple[str, ...] = ()
    """What happened since the last moment that a user should know, a line each; of the first process, of all of them."""


def train(training: Training, batches: Iterable[Batch], asked_to_stop: Callable[[], bool] = lambda: False) -> Iterator[Moment]:
    """Play every batch; yield after those after which something is due. ``batches`` continue where ``training.seen`` stands.

    Where ``asked_to_stop`` says so, in any process, the next moment has a checkpoint and "stop" due, and is the last. All processes have
    the same moments. Raises ``UserError`` in all where a batch raised it in one, or where numbers go wrong and the policy is to stop.
    """
    config, team = training.config, training.team
    every = {"log": config.log_every, "sample": config.sample_every, "checkpoint": config.checkpoint_every}
    if config.validates:
        every["validate"] = config.validate_every
    guarded = training.seen
    """Images after whose step the guards were last read."""
    blamed: dict[str, int] = {}
    """How often parts were not finite when they were last read, since the last log."""
    news: list[str] = []
    clock, counted = time.monotonic(), training.seen
    coming = iter(batches)
    while batch := _next(coming, team):
        stopping = team.agree(asked_to_stop())
        before = training.seen
        with team.noticing():
            _, rate = play(training, batch)
        news += batch.news
        due = {name for name, interval in every.items() if training.seen // interval > before // interval}
        if training.seen >= config.budget:
            due |= {*every, "end"}
        elif stopping or (team.size == 1 and asked_to_stop()):
            due |= {"checkpoint", "stop"}  # no log: what has been added up for its next line goes into the checkpoint
        if not due:
            continue
        team.agree(False)  # before anything waits for the device
        found = training.averages.read(team)
        trouble = _trouble(training, [name for name, count in found.odd.items() if count > blamed.get(name, 0)], guarded)
        blamed = {} if "log" in due else found.odd
        if trouble is not None and config.faults.policy == "back":
            due = {"back"}
        events = (*dict.fromkeys(line for lines in team.gather([*news, *([trouble] if trouble else [])]) for line in lines),)
        guarded, news = training.seen, []
        parts: dict[str, float] = {}
        health: dict[str, float] = {}
        if "log" in due:
            numbers = {"contrast": found.contrast, "variety": found.variety}
            parts, health = found.means, {name: value for name, value in numbers.items() if value is not None}
            training.averages.clear()
        speed = (training.seen - counted) / max(time.monotonic() - clock, 1e-9)
        yield Moment(training.seen, frozenset(due), parts, rate, speed, health, events)
        clock, counted = time.monotonic(), training.seen
        if due & {"stop", "back"}:
            return


def _trouble(training: Training, odd: list[str], since: int) -> str | None:
    """What was not a finite number since ``since`` images, in one line; None: all was. ``odd``: the parts that were not.

    Counts the steps that were not taken. Raises where the policy is to stop, or where there are too many.
    """
    faults, named = training.config.faults, list(odd)
    skipped = int(training.missed)  # alike in all processes: they have the same gradients
    training.missed.zero_()
    for player, guard in training.guards.items():
        _, names = guard.read()
        if names:
            named.append(f"the gradient of the {player}'s {names[0]}" + (f" ({len(names)} of {len(guard.names)})" if names[1:] else ""))
    if not skipped:
        return None
    training.skipped += skipped
    often = "one step" if skipped == 1 else f"{skipped} steps"
    what = f"not a finite number: {', '.join(named)}, in {often} between {since:,} and {training.seen:,} images"
    advice = "lower optimizer.lr, or that term's weight"
    row = max(int(guard.row) for guard in training.guards.values())
    if faults.policy == "stop":
        training.team.fail(UserError(f"{what}; {advice}, or let such steps be left out: faults.policy=skip"))
    if faults.policy == "skip" and training.skipped > faults.skips:
        training.team.fail(
            UserError(f"{what}; the run stops, as more than {faults.skips} were left out in all: {advice}, or raise faults.skips")
        )
    if faults.policy == "skip" and row >= ROW:
        training.team.fail(UserError(f"{what}; the run stops, as the last {row} in a row were: {advice}, or start from another checkpoint"))
    if faults.policy == "back" and training.returns >= faults.returns:
        training.team.fail(UserError(f"{what}, after the run went back {training.returns} times; {advice}"))
    left = f"; {'they were' if skipped > 1 else 'it was'} not taken ({training.skipped} of at most {faults.skips} in all)"
    return what + (left if faults.policy == "skip" else "")


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
    end = min(start + config.batch, config.budget)
    if start < training.seen < end:  # the rest of one that a run began with smaller batches
        start = training.seen
    whole = end - start
    progress = start / config.budget
    rate = training.slower * constant_then_linear(progress, config.optimizer.constant)
    for player, optimizer in training.optimizers.items():
        for group in optimizer.param_groups:
            _set(group, rate * config.optimizer.rate(player))

    weights: dict[str, Any] = active(config.terms, progress, batch.step)
    if training.replays:  # which record a number once and for all
        weights = {name: torch.full((), weight, device=training.fabric.device) for name, weight in weights.items()}
    with uncompiled(training.compiled and whole < config.batch):  # the last batch
        parts = _both_turns(training, batch, whole, weights, progress)

    training.seen = start + whole
    training.ema.update(training.generator.generators, training.seen, whole)
    return parts, rate * config.optimizer.lr


def _both_turns(training: Training, batch: Batch, whole: int, weights: dict[str, Any], progress: float) -> dict[str, Tensor]:
    """The step's parts."""
    config = training.config
    pieces = [(_moved(training, piece), share) for piece, share in _pieces(batch, whole, training)]
    parts: dict[str, Tensor] = {}
    shown: list[dict[str, Shown]] = []
    for k, (piece, share) in enumerate(pieces, 1):
        draws = training.generator.draw(weights, piece, config.size, seed=config.seed, progress=progress)
        found, pairs = _turn(training, "generator", piece._replace(first=0, step=0), draws, weights, share, k == len(pieces))
        _add(parts, found, share)
        training.averages.look(*next(iter(pairs.values()))[:2])
        shown.append({view: pair._replace(fake=training.pools[view].query(pair.fake, piece.first)) for view, pair in pairs.items()})
    for k, ((_, share), pairs) in enumerate(zip(pieces, shown, strict=True), 1):
        _add(parts, _turn(training, "discriminator", pairs, share, k == len(pieces)), share)
    training.averages.add(parts)
    training.missed += torch.stack([guard.skip for guard in training.guards.values()]).amax()
    return parts


def _turn(training: Training, player: str, *given: Any) -> Any:
    """What a player does with a piece of a batch, recorded where that can be."""
    turns: dict[str, Callable[..., Any]] = {"generator": _generator_turn, "discriminator": _discriminator_turn}
    function = partial(turns[player], training)
    return training.replays[player](function, *given) if player in training.replays else function(*given)


def _generator_turn(
    training: Training, piece: Batch, draws: Draws, weights: dict[str, Any], share: float, last: bool
) -> tuple[dict[str, Tensor], dict[str, Shown]]:
    """The generators' player on a piece: its parts, and what each view's discriminator is to tell apart. With the ``last``, its step."""
    with _local(training, "generator", not last):
        total, found, pairs = training.wrapped["generator"](piece, draws, weights, training.discriminator.frozen())
        training.fabric.backward(share * unless_finite(total) * total)
    if last:
        _step(training, "generator")
    return found, pairs


def _discriminator_turn(training: Training, pairs: dict[str, Shown], share: float, last: bool) -> dict[str, Tensor]:
    """The discriminators' player on a piece: its parts. With the ``last``, its step."""
    with _local(training, "discriminator", not last):
        total, found = training.wrapped["discriminator"](pairs)
        training.fabric.backward(share * unless_finite(total) * total)
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
    seen = seen_by_networks(Batch(source, target, batch.first, batch.step, labels), training.bands)
    return seen if training.balance is None else seen._replace(weights=training.balance(seen.target))


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
    training.guards[player].look()
    optimizer = training.wrapped[f"{player}_optimizer"]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
