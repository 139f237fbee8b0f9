"""The fuzzer's targets, a few cases of each, and the seeds that once failed: docs/fuzzing.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the scripts are not here", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import fuzz  # noqa: E402
import fuzz_targets  # noqa: E402
from fuzz_targets import TARGETS, Target  # noqa: E402

CASES = 40
FIRST = 100_000
"""Seeds that no long run begins with."""

NEEDS = {"segmenters": "transformers", "videos": "av"}

KEPT = {
    "tiff_deep": [839, 912],
    "tiff_bands": [906, 50881],
    "geotiff": [530, 50990],
    "models": [130],
    "segmenters": [14, 67, 110, 131, 249, 260],
    "config": [254],
    "shards": [21, 84, 685],
    "pth": [574, 860],
}
"""Seeds that once failed, as the mutations were then; what was wrong has tests of its own, in test_limits.py."""


@pytest.fixture(autouse=True)
def as_in_the_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNFLIP_MAX_PIXELS", "4000000")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_one_line(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    for seed in (*range(FIRST, FIRST + CASES), *KEPT.get(name, [])):
        found = fuzz.run_case(name, seed, tmp_path / "case")
        assert not found["failed"], f"python benchmarks/fuzz.py --what {name} --only {seed}: {found}"


@pytest.mark.parametrize("name", TARGETS)
def test_whole_ones_are_used(name: str, tmp_path: Path) -> None:
    """Else it would be no wonder that damaged ones are refused."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    for i, whole in enumerate(TARGETS[name].make()):
        given = tmp_path / str(i)
        given.mkdir()
        fuzz.write(given / TARGETS[name].name, whole)
        said = TARGETS[name].call(given / TARGETS[name].name, given / "out", np.random.default_rng(3))
        assert None in said, said


def sabotaged(monkeypatch: pytest.MonkeyPatch, call: Callable[[Path, Path, Any], Any]) -> None:
    monkeypatch.setitem(TARGETS, "bad", Target("bad", "a.bin", lambda: [b"whole"], lambda rng, data: data, call))


def raises(path: Path, out: Path, rng: Any) -> Any:
    raise KeyError("no one line")


def loops(path: Path, out: Path, rng: Any) -> Any:
    while True:
        pass


def writes_outside(path: Path, out: Path, rng: Any) -> Any:
    (out / "../../escaped").resolve().write_bytes(b"")
    return [None]


def says_two_lines(path: Path, out: Path, rng: Any) -> Any:
    return ["one\ntwo"]


def hides_a_lack_of_memory(path: Path, out: Path, rng: Any) -> Any:
    def call() -> None:
        try:
            raise MemoryError
        except MemoryError as error:
            raise fuzz_targets.UserError("broken image") from error

    return fuzz_targets.attempt(call)


BAD = {
    raises: "KeyError",
    loops: "hang",
    writes_outside: "written outside",
    says_two_lines: "not one line",
    hides_a_lack_of_memory: "UserError",
}


@pytest.mark.parametrize("call", BAD, ids=lambda call: call.__name__)
def test_what_is_wrong_is_seen(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.3)
    sabotaged(monkeypatch, call)
    assert (fuzz.run_case("bad", 0, tmp_path / "case")["failed"] or "").startswith(BAD[call])


def test_a_process_that_dies_is_its_cases_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = """if True:
        import sys
        print("ready", flush=True)
        for line in sys.stdin:
            if int(line) == 2:
                sys.exit(11)
            print('{"failed": null}', flush=True)
    """
    real = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return real([sys.executable, "-c", answers], **options)

    monkeypatch.setattr(fuzz.subprocess, "Popen", start)
    found = list(fuzz.cases("png", range(5)))
    assert [bool(each["failed"]) for each in found] == [False, False, True, False, False]


def test_the_script_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "fuzz.py"), "--what", "bmp", "--count", "3", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["bmp"]["cases"] == 3 and found["bmp"]["failures"] == []
