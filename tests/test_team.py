"""Several processes train as one would: gradients, whole runs, and what happens when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers import rng, scale_weights
from unflip.data.folders import find_images, survey
from unflip.data.labels import Classes
from unflip.data.pairs import Images, Pairs, portion
from unflip.engine.team import Team
from unflip.methods import METHODS, Recipe
from unflip.networks.segmenter import SegmenterConfig
from unflip.runs import from_yaml
from unflip.segmenterfolder import SegmenterModelConfig, save_segmenter
from unflip.torchrun import processes
from unflip.types import Size

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent / "src")}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SMALL = ("generator.width=4", "generator.blocks=1", "discriminator.width=4", "discriminator.layers=2", "projector.width=8", "nce.patches=8")


def started(*command: object) -> subprocess.Popen[str]:
    arguments = [str(part) for part in command]
    return subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE)


def training(source: Path, target: Path, out: Path, *more: object, prefix: list[str] | None = None, **settings: object) -> list[object]:
    """A command that trains; by two processes unless ``prefix`` says otherwise."""
    given = [*SMALL, *(f"{key}={value}" for key, value in settings.items())]
    command = [*(TORCHRUN if prefix is None else prefix), "-m", "unflip", "train", "--device", "cpu", "--method", "cut", "--size", 32]
    return [*command, "--source", source, "--target", target, "--out", out, *more, *(part for each in given for part in ("--set", each))]


def until_it_logs(out: Path, *runs: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not (out / "log.jsonl").is_file() or not (out / "log.jsonl").read_text():
        assert time.monotonic() < deadline
        for run in runs:
            assert run.poll() is None, run.communicate()
        time.sleep(0.2)


def worst(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """The largest difference of two sets of gradients, relative to the largest gradient of its method's player."""
    assert one.keys() == two.keys()
    players = {key: "/".join(key.split("/")[:2]) for key in one}
    largest = {player: max(float(one[key].abs().max()) for key in one if players[key] == player) for player in set(players.values())}
    return max(float((two[key] - value).abs().max()) / largest[players[key]] for key, value in one.items())


@pytest.mark.parametrize(
    "methods", [("cut", "srunit", "semst", "cyclegan"), pytest.param(tuple(METHODS), marks=pytest.mark.slow)], ids=("some", "all")
)
def test_two_processes_have_the_gradients_of_one(methods: tuple[str, ...], tmp_path: Path) -> None:
    """In float64 over gloo; also where each plays its portion in pieces."""

    names = ",".join(methods)
    for prefix, cases in (
        ([sys.executable], (f"one:1:own:{names}",)),
        (TORCHRUN, (f"two:1:own:{names}", "pieces:2:own:cut", "wrong:1:same:cut")),
    ):
        run = started(*prefix, HERE / "team_worker.py", tmp_path, *cases)
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0 and "Warning" not in errors, errors
    one, two, pieces, wrong = (load_file(tmp_path / name) for name in ("one", "two", "pieces", "wrong"))
    assert {key.split("/")[0] for key in one} == set(methods)
    assert worst(one, two) <= 1e-9
    cut = {key: value for key, value in one.items() if key.startswith("cut/")}
    assert worst(cut, pieces) <= 1e-9
    assert worst(cut, wrong) > 1e-2


def test_portions_share_everything_evenly() -> None:
    for count in range(12):
        for parts in range(1, 6):
            found = [portion(count, part, parts) for part in range(parts)]
            assert [i for part in found for i in part] == list(range(count))
            assert max(map(len, found)) - min(map(len, found)) <= 1


def test_alone_everything_is_its_own() -> None:
    team = Team()
    assert (team.rank, team.size, team.leads, team.most(1), team.agree(True)) == (0, 1, True, 1, True)
    assert (team.share("x"), team.gather(2), team.alike("x")) == ("x", [2], True)
    assert team.mean({"a": torch.tensor(0.5)}) == {"a": torch.tensor(0.5)}


