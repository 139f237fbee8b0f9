"""The wheel in an environment that has nothing else, and the files around it: Dockerfile, citation, workflows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, with their arguments in one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines if line.strip()]


def test_the_image_is_no_root_and_takes_nothing_from_anywhere_else() -> None:
    found = dockerfile()
    names = [name for name, _ in found]
    assert [value for name, value in found if name == "USER"] == ["unflip"], "everything after it, and what is run, is not root's"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert "ADD" not in names and not any(re.search(r"\b(curl|wget)\b|https?://", value) for _, value in found)
    assert ("ENTRYPOINT", '["unflip"]') in found
    assert [value for name, value in found if name == "FROM"] == ["${BASE} AS build", "${BASE}"], "CPU or CUDA: one argument"
    assert found[0][0] == "ARG" and found[0][1].startswith("BASE=")


def test_the_image_gets_what_the_wheel_is_built_of() -> None:
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert kept[0] == "*", "nothing but what is named: no data, no runs"
    copied = [word for name, value in dockerfile() if name == "COPY" and "--from" not in value for word in value.split()[:-1]]
    assert copied and all((ROOT / word).exists() and f"!{word}" in kept for word in copied)
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "src"}
    assert needed <= set(copied)


def test_the_images_commands_are_shell() -> None:
    for name, value in dockerfile():
        if name == "RUN":
            done = subprocess.run(["sh", "-n", "-c", value], capture_output=True, text=True)
            assert done.returncode == 0, (value, done.stderr)


def test_the_citation_is_whole() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "what its schema asks for"
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["authors"] == PROJECT["authors"]
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert [reference["year"] for reference in citation["references"]] == [2021, 2024], "SRUNIT and SemST"
    for reference in citation["references"]:
        assert reference["type"] == "conference-paper" and reference["title"] and reference["conference"]["name"]
        assert all(set(author) == {"family-names", "given-names"} for author in reference["authors"])


def test_every_commit_is_tested_as_the_readme_says() -> None:
    """`.ci/run` is what tests; it says nothing of its own but the README's command."""
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").rstrip().endswith("exec make test")
    test = WORKFLOWS["test"]["jobs"]["test"]
    assert [step["run"] for step in test["steps"] if "run" in step] == [".ci/run"]
    versions = [tuple(map(int, version.split("."))) for version in test["strategy"]["matrix"]["python"]]
    lowest = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])
    assert lowest and versions == [(3, minor) for minor in range(int(lowest[1]), versions[-1][1] + 1)]
    known = re.search(r"^PYTHONS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert known and {f"python{major}.{minor}" for major, minor in versions} <= set(known[1].split())


def test_nothing_is_released_untested() -> None:
    jobs = WORKFLOWS["release"]["jobs"]
    assert [step["run"] for step in jobs["test"]["steps"] if "run" in step] == [".ci/run"]
    assert jobs["build"]["needs"] == "test" and jobs["attach"]["needs"] == jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}, "no password"


def test_the_workflows_run_what_there_is() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, f"{name}: jobs that need more say so"
        for job in workflow["jobs"].values():
            for line in "\n".join(step.get("run", "") for step in job["steps"]).splitlines():
                assert not line.startswith("make ") or line.split()[1] in targets, line


@pytest.mark.parametrize(
    "name", ["Dockerfile", ".ci/run", "Makefile", "pyproject.toml", "mkdocs.yml", *sorted(f".github/workflows/{w}.yml" for w in WORKFLOWS)]
)
def test_no_configuration_names_a_registrys_host(name: str) -> None:
    found = re.findall(
        r"[\w.-]*(?:pypi\.org|pythonhosted\.org|docker\.io|ghcr\.io|quay\.io|anaconda\.org|download\.pytorch\.org)",
        (ROOT / name).read_text(),
    )
    assert not found


def tried() -> list[str]:
    """The commands of the README's "Try it", but for the installation."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(r"^```\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    assert first
    install, *commands = first[1].splitlines()
    assert install == "pip install ." and commands[0] == "unflip demo"
    return commands


def served() -> list[str]:
    """Its commands for the page."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = (each for each in re.findall(r"^```\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL) if "unflip serve" in each)
    return list(block.splitlines())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_newcomers_path(tmp_path: Path) -> None:
    """README's first commands as they stand: the wheel in an environment that has nothing else, and then no network."""
    made = [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT)]  # the wheel, out of the sdist
    built = subprocess.run(made, capture_output=True, text=True, timeout=300)
    if built.returncode and "No matching distribution" in built.stdout + built.stderr:
        pytest.skip("no package index can be reached")
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
    venv.create(tmp_path / "empty", with_pip=True)
    programs = tmp_path / "empty/bin"
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = subprocess.run([programs / "pip", "install", "--quiet", wheel], env={**environment, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    alone = ["unshare", "--net", "--map-root-user"]
    offline = alone if shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0 else []
    (tmp_path / "here").mkdir()
    for command in tried():
        done = subprocess.run(
            [*offline, *shlex.split(command)], cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    assert (tmp_path / "here/demo/report.html").is_file() and (tmp_path / "here/again/report.html").is_file()
    assert (tmp_path / "here/one/000800.png").is_file()

    install, serve = served()
    assert install == "pip install '.[serve]'"
    done = subprocess.run([programs / "pip", "install", "--quiet", f"{wheel}[serve]"], env={**environment, **settings}, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    words = [*shlex.split(serve), "--port", "0"]
    with subprocess.Popen(
        words, cwd=tmp_path / "here", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None and server.stderr is not None
        address = server.stdout.readline().strip()
        try:
            assert address.startswith("http://127.0.0.1:"), server.stderr.read()
            with urllib.request.urlopen(address, timeout=60) as page:
                assert b"unflip" in page.read()
            photo = (tmp_path / "here/demo/test/source/000800.png").read_bytes()
            asked = urllib.request.Request(f"{address}/api/translate", photo, {"Content-Type": "image/png"})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                assert answer.read() == (tmp_path / "here/one/000800.png").read_bytes()
        finally:
            server.terminate()


def test_what_the_readme_tries_is_what_the_demo_leaves() -> None:
    """The names in its commands, against the demo's own code: the whole path is run by the slow test."""
    from unflip.recipes import demo

    said = (ROOT / "src/unflip/recipes/demo.py").read_text(encoding="utf-8")
    places: list[Any] = re.findall(r"\bdemo/([\w/]+)", " ".join(tried()))
    assert len(places) >= 4
    for place in places:
        folder = place.removesuffix(f"/{2 * demo.SCENES:06d}")
        assert f'"{folder}"' in said, place
