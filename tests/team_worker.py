"""What test_team.py starts, once by itself and once by torchrun: a step of every method on one batch, its portion here in each process.

    python team_worker.py FOLDER CASE...        writes FOLDER/NAME for each: the gradients of both players, by method

A case is NAME:ACCUMULATE:own|same:METHOD,... ``same``: all processes take the first one's portion, which is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from helpers import SIZE, images, labels, scale_weights, small_recipe
from unflip.data.bands import RGB
from unflip.data.pairs import portion
from unflip.engine import trainer
from unflip.engine.team import Team
from unflip.engine.training import assemble
from unflip.fabric import DDPStrategy, Fabric
from unflip.methods import METHODS
from unflip.runs import RunConfig
from unflip.torchrun import processes
from unflip.types import Batch

IMAGES, STEP = 4, 3


def gradients(method: str, accumulate: int, whose: str, fabric: Fabric, team: Team) -> dict[str, torch.Tensor]:
    """Of both players, after what training does with them in a step of ``IMAGES`` images."""
    recipe = small_recipe(METHODS[method].recipe, pool=0).model_dump()
    recipe["terms"] = {name: term | {"start": 0, "every": 1} for name, term in recipe["terms"].items()}
    config = RunConfig(
        **recipe, method=method, data={"source": "s", "target": "t"}, size=SIZE, batch=IMAGES, budget=100, accumulate=accumulate
    )
    training = assemble(config, (RGB, RGB), fabric, team)
    found: dict[str, torch.Tensor] = {}
    for i, (name, player) in enumerate((("generator", training.generator), ("discriminator", training.discriminator))):
        scale_weights(player, i)

        def note(*_: object, name: str = name, player: torch.nn.Module = player) -> None:
            found.update({f"{method}/{name}/{n}": p.grad.clone() for n, p in player.named_parameters() if p.grad is not None})

        training.optimizers[name].register_step_pre_hook(note)
    mine = portion(IMAGES, team.rank if whose == "own" else 0, team.size)
    cut = slice(mine.start, mine.stop)
    source, target = (((x[cut] + 1) * 127.5).round().to(torch.uint8) for x in (images(IMAGES, seed=1), images(IMAGES, seed=2)))
    batch = Batch(source, target, IMAGES * STEP + mine.start, STEP, labels(IMAGES)[cut].to(torch.uint8))
    parts, _ = trainer.play(training, batch)
    means = team.mean({name: value.double() for name, value in parts.items()})
    return found | {f"{method}/parts/{name}": value for name, value in means.items()}


if __name__ == "__main__":
    folder, *cases = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # else Fabric rounds what players return
    local, nodes = processes()
    strategy = DDPStrategy(find_unused_parameters=False) if local > 1 else "auto"
    fabric = Fabric(accelerator="cpu", devices=local, num_nodes=nodes, strategy=strategy, precision="64-true")
    fabric.launch()
    team = Team()
    for name, accumulate, whose, methods in (case.split(":") for case in cases):
        found: dict[str, torch.Tensor] = {}
        for method in methods.split(","):
            found |= gradients(method, int(accumulate), whose, fabric, team)
        if team.leads:
            save_file(found, Path(folder, name))
    team.close()
