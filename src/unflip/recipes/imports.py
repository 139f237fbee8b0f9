"""Weights of others: published files of generators, as model folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import unflip
from unflip import modelfolder
from unflip.data.bands import Bands
from unflip.data.resize import parse_resize
from unflip.errors import UserError
from unflip.files import disk_errors, sha256, undone_on_failure
from unflip.methods.passes import SIDES
from unflip.modelfolder import ModelConfig
from unflip.networks.published import Published, recognize
from unflip.pth import read_pth
from unflip.tensors import load_exactly


class Imported(NamedTuple):
    """What was written."""

    folder: Path
    what: str
    """The published network that was recognized, in words."""
    config: ModelConfig


def import_weights(path: str | Path, out: str | Path, *, backward: str | Path | None = None, resize: str = "none") -> Imported:
    """Write the model folder ``out`` of a published generator, such as CUT's ``latest_net_G.pth``, which :func:`unflip.load` takes.

    What it is, is read off the names and shapes of its tensors. No code of the file is run. ``backward``: the file of the other direction,
    CycleGAN's G_B beside its G_A. ``resize``: what images are resized to before they are translated, and back after: "none", "short:N" or
    "WxH"; the published test scripts resize to 256x256 unless told otherwise.

    Raises:
        UserError: the file is not the weights of a generator that is known, or holds anything else; ``out`` is not empty.
    """
    files = [Path(path)] if backward is None else [Path(path), Path(backward)]
    folder, resized = Path(out), str(parse_resize(resize))
    with disk_errors(folder):
        taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if taken:
        raise UserError(f"--out {folder} is not empty; choose another folder")
    found = [recognize(read_pth(file), file) for file in files]
    if backward is not None:
        _check_pair(found, files)
    forward = found[0]
    config = ModelConfig(
        generator=forward.generator,
        source=Bands(count=forward.ends[0]),
        target=Bands(count=forward.ends[1]),
        sides=1 if backward is None else 2,
        resize=resized,
        weights="last",
        provenance={
            "imported_from": [file.name for file in files],
            "sha256": [sha256(file) for file in files],
            "recognized_as": forward.what,
            "unflip": unflip.__version__,
            "torch": torch.__version__,
        },
    )
    networks = nn.ModuleDict()
    for side, each, file in zip(SIDES[config.sides], found, files, strict=True):
        network = forward.generator.build(config.channels, config.channels, torch.Generator())
        load_exactly(network, each.tensors, file)
        networks[side] = network
    with undone_on_failure(folder):
        modelfolder.save(folder, config, networks, None)
    return Imported(folder, forward.what, config)


def _check_pair(found: list[Published], files: list[Path]) -> None:
    """Refuse two directions that do not belong together."""
    if os.path.samefile(*files):
        raise UserError(f"--backward is the same file, {files[1]}; give the other direction's, such as latest_net_G_B.pth")
    there, back = found
    if there.generator != back.generator or there.ends != back.ends[::-1]:
        raise UserError(
            f"{files[0]} is {_said(there)}, and {files[1]} is {_said(back)}; two directions are of the same network: import each by itself"
        )


def _said(found: Published) -> str:
    return f"{found.what}, {found.ends[0]} to {found.ends[1]} bands"
