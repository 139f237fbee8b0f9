"""The folder of a segmenter, a kind of model folder: config.json (network, classes, hashes) + model.safetensors. No pickle, no code."""

from __future__ import annotations

import colorsys
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError, field_validator

from unflip.config import Config, WeightFile, by_kind, problem, shortened
from unflip.data.labels import Classes
from unflip.data.resize import GivenResize
from unflip.errors import UserError
from unflip.files import sha256, whole_folder, write_bytes, write_json
from unflip.networks.pretrained import Pretrained, PretrainedSegmenter, TransformersConfig, find_pretrained
from unflip.networks.segmenter import Segmenter, SegmenterConfig
from unflip.tensors import check_fit, load_exactly, read_tensors, write_tensors

WEIGHTS = "model.safetensors"
HELD_OUT = "heldout.json"
NETWORKS: dict[str, type[Config]] = {"unet": SegmenterConfig, "transformers": TransformersConfig}


class Measured(Config):
    """A figure with its 95 % interval, of ``n`` images; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class HeldOut(Config):
    """What ``heldout.json`` holds: how a segmenter reads real images that it has not seen, the ceiling of every later judgment."""

    pixel_accuracy: Measured
    class_accuracy: Measured
    mean_iou: Measured
    per_class_iou: dict[str, Measured]
    sizes: tuple[int, ...]
    """How many neighboring images each block has."""
    voids: tuple[int, ...]
    """How many pixels of each block have no class."""
    blocks: tuple[tuple[tuple[int, ...], ...], ...]
    """``(B, K, K)``: a confusion for each block, over the classes that are not ignored; rows are labels, columns readings."""


class SegmenterModelConfig(Config):
    """What config.json holds: all that is needed to rebuild the network and to name what it reads."""

    format: Literal[1] = 1
    kind: Literal["segmenter"] = "segmenter"
    network: SegmenterConfig | TransformersConfig = SegmenterConfig()
    classes: Classes
    resize: GivenResize = "none"
    """How the images were resized on which it was trained, and so those that it is to read, as in a run's ``data.resize``."""
    provenance: dict[str, Any] = {}
    files: dict[WeightFile, str] = {}
    """SHA-256 of the weight file."""

    @field_validator("network", mode="before")
    @classmethod
    def _network(cls, value: Any) -> Any:
        return by_kind(value, NETWORKS, "network")


@dataclass(frozen=True)
class SegmenterModel:
    """A loaded segmenter, in evaluation mode; channel ``i`` of its logits is ``config.classes.names[i]``."""

    config: SegmenterModelConfig
    network: Segmenter | PretrainedSegmenter
    folder: Path
    held_out: HeldOut | None = None


def save_segmenter(folder: Path, config: SegmenterModelConfig, network: torch.nn.Module, held_out: HeldOut | None = None) -> None:
    """Write a segmenter's folder, at once."""
    with whole_folder(folder) as temporary:
        write_tensors(temporary / WEIGHTS, network.state_dict())
        config = config.model_copy(update={"files": {WEIGHTS: sha256(temporary / WEIGHTS)}})
        write_json(temporary / "config.json", config.model_dump(mode="json"))
        if held_out is not None:
            write_json(temporary / HELD_OUT, held_out.model_dump(mode="json"))
        write_bytes(temporary / "README.md", _card(config, held_out).encode())


def load_segmenter(path: Path | str, device: torch.device | str = "cpu") -> SegmenterModel:
    """Load a segmenter's folder, the ``model/`` of a run that trained one, or any semantic segmentation model of ``transformers``, by its
    local folder or by hub id, ``OWNER/NAME`` or ``hub:OWNER/NAME``, with ``@REVISION`` of that commit. Weights must
    fit exactly; no pickle is read.

    Raises:
        UserError: nothing there, another kind of model, damaged, or weights that do not fit the configuration.
    """
    foreign = _foreign(path, weights=True)
    if foreign is not None:
        return SegmenterModel(_adopted(foreign, path), foreign.load().eval().to(device), foreign.folder)
    folder, config = read_segmenter(path)
    tensors = read_tensors(folder / WEIGHTS, config.files.get(WEIGHTS))
    with torch.device("meta"):  # what does not fit takes no memory, however large the configuration says that it is
        check_fit(config.network.build(len(config.classes.names), torch.Generator(device="cpu").manual_seed(0)), tensors, folder / WEIGHTS)
    network = config.network.build(len(config.classes.names), torch.Generator().manual_seed(0))
    load_exactly(network, tensors, folder / WEIGHTS)
    return SegmenterModel(config, network.eval().to(device), folder, _held_out(folder, config.classes))


