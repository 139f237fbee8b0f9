"""Weights that ``torch.save`` wrote: files of others.

They are pickles, of which no code is ever run: what holds anything but tensors by their names is refused.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from unflip.errors import UserError, one_line, short

SAFE = (2, 10)
"""The first torch whose ``weights_only`` has no hole that is known (CVE-2025-32434 and CVE-2026-24747 were closed before)."""
MOST_BYTES = 4 * 2**30
MOST_TENSORS = 4096


def read_pth(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, on the CPU, by their names: dense and no larger than the file, but of any type, shape and values.

    Raises:
        UserError: no file, of no torch.save, damaged, with anything else in it, or a torch by which it is not safe to read it.
    """
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < SAFE:
        needed = ".".join(map(str, SAFE))
        raise UserError(
            f"reading {path} with torch {torch.__version__} is not safe: it may run code of the file; install torch {needed} or newer"
        )
    if not path.is_file():
        raise UserError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; give the file, such as latest_net_G.pth")
    try:
        with open(path, "rb") as file:
            size, head = path.stat().st_size, file.read(16)
            if size > MOST_BYTES:
                raise UserError(f"{path} has {size:,} bytes, more than any generator that is known; give the file of one generator")
            if head[8:9] == b"{":
                raise UserError(f"{path} is a safetensors file; give one that torch.save wrote")
            file.seek(0)
            # from memory: a file would make room for as much as a damaged length says, before it finds that there is less
            whole = _checked(path, file, size) if head.startswith(b"PK") else io.BytesIO(file.read())
            return _tensors(_loaded(path, whole), path, size)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or one_line(error)}") from None


def _checked(path: Path, file: BinaryIO, size: int) -> BinaryIO:
    """A copy of an archive whose members are as large as they say: torch.save compresses none, so that none can become larger.

    A copy, as torch has a reader of its own, which might find other members in the same file.
    """
    copy = io.BytesIO()
    try:
        with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w") as made:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise UserError(f"{path} is a compressed archive, which torch.save does not write; unpack it and give the .pth file in it")
            if sum(member.file_size for member in members) > size or len({member.filename for member in members}) < len(members):
                raise UserError(f"{path} is damaged: it says that it holds more than its {size:,} bytes, or the same twice; get it again")
            for member in members:
                made.writestr(member.filename, archive.read(member))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); get it again") from None
    copy.seek(0)
    return copy


def _loaded(path: Path, file: BinaryIO) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # which can be anything, from what is no pickle
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked is not None:
            what = f"asks for {asked[1]}, which is no tensor, and nothing of it was run; save net.state_dict() alone"
        elif "legacy .tar format" in str(error):
            what = "is a tar archive, as the first versions of torch wrote, which cannot be read safely; save it again with a newer one"
        else:
            what = "was not written by torch.save, or is damaged; get it again"
        raise UserError(f"{path} {what}") from None


def _tensors(value: Any, path: Path, size: int) -> dict[str, Tensor]:
    """``value`` if it is what ``net.state_dict()`` gives; nothing of it has been touched before."""
    whole = "save net.state_dict() alone"
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a value of type {type(value).__name__}, not the tensors of a network by their names; {whole}")
    if {"state", "param_groups"} <= value.keys():
        raise UserError(f"{path} is an optimizer; give the file of the generator, such as latest_net_G.pth")
    if len(value) > MOST_TENSORS:
        raise UserError(f"{path} holds {len(value):,} values, more than any generator that is known; {whole}")
    total = 0
    for name, each in value.items():
        if not isinstance(name, str):
            raise UserError(f"{path}: {short(name)} is no name of a tensor; {whole}")
        if type(each) not in (Tensor, torch.nn.Parameter):
            raise UserError(f"{path}: {short(name)} is of type {type(each).__name__}, and no tensor; {whole}")
        if each.layout != torch.strided or each.is_quantized or each.device.type != "cpu":
            raise UserError(f"{path} holds a tensor with no plain values, {short(name)}; {whole}")
        total += each.numel() * each.element_size()
    if total > size:
        raise UserError(f"{path} is damaged: its tensors would have {total:,} bytes, and it has {size:,}; get it again")
    return {name: each.detach() for name, each in value.items()}
