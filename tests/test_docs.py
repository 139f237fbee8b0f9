"""The documentation: what it prints can be called and set, what it links to is there, its tables are true, and the site builds strictly."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
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


ROOT = DOCS.parent
SHELL = re.compile(r"^```(?:\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The calls of unflip in the code blocks of a page, as words; those with placeholders left out."""
    lines = [line for block in SHELL.findall(text) for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    found = [re.sub(r"^\$ |\s#.*", "", line) for line in lines if re.match(r"(\$ )?unflip ", line)]
    return [shlex.split(line)[1:] for line in found if "..." not in line and "AGAIN" not in line]


@cache
def the_verbs() -> dict[str, Any]:
    import typer

    from unflip.cli.main import app

    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


PAGES_WITH_COMMANDS = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md"]


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_its_commands_have_verbs_and_options_that_there_are(page: Path) -> None:
    verbs = the_verbs()
    for words in commands(page.read_text(encoding="utf-8")):
        if words[0].startswith("-"):
            continue
        assert words[0] in verbs, words
        known = {option for parameter in verbs[words[0]].params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
        assert {word.partition("=")[0] for word in words[1:] if word.startswith("--")} <= known, words
        required = {parameter.opts[0] for parameter in verbs[words[0]].params if parameter.required and parameter.opts[0].startswith("--")}
        assert "--resume" in words or required <= set(words), words


SETTINGS = sorted(
    {(page.stem, setting) for page in (DOCS / "from").glob("*.md") for setting in re.findall(r"--set ([\w.]+=[^\s`|]+)", page.read_text())}
)


@pytest.mark.parametrize(("page", "setting"), SETTINGS)
def test_what_others_flags_become_can_be_set(page: str, setting: str) -> None:
    method = {"cyclegan": "cyclegan", "srunit": "srunit"}.get(page, "cut")
    given: dict[str, Any] = {"source": "a", "target": "b", "budget": 100}
    if setting.startswith("accumulate"):
        given["batch"] = 8
    assert unflip.configure(method, settings=[setting], **given).method == method


def test_the_readmes_table_is_the_sourced_one() -> None:
    """Every row of the README's comparison stands in docs/comparison.md, which names the sources; every note is used and explained."""
    sourced = (DOCS / "comparison.md").read_text(encoding="utf-8")
    plain = re.sub(r" \[\^\w+\]", "", sourced)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## Beside others") : readme.index("## Methods")]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 10 and all(row in plain for row in rows)
    assert set(re.findall(r"\[\^(\w+)\](?!:)", sourced)) == set(re.findall(r"^\[\^(\w+)\]:", sourced, flags=re.MULTILINE))


def test_every_verb_has_its_page() -> None:
    assert set(the_verbs()) == {page.stem for page in (DOCS / "verbs").glob("*.md")} - {"README"}


def test_the_options_on_the_verbs_pages_are_the_command_lines() -> None:
    script = benchmark("verbs")
    for verb in script.VERBS:
        page = (DOCS / "verbs" / f"{verb}.md").read_text(encoding="utf-8")
        assert script.filled(page, "options", script.options(verb)) == page, "python benchmarks/verbs.py --options"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Strictly: a link or an anchor that leads nowhere fails it, a page that the navigation lacks too. It loads nothing from elsewhere."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?://", page)
    assert (tmp_path / "site/project/contributing/index.html").is_file() and (tmp_path / "site/notebooks/sim_to_real.ipynb").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_output_on_the_verbs_pages_is_real(tmp_path: Path) -> None:
    """Every verb but the demo, which has a test of its own, prints what its page shows, but for numbers and the lengths of bars."""
    script = benchmark("verbs")
    for verb, said in script.outputs(tmp_path, [verb for verb in script.VERBS if verb != "demo"]):
        page = (DOCS / "verbs" / f"{verb}.md").read_text(encoding="utf-8")
        shown = page.split("<!-- output -->\n")[1].split("<!-- end -->")[0]
        assert masked(shown) == masked(said), verb


def masked(text: str) -> list[str]:
    """The lines' words without numbers, of which another machine has others, and without what is sorted by them, the names of classes."""
    names = "|".join(map(re.escape, streets.CLASSES))
    return [re.sub(rf"[-+]?\d[\d.,]*|\b(?:{names})\b|[\s|*]+", " ", line).strip() for line in text.splitlines() if "images/s" not in line]


def benchmark(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: unflip\.(\w+)$", page, flags=re.MULTILINE)) == set(unflip.__all__)
