"""Names of files and classes are data in report.html, whatever they are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unflip.report.links import Links
from unflip.report.page import Page, write

EVIL = "<img src=x onerror=alert(1)>"
NAMES = [
    EVIL,
    '"><script>alert(1)</script>'.replace("/", "\N{FRACTION SLASH}"),
    "' onclick='alert(1)",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
    "&lt;b&gt;",
]


class Tags(HTMLParser):
    """Everything on a page that could run, or load, something."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.text = ""
        self.scripts = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            runs = name.startswith("on") or (name == "href" and (value or "").lower().startswith("javascript:"))
            loads = name in {"src", "srcset", "data", "action"} and not (value or "").startswith("data:")
            if runs or loads or tag in {"iframe", "object", "embed", "base", "form"}:
                self.bad.append(f"<{tag} {name}={value}>")

    def handle_data(self, data: str) -> None:
        self.text += data


def harmless(path: Path) -> Tags:
    html = path.read_text(encoding="utf-8")
    tags = Tags(html)
    assert not tags.bad and tags.scripts <= 1 and "49" not in tags.text.split(), tags.bad
    assert EVIL not in html and "<script>alert" not in html
    return tags


@pytest.fixture
def named(tmp_path: Path) -> Path:
    for folder, seed in (("source", 0), ("target", 1)):
        (tmp_path / folder).mkdir()
        (tmp_path / "labels").mkdir(exist_ok=True)
        for i, name in enumerate(NAMES):
            pixels = np.random.default_rng([seed, i]).integers(0, 256, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
            Image.fromarray(np.tile(np.uint8([[0], [1]]), (24, 48))).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "source" / f"{EVIL}{EVIL}.png").write_bytes(b"broken")
    classes = {"names": [EVIL, NAMES[1]], "palette": [[0, 0, 0], [9, 9, 200]]}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    return tmp_path


def test_an_audits_names(named: Path, cli: Callable[..., Any]) -> None:
    result = cli("audit", "--source", named / "source", "--target", named / "target", "--out", named / "audit")
    assert (named / "audit/report.html").is_file(), result
    assert EVIL in harmless(named / "audit/report.html").text


def test_an_evaluations_names(named: Path, cli: Callable[..., Any]) -> None:
    (named / f"source/{EVIL}{EVIL}.png").unlink()
    data = ("--images", named / "source", "--labels", named / "labels", "--classes", named / "classes.json")
    trained = cli("segmenter", *data, "--out", named / "segmenter", "--budget", "2", "--size", "32")
    assert trained.code == 0, trained.stderr
    given = ("--translated", named / "source", "--labels", named / "labels", "--classes", named / "classes.json")
    result = cli("evaluate", *given, "--segmenter", named / "segmenter", "--source", named / "source", "--out", named / "evaluation")
    assert result.code == 0, result.stderr
    assert EVIL in harmless(named / "evaluation/report.html").text


def test_links_lead_to_files_only(tmp_path: Path) -> None:
    page = Page("t", "l", [Links([(name, name) for name in NAMES])])
    html = write(page, tmp_path / "a.html").read_text()
    assert "javascript:alert" not in html.replace(">javascript:alert(1)<", "") and EVIL in harmless(tmp_path / "a.html").text
