"""The folder of a segmenter, a kind of model folder: config.json (network, classes, hashes) + model.safetensors. No pickle, no code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from unflip.config import Config, problem
from unflip.data.images import GivenResize
from unflip.data.labels import Classes
from unflip.errors import UserError
from unflip.files import sha256, whole_folder, write_bytes, write_json
from unflip.networks.segmenter import Segmenter, SegmenterConfig
from unflip.tensors import load_exactly, read_tensors, write_tensors

WEIGHTS = "model.safetensors"


class SegmenterModelConfig(Config):
    """What config.json holds: all that is needed to rebuild the network and to name what it reads."""

    format: Literal[1] = 1
    kind: Literal["segmenter"] = "segmenter"
    network: SegmenterConfig = SegmenterConfig()
    classes: Classes
    resize: GivenResize = "none"
    """How the images were resized on which it was trained, and so those that it is to read, as in a run's ``data.resize``."""
    provenance: dict[str, Any] = {}
    files: dict[str, str] = {}
    """SHA-256 of the weight file."""


@dataclass(frozen=True)
class SegmenterModel:
    """A loaded segmenter, in evaluation mode; channel ``i`` of its logits is ``config.classes.names[i]``."""

    config: SegmenterModelConfig
    network: Segmenter
    folder: Path


def save_segmenter(folder: Path, config: SegmenterModelConfig, network: Segmenter) -> None:
    """Write a segmenter's folder, at once."""
    with whole_folder(folder) as temporary:
        write_tensors(temporary / WEIGHTS, network.state_dict())
        config = config.model_copy(update={"files": {WEIGHTS: sha256(temporary / WEIGHTS)}})
        write_json(temporary / "config.json", config.model_dump(mode="json"))
        write_bytes(temporary / "README.md", _card(config).encode())


def load_segmenter(path: Path, device: torch.device | str = "cpu") -> SegmenterModel:
    """Load a segmenter's folder, or the ``model/`` of a run that trained one. Weights must fit exactly.

    Raises:
        UserError: nothing there, another kind of model, damaged, or weights that do not fit the configuration.
    """
    folder, config = read_segmenter(path)
    tensors = read_tensors(folder / WEIGHTS, config.files.get(WEIGHTS))
    network = config.network.build(len(config.classes.names), torch.Generator().manual_seed(0))
    load_exactly(network, tensors, folder / WEIGHTS)
    return SegmenterModel(config, network.eval().to(device), folder)


def read_segmenter(path: Path) -> tuple[Path, SegmenterModelConfig]:
    """The segmenter's folder at ``path``, and its configuration; the weights are not touched."""
    folder = next((place for place in (path, path / "model") if (place / "config.json").is_file()), None)
    if folder is None:
        raise UserError(f"no segmenter, {path}; give the folder of a trained segmenter")
    file = folder / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("kind") != "segmenter":
            raise UserError(f"a {values.get('kind')}, not a segmenter, {folder}; give the folder of a trained segmenter")
        return folder, SegmenterModelConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{file}: {problem(error)}") from None
    except (ValueError, RecursionError):
        raise UserError(f"not valid JSON, {file}; the segmenter's folder is damaged") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def _card(config: SegmenterModelConfig) -> str:
    facts = {**config.provenance, "classes": ", ".join(config.classes.names), "resize": config.resize}
    made = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in facts.items())
    return f"""---
library_name: unflip
pipeline_tag: image-segmentation
---
# A segmenter of unflip's

It reads classes off images. Name this folder where unflip asks for a segmenter.

| | |
|---|---|
{made}
"""
