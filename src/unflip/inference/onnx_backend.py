"""Translating with ONNX Runtime what `unflip export` made: without PyTorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from unflip.config import Config, problem
from unflip.data.bands import RGB, Bands
from unflip.errors import MissingExtra, UserError, cut, one_line
from unflip.inference.translator import Direction, Translator

KEY = "unflip"
"""Of the file's metadata: what it is, as :class:`Described` in JSON."""
INPUT, OUTPUT = "image", "translation"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Described(Config):
    """What an ONNX file says of itself: how images are treated before and after. Its network takes and gives ``(N, C, H, W)``, -1 to 1."""

    format: Literal[1] = 1
    kind: Literal["onnx"] = "onnx"
    direction: Direction = "forward"
    source: Bands = RGB
    """Of the images that go in: which of their values are -1 and 1, and what stands for nothing, which becomes 0."""
    target: Bands = RGB
    """Of those that come out, likewise."""
    resize: str = "none"
    """Applied to an image before it is translated, and undone after."""
    weights: Literal["ema", "last"] = "ema"
    provenance: dict[str, Any] = {}
    files: dict[str, str] = {}
    """SHA-256 of the weights that it was made of."""


class OnnxTranslator(Translator):
    """A translator by ONNX Runtime, on the CPU or, where `onnxruntime-gpu` is installed, on a GPU."""

    def __init__(self, path: Path, device: str = "auto", direction: Direction = "forward") -> None:
        try:
            self.folder, self.content = path, path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        self.to(device)
        try:
            text = self.session.get_modelmeta().custom_metadata_map[KEY]
            config = Described.model_validate_json(text)
        except KeyError:
            raise UserError(
                f"{path} is an ONNX file that unflip did not export; make one by: unflip export RUN --out {path.name}"
            ) from None
        except ValidationError as error:
            raise UserError(f"{path}: {problem(error)}") from None
        if direction == "backward" != config.direction:
            raise UserError(f"{path} translates forward only; export one by: unflip export RUN --direction backward --out {path.name}")
        super().__init__(config, config.source, config.target, config.direction)

    def to(self, device: Any) -> OnnxTranslator:
        self.device = _device(str(device).partition(":")[0])
        self.session = _session(self.content, self.device, self.folder)
        return self

    def computed(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            made: NDArray[np.float32] = self.session.run([OUTPUT], {INPUT: np.ascontiguousarray(x)})[0]
        except Exception as error:  # ONNX Runtime's own kinds, of which it exports no common base
            raise UserError(f"ONNX Runtime cannot translate {x.shape[3]}x{x.shape[2]} pixels, {self.folder} ({one_line(error)})") from error
        return made

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["session"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.to(self.device)


def _device(device: str) -> str:
    if device not in ("auto", *PROVIDERS):
        raise UserError(f"unknown device {device!r}; use auto, cpu or cuda")
    there = PROVIDERS["cuda"] in _runtime().get_available_providers()
    if device == "cuda" and not there:
        raise UserError("device cuda: ONNX Runtime is installed for CPUs only; use --device cpu, or install onnxruntime-gpu instead")
    return "cuda" if device != "cpu" and there else "cpu"


def _session(content: bytes, device: str, path: Path) -> Any:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised, too; what it warns of is its own business
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():  # it can be a list, of nested regions
        options.intra_op_num_threads = int(threads)
    try:
        return runtime.InferenceSession(content, options, providers=[PROVIDERS[device]])
    except Exception as error:
        raise UserError(f"{path} cannot be read as ONNX ({cut(one_line(error), 200)}); export it again") from None


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnxruntime", "onnx") from None
    return onnxruntime