def read_segmenter(path: Path | str) -> tuple[Path, SegmenterModelConfig]:
    """The segmenter's folder at ``path``, and its configuration; the weights are not touched."""
    foreign = _foreign(path, weights=False)
    if foreign is not None:
        return foreign.folder, _adopted(foreign, path)
    folder = _own(path)
    if folder is None:
        raise UserError(f"no segmenter, {path}; give the folder of a trained segmenter")
    file = folder / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("kind") != "segmenter":
            raise UserError(f"a {shortened(values.get('kind'))}, not a segmenter, {folder}; give the folder of a trained segmenter")
        return folder, SegmenterModelConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{file}: {problem(error)}") from None
    except (ValueError, RecursionError):
        raise UserError(f"not valid JSON, {file}; the segmenter's folder is damaged") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None


def _own(path: Path | str) -> Path | None:
    """Where a model folder is, of whatever kind."""
    return next((place for place in (Path(path), Path(path, "model")) if (place / "config.json").is_file()), None)


def _foreign(path: Path | str, weights: bool) -> Pretrained | None:
    folder = _own(path)
    return find_pretrained(path if folder is None else folder, weights)


def _adopted(found: Pretrained, path: Path | str) -> SegmenterModelConfig:
    """The configuration of a network that others made; its classes get colors of their own."""
    names = [name if found.names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(found.names)]
    try:
        classes = Classes(names=tuple(names), palette=distinct_colors(len(names)))
        made = {"model": str(path)} | ({"revision": found.commit} if found.commit else {})
        return SegmenterModelConfig(network=found.network, classes=classes, provenance=made)
    except ValidationError as error:
        raise UserError(f"the classes of {found.folder}: {problem(error)}") from None


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colors that differ; neighbors in the list differ most, by hues a golden ratio of the circle apart."""
    rings = ((0.75, 0.95), (0.9, 0.6), (0.4, 0.8))  # saturation, value
    rgb = (colorsys.hsv_to_rgb(i * 0.618034 % 1, *rings[i % len(rings)]) for i in range(count))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in rgb)


def _held_out(folder: Path, classes: Classes) -> HeldOut | None:
    """What is known of how the segmenter reads; folders of before, and those of others, hold nothing."""
    file = folder / HELD_OUT
    if not file.exists():
        return None
    try:
        held_out = HeldOut.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise UserError(f"{file}: {problem(error)}") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    kept = len(classes.kept)
    square = all(len(block) == kept and all(len(row) == kept for row in block) for block in held_out.blocks)
    if not square or not len(held_out.blocks) == len(held_out.sizes) == len(held_out.voids):
        raise UserError(f"{file} does not fit the configuration: it must hold a confusion of {kept} classes for each block")
    return held_out


def _card(config: SegmenterModelConfig, held_out: HeldOut | None) -> str:
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
{_figures(held_out)}"""


def _figures(held_out: HeldOut | None) -> str:
    """A section of the card."""
    if held_out is None:
        return ""
    shown = {"pixel accuracy": held_out.pixel_accuracy, "class accuracy": held_out.class_accuracy, "mean IoU": held_out.mean_iou}
    shown |= {f"IoU of {name}": figure for name, figure in held_out.per_class_iou.items()}
    lines = "\n".join(f"| {name} | {_number(each.value)} | {_number(each.low)} to {_number(each.high)} |" for name, each in shown.items())
    return f"""
## On {held_out.mean_iou.n} real images that it has not seen

Pixels without a class are left out. The intervals are of 95 %, by bootstrap over blocks of neighboring images.

| | | |
|---|---|---|
{lines}
"""


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
