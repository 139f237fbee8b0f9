"""Checkpoints: the whole state of a run as safetensors and JSON, so that it goes on as if it had not stopped. No pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from unflip.config import Config
from unflip.engine.training import Training
from unflip.errors import UserError
from unflip.files import disk_errors, sha256, sync, whole_folder, write_bytes, write_json
from unflip.runs import leaves
from unflip.tensors import load_exactly, read_tensors, write_tensors

STATE, META, LATEST = "state.safetensors", "state.json", "latest"


class Meta(Config):
    """What state.json says."""

    format: Literal[1, 2] = 2
    """1, of early runs, has no ``check``, and nothing from ``processes`` on."""
    seen: NonNegativeInt
    images: str
    fixed_weights: dict[str, str] | None = None
    """As in :class:`unflip.engine.training.Training`; None in checkpoints of before."""
    sha256: str
    """Of the tensors' file."""
    processes: PositiveInt = 1
    skipped: NonNegativeInt = 0
    returns: NonNegativeInt = 0
    slower: PositiveFloat = 1.0
    check: str = ""
    """The SHA-256 of all this but itself."""

    def checked(self) -> Meta:
        """With its checksum."""
        text = json.dumps(self.model_dump(exclude={"check"}, exclude_none=True), sort_keys=True)
        return self.model_copy(update={"check": hashlib.sha256(text.encode()).hexdigest()})


class Newest(NamedTuple):
    """The newest checkpoint that is whole, if there is any, and a line for each newer one that is not."""

    path: Path | None
    damaged: list[str]


def save(folder: Path, training: Training) -> None:
    """Write ``folder/<images seen>/``, point ``folder/latest`` at it, and keep it and those before it, ``keep`` in all.

    Called by all processes of a training; the first writes, with the image pools of all. At any moment there is a whole checkpoint, once
    there was one: it is written under another name, flushed to the disk and renamed, then pointed at; only then are older ones deleted.
    """
    pools = training.team.gather({side: [image.cpu() for image in pool.images] for side, pool in training.pools.items()})
    averages = training.averages.state(training.team)
    with training.team.together():  # nobody ends before it is written
        if training.team.leads:
            _write(folder, training, _tensors(training) | _pooled(pools) | _prefixed("averages", averages))


def _write(folder: Path, training: Training, tensors: dict[str, Tensor]) -> None:
    name = f"{training.seen:09d}"
    with whole_folder(folder / name) as temporary:
        write_tensors(temporary / STATE, tensors)
        meta = Meta(
            seen=training.seen,
            images=training.images,
            fixed_weights=training.fixed_weights,
            sha256=sha256(temporary / STATE),
            processes=training.team.size,
            skipped=training.skipped,
            returns=training.returns,
            slower=training.slower,
        )
        write_json(temporary / META, meta.checked().model_dump())
    write_bytes(folder / LATEST, name.encode())
    sync(folder)
    found = _all(folder)
    kept = [path for path in found if path.name <= name][-training.config.keep :]
    for path in found:
        if path not in kept:  # too old, or ahead of a run that went back
            shutil.rmtree(path, ignore_errors=True)


def newest(folder: Path) -> Newest:
    """What a run in whose ``checkpoints/`` is ``folder`` can go on from: where ``latest`` points, or if that is damaged, the one before.

    Raises ``UserError`` where there are checkpoints and none is whole: to begin from the start would look like going on.
    """
    with disk_errors(folder, "read"):
        _bring_back(folder)
        found = _all(folder)
        pointer = folder / LATEST
        latest = pointer.read_text(errors="replace").strip() if pointer.is_file() else ""
    damaged = []
    if any(path.name == latest for path in found):
        found = [path for path in found if path.name <= latest]  # those after it were not yet, or are no longer, part of the run
    elif latest:
        damaged.append(f"{pointer} names a checkpoint that is not there")
    for path in reversed(found):
        try:
            meta = read_meta(path)
            if not (path / STATE).is_file() or sha256(path / STATE) != meta.sha256:
                raise UserError(f"{path / STATE} is damaged or missing")
        except (UserError, OSError) as error:
            damaged.append(str(error))
            continue
        return Newest(path, damaged)
    if damaged:
        remedy = "bring one back from a copy, or start another run, with --init from this one"
        raise UserError(f"no checkpoint in {folder} is whole ({'; '.join(damaged)}); {remedy}")
    return Newest(None, [])


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint in ``folder``, if there is any."""
    return newest(folder).path


def read_meta(where: Path) -> Meta:
    """What a checkpoint's state.json says. Raises ``UserError`` where it is not what was written."""
    try:
        meta = Meta.model_validate_json((where / META).read_bytes())
        if meta.format == 1 or meta == meta.checked():
            return meta
    except (OSError, ValueError):
        pass
    raise UserError(f"{where / META} cannot be read; the checkpoint is damaged")


