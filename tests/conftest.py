"""Fixtures that many tests share: folders of images, and the command line in this process or in its own."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

if "PYTEST_XDIST_WORKER" in os.environ:  # several threads in each of several processes are slower than one; so are those of what they start
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

import unflip
from helpers import make_model
from running import SIZE, small
from unflip.inference.translator import Translator
from unflip.recipes.train import configure
from unflip.runs import RunConfig

SOURCES = Path(__file__).parents[1] / "src"

# The same examples in every run: a test that fails by luck says nothing of the change. `--hypothesis-profile=default` looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


LONGEST = (
    "test_team",
    "test_train",
    "test_resume",
    "test_faults",
    "test_contracts",
    "test_scale",
    "test_compare",
    "test_study",
    "test_adapt",
    "test_bench",
    "test_validate",
)
"""Files that take half a minute or more: they are begun first, so that no process waits for another at the end. Those that start many
processes, ``test_team`` and ``test_scale``, are kept apart."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


class Result(NamedTuple):
    """How a command ended and what it wrote."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def images_folder(tmp_path: Path) -> Callable[..., Path]:
    """``images_folder(name, count, size)`` writes random RGB PNGs 000.png, 001.png, ...; size is a side or (width, height)."""

    def write(name: str = "images", count: int = 4, size: int | tuple[int, int] = 32, seed: int = 0) -> Path:
        width, height = (size, size) if isinstance(size, int) else size
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([seed, *name.encode()])
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")
        return folder

    return write


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed does not depend on who runs the tests: no color, the width of a pipe."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("FORCE_COLOR", "PY_COLORS", "TTY_COMPATIBLE", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(terminal: None) -> Callable[..., Result]:
    """``cli("train", "--out", folder)`` runs the command in this process: fast, and warnings from unflip are errors."""

    def run_here(*args: object) -> Result:
        from unflip.cli.main import run

        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            try:
                code = run([str(arg) for arg in args])
            except SystemExit as end:
                code = end.code
        if isinstance(code, str):  # sys.exit("text") prints the text and ends with 1
            stderr.write(f"{code}\n")
            code = 1
        return Result(code or 0, stdout.getvalue(), stderr.getvalue())

    return run_here


@pytest.fixture
def cli_process(terminal: None) -> Callable[..., Result]:
    """The same in a process of its own: for what only a fresh interpreter shows (imports, exit codes, what is left behind)."""

    def run_there(*args: object, cwd: Path | None = None, timeout: float = 120, **env: str) -> Result:
        paths = [str(SOURCES), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from unflip.cli.main import run; sys.exit(run())", *map(str, args)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run_there


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose networks give lively output."""
    return make_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def translator(model: Path) -> Translator:
    return unflip.load(model, device="cpu")


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five sources and four targets of several sizes."""
    root = tmp_path_factory.mktemp("domains")
    rng = np.random.default_rng(0)
    for side, sizes in {"source": [(32, 32), (40, 33), (36, 48), (50, 35), (33, 47)], "target": [(44, 36)] * 3 + [(32, 60)]}.items():
        (root / side).mkdir()
        for i, (width, height) in enumerate(sizes):
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(root / side / f"{i}.png")
    return {"source": root / "source", "target": root / "target"}


@pytest.fixture
def config(domains: dict[str, Path]) -> Callable[..., RunConfig]:
    """``config("cut", "seed=1", budget=4)``: a tiny configuration."""

    def build(method: str = "cut", *settings: str, **fields: Any) -> RunConfig:
        fields = {**domains, "size": SIZE, "budget": 8, "device": "cpu", **fields}
        return configure(method, settings=[*small(method), *settings], **fields)

    return build


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, the system's or Playwright's own; where there is none, its tests are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        known = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
        path = next(known, started.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("no Chromium")
        launched = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()
