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
    """Under 4 minutes, and closer to the photo of the same scene than the render was."""
    began = time.monotonic()
    result = cli_process("demo", "--out", tmp_path / "demo", timeout=500)
    assert result.code == 0, result.stderr
    assert time.monotonic() - began < 240

    def distance(folder: str) -> float:
        names = sorted(path.name for path in (tmp_path / "demo/test/as_photo").glob("*.png"))
        pairs = [(read_rgb(tmp_path / "demo" / folder / name), read_rgb(tmp_path / "demo/test/as_photo" / name)) for name in names]
        return float(np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs]))

    assert distance("translated") < 0.9 * distance("test/source")
