"""Weights on the disk: safetensors files that are whole and fit exactly, or are not loaded at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from unflip.errors import UserError
from unflip.files import disk_errors, sha256, write_bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, at once."""
    write_bytes(path, safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}))


def read_tensors(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors file, whose SHA-256 must be ``digest`` where one is given."""
    with disk_errors(path, "read"):
        if not path.is_file():
            raise UserError(f"{path} is missing; the folder is not complete")
        if digest is not None and sha256(path) != digest:
            raise UserError(f"{path} is damaged: its SHA-256 is not the recorded one")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors: {str(error).splitlines()[0]}") from None


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A SHA-256 of the tensors' values, whatever their names and order: in networks of other libraries these change with the version."""
    bytes_of = (tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data for tensor in tensors.values())
    each = sorted(hashlib.sha256(values).hexdigest() for values in bytes_of)
    return hashlib.sha256("".join(each).encode()).hexdigest()


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load ``tensors`` into ``module`` if names and shapes agree completely; otherwise leave it as it is and say what differs."""
    check_fit(module, tensors, where)
    module.load_state_dict(dict(tensors))


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Raise ``UserError`` where ``tensors`` are not those of ``module``, which can be one without memory (``torch.device("meta")``)."""
    state = module.state_dict()
    odd = sorted(state.keys() ^ tensors.keys())
    if odd:
        which = "lacks" if odd[0] in state else "has an unexpected"
        raise UserError(f"{where} does not fit the configuration: it {which} tensor {odd[0]} (and {len(odd) - 1} more differ)")
    for name, value in state.items():
        if value.shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
            raise UserError(f"{where} does not fit the configuration: tensor {name} is {shapes}")
