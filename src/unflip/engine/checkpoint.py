"""Checkpoints: the whole state of a run as safetensors and JSON, so that it goes on as if it had not stopped. No pickle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unflip.engine.trainer import Training
from unflip.errors import UserError
from unflip.files import sha256, whole_folder, write_bytes, write_json
from unflip.tensors import load_exactly, read_tensors, write_tensors

STATE, META, LATEST = "state.safetensors", "state.json", "latest"


def save(folder: Path, training: Training) -> None:
    """Write ``folder/<images seen>/``, point ``folder/latest`` at it, and keep it and those before it, ``keep`` in all.

    Called by all processes of a training; the first writes, with the image pools of all.
    """
    pools = training.team.gather({side: [image.cpu() for image in pool.images] for side, pool in training.pools.items()})
    with training.team.together():  # nobody ends before it is written
        if training.team.leads:
            _write(folder, training, pools)


def _write(folder: Path, training: Training, pools: list[dict[str, list[Tensor]]]) -> None:
    name = f"{training.seen:09d}"
    with whole_folder(folder / name) as temporary:
        write_tensors(temporary / STATE, _tensors(training) | _pooled(pools))
        write_json(temporary / META, {"format": 1, "seen": training.seen, "images": training.images, "sha256": sha256(temporary / STATE)})
    write_bytes(folder / LATEST, name.encode())
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit())
    kept = [path for path in found if path.name <= name][-training.config.keep :]
    for path in found:
        if path not in kept:  # too old, or ahead of a run that went back
            shutil.rmtree(path, ignore_errors=True)


def restore(where: Path, training: Training) -> None:
    """Bring ``training`` to the state of the checkpoint ``where``, as :func:`latest` finds it."""
    try:
        meta = json.loads((where / META).read_text())
        seen, drawn_from, digest = int(meta["seen"]), str(meta["images"]), str(meta["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{where / META} cannot be read; the checkpoint is damaged") from None
    if drawn_from != training.images:
        raise UserError(f"the images are not those that the run in {where.parent.parent} began with; restore them, or start another run")
    tensors = read_tensors(where / STATE, digest)

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    for name, module in _modules(training).items():
        load_exactly(module, part(f"{name}/"), where / STATE)
    for name, optimizer in training.optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for key, value in part(f"{name}_optimizer/").items():
            index, field = key.split("/")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:  # the fused step wants them laid out alike
                value = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
            state.setdefault(int(index), {})[field] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for side, pool in training.pools.items():
        images = part(f"pool/{side}/")
        mine = [key for key in sorted(images, key=int) if int(key) % training.team.size == training.team.rank][: pool.size]
        pool.images = [images[key].to(training.fabric.device) for key in mine]
    training.seen = seen


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint in ``folder``, if there is any."""
    pointer = folder / LATEST
    return folder / pointer.read_text().strip() if pointer.is_file() else None


def _modules(training: Training) -> dict[str, torch.nn.Module]:
    return {"generator": training.generator, "discriminator": training.discriminator, "ema": training.ema.network}


def _tensors(training: Training) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {}
    for name, module in _modules(training).items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in training.optimizers.items():
        for index, fields in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}_optimizer/{index}/{field}": value for field, value in fields.items()}
    return tensors


def _pooled(pools: list[dict[str, list[Tensor]]]) -> dict[str, Tensor]:
    """The pools of all processes; image i of process r has the number i * processes + r."""
    return {
        f"pool/{side}/{i * len(pools) + rank}": image
        for rank, mine in enumerate(pools)
        for side, images in mine.items()
        for i, image in enumerate(images)
    }
