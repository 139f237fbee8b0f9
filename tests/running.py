"""Whole runs with tiny networks, and what they leave on the disk."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import unflip
from helpers import shrunk
from unflip.engine.record import Record
from unflip.engine.trainer import Moment
from unflip.methods import METHODS
from unflip.recipes.train import train
from unflip.runs import RunConfig, leaves

SIZE = 32
SELDOM = ("sample_every=1000", "checkpoint_every=1000")
"""Samples and checkpoints at the end only."""


class Crash(Exception):
    """What kills a run here without any chance to save."""


def small(method: str) -> list[str]:
    """Settings that make a method's networks tiny, and tell no tracker, which takes time."""
    recipe = METHODS[method].recipe
    settings = []
    for name, part in {"generator": recipe.generator, "discriminator": recipe.discriminator, **recipe.terms}.items():
        now = leaves(part.model_dump())
        settings += [f"{name}.{key}={json.dumps(value)}" for key, value in leaves(shrunk(part)).items() if value != now[key]]
        settings += [f"{name}.patches=8"] if "patches" in now else []
    settings += ["projector.width=8"] if recipe.projector is not None else []
    settings += ["multiscale.attention=4"] if recipe.multiscale is not None else []
    return [*settings, "generator.blocks=1", "tensorboard=false"]


def quietly(config: RunConfig, out: Path, **arguments: Any) -> Path:
    """Train without a word."""
    return train(config, out, progress=False, say=lambda line: None, **arguments)


def refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} in the log")


def log(out: Path) -> list[dict[str, float]]:
    """The lines of log.jsonl, which are finite."""
    return [json.loads(line, parse_constant=refuse_constant) for line in (out / "log.jsonl").read_text().splitlines()]


def events(out: Path) -> list[dict[str, Any]]:
    """The lines of events.jsonl."""
    path = out / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def bits(out: Path) -> tuple[bytes, bytes]:
    """All that a run computed: its model's weights, and its last checkpoint (networks, optimizers, average, pools)."""
    newest = out / "checkpoints" / (out / "checkpoints/latest").read_text()
    return (out / "model/model.safetensors").read_bytes(), (newest / "state.safetensors").read_bytes()


def state(out: Path, seen: int) -> dict[str, Tensor]:
    return load_file(out / f"checkpoints/{seen:09d}/state.safetensors")


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below ``folder``, with its content; without TensorBoard's files, which tell of the time and the process."""
    paths = [path for path in folder.rglob("*") if not path.name.startswith("events.out.tfevents.")]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


@contextlib.contextmanager
def at(seen: int, do: Callable[[], Any]) -> Iterator[None]:
    """Within the block, runs do this as well when they have logged that many images."""
    add = Record.add

    def added(record: Record, moment: Moment) -> None:
        add(record, moment)
        if moment.seen == seen:
            do()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "add", added)
        yield


def crash() -> None:
    raise Crash


def start(arguments: list[Any]) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-c", "import sys; from unflip.cli.main import run; sys.exit(run())", *map(str, arguments)]
    paths = os.pathsep.join([str(Path(unflip.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
