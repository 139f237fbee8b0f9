"""Write the pages of docs/verbs anew: every verb's real output on small made streets, and its options as the command line has them.

    python benchmarks/verbs.py [--only audit,bench] [--options]

A page keeps what is written by hand; only what stands between its markers, <!-- NAME --> and <!-- end -->, is replaced. A new verb: its
page with the markers of "output" and "options", and a line in VERBS.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unflip.data import streets
from unflip.files import write_bytes

PAGES = Path(__file__).parents[1] / "docs" / "verbs"
WIDTH, HEIGHT = 96, 64
SMALL = "--set generator.width=16 --set generator.blocks=3 --set discriminator.width=16 --set projector.width=64"

VERBS: dict[str, tuple[str, ...]] = {
    "methods": ("unflip methods", "unflip methods srunit"),
    "audit": (
        "unflip audit --source renders --target photos --source-labels render_labels --target-labels photo_labels "
        "--classes classes.json --out audit",
    ),
    "train": (f"unflip train --source renders --target photos --size 64 --budget 200 --device cpu {SMALL} --out runs/first",),
    "translate": ("unflip translate runs/first renders --out translated --trust --device cpu",),
    "export": ("unflip export runs/first --out model.onnx",),
    "serve": (
        "unflip serve runs/first --device cpu",
        "curl -s --data-binary @renders/000000.png -H 'Content-Type: image/png' -o translated.png http://127.0.0.1:7860/api/translate",
        "curl -s http://127.0.0.1:7860/api/models",
    ),
    "segmenter": (
        "unflip segmenter --images photos --labels photo_labels --classes classes.json --budget 300 --size 96x64 --device cpu "
        "--out segmenter",
    ),
    "evaluate": (
        "unflip evaluate --translated translated --labels render_labels --segmenter segmenter --source renders --target photos "
        "--require mean_iou=0.9 --device cpu --out evaluation",
    ),
    "compare": (
        "unflip compare --source renders --target photos --methods cut,fastcut --seeds 2 --budget 40 --size 64 "
        f"{SMALL} --test-source renders --test-labels render_labels --segmenter segmenter --device cpu --out comparison",
    ),
    "adapt": (
        "unflip adapt --translated translated --labels render_labels --test-images test_photos --test-labels test_photo_labels "
        "--classes classes.json --source renders --target photos --target-labels photo_labels --seeds 2 --budget 200 --size 64 "
        "--device cpu --out adapted",
    ),
    "import": (
        "unflip import latest_net_G.pth --out imported",
        "unflip translate imported renders/000000.png --out by_imported --device cpu",
    ),
    "bench": ("unflip bench --method srunit --size 64 --steps 2 --device cpu --set generator.width=16",),
    "demo": ("unflip demo",),
}
"""What each page shows, in an order in which one can use what another has made."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(VERBS), help="verbs, separated by commas; others that they need are run, too")
    parser.add_argument("--options", action="store_true", help="the tables of options only, which takes a second")
    given = parser.parse_args()
    only = given.only.split(",")
    for verb in only:
        write(PAGES / f"{verb}.md", "options", options(verb))
    if given.options:
        return
    with tempfile.TemporaryDirectory() as folder:
        for verb, text in outputs(Path(folder), only):
            write(PAGES / f"{verb}.md", "output", text)


def outputs(folder: Path, only: list[str]) -> Iterator[tuple[str, str]]:
    """What ``only`` these verbs print, as Markdown, having made what they need in ``folder``."""
    make(folder)
    needed = {
        "translate": {"train"},
        "export": {"train"},
        "serve": {"train"},
        "evaluate": {"train", "translate", "segmenter"},
        "compare": {"segmenter"},
        "adapt": {"train", "translate"},
    }
    wanted = set(only).union(*(needed.get(verb, set()) for verb in only))
    for verb in VERBS:
        if verb in wanted:
            text = served(VERBS[verb], folder) if verb == "serve" else "\n\n".join(said(command, folder) for command in VERBS[verb])
            if verb in only:
                yield verb, text


