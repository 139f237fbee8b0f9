"""All that a training holds, and how it begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unflip.data.bands import RGB, Bands
from unflip.engine.averages import Averages
from unflip.engine.ema import Ema
from unflip.engine.guard import Guard
from unflip.engine.pool import ImagePool
from unflip.engine.replay import Replay
from unflip.engine.team import Team
from unflip.fabric import Fabric
from unflip.losses.balance import Balance
from unflip.methods.players import DiscriminatorPlayer, GeneratorPlayer
from unflip.networks.chain import compile_networks
from unflip.runs import RunConfig


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
    balance: Balance | None = None
    """What weighs the places of target images, if anything does."""
    team: Team = field(default_factory=Team)
    """The processes that train together; each has its portion of every batch, and pools of its own."""
    images: str = ""
    """A digest of which images the run draws from."""
    fixed_weights: dict[str, str] = field(default_factory=dict)
    """Digests of the weights of networks that it asks and never trains, by the keys of the configuration that name them."""
    seen: int = 0
    """Source images."""
    wrapped: dict[str, Any] = field(default_factory=dict)
    """The players and optimizers as Fabric wants them called."""
    compiled: bool = False
    replays: dict[str, Replay] = field(default_factory=dict)
    """Of the players' turns, by player, where they are recorded."""
    guards: dict[str, Guard] = field(default_factory=dict)
    """Of the players' optimizers."""
    missed: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Steps that a player did not take since that was last read."""
    averages: Averages = field(default_factory=Averages)
    """Of what steps found since the last log."""
    skipped: int = 0
    """Steps that were not taken, because a loss or gradient was not a finite number."""
    returns: int = 0
    """How often the run went back to a checkpoint for that."""
    slower: float = 1.0
    """What the learning rates are multiplied by since."""


def assemble(config: RunConfig, bands: tuple[Bands, Bands], fabric: Fabric, team: Team | None = None) -> Training:
    """Freshly drawn networks and their optimizers, on the device of ``fabric``, for images of source and target as ``bands`` says."""
    channels = bands[0].count, bands[1].count
    team = team or Team()
    pool = max(1, config.pool // team.size) if config.pool else 0
    with team.together():
        generator = GeneratorPlayer(config, channels, config.seed)
        discriminator = DiscriminatorPlayer(config, channels, config.seed)
        balance = None if config.balance is None else Balance(config.balance).to(fabric.device)
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
        balance=balance,
        team=team,
        fixed_weights=generator.fixed_weights | discriminator.fixed_weights | (balance.fixed_weights() if balance else {}),
        compiled=compiled,
        missed=torch.zeros((), dtype=torch.float32, device=fabric.device),
    )
    for name, player in (("generator", generator), ("discriminator", discriminator)):
        player.to(fabric.device)
        rate: float | Tensor = config.optimizer.rate(name)
        rate = torch.tensor(rate, device=fabric.device) if compiled else rate  # read when a recorded step is replayed
        optimizer = torch.optim.Adam(
            player.parameters(), rate, config.optimizer.betas, weight_decay=config.optimizer.weight_decay, fused=True, capturable=compiled
        )
        training.optimizers[name] = optimizer
        training.guards[name] = Guard(player, optimizer, fabric.device)
        training.wrapped[name], training.wrapped[f"{name}_optimizer"] = fabric.setup(player, optimizer)
    if compiled and team.size == 1 and config.accumulate == 1:  # else what one piece gave is still needed when the next is played
        pool_handle, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(fabric.device)
        training.replays = {name: Replay(pool_handle, stream) for name in training.optimizers}
    return training
