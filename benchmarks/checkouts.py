"""What the scripts share that run published code: which checkouts are given, a process for each, broken twins, tables of what was found."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

import unflip


def parser(description: str | None, repositories: Mapping[str, str]) -> argparse.ArgumentParser:
    """For a script that takes a checkout of each of the ``repositories``, by the code's name, and writes tables."""
    made = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    for code, repository in repositories.items():
        made.add_argument(f"--{code.lower()}", type=Path, metavar="PATH", help=f"a checkout of {repository}")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    made.add_argument("--examine", nargs=3, metavar=("CODE", "PATH", "FILE"), help=argparse.SUPPRESS)
    return made


def given(parser: argparse.ArgumentParser, args: argparse.Namespace, codes: Iterable[str]) -> dict[str, Path]:
    """The checkouts that are given; ends the script where there are none, or one is none."""
    options = {code: getattr(args, code.lower()) for code in codes}
    found = {code: path for code, path in options.items() if path is not None}
    if not found:
        parser.error(f"give {', '.join(f'--{code.lower()}' for code in options)} or several of them")
    for code, path in found.items():
        if not (path / "models" / "networks.py").is_file():
            parser.error(f"{path} is no checkout of {code}: it has no models/networks.py")
    return found


def in_own_process(script: str, code: str, path: Path) -> Any:
    """What ``script --examine`` writes of a checkout, in a process that sees no GPU and writes nothing into it; what the published code
    prints is dropped."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "findings.json"
        command = [sys.executable, "-B", str(Path(script).resolve()), "--examine", code, str(path.resolve()), str(file)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(unflip.__file__).parents[1])}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{code} at {path}: the comparison did not finish\n{done.stderr}")
        return json.loads(file.read_text())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def replace_layers(network: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> None:
    """Put what ``make`` gives of it in the place of every layer of that ``kind``."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kind):
                setattr(parent, name, make(child))