def make(folder: Path) -> None:
    """Renders with many trees and their labels, photos with many buildings and theirs, and a published generator's file."""
    leafy, urban = streets.Shares(building=0.45, tree=0.75), streets.Shares(building=0.75, tree=0.4)
    size: dict[str, Any] = {"width": WIDTH, "height": HEIGHT}
    streets.write(folder / "renders", count=24, look="render", shares=leafy, labels=folder / "render_labels", **size)
    streets.write(folder / "photos", count=120, look="photo", shares=urban, first=24, labels=folder / "photo_labels", **size)
    streets.write(folder / "test_photos", count=48, look="photo", shares=urban, first=500, labels=folder / "test_photo_labels", **size)
    torch.manual_seed(0)
    torch.save(published(), folder / "latest_net_G.pth")


def published(width: int = 8) -> dict[str, torch.Tensor]:
    """The tensors of a CycleGAN generator of 6 blocks, named as its code names them, with weights as they are before a training."""
    twice, most = 2 * width, 4 * width
    layers: dict[str, nn.Module] = {"1": nn.Conv2d(3, width, 7), "4": nn.Conv2d(width, twice, 3), "7": nn.Conv2d(twice, most, 3)}
    for block in range(10, 16):
        layers |= {f"{block}.conv_block.{at}": nn.Conv2d(most, most, 3) for at in (1, 5)}
    layers |= {"16": nn.ConvTranspose2d(most, twice, 3), "19": nn.ConvTranspose2d(twice, width, 3), "23": nn.Conv2d(width, 3, 7)}
    return {f"model.{at}.{name}": value.detach() for at, layer in layers.items() for name, value in layer.state_dict().items()}


def said(command: str, folder: Path) -> str:
    """A command and what it leaves on a terminal, as a block of Markdown; its exit code, where that is not 0."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "unflip", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{command}\n{done.stdout}")
    code = f"\n(exit code {done.returncode})" if done.returncode else ""
    return f"```\n$ {folded(command)}\n{settled(done.stdout)}{code}\n```"


def served(commands: tuple[str, ...], folder: Path) -> str:
    """A server that is started, what clients then get, and what the server has logged of them."""
    words = [sys.executable, "-m", "unflip", *shlex.split(commands[0])[1:]]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stderr is not None
        try:
            address = server.stdout.readline().strip()
            if not address:
                raise SystemExit(f"{commands[0]}\n{server.stderr.read()}")
            got = [
                subprocess.run(shlex.split(each), cwd=folder, check=True, capture_output=True, text=True).stdout for each in commands[1:]
            ]
        finally:
            server.terminate()
        log = [line for line in server.stderr.read().splitlines() if "/api/" in line]
    first = "\n".join((f"$ {commands[0]}", address, *log))
    others = "\n".join(f"$ {command}\n{text.strip()}".strip() for command, text in zip(commands[1:], got, strict=True))
    return f"```\n{first}\n```\n\nand in another terminal\n\n```\n{others}\n```"


def settled(text: str) -> str:
    """``text`` with the last state of each progress bar only, as a terminal shows it in the end."""
    lines = text.rstrip().splitlines()
    bars = [match[1] if (match := re.match(r"([a-z -]+) [\d,]+/[\d,]+", line)) else None for line in lines]
    return "\n".join(line for line, bar, following in zip(lines, bars, [*bars[1:], None], strict=True) if bar is None or bar != following)


def folded(command: str) -> str:
    """``command`` in lines of a readable length, broken before options."""
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if lines[-1] and len(lines[-1]) + len(part) > 100:
            lines.append("")
        lines[-1] += part if not lines[-1] else f" {part}"
    return " \\\n      ".join(lines)


def options(verb: str) -> str:
    """The arguments and options of a verb, as a table, out of the command line itself."""
    import typer

    from unflip.cli.main import app

    command: Any = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    rows = ["| | | default |", "|---|---|---|"]
    for parameter in command.params:
        if parameter.name == "help":
            continue
        text, _, stated = (parameter.help or "").partition("  [default: ")
        default = stated.rstrip("]") if stated else _default(parameter)
        metavar = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar}"
        name = parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0] + metavar
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (f"`{name}`", text, default)) + " |")
    return "\n".join(rows)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "must be given"
    return "" if parameter.default in (None, False, "", ()) else f"`{parameter.default}`"


def write(page: Path, name: str, text: str) -> None:
    write_bytes(page, filled(page.read_text(encoding="utf-8"), name, text).encode())


def filled(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between its markers of this name."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", flags=re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"no <!-- {name} --> ... <!-- end --> in the page")
    return pattern.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page)


if __name__ == "__main__":
    main()
