"""The public interface of Python: its names are frozen, they work together, and everything public says what it is for."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import unflip

# Public names are never renamed or removed. What is added is added here too.
PUBLIC = [
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

PARAMETERS = {
    "adapt": [
        "translated",
        "labels",
        "test_images",
        "test_labels",
        "classes",
        "out",
        "source",
        "target",
        "target_labels",
        "self_training",
        "shots",
        "seeds",
        "budget",
        "model",
        "weights",
        "resize",
        "size",
        "batch",
        "device",
        "precision",
        "progress",
        "say",
        "command",
    ],
    "configure": ["method", "file", "settings", "fields"],
    "evaluate": [
        "translated",
        "labels",
        "segmenter",
        "out",
        "source",
        "target",
        "reference",
        "clips",
        "source_clips",
        "real_images",
        "real_labels",
        "classes",
        "features",
        "lpips",
        "require",
        "device",
        "progress",
        "command",
    ],
    "audit": [
        "source",
        "target",
        "source_labels",
        "target_labels",
        "classes",
        "segmenter",
        "balance",
        "out",
        "device",
        "progress",
        "command",
    ],
    "export_onnx": ["run", "out", "direction", "show"],
    "import_weights": ["path", "out", "backward", "resize"],
    "load": ["path", "device", "direction", "tile", "statistics", "depth", "revision"],
    "train": ["config", "out", "resume", "progress", "say"],
    "Translate": ["model", "p", "device"],
    "translate_folder": ["translator", "source", "out", "trust", "labels", "annotations", "column", "progress", "how"],
}
"""The arguments of the public functions, in their order: as much a promise as the names."""


def test_public_names_are_frozen() -> None:
    assert unflip.__all__ == PUBLIC
    assert {*PUBLIC, "__version__"} <= set(dir(unflip))
    stray = {name for name in dir(unflip) if not name.startswith("_")} - {*PUBLIC, "annotations", "TYPE_CHECKING", "Any"}
    modules = {name for name in stray if isinstance(getattr(unflip, name), ModuleType)}
    assert stray - modules <= {"import_module", "version", "PackageNotFoundError"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported_first(name: str) -> None:
    """Lazily, and each is what its own module calls so."""
    value = getattr(unflip, name)
    assert value is getattr(unflip, name)
    module, attribute = unflip._WHERE[name]
    assert getattr(importlib.import_module(module), attribute) is value
    vars(unflip).pop(name, None)
    assert getattr(unflip, name) is value


def test_type_checkers_see_the_same_names() -> None:
    """They read the imports under TYPE_CHECKING, which no test would otherwise run."""
    block = next(node for node in ast.parse(inspect.getsource(unflip)).body if isinstance(node, ast.If))
    seen = {alias.asname: (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == unflip._WHERE
    assert sorted(unflip._WHERE) == PUBLIC
    assert Path(unflip.__file__).with_name("py.typed").is_file()


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match=r"module 'unflip' has no attribute 'trian'"):
        unflip.trian  # noqa: B018
    assert not hasattr(unflip, "__path_") and not hasattr(unflip, "recipe")
    with pytest.raises(ImportError):
        exec("from unflip import trian")


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from unflip import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == PUBLIC
    assert all(names[name] is getattr(unflip, name) for name in PUBLIC)


def test_version() -> None:
    try:
        assert unflip.__version__ == version("unflip")
    except PackageNotFoundError:
        assert unflip.__version__ == "0+unknown"


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_frozen(name: str) -> None:
    parameters = inspect.signature(getattr(unflip, name)).parameters.values()
    assert [parameter.name for parameter in parameters] == PARAMETERS[name]
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    evaluated = ["translated", "labels", "segmenter", "out"]
    promised = {
        "adapt": ["translated", "labels", "test_images", "test_labels", "classes", "out"],
        "configure": ["method"],
        "evaluate": evaluated,
        "audit": ["source", "target"],
        "export_onnx": ["run", "out", "direction", "show"],
        "import_weights": ["path", "out"],
        "Translate": ["model", "p", "device"],
        "translate_folder": ["translator", "source", "out"],
        "load": ["path"],
        "train": ["config", "out"],
    }
    assert positional == promised[name]
    for parameter in parameters:
        assert parameter.annotation is not parameter.empty


def test_configure_train_load_translate(tmp_path: Path) -> None:
    """The whole way, with paths as texts and as Paths."""
    random = np.random.default_rng(0)
    for side in ("source", "target"):
        (tmp_path / side).mkdir()
        for i in range(2):
            Image.fromarray(random.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(tmp_path / side / f"{i}.png")
    small = ["generator.width=4", "generator.blocks=1", "discriminator.width=4", "discriminator.layers=2"]

    config = unflip.configure(
        "cyclegan", source=str(tmp_path / "source"), target=tmp_path / "target", size=32, budget=3, device="cpu", settings=small
    )
    assert type(config) is unflip.RunConfig
    assert (config.method, config.budget, config.generator.width) == ("cyclegan", 3, 4)
    assert config.data.source == tmp_path / "source"
    said: list[str] = []
    run = unflip.train(config, str(tmp_path / "run"), progress=False, say=said.append)
    assert run == tmp_path / "run" and isinstance(run, Path)
    assert len(said) == 2 and "cyclegan" in said[0] and "report.html" in said[1]

    for path, direction in ((run, "forward"), (str(run), "backward"), (run / "model", "forward")):
        translator = unflip.load(path, device="cpu", direction=direction)
        assert isinstance(translator, unflip.Translator) and translator.direction == direction
        image = Image.open(tmp_path / "source/0.png")
        translation = translator(image)
        assert isinstance(translation, Image.Image) and translation.size == image.size
        pixels = translator(np.asarray(image))
        assert type(pixels) is np.ndarray and (pixels == np.asarray(translation)).all()
    assert unflip.load(run).device.type in ("cpu", "cuda")
    with pytest.raises(unflip.UserError):
        unflip.load(tmp_path / "source")
    with pytest.raises(unflip.UserError, match="not empty"):
        unflip.train(config, run)
    assert unflip.train(config, run, resume=True, progress=False, say=said.append) == run


def test_the_table_of_methods() -> None:
    assert {"cut", "fastcut", "cyclegan", "srunit"} <= set(unflip.METHODS)
    for name, method in unflip.METHODS.items():
        assert method.name == name


def test_a_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = unflip.configure("cut", source=tmp_path, target=tmp_path, budget=1)
    with pytest.raises(ValueError, match="frozen"):
        config.budget = 2
    with pytest.raises(unflip.UserError, match="no source images are named"):
        unflip.configure("cut", budget=1)


# --- docstrings


def modules() -> Iterator[ModuleType]:
    """unflip and every module in it."""
    yield unflip
    for info in pkgutil.walk_packages(unflip.__path__, "unflip."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The module, and its public functions, classes and methods, that are its own."""
    yield module.__name__, module
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            yield f"{module.__name__}.{name}", value
        for member in vars(value) if inspect.isclass(value) else ():
            own = inspect.getattr_static(value, member)
            if not member.startswith("_") and isinstance(own, property | staticmethod | classmethod | type(public)):
                yield f"{module.__name__}.{name}.{member}", getattr(value, member)


def documented(value: object) -> bool:
    """Whether it says what it is for; a method may inherit that. What NamedTuple and dataclass write of themselves does not count."""
    text = (value.__doc__ if inspect.isclass(value) else inspect.getdoc(value)) or ""
    return bool(text.strip()) and not (inspect.isclass(value) and text.startswith(f"{value.__name__}("))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name: str) -> None:
    value = getattr(unflip, name)
    assert isinstance(value, dict) or documented(value)


def test_the_search_for_docstrings_finds_what_there_is() -> None:
    found = {name: value for module in modules() for name, value in public(module)}
    for name in ("unflip.runs", "unflip.runs.RunConfig", "unflip.recipes.train.train", "unflip.engine.pool.ImagePool.query"):
        assert documented(found[name]), name
    assert len(found) > 200


def test_everything_public_is_documented() -> None:
    assert [name for module in modules() for name, value in public(module) if not documented(value)] == []
