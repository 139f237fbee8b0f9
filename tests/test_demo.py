"""The demo: quickly in small, and slowly as it is."""

from __future__ import annotations

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
from unflip.report.page import Page, Picture, Row, write


def test_a_small_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SCENES", 6), ("HELD_OUT", 3), ("SHOWN", 2)):
        monkeypatch.setattr(demo, name, value)
    said: list[str] = []
    report = demo.demo(tmp_path / "demo", say=said.append, budget=4)
    html = report.read_text(encoding="utf-8")
    assert said and len(list((tmp_path / "demo/translated").glob("*.png"))) == 3
    assert html.count("data:image/png;base64,") == 2 * 4 + 4
    assert not re.findall(r"(?:src|href)=\"(?!data:)", html), "self-contained"
    with pytest.raises(UserError, match="not empty"):
        demo.demo(tmp_path / "demo")


def test_a_page_escapes_what_it_is_given(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    page = Page("<script>x</script>", "a & b", {"<b>": "1"}, [Row("r", [Picture('"quoted"', pixels)])], steps=[("s", "<i>")])
    html = write(page, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in html and "&lt;script&gt;" in html and "a &amp; b" in html and "<i>" not in html


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo(tmp_path: Path, cli_process: Callable[..., Any]) -> None:
    """Under 4 minutes, and the translations have the colors and the texture of the target."""
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
