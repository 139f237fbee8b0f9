"""Trackers: what TensorBoard, MLflow and W&B are told is read back with their own readers, and none of them can harm a run."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Result
from running import Crash, at, crash, log, quietly
from running import events as happened
from unflip.engine import trackers
from unflip.engine.trackers import TRACKERS, Trackers, told, wanted
from unflip.engine.trackers.tracker import Run
from unflip.errors import MissingExtra, UserError
from unflip.losses import PatchNCE
from unflip.recipes.train import train
from unflip.runs import TRACKED, RunConfig, from_yaml

Build = Callable[..., RunConfig]
AUTO = "tensorboard=auto"
PLAIN = ("tensorboard=false", "sample_every=1000", "checkpoint_every=2", "log_every=1")


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stores on this disk, and nobody is called."""
    for name, value in {
        "MLFLOW_TRACKING_URI": f"file:{tmp_path / 'store'}",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_EXPERIMENT_NAME", "WANDB_DIR", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


class Board:
    """What a folder of event files says."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self.reader = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0, "scalars": 0})
        self.reader.Reload()

    def scalars(self, name: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in self.reader.Scalars(name)]

    def texts(self, name: str) -> list[tuple[int, str]]:
        return [(event.step, event.tensor_proto.string_val[0].decode()) for event in self.reader.Tensors(f"{name}/text_summary")]


class Noting:
    """A tracker that notes what it is told, and does with it what the test says."""

    where, kept = "here", {}

    def __init__(self, run: Run, do: Callable[[str], None] = lambda what: None) -> None:
        self.run, self.do, self.noted = run, do, []

    def __getattr__(self, what: str) -> Callable[..., None]:
        if what not in {"log", "image", "event", "rewind", "close"}:
            raise AttributeError(what)

        def note(*given: Any) -> None:
            self.do(what)
            self.noted.append((what, *given))

        return note


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Noting]]:
    """``noting(do)`` puts a :class:`Noting` in the place of MLflow, and gives the list of those that begin."""

    def put(do: Callable[[str], None] = lambda what: None) -> list[Noting]:
        begun: list[Noting] = []

        def start(run: Run) -> Noting:
            begun.append(Noting(run, do))
            return begun[-1]

        monkeypatch.setitem(TRACKERS, "mlflow", start)
        return begun

    return put


# --- which ones


def test_the_table_has_all_that_a_config_can_name() -> None:
    assert tuple(TRACKERS) == TRACKED


def test_tensorboard_is_there_by_default_where_it_is_installed(config: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert RunConfig.model_fields["tensorboard"].default == "auto"
    assert wanted(config("cut", AUTO)) == {"tensorboard": False}
    assert wanted(config("cut", AUTO, "trackers=mlflow")) == {"tensorboard": False, "mlflow": True}
    assert wanted(config("cut", AUTO, "trackers=[wandb,tensorboard]")) == {"tensorboard": True, "wandb": True}
    assert wanted(config("cut", "tensorboard=true")) == {"tensorboard": True}
    assert wanted(config("cut", "tensorboard=false")) == {}
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    assert wanted(config("cut", AUTO)) == {} and wanted(config("cut", "tensorboard=true")) == {"tensorboard": True}


def test_the_config_of_an_earlier_run_still_says_what_it_said(config: Build, tmp_path: Path) -> None:
    out = quietly(config("cut", *PLAIN, budget=1), tmp_path / "run")
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("trackers: []\n", ""))  # which it did not have
    assert wanted(from_yaml(out / "config.yaml")) == {}
    (out / "config.yaml").write_text(text.replace("tensorboard: false", "tensorboard: true"))
    assert wanted(from_yaml(out / "config.yaml")) == {"tensorboard": True}


def test_an_unknown_tracker_is_one_line(cli: Callable[..., Result], domains: dict[str, Path], tmp_path: Path) -> None:
    given = [each for side, folder in domains.items() for each in (f"--{side}", folder)]
    said = cli("train", *given, "--out", tmp_path / "run", "--track", "mlfow")
    assert (said.code, said.stderr) == (2, "error: trackers: unknown tracker 'mlfow'; did you mean mlflow?\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_one_says_what_to_install(name: str, config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"{name} is not installed; run: pip install 'unflip\[{name}\]'"):
        quietly(config("cut", f"trackers={name}", budget=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- TensorBoard


def test_tensorboard_has_curves_pictures_settings_and_events(config: Build, tmp_path: Path) -> None:
    settings = (AUTO, "log_every=1", "sample_every=2", "checkpoint_every=2")
    with at(3, crash), pytest.raises(Crash):
        quietly(config("cut", *settings, budget=4), tmp_path / "run")
    time.sleep(1.1)  # event files are named by the second
    out = quietly(config("cut", *settings, "keep=3", budget=4), tmp_path / "run", resume=True)
    board = Board(out / "tensorboard")
    assert board.scalars("lr") == [(line["seen"], pytest.approx(line["lr"])) for line in log(out)]
    assert [image.step for image in board.reader.Images("samples")] == [2, 4]
    shown = Path(tmp_path / "shown.png")
    shown.write_bytes(board.reader.Images("samples")[-1].encoded_image_string)
    with Image.open(shown) as there, Image.open(out / "samples/000000004.png") as here:
        assert np.array_equal(np.asarray(there), np.asarray(here))
    assert [(step, "method: cut\n" in text) for step, text in board.texts("config")] == [(0, True), (2, True)]
    assert board.texts("events") == [(2, "resumed with keep 3 instead of 2")]
    begun = board.reader.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"generator.width" in begun and b"optimizer.lr" in begun


def test_after_going_back_tensorboard_shows_only_the_way_that_was_taken(config: Build, tmp_path: Path) -> None:
    run = Trackers(config("cut", AUTO, budget=9), tmp_path, 0, -1, resumed=False)
    for seen, value in ((1, 1.0), (2, 2.0), (3, 3.0)):
        run.tell("log", {"nce": value}, seen)
    run.tell("rewind", 1)
    run.tell("log", {"nce": 20.0}, 2)
    run.close("finished")
    assert Board(tmp_path / "tensorboard").scalars("nce") == [(1, 1.0), (2, 20.0)]


# --- MLflow


def client() -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def the_run() -> Any:
    """The one run in the store."""
    store = client()
    [run] = store.search_runs([store.get_experiment_by_name("unflip").experiment_id])
    return run


def curve(name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in client().get_metric_history(the_run().info.run_id, name)]


def test_mlflow_has_curves_pictures_settings_and_events_once(config: Build, tmp_path: Path) -> None:
    chosen = config("cut", *PLAIN, "sample_every=2", "trackers=[mlflow]", budget=4)
    with at(3, crash), pytest.raises(Crash):
        quietly(chosen, tmp_path / "run")
    assert the_run().info.status == "FAILED" and [step for step, _ in curve("nce")] == [1, 2, 3]
    out = quietly(config("cut", *PLAIN, "sample_every=2", "trackers=[mlflow]", "keep=3", budget=4), tmp_path / "run", resume=True)
    run = the_run()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert curve("nce") == [(line["seen"], line["nce"]) for line in log(out)], "every step once, though the third was trained twice"
    assert run.data.params["generator.width"] == "4" and run.data.params["data.source"] == str(chosen.data.source)
    assert [each.path for each in client().list_artifacts(run.info.run_id, "samples")] == [f"samples/{n:09}.png" for n in (2, 4)]
    assert [text for key, text in run.data.tags.items() if key.startswith("event.000000002.")] == ["resumed with keep 3 instead of 2"]
    assert json.loads((out / "trackers.json").read_text())["mlflow"]["run"] == run.info.run_id


def test_mlflow_knows_a_run_that_was_stopped(config: Build, tmp_path: Path) -> None:
    run = Trackers(config("cut", "tensorboard=false", "trackers=mlflow"), tmp_path, 0, -1, resumed=False)
    run.close("stopped")
    assert run.lost() == [] and the_run().info.status == "KILLED"


def test_mlflow_begins_anew_where_its_run_was_deleted(config: Build, tmp_path: Path) -> None:
    (tmp_path / "trackers.json").write_text('{"mlflow": {"run": "0123456789abcdef0123456789abcdef"}}')
    run = Trackers(config("cut", "tensorboard=false", "trackers=mlflow"), tmp_path, 3, 3, resumed=True)
    run.tell("log", {"nce": 0.5}, 4)
    run.close("finished")
    assert run.lost() == [] and curve("nce") == [(4, 0.5)]


@pytest.mark.slow
def test_mlflow_in_sqlite(config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)  # where it puts pictures
    test_mlflow_has_curves_pictures_settings_and_events_once(config, tmp_path)
    assert (tmp_path / "mlflow.db").read_bytes().startswith(b"SQLite format 3")


# --- W&B


def records(data: bytes) -> Iterator[bytes]:
    """Of a log in LevelDB's format, as W&B writes it: blocks of 32 KiB, in which records lie in one piece or several."""
    block, place, whole = 32768, 7, b""
    assert data.startswith(b":W&B")
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, piece = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if piece in (1, 4):  # the only one, or the last
            yield whole
            whole = b""


def rows(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """What W&B's own file of one attempt has: step and values."""
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("*.wandb")
    found = []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.append((record.history.step.num, values))
    return found


def test_wandb_has_curves_and_pictures_once(config: Build, tmp_path: Path) -> None:
    chosen = config("cut", *PLAIN, "sample_every=2", "trackers=wandb", budget=4)
    with at(3, crash), pytest.raises(Crash):
        quietly(chosen, tmp_path / "run")
    out = quietly(chosen.model_copy(update={"keep": 3}), tmp_path / "run", resume=True)
    attempts = sorted((out / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    found = [row for attempt in attempts for row in rows(attempt)]
    assert [(step, values["nce"]) for step, values in found if "nce" in values] == [(line["seen"], line["nce"]) for line in log(out)]
    assert [step for step, values in found if any(name.startswith("samples") for name in values)] == [2, 4]
    assert b"2 images: resumed with keep 3 instead of 2" in next(attempts[-1].glob("*.wandb")).read_bytes()
    id = json.loads((out / "trackers.json").read_text())["wandb"]["run"]
    assert {attempt.name.rpartition("-")[2] for attempt in attempts} == {id}, "which is one run to the server"


def test_wandb_without_an_account_is_one_line(config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"wandb login.*WANDB_MODE=offline"):
        quietly(config("cut", "trackers=wandb", budget=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- what fails


def test_one_that_breaks_is_left_out_and_the_run_goes_on(config: Build, noting: Callable[..., list[Noting]], tmp_path: Path) -> None:
    def full(what: str) -> None:
        if what == "log":
            raise OSError("No space left\non device")

    said: list[str] = []
    chosen = config("cut", *PLAIN, "trackers=mlflow", budget=6)
    begun = noting(full)
    out = train(chosen, tmp_path / "run", progress=False, say=said.append)
    line = "mlflow no longer tracks the run: No space left on device"
    assert said.count(f"warning: {line}") == 1 and [each["event"] for each in happened(out)] == [line]
    assert len(log(out)) == 6 and (out / "model/config.json").is_file()
    assert begun[0].noted == []
    plain = quietly(config("cut", *PLAIN, budget=6), tmp_path / "plain")
    assert (plain / "model/model.safetensors").read_bytes() == (out / "model/model.safetensors").read_bytes()


def test_one_that_hangs_holds_nothing_up(
    config: Build, noting: Callable[..., list[Noting]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "LAST", 0.2)
    go = threading.Event()
    noting(lambda what: go.wait(60) and None)
    said: list[str] = []
    begin = time.monotonic()
    out = train(config("cut", *PLAIN, "trackers=mlflow", budget=4), tmp_path / "run", progress=False, say=said.append)
    go.set()
    assert time.monotonic() - begin < 30 and len(log(out)) == 4
    assert "warning: mlflow no longer tracks the run: it had not taken all in time when the run ended" in said


def test_one_that_is_too_slow_is_left_out(
    config: Build, noting: Callable[..., list[Noting]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "MANY", 3)
    go = threading.Event()
    noting(lambda what: go.wait(60) and None)
    run = Trackers(config("cut", "tensorboard=false", "trackers=mlflow"), tmp_path, 0, -1, resumed=False)
    for seen in range(9):
        run.tell("log", {}, seen)
    assert run.lost() == ["mlflow no longer tracks the run: it is too slow, 3 calls wait"] and run.lost() == []
    go.set()


def test_one_that_does_not_begin_ends_a_new_run_and_not_an_old_one(config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(run: Run) -> Noting:
        raise ConnectionError("nobody\nanswers")

    monkeypatch.setitem(TRACKERS, "mlflow", refuse)
    with pytest.raises(UserError) as caught:
        quietly(config("cut", "trackers=mlflow", budget=2), tmp_path / "run")
    line = "cannot track the run by mlflow (nobody answers); see that its settings are right, or leave it out"
    assert str(caught.value) == line and not (tmp_path / "run").exists()

    with at(3, crash), pytest.raises(Crash):
        quietly(config("cut", *PLAIN, budget=4), tmp_path / "run")
    said: list[str] = []
    out = train(config("cut", *PLAIN, "trackers=mlflow", budget=4), tmp_path / "run", resume=True, progress=False, say=said.append)
    assert f"warning: not tracked by mlflow: {line}" in said and len(log(out)) == 4


def test_tensorboard_that_does_not_begin_ends_only_a_run_that_asked_for_it(
    config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Run) -> Noting:
        raise TypeError("Descriptors cannot be created directly")

    monkeypatch.setitem(TRACKERS, "tensorboard", refuse)
    out = quietly(config("cut", AUTO, budget=1), tmp_path / "run")
    assert "Descriptors" in happened(out)[0]["event"]
    with pytest.raises(UserError, match="Descriptors"):
        quietly(config("cut", "tensorboard=true", budget=1), tmp_path / "other")


def test_a_run_that_goes_back_has_every_step_once(config: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, made = PatchNCE.__call__, iter(range(1, 99))
    monkeypatch.setattr(PatchNCE, "__call__", lambda term, *given: compute(term, *given) * (math.nan if next(made) == 5 else 1))
    settings = (AUTO, "sample_every=1000", "log_every=1", "checkpoint_every=3", "faults.policy=back", "optimizer.constant=0.9")
    out = quietly(config("fastcut", *settings, "trackers=mlflow", budget=8), tmp_path / "run")
    board, rates = Board(out / "tensorboard"), [(line["seen"], line["lr"]) for line in log(out)]
    assert [rate for _, rate in rates] == pytest.approx([2e-4] * 3 + [1e-4] * 5), "it went back to 3"
    assert [step for step, _ in board.texts("events")] == [3, 3]
    assert board.scalars("lr") == [(seen, pytest.approx(rate)) for seen, rate in rates], "the way that was taken"
    assert curve("lr") == [(4, 2e-4) if seen == 4 else (seen, rate) for seen, rate in rates], "and what was told first"
    assert len([key for key in the_run().data.tags if key.startswith("event.000000003.")]) == 2
