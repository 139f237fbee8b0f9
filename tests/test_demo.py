"""The demo: quickly in small, and slowly as it is."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unflip.data.images import read_rgb
from unflip.errors import UserError
from unflip.recipes import demo


def test_a_small_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SCENES", 6), ("JUDGED", 10), ("HELD_OUT", 3), ("SEGMENTER_BUDGET", 8)):
        monkeypatch.setattr(demo, name, value)
    said: list[str] = []
    out = tmp_path / "demo"
    report = demo.demo(out, say=said.append, budget=4)
    html = report.read_text(encoding="utf-8")
    assert len(list((out / "translated").glob("*.png"))) == 3
    metrics = json.loads((out / "evaluation/metrics.json").read_text())
    assert metrics["images"] == 3 and metrics["flips"]["matrix"] is not None and metrics["realism"]["target_images"] == 6
    assert json.loads((out / "audit/audit.json").read_text())["shares"] is not None
    assert {path.name for path in (out / "translated_trust").iterdir()} == {path.name for path in (out / "translated").glob("*.png")}
    assert any(line.startswith("least trusted") for line in said) and "trust map, made without labels" in html
    assert metrics["made"]["translated_by"]["method"] == "srunit" and metrics["made"]["translated_by"]["images_seen"] == 4
    assert any("mean iou" in line for line in said)
    assert "Did anything flip?" in html and "do the domains match?" in html
    links = re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]+)\"", html)
    assert links and all((out / link).is_file() for link in links), "self-contained, but for the pages beside it"
    with pytest.raises(UserError, match="not empty"):
        demo.demo(out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo(tmp_path: Path, cli_process: Callable[..., Any]) -> None:
    """Under 4 minutes; the segmenter reads photos, the audit finds the mismatch, and translations have the target's colors and texture."""
    began = time.monotonic()
    result = cli_process("demo", "--out", tmp_path / "demo", timeout=500)
    assert result.code == 0, result.stderr
    assert time.monotonic() - began < 240

    def look(folder: str) -> tuple[np.ndarray, float]:
        """Mean color, and mean step between neighboring pixels: how textured."""
        images = np.stack([read_rgb(path) for path in sorted((tmp_path / "demo" / folder).glob("*.png"))]).astype(float)
        return images.mean((0, 1, 2)), float(np.abs(np.diff(images, axis=2)).mean())

    (color, texture), (translated, made), (source, flat) = (look(folder) for folder in ("train/target", "translated", "test/source"))
    assert np.abs(translated - color).sum() < 0.5 * np.abs(source - color).sum()
    assert abs(made - texture) < 0.5 * abs(flat - texture)
    assert json.loads((tmp_path / "demo/segmenter/heldout.json").read_text())["pixel_accuracy"]["value"] > 0.85
    audit = json.loads((tmp_path / "demo/audit/audit.json").read_text())
    assert audit["verdict"] == "strongly mismatched" and audit["shares"]["flips"][0]["name"] == "tree"
