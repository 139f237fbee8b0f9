"""The model folder: config.json (architecture, preprocessing, provenance, hashes) + model.safetensors + README.md. No pickle, no code."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import SerializeAsAny, ValidationError, field_validator, model_validator
from torch import nn

from unflip.config import Config, WeightFile, by_kind, problem
from unflip.data.bands import RGB, Bands
from unflip.errors import UserError
from unflip.files import sha256, whole_folder, write_bytes, write_json
from unflip.methods.passes import SIDES
from unflip.modelcard import card
from unflip.networks import GENERATORS, IMPORTED, Generator, GeneratorConfig, Multiscale, MultiscaleConfig
from unflip.networks.hub import HUB, HubName
from unflip.networks.multiscale import build
from unflip.tensors import check_fit, load_exactly, read_tensors, write_tensors

WEIGHTS = "model.safetensors"
PROJECTOR = "projector.safetensors"


class ModelConfig(Config):
    """What config.json holds: all that is needed to rebuild the networks and to treat images as in training."""

    format: Literal[1] = 1
    kind: Literal["translator"] = "translator"
    generator: SerializeAsAny[GeneratorConfig]
    multiscale: MultiscaleConfig | None = None
    source: Bands = RGB
    """How its images are stored, and which of their values are -1 and 1 to the networks."""
    target: Bands = RGB
    sides: Literal[1, 2] = 1
    resize: str = "none"
    """Applied to an image before it is translated, and undone after."""
    weights: Literal["ema", "last"] = "ema"
    """Of training: their moving average, or, of imported ones, the last."""
    provenance: dict[str, Any] = {}
    files: dict[WeightFile, str] = {}
    """SHA-256 of every weight file."""

    @property
    def channels(self) -> int:
        """Of the networks' images: a domain of fewer bands repeats them."""
        return max(self.source.count, self.target.count)

    @model_validator(mode="before")
    @classmethod
    def _as_before(cls, value: Any) -> Any:
        """Early folders say how many channels there are, which were 3."""
        if not isinstance(value, dict) or "channels" not in value:
            return value
        if value["channels"] != [3, 3]:
            raise ValueError(f"channels: {value['channels']} instead of [3, 3]")
        return {key: each for key, each in value.items() if key != "channels"}

    @field_validator("generator", mode="before")
    @classmethod
    def _generator_by_kind(cls, value: Any) -> Any:
        return by_kind(value, GENERATORS | IMPORTED, "generator")

    @model_validator(mode="after")
    def _scales(self) -> ModelConfig:
        if self.multiscale is not None and not self.generator.taps:
            raise ValueError(f"multiscale: a generator of kind {self.generator.kind} has no taps")
        return self


@dataclass(frozen=True)
class Model:
    """A loaded model folder. ``generators`` by direction: "to_target" and, for two-sided methods, "to_source"."""

    config: ModelConfig
    generators: dict[str, Generator | Multiscale]
    folder: Path


def save(folder: Path, config: ModelConfig, generators: nn.Module, projectors: nn.Module | None) -> None:
    """Write a model folder, at once."""
    with whole_folder(folder) as temporary:
        tensors = {WEIGHTS: generators.state_dict()}
        if projectors is not None and len(list(projectors.parameters())):
            tensors[PROJECTOR] = projectors.state_dict()
        for name, state in tensors.items():
            write_tensors(temporary / name, state)
        _describe(temporary, config.model_copy(update={"files": {name: sha256(temporary / name) for name in tensors}}))


def copy(source: Path, folder: Path, **facts: Any) -> None:
    """Write ``folder`` as a copy of the model folder ``source``, with ``facts`` in its provenance, at once."""
    config = read_config(source)
    with whole_folder(folder) as temporary:
        for name in config.files:
            shutil.copyfile(source / name, temporary / name)
        _describe(temporary, config.model_copy(update={"provenance": config.provenance | facts}))


def _describe(folder: Path, config: ModelConfig) -> None:
    write_json(folder / "config.json", config.model_dump(mode="json"))
    write_bytes(folder / "README.md", card(config).encode())


def find(path: Path) -> Path:
    """The model folder of ``path``, which is one or is a run folder that has one."""
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if not path.exists():
        on_hub = f", or, of a model on the hub, {HUB}{path}" if HubName.parse(str(path)) else ""
        raise UserError(f"{path} does not exist; give a run folder or a model folder{on_hub}")
    raise UserError(f"{path} holds no model (no config.json and no model/config.json); is the run still before its first checkpoint?")


def load(path: Path, device: torch.device | str = "cpu") -> Model:
    """Load a run's or model folder's networks, in evaluation mode. Weights must fit exactly; they are never partly loaded.

    Raises:
        UserError: nothing there, damaged, or weights that do not fit the configuration.
    """
    folder = find(path)
    config = read_config(folder)
    tensors = read_tensors(folder / WEIGHTS, config.files.get(WEIGHTS))
    with torch.device("meta"):  # what does not fit takes no memory, however large the configuration says that it is
        check_fit(nn.ModuleDict(_generators(config)), tensors, folder / WEIGHTS)
    generators = _generators(config)
    load_exactly(nn.ModuleDict(generators), tensors, folder / WEIGHTS)
    return Model(config, {side: generator.eval().to(device) for side, generator in generators.items()}, folder)


def _generators(config: ModelConfig) -> dict[str, Generator | Multiscale]:
    """With weights of no meaning."""
    rng = torch.Generator(device="cpu").manual_seed(0)
    channels = config.channels
    return {side: build(config.generator, config.multiscale, channels, channels, rng) for side in SIDES[config.sides]}


def read_config(folder: Path) -> ModelConfig:
    """A model folder's config.json."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = values.get("kind", "translator") if isinstance(values, dict) else "translator"
        if isinstance(kind, str) and kind != "translator":
            raise UserError(f"{folder} holds a {kind[:40]}, and a translator is needed; give the folder of a run or of its model")
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {problem(error)}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not valid JSON; the model folder is damaged") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