def resume(folder: Path, training: Training) -> list[str] | None:
    """Bring ``training`` to the newest checkpoint in ``folder`` that is whole, in every process alike; what a user should know of it.

    None where there is none. Raises ``UserError`` as :func:`newest` and :func:`restore` do.
    """
    team = training.team
    found = Newest(None, [])
    with team.together():
        if team.leads:
            found = newest(folder)
    path, damaged = team.share(found)
    if path is None:
        return None
    with team.together():
        remarks = restore(path, training)
    return [*(f"{what}; the run goes on from {path.name}" for what in damaged), *remarks]


def restore(where: Path, training: Training) -> list[str]:
    """Bring ``training`` to the state of the checkpoint ``where``, as :func:`newest` finds it; a line for what is not as it was then."""
    meta = read_meta(where)
    _refuse_others(meta, training, where.parent.parent)
    if meta.images != training.images:
        raise UserError(f"the images are not those that the run in {where.parent.parent} began with; restore them, or start another run")
    tensors = read_tensors(where / STATE, meta.sha256)

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    for name, module in _modules(training).items():
        load_exactly(module, part(f"{name}/"), where / STATE)
    for name, optimizer in training.optimizers.items():
        _restore_optimizer(optimizer, part(f"{name}_optimizer/"))
    for side, pool in training.pools.items():
        images = part(f"pool/{side}/")
        mine = [key for key in sorted(images, key=int) if int(key) % training.team.size == training.team.rank][: pool.size]
        pool.images = [images[key].to(training.fabric.device) for key in mine]
    for name, guard in training.guards.items():
        guard.restore(part(f"guard/{name}/"))
    training.averages.restore(part("averages/"), training.fabric.device)
    training.missed.zero_()
    for replay in training.replays.values():
        replay.forget()  # what is recorded holds the optimizers' tensors of before
    training.seen, training.skipped, training.returns, training.slower = meta.seen, meta.skipped, meta.returns, meta.slower
    now = training.team.size
    return [] if now == meta.processes else [f"{meta.processes} processes before, {now} from here on"]


def _refuse_others(meta: Meta, training: Training, run: Path) -> None:
    """Raise ``UserError`` where a network that the run asks is another by now, in the same place."""
    for key, before in (meta.fixed_weights or {}).items():
        if training.fixed_weights.get(key, before) != before:
            what = f"{key}, {leaves(training.config.model_dump(mode='json'))[key]}, has other weights than when the run in {run} began"
            raise UserError(f"{what}; bring those back, or start another run")


def _restore_optimizer(optimizer: torch.optim.Optimizer, found: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in found.items():
        index, field = key.split("/")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # the fused step wants them laid out alike
            value = torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
        state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _bring_back(folder: Path) -> None:
    """What a process that was killed while it replaced a checkpoint by another of the same name had put aside."""
    for old in folder.glob(".*.old"):
        there = folder / old.name[1:-4]
        if there.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(there)


def _all(folder: Path) -> list[Path]:
    """Checkpoints, whole or not, the oldest first."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()) if folder.is_dir() else []


def _modules(training: Training) -> dict[str, torch.nn.Module]:
    return {"generator": training.generator, "discriminator": training.discriminator, "ema": training.ema.network}


def _tensors(training: Training) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {}
    for name, module in _modules(training).items():
        tensors |= _prefixed(name, module.state_dict())
    for name, optimizer in training.optimizers.items():
        for index, fields in optimizer.state_dict()["state"].items():
            tensors |= _prefixed(f"{name}_optimizer/{index}", fields)
    for name, guard in training.guards.items():
        tensors |= _prefixed(f"guard/{name}", guard.state())
    return tensors


def _prefixed(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}/{key}": value for key, value in tensors.items()}


def _pooled(pools: list[dict[str, list[Tensor]]]) -> dict[str, Tensor]:
    """The pools of all processes; image i of process r has the number i * processes + r."""
    return {
        f"pool/{side}/{i * len(pools) + rank}": image
        for rank, mine in enumerate(pools)
        for side, images in mine.items()
        for i, image in enumerate(images)
    }
