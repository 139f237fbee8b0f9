"""The pages on methods: every line of settings that they print is a configuration, and every method has its page in the index."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import unflip
from unflip.data import streets
from unflip.methods import METHODS

PAGES = Path(__file__).parents[1] / "docs" / "methods"
PRINTED = [line for page in PAGES.glob("*.md") for line in page.read_text().splitlines() if line.startswith("--method ")]
LINES = sorted({line.split("#")[0].strip() for line in PRINTED if "=DIR" not in line})


@pytest.mark.parametrize("line", LINES)
def test_a_printed_line_is_a_configuration(line: str, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(streets.classes()))
    words = shlex.split(line)
    given: dict[str, Any] = {"source": tmp_path / "renders", "target": tmp_path / "photos", "budget": 100}
    settings = []
    for option, value in zip(words[::2], words[1::2], strict=True):
        if option == "--set":
            settings.append(value)
        else:
            given[option.removeprefix("--").replace("-", "_")] = tmp_path / value if option == "--classes" else value
    config = unflip.configure(given.pop("method"), settings=settings, **given)
    assert settings == [] or config != unflip.configure(config.method, **{"source": "a", "target": "b", "budget": 100})


def test_every_method_has_its_page() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\(([\w.]+)\)", (PAGES / "README.md").read_text(), flags=re.MULTILINE)
    assert [name for name, _ in listed] == list(METHODS)
    assert all((PAGES / page).is_file() for _, page in listed)


DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("page", sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")))
def test_a_page_is_finished_and_leads_somewhere(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    left = re.findall(r"\bTODO\b|\bTBD\b|\bXXX\b|^[A-Z]+(?:_[A-Z]+)+$", text, flags=re.MULTILINE)
    assert not left, "something is to be filled in"
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert link.startswith("https://") or (DOCS / page).parent.joinpath(link).exists(), link
