"""unflip: unpaired image-to-image translation that keeps semantics.

The names below are the public interface; they load on first use, so that ``import unflip`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unflip.errors import UserError as UserError
    from unflip.export.onnx import export_onnx as export_onnx
    from unflip.inference.folders import translate_folder as translate_folder
    from unflip.inference.transform import Translate as Translate
    from unflip.inference.translator import Translator as Translator
    from unflip.inference.translator import load as load
    from unflip.methods import METHODS as METHODS
    from unflip.recipes.adapt import adapt as adapt
    from unflip.recipes.audit import audit as audit
    from unflip.recipes.compare import compare as compare
    from unflip.recipes.evaluate import evaluate as evaluate
    from unflip.recipes.imports import import_weights as import_weights
    from unflip.recipes.segmenter import segmenter as segmenter
    from unflip.recipes.train import configure as configure
    from unflip.recipes.train import train as train
    from unflip.runs import RunConfig as RunConfig

try:
    __version__ = version("unflip")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

_WHERE = {
    "METHODS": ("unflip.methods", "METHODS"),
    "RunConfig": ("unflip.runs", "RunConfig"),
    "Translate": ("unflip.inference.transform", "Translate"),
    "Translator": ("unflip.inference.translator", "Translator"),
    "UserError": ("unflip.errors", "UserError"),
    "adapt": ("unflip.recipes.adapt", "adapt"),
    "audit": ("unflip.recipes.audit", "audit"),
    "compare": ("unflip.recipes.compare", "compare"),
    "configure": ("unflip.recipes.train", "configure"),
    "evaluate": ("unflip.recipes.evaluate", "evaluate"),
    "export_onnx": ("unflip.export.onnx", "export_onnx"),
    "import_weights": ("unflip.recipes.imports", "import_weights"),
    "load": ("unflip.inference.translator", "load"),
    "segmenter": ("unflip.recipes.segmenter", "segmenter"),
    "train": ("unflip.recipes.train", "train"),
    "translate_folder": ("unflip.inference.folders", "translate_folder"),
}

__all__ = [
    "METHODS",
    "RunConfig",
    "Translate",
    "Translator",
    "UserError",
    "adapt",
    "audit",
    "compare",
    "configure",
    "evaluate",
    "export_onnx",
    "import_weights",
    "load",
    "segmenter",
    "train",
    "translate_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'unflip' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
