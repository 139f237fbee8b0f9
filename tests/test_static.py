"""What the source may not do: unpickle, evaluate, fetch and run, or decode without limits. Each rule is shown to catch what it is for."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src/unflip").rglob("*.py"))
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))

PICKLES = {"pickle", "_pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system": "starts a shell",
    "os.popen": "starts a shell",
    "tempfile.mktemp": "names a file that another can make first",
    "yaml.load": "can make any object: yaml.safe_load, or unflip.yamls.load",
    "yaml.load_all": "can make any object",
    "yaml.unsafe_load": "can make any object",
    "yaml.full_load": "can make any object",
    "torch.hub.load": "runs code that it downloads",
    "torch.jit.load": "reads programs",
    "torch.export.load": "reads programs",
}
PROCESSES = {"run", "Popen", "call", "check_call", "check_output"}


def broken(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The line and the reason of everything in a module that a rule forbids."""
    names = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for module in modules:
                if module.split(".")[0] in PICKLES:
                    yield node.lineno, f"imports {module}, which unpickles"
        elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            off = isinstance(node.value, ast.Constant) and node.value.value is None
            if off and any(isinstance(target, ast.Attribute) and target.attr == "MAX_IMAGE_PIXELS" for target in targets):
                yield node.lineno, "takes Pillow's limit away"
        elif isinstance(node, ast.Call):
            for reason in _of_a_call(node, _name(node.func, names)):
                yield node.lineno, reason


def _of_a_call(node: ast.Call, name: str) -> Iterator[str]:
    given = {keyword.arg: keyword.value for keyword in node.keywords}

    def is_literally(keyword: str, value: object) -> bool:
        found = given.get(keyword)
        return isinstance(found, ast.Constant) and found.value is value

    last = name.rpartition(".")[2]
    if name in BUILTINS:
        yield f"{name}()"
    if name in CALLS:
        yield f"{name}, which {CALLS[name]}"
    if name == "torch.load" and not is_literally("weights_only", True):
        yield "torch.load without weights_only=True"
    if name == "torch.hub.load_state_dict_from_url" and not (is_literally("weights_only", True) and is_literally("check_hash", True)):
        yield "a download without weights_only=True and check_hash=True"
    if name in {"numpy.load", "numpy.lib.npyio.NpzFile"} and "allow_pickle" in given and not is_literally("allow_pickle", False):
        yield "numpy.load that unpickles"
    if last == "from_pretrained" and not (
        is_literally("local_files_only", True) and (is_literally("use_safetensors", True) or "Config" in name)
    ):
        yield "from_pretrained of the hub, or of a pickle"
    if last in {"snapshot_download", "hf_hub_download"} and "revision" not in given:
        yield f"{last} without a revision"
    if "trust_remote_code" in given and not is_literally("trust_remote_code", False):
        yield "code that comes with a model is run"
    if "shell" in given and not is_literally("shell", False):
        yield "a shell"
    if name.startswith("subprocess.") and last in PROCESSES and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
        yield "a process by a text"
    if last in {"extract", "extractall"}:
        yield f"{last}, which writes where an archive says"
    if name == "PIL.Image.open" and "formats" not in given:
        yield "Image.open of any format"


def _imported(tree: ast.AST) -> dict[str, str]:
    """What the module's names are in full: ``np`` is ``numpy``."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _name(node: ast.expr, names: dict[str, str]) -> str:
    """A dotted name in full; what it is an attribute of, if that is no name, is left out."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        inner = _name(node.value, names)
        return f"{inner}.{node.attr}" if inner else f"?.{node.attr}"
    return ""


