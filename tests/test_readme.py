"""The README is run: its commands and its Python example, as they stand, on small images."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unflip.methods import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = ["generator.width=4", "generator.blocks=1", "discriminator.width=4", "projector.width=8", "nce.patches=8", "identity_nce.patches=8"]


def blocks(language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_its_commands_run(images_folder: Callable[..., Path], cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = images_folder("renders", count=3, size=40).parent
    images_folder("photos", count=2, size=40)
    images_folder("labeled_photos", count=6, size=40)
    for name, count in (("render_labels", 3), ("photo_labels", 6)):
        (folder / name).mkdir()
        for i in range(count):
            Image.fromarray(np.tile(np.uint8([[0], [1]]), (20, 40))).save(folder / name / f"{i:03}.png")
    (folder / "classes.json").write_text('{"names": ["road", "sky"], "palette": [[0, 0, 0], [9, 9, 200]]}')
    monkeypatch.chdir(folder)
    used = [block for block in blocks() if "unflip demo" not in block]  # those are run by test_packaging.py, after an installation
    used = [block for block in used if "unflip serve" not in block]  # so is this
    commands = [line for block in used for line in block.splitlines() if line.startswith("unflip ")]
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] == "train":  # at a size that a test can afford
            words[words.index("--size") + 1] = "32"
            words += ["--budget", "2"]
            for setting in SMALL:
                words += ["--set", setting]
        elif words[0] == "segmenter":
            words += ["--budget", "2", "--size", "32"]
        result = cli(*words)
        assert result.code == 0, (command, result.stderr)
    assert (folder / "evaluation/report.html").is_file()
    assert sorted(path.name for path in (folder / "translated").glob("*.png")) == ["000.png", "001.png", "002.png"]


def test_its_python_runs(images_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = images_folder("renders", count=2, size=40).parent
    images_folder("photos", count=2, size=40)
    monkeypatch.chdir(folder)
    (example,) = blocks("python")
    example = example.replace("size=256", f"size=32, settings={SMALL}").replace("200_000", "2")
    names: dict[str, Any] = {"image": np.full((17, 23, 3), 128, np.uint8)}
    exec(compile(example, "README.md", "exec"), names)
    assert names["translation"].shape == (17, 23, 3) and names["translation"].dtype == np.uint8


def test_its_table_lists_the_methods() -> None:
    assert re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE) == list(METHODS)


def test_what_it_points_to_exists() -> None:
    for place in re.findall(r"\]\(([^)#]+)\)", README):
        assert place.startswith("https://") or (ROOT / place).stat().st_size > 0, place


def test_its_make_targets_exist() -> None:
    targets = re.findall(r"^make ([\w-]+)$", README, flags=re.MULTILINE)
    assert targets[:2] == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