def test_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes() == (1, 1)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert processes() == (4, 2)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert processes() == (1, 1), "a batch system's variables count what it has not started"


def test_which_methods_leave_parameters_idle() -> None:
    found = {name for name, method in METHODS.items() if method.recipe.idles()}
    assert "cut" not in found and "srunit" not in found and "cyclegan" not in found
    recipe = METHODS["cut"].recipe.model_dump()
    for changes in ({"every": 2}, {"start": 0.1}, {"weight": 0}):
        terms = {name: term | (changes if name.endswith("nce") else {}) for name, term in recipe["terms"].items()}
        assert Recipe.model_validate(recipe | {"terms": terms}).idles()


def test_a_run_of_two_processes_is_the_run_of_one(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Its last batch has one image, so that one process has nothing to do, and projecting terms pause in every other step. Its target is
    balanced, by weights that the first process measures."""
    source, target = images_folder("s", 5, 40), images_folder("t", 4, 40)
    reads = SegmenterModelConfig(
        network=SegmenterConfig(width=4, halvings=2), classes=Classes(names=("a", "b"), palette=((0, 0, 0), (9, 9, 9)))
    )
    save_segmenter(tmp_path / "segmenter", reads, scale_weights(reads.network.build(2, rng()), seed=1).float())
    settings: dict[str, object] = {"balance.segmenter": tmp_path / "segmenter", "balance.window": 3}
    settings |= {"batch": 4, "budget": 9, "log_every": 1, "ema.half_life": 1e-6, "nce.every": 2, "identity_nce.every": 2}
    prefixes = {"one": [sys.executable], "two": None, "short": [sys.executable]}
    budgets = {"one": 9, "two": 9, "short": 8}
    runs = {
        name: started(*training(source, target, tmp_path / name, prefix=prefix, **settings | {"budget": budgets[name]}))
        for name, prefix in prefixes.items()
    }
    said = {name: run.communicate(timeout=240) for name, run in runs.items()}
    assert all(run.returncode == 0 for run in runs.values()), said
    assert "2 processes" in said["two"][1] and said["two"][1].count("budget 9 images") == 1, "one process speaks for all"
    assert said["two"][0].count("model in") == 1
    files = {name: {path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")} for name in ("one", "two")}
    boards = {name: {path for path in found if "tfevents" in path.name} for name, found in files.items()}
    assert len(boards["one"]) == len(boards["two"]) == 1, "one process tells the trackers"
    assert files["one"] - boards["one"] == files["two"] - boards["two"]
    one, two = ([json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in ("one", "two"))
    assert [line["seen"] for line in one] == [line["seen"] for line in two] == [4, 8, 9]
    assert from_yaml(tmp_path / "two/config.yaml").balance == from_yaml(tmp_path / "one/config.yaml").balance
    assert len(set(from_yaml(tmp_path / "two/config.yaml").balance.tilt.values())) == 2
    for a, b in zip(one, two, strict=True):
        shared = a.keys() - {"images_per_second"}
        assert {key: b[key] for key in shared} == pytest.approx({key: a[key] for key in shared}, rel=2e-4)
    state = {name: load_file(next((tmp_path / name / "checkpoints").glob(f"*{budgets[name]}/state.safetensors"))) for name in runs}
    # Adam's first moment: the gradients, also those of the last batch, less those before them
    moments = [key for key in state["one"] if key.endswith("/exp_avg")]
    largest = max(float(state["one"][key].abs().max()) for key in moments)
    apart = {name: max(float((state[name][key] - state["one"][key]).abs().max()) for key in moments) / largest for name in ("two", "short")}
    assert apart["two"] < 1e-4 and apart["short"] > 1e-2, apart


def test_two_processes_stop_save_and_go_on(cli: Callable[..., Any], images_folder: Callable[..., Path], tmp_path: Path) -> None:
    source, target, out = images_folder("s", 4, 40), images_folder("t", 4, 40), tmp_path / "run"
    settings = {"batch": 2, "budget": 100_000, "log_every": 10, "pool": 5}
    run = started(*training(source, target, out, **settings))
    until_it_logs(out, run)
    run.send_signal(signal.SIGTERM)  # torchrun hands it on to both
    _, errors = run.communicate(timeout=120)
    assert "is saved: --resume goes on" in errors and errors.count("stopped after") == 1, errors
    seen = int((out / "checkpoints/latest").read_text())
    state = load_file(out / f"checkpoints/{seen:09d}/state.safetensors")
    assert sorted(key for key in state if key.startswith("pool/to_target")) == [f"pool/to_target/{i}" for i in range(4)], "2 of each"
    assert not torch.equal(state["pool/to_target/0"], state["pool/to_target/1"])
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("budget: 100000", f"budget: {seen + 4}"))
    again = started(*TORCHRUN, "-m", "unflip", "train", "--out", out, "--resume")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["seen"] == seen + 4

    config.write_text(config.read_text().replace(f"budget: {seen + 4}", f"budget: {seen + 8}"))
    alone = cli("train", "--out", out, "--resume")
    assert alone.code == 0 and "2 processes before, 1 from here on" in alone.stderr, alone.stderr
    assert json.loads((out / "events.jsonl").read_text().splitlines()[-1])["event"] == "2 processes before, 1 from here on"
    state = load_file(out / f"checkpoints/{seen + 8:09d}/state.safetensors")
    assert len([key for key in state if key.startswith("pool/to_target")]) == 5, "what all of them held, and one more"


def test_a_process_that_is_killed_ends_the_others(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Without torchrun, which would end them itself."""
    source, target, out = images_folder("s", 4, 40), images_folder("t", 4, 40), tmp_path / "run"
    command = training(source, target, out, prefix=[sys.executable], batch=2, budget=100_000, log_every=10)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29_500 + os.getpid() % 1_000), "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    runs = []
    for rank in range(2):
        mine = ENVIRONMENT | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        runs.append(subprocess.Popen([str(part) for part in command], env=mine, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    until_it_logs(out, *runs)
    runs[1].kill()
    _, errors = runs[0].communicate(timeout=60)
    assert runs[0].returncode == 2, errors
    assert errors.strip().splitlines()[-1] == "error: another process of this training is gone; its last words say why"
    assert "Traceback" not in errors


def test_a_bad_image_in_one_process_stops_none(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Its head and tail are whole, so that it is found only when it is drawn, in a step and by the process whose turn it is."""
    source, target, out = images_folder("s", 12, 40), images_folder("t", 4, 40), tmp_path / "run"
    pairs = Pairs(*(Images(survey(find_images(folder)), shared=False) for folder in (source, target)), Size(32, 32), 0, 12, True)
    path = source / f"{pairs.indices(9)[0]:03}.png"  # items 0 to 5 are drawn as samples; this is the second process'
    content = bytearray(path.read_bytes())
    content[200:2000] = bytes(1800)
    path.write_bytes(content)
    run = started(*training(source, target, out, batch=2, budget=12, log_every=2))
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0 and "error: " not in errors, errors
    assert [json.loads(line)["seen"] for line in (out / "log.jsonl").read_text().splitlines()] == [2, 4, 6, 8, 10, 12]


@pytest.mark.slow
def test_files_that_are_bad_at_the_start_are_set_aside_in_all_processes(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    """As if they had not been there; said once."""
    source, target = images_folder("s", 5, 40), images_folder("t", 4, 40)
    (source / "001.png").write_bytes(b"no image")
    (target / "002.png").write_bytes((target / "002.png").read_bytes()[:-30])
    runs = {}
    for name in ("bad", "without"):
        out = tmp_path / name
        run = started(*training(source, target, out, batch=2, budget=10, log_every=2))
        _, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
        told = [
            errors.count(f"1 of {count} {side} images cannot be used and were set aside") for count, side in ((5, "source"), (4, "target"))
        ]
        assert told == ([1, 1] if name == "bad" else [0, 0]), errors
        runs[name] = (out / "checkpoints/000000010/state.safetensors").read_bytes()
        for path in (source / "001.png", target / "002.png"):
            path.unlink(missing_ok=True)
    assert runs["bad"] == runs["without"]
    listed = [json.loads(line) for line in (tmp_path / "bad/set_aside.jsonl").read_text().splitlines()]
    assert [(line["side"], Path(line["path"]).name) for line in listed] == [("source", "001.png"), ("target", "002.png")]


@pytest.mark.slow
def test_files_that_vanish_midway_stop_no_process(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Nor where it is stopped and goes on; where all are gone, it is one error."""
    source, target, out = images_folder("s", 30, 40), images_folder("t", 30, 40), tmp_path / "run"
    settings = {"batch": 2, "budget": 100_000, "log_every": 10, "data.cache": "none"}

    def seen() -> int:
        return int(json.loads((out / "log.jsonl").read_text().splitlines()[-1])["seen"])

    run = started(*training(source, target, out, **settings))
    until_it_logs(out, run)
    for folder in (source, target):
        for k in (3, 17):
            (folder / f"{k:03}.png").unlink()
    goal, deadline = seen() + 90, time.monotonic() + 120
    while seen() < goal:  # each image has been drawn once or more
        assert run.poll() is None and time.monotonic() < deadline, run.communicate()
        time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=120)
    assert errors.count("stopped after") == 1 and "error: " not in errors, errors

    again = started(*training(source, target, out, "--resume", **settings))
    goal, deadline = seen() + 20, time.monotonic() + 120
    while seen() < goal:
        assert again.poll() is None and time.monotonic() < deadline, again.communicate()
        time.sleep(0.2)
    for path in source.iterdir():
        path.unlink()
    _, errors = again.communicate(timeout=120)
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert again.returncode != 0 and len(told) == 1 and "9 source images in a row cannot be read" in told[0], errors
    assert errors.count("2 of 30 source images are gone or changed") == errors.count("2 of 30 target images are gone or changed") == 1


@pytest.mark.slow
def test_numbers_that_are_not_finite_are_one_error(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    source, target = images_folder("s", 4, 40), images_folder("t", 4, 40)
    run = started(*training(source, target, tmp_path / "run", batch=2, budget=400, log_every=20, **{"optimizer.lr": 1e30}))
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and errors.count("error: ") == 1 and "not a finite number" in errors, errors


@pytest.mark.slow
def test_what_compares_images_is_not_torn_apart(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    source, target = images_folder("s", 4, 40), images_folder("t", 4, 40)
    both = {"distance.weight": 1, "distance.form": "pairs", "batch": 2, "budget": 4}
    run = started(*training(source, target, tmp_path / "run", **both))
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and errors.count("term distance compares the images of a batch, and cannot be shared") == 1, errors
    alone = started(*training(source, target, tmp_path / "run", prefix=[sys.executable], accumulate=2, **both))
    _, errors = alone.communicate(timeout=120)
    assert alone.returncode == 2 and "term distance compares the images of a batch, which accumulate would tear apart" in errors


def test_what_cannot_be_shared_is_refused_once(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    source, target = images_folder("s", 4, 40), images_folder("t", 4, 40)
    run = started(*training(source, target, tmp_path / "run", batch=3, budget=40))
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and errors.count("batch 3 cannot be shared evenly by 2 processes; set batch=4") == 1
    assert not (tmp_path / "run").exists()


def test_only_training_takes_several_processes() -> None:
    run = started(*TORCHRUN, "-m", "unflip", "bench", "--method", "cut", "--size", 32, "--device", "cpu")
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and "only `unflip train` works with several processes" in errors