def found(text: str) -> list[str]:
    return [reason for _, reason in broken(ast.parse(text))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_the_source_keeps_the_rules(path: Path) -> None:
    wrong = [f"{path}:{line}: {reason}" for line, reason in broken(ast.parse(path.read_text(encoding="utf-8")))]
    assert not wrong, "\n".join(wrong)


READS_ITS_OWN = {"Image.open of any format"}
"""Scripts look at images that they have just written."""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_so_do_the_benchmarks(path: Path) -> None:
    parity = {"__import__()", "exec()", "compile()"} if path.name.startswith("parity") else set()  # run the published code, as it is
    wrong = [
        f"{path}:{line}: {why}" for line, why in broken(ast.parse(path.read_text(encoding="utf-8"))) if why not in READS_ITS_OWN | parity
    ]
    assert not wrong, "\n".join(wrong)


BAD = [
    "import pickle",
    "import pickle as p",
    "from pickle import loads",
    "import dill.source",
    "from joblib import load",
    "import cloudpickle",
    "import shelve",
    "def f():\n    import marshal",
    "import torch\ntorch.load(f)",
    "import torch\ntorch.load(f, weights_only=False)",
    "import torch\ntorch.load(f, weights_only=safe)",
    "from torch import load\nload(f)",
    "from torch import load as read\nread(f, 'cpu')",
    "import torch as t\nt.load(f)",
    "import numpy as np\nnp.load(f, allow_pickle=True)",
    "import numpy as np\nnp.load(f, allow_pickle=given)",
    "eval(x)",
    "exec(x)",
    "compile(x, 'a', 'exec')",
    "__import__(x)",
    "import yaml\nyaml.load(x)",
    "import yaml\nyaml.load(x, Loader=yaml.SafeLoader)",
    "import yaml\nyaml.unsafe_load(x)",
    "from yaml import load\nload(x, y)",
    "import subprocess\nsubprocess.run(x, shell=True)",
    "import subprocess\nsubprocess.run(x, shell=given)",
    "import subprocess\nsubprocess.run('ls')",
    "from subprocess import Popen\nPopen(f'ls {x}')",
    "import os\nos.system(x)",
    "from os import system\nsystem(x)",
    "import os\nos.popen(x)",
    "import tarfile\ntarfile.open(x).extractall()",
    "tar.extract(member)",
    "with zip as z:\n    z.extractall(x)",
    "from PIL import Image\nImage.open(x)",
    "import PIL.Image\nPIL.Image.open(x)",
    "from PIL.Image import open as look\nlook(x)",
    "from PIL import Image\nImage.MAX_IMAGE_PIXELS = None",
    "import PIL.Image\nPIL.Image.MAX_IMAGE_PIXELS: int = None",
    "import torch\ntorch.hub.load('a', 'b')",
    "import torch\ntorch.hub.load_state_dict_from_url(x)",
    "import torch\ntorch.hub.load_state_dict_from_url(x, weights_only=True)",
    "import torch\ntorch.jit.load(x)",
    "from transformers import AutoModel\nAutoModel.from_pretrained(x)",
    "AutoModel.from_pretrained(x, local_files_only=True)",
    "AutoModel.from_pretrained(x, local_files_only=True, use_safetensors=True, trust_remote_code=True)",
    "load_dataset(x, trust_remote_code=yes)",
    "from huggingface_hub import snapshot_download\nsnapshot_download(x)",
    "from huggingface_hub import hf_hub_download\nhf_hub_download(x, 'y')",
    "import tempfile\ntempfile.mktemp()",
]
GOOD = [
    "import torch\ntorch.load(f, map_location='cpu', weights_only=True)",
    "import numpy as np\nnp.load(f)",
    "import numpy as np\nnp.load(f, allow_pickle=False)",
    "model.eval()",
    "import re\nre.compile(x)",
    "import torch\ntorch.compile(x)",
    "import yaml\nyaml.safe_load(x)",
    "import subprocess\nsubprocess.run(['ls', x])",
    "import subprocess\nsubprocess.run(command, shell=False)",
    "tar.extractfile(member)",
    "from PIL import Image\nImage.open(x, formats=['PNG'])",
    "from PIL import Image\nImage.MAX_IMAGE_PIXELS = 5",
    "AutoModel.from_pretrained(x, local_files_only=True, use_safetensors=True, trust_remote_code=False)",
    "AutoConfig.from_pretrained(x, local_files_only=True)",
    "from huggingface_hub import snapshot_download\nsnapshot_download(x, revision=None)",
]


@pytest.mark.parametrize("text", BAD)
def test_a_rule_catches(text: str) -> None:
    assert found(text), "nothing was said of it"


@pytest.mark.parametrize("text", GOOD)
def test_no_rule_catches(text: str) -> None:
    assert not found(text)


def test_the_rules_are_asked_of_files(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import torch\n\ntorch.load('x')\n")
    check: Callable[[Path], None] = test_the_source_keeps_the_rules
    with pytest.raises(AssertionError, match=r"bad\.py:3: torch\.load"):
        check(tmp_path / "bad.py")
    assert len(SOURCES) > 150
