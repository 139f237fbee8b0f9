"""A run is never lost: killed anywhere it goes on bit for bit, a damaged checkpoint gives way to the one before, and changes are said."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from running import SELDOM, SIZE, Crash, at, bits, crash, equal, events, log, quietly, small, start, state, tree
from unflip import modelfolder
from unflip.data.labels import Classes
from unflip.engine import checkpoint
from unflip.errors import Interrupted, UserError
from unflip.networks import features
from unflip.networks.segmenter import SegmenterConfig
from unflip.recipes import prepare
from unflip.recipes.listing import Listing
from unflip.recipes.resume import CHANGEABLE
from unflip.recipes.train import train
from unflip.runs import RunConfig, from_yaml, leaves
from unflip.segmenterfolder import SegmenterModelConfig, save_segmenter
from unflip.signals import EXIT_CODES

CLASSES = Classes(names=("road", "sky"), palette=((0, 0, 0), (9, 9, 200)))


def stopped(config: RunConfig, out: Path, seen: int = 5) -> Path:
    with at(seen, crash), pytest.raises(Crash):
        quietly(config, out)
    return out


def heard(config: RunConfig, out: Path) -> list[str]:
    """What a resumed run says."""
    said: list[str] = []
    train(config, out, resume=True, progress=False, say=said.append)
    return said


# --- killed


@pytest.mark.timeout(240)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_killed_at_random_moments() -> None:
    """Three of the 25 that benchmarks/kill.py tries; in a process of its own, as it forks."""
    import subprocess

    script = Path(__file__).parents[1] / "benchmarks/kill.py"
    paths = {"PYTHONPATH": str(Path(modelfolder.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, "--moments", "3"], env=os.environ | paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 were killed before their end; 3 are the same bit for bit" in done.stdout


def test_what_tells_runs_apart_does(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """The comparison of benchmarks/kill.py can fail."""
    spec = importlib.util.spec_from_file_location("kill", Path(__file__).parents[1] / "benchmarks/kill.py")
    assert spec is not None and spec.loader is not None
    kill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kill)
    one = kill.left(quietly(config("cut", *SELDOM, budget=2), tmp_path / "one"))
    same = kill.left(quietly(config("cut", *SELDOM, budget=2), tmp_path / "same"))
    other = kill.left(quietly(config("cut", *SELDOM, budget=2, seed=1), tmp_path / "other"))
    assert one == same and {name for name in one if one[name] != other[name]} >= {"model/model.safetensors", "log.jsonl"}


def test_a_log_between_two_checkpoints_goes_on_as_if_nothing_had_happened(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """What was added up for its next line is in the checkpoint."""
    chosen = config("srunit", "log_every=4", "checkpoint_every=3", "sample_every=1000")
    whole = quietly(chosen, tmp_path / "whole")
    out = tmp_path / "run"
    with at(4, crash), pytest.raises(Crash):
        quietly(chosen, out)
    assert (out / "checkpoints/latest").read_text() == "000000003"
    quietly(chosen, out, resume=True)
    for a, b in zip(log(out), log(whole), strict=True):
        assert a | {"images_per_second": 0} == b | {"images_per_second": 0}
    assert bits(out) == bits(whole)


def test_resume_begins_a_run_where_there_is_none(
    cli: Callable[..., Any], config: Callable[..., RunConfig], domains: dict[str, Path], tmp_path: Path
) -> None:
    """So a job that may be taken off its machine is one command, however often it is started."""
    whole = quietly(config("cut", *SELDOM, budget=2), tmp_path / "whole")
    arguments = ["train", "--source", domains["source"], "--target", domains["target"], "--method", "cut", "--device", "cpu", "--resume"]
    arguments += ["--size", SIZE, "--budget", 2, "--out", tmp_path / "run"]
    for setting in (*small("cut"), *SELDOM):
        arguments += ["--set", setting]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").touch()
    (tmp_path / "run/.config.yaml.17.tmp").write_text("siz")  # as a process leaves it that is killed at once
    for _ in range(2):
        result = cli(*arguments)
        assert result.code == 0, result.stderr
        assert bits(tmp_path / "run") == bits(whole)
    assert "is complete" in result.stderr
    result = cli("train", "--out", tmp_path / "nowhere", "--resume")
    assert result.code == 2 and "holds no run to resume" in result.stderr and not (tmp_path / "nowhere").exists()


# --- damaged


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def another_number(path: Path) -> None:
    """What still is JSON, and would resume at a wrong place."""
    path.write_text(path.read_text().replace('"seen": 4', '"seen": 2'))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "state.safetensors, a bit flipped": lambda folder: flip(folder / "state.safetensors"),
    "state.safetensors, cut short": lambda folder: cut_short(folder / "state.safetensors"),
    "state.safetensors, missing": lambda folder: (folder / "state.safetensors").unlink(),
    "state.json, a bit flipped": lambda folder: flip(folder / "state.json"),
    "state.json, cut short": lambda folder: cut_short(folder / "state.json"),
    "state.json, empty": lambda folder: (folder / "state.json").write_text(""),
    "state.json, a list": lambda folder: (folder / "state.json").write_text("[]"),
    "state.json, another number": lambda folder: another_number(folder / "state.json"),
    "state.json, missing": lambda folder: (folder / "state.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(config: Callable[..., RunConfig], tmp_path: Path, damage: str) -> None:
    chosen = config("cut", "checkpoint_every=2", "sample_every=1000")
    whole = quietly(chosen, tmp_path / "whole")
    out = stopped(chosen, tmp_path / "run")
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["000000002", "000000004", "latest"]
    DAMAGES[damage](out / "checkpoints/000000004")
    said = [line for line in heard(chosen, out) if "the run goes on from" in line]
    assert len(said) == 1 and damage.split(",")[0] in said[0] and said[0].endswith("; the run goes on from 000000002")
    assert [event["event"] for event in events(out)] == said
    assert bits(out) == bits(whole)
    assert [line["seen"] for line in log(out)] == list(range(1, 9))


def test_a_pointer_that_leads_nowhere_is_done_without(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("cut", "checkpoint_every=2", "sample_every=1000")
    whole = quietly(chosen, tmp_path / "whole")
    for k, text in enumerate(("000000009", "", "\xff\x00", None)):
        out = stopped(chosen, tmp_path / f"run{k}")
        pointer = out / "checkpoints/latest"
        pointer.unlink() if text is None else pointer.write_text(text)
        assert checkpoint.latest(out / "checkpoints") == out / "checkpoints/000000004"
        quietly(chosen, out, resume=True)
        assert bits(out) == bits(whole)


def test_without_any_whole_checkpoint_nothing_is_begun(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """To begin from the start would look like going on, and delete what might still be mended."""
    chosen = config("cut", "checkpoint_every=2", "sample_every=1000")
    out = stopped(chosen, tmp_path / "run")
    for folder in (out / "checkpoints").glob("0*"):
        flip(folder / "state.safetensors")
    before = tree(out)
    with pytest.raises(UserError, match=r"^no checkpoint in .* is whole \(.*000000004.*; .*000000002.*\); bring one back from a copy"):
        quietly(chosen, out, resume=True)
    assert tree(out) == before


def test_a_checkpoint_of_before_is_read(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Format 1: no checksum of state.json, and nothing of guards and averages."""
    chosen = config("cut", "checkpoint_every=4", "sample_every=1000")
    whole = quietly(chosen, tmp_path / "whole")
    out = stopped(chosen, tmp_path / "run")
    path = out / "checkpoints/000000004/state.json"
    meta = json.loads(path.read_text())
    path.write_text(json.dumps({"format": 1, **{name: meta[name] for name in ("seen", "images", "sha256")}}))
    quietly(chosen, out, resume=True)
    assert equal(state(out, 8), state(whole, 8))


# --- changed


@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 2), (2, 4), (2, 3)])
def test_a_run_goes_on_with_another_batch(config: Callable[..., RunConfig], tmp_path: Path, before: int, after: int) -> None:
    """Every image is seen once, batches end at multiples of their size, and the rate is that of the image. Both are said, and kept."""
    settings = ("checkpoint_every=1", "sample_every=1000", "keep=9")
    out = tmp_path / "run"
    with at(6 if before == 3 else 4, crash), pytest.raises(Crash):
        quietly(config("cut", *settings, batch=before, budget=10), out)
    left = int((out / "checkpoints/latest").read_text())
    said = heard(config("cut", *settings, batch=after, budget=10), out)
    assert f"resumed with batch {after} instead of {before}" in said and "from here on the run is another than it would have been" in said
    seen = [line["seen"] for line in log(out)]
    assert seen == sorted({*range(before, left + 1, before), *range(left - left % after + after, 10, after), 10})
    for first, line in zip([0, *seen], log(out), strict=False):
        assert line["lr"] == pytest.approx(2e-4 * min(1, (10 - first) / 5))
    assert from_yaml(out / "config.yaml").batch == after
    assert events(out)[0]["event"] == f"resumed with batch {after} instead of {before}"
    assert "What happened" in (out / "report.html").read_text()


def test_what_does_not_change_the_run_does_not(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    settings = ("checkpoint_every=4", "sample_every=1000")
    whole = quietly(config("srunit", *settings), tmp_path / "whole")
    out = stopped(config("srunit", *settings), tmp_path / "run")
    said = heard(config("srunit", "checkpoint_every=3", "sample_every=1000", "data.cache=none", "data.workers=1", "keep=4"), out)
    changed = {"data.cache none instead of auto", "data.workers 1 instead of auto", "checkpoint_every 3 instead of 4"}
    assert {f"resumed with {each}" for each in changed} < set(said)
    assert not any("another than it would have been" in line for line in said)
    assert bits(out) == bits(whole)


def test_a_lower_rate_is_taken(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    out = stopped(config("cut", "checkpoint_every=4", "sample_every=1000", "optimizer.constant=0.9"), tmp_path / "run")
    quietly(config("cut", "checkpoint_every=4", "sample_every=1000", "optimizer.constant=0.9", "optimizer.lr=1e-5"), out, resume=True)
    assert [line["lr"] for line in log(out)] == pytest.approx([2e-4] * 4 + [1e-5] * 4)


def test_nothing_else_can_be_changed(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    out = stopped(config("cut", "checkpoint_every=4"), tmp_path / "run")
    keys = {key for key in leaves(config("cut").model_dump(mode="json")) if not key.startswith(CHANGEABLE)}
    assert {"budget", "seed", "data.source", "size", "generator.width", "terms.nce.weight", "ema.half_life"} <= keys
    assert all(any(key.startswith(name) for key in leaves(config("cut").model_dump(mode="json"))) for name in CHANGEABLE)
    with pytest.raises(UserError, match=r"budget is 8 there and 9 here.*with --init from this one"):
        quietly(config("cut", "checkpoint_every=4", budget=9), out, resume=True)


def segmenter(where: Path, seed: int) -> Path:
    """A segmenter of two classes that reads nothing."""
    config = SegmenterModelConfig(network=SegmenterConfig(width=4), classes=CLASSES)
    save_segmenter(where, config, config.network.build(2, torch.Generator().manual_seed(seed)))
    return where


def forget_fixed_weights(out: Path) -> None:
    """Make the newest checkpoint one of before they were kept."""
    path = out / "checkpoints" / (out / "checkpoints/latest").read_text() / "state.json"
    meta = json.loads(path.read_text())
    del meta["fixed_weights"], meta["check"]
    check = hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**meta, "check": check}))


def test_another_fixed_segmenter_in_the_same_place_is_refused(
    config: Callable[..., RunConfig], domains: dict[str, Path], tmp_path: Path
) -> None:
    labels, classes, judge = tmp_path / "labels", tmp_path / "classes.json", segmenter(tmp_path / "judge", 0)
    labels.mkdir()
    for path in domains["source"].glob("*.png"):
        Image.new("L", Image.open(path).size, 1).save(labels / path.name)
    classes.write_text(CLASSES.model_dump_json(include={"names", "palette"}))
    chosen = config("cut", f"semantic.segmenter={judge}", "checkpoint_every=4", source_labels=labels, classes=classes)
    whole, out = quietly(chosen, tmp_path / "whole"), stopped(chosen, tmp_path / "run")
    shutil.copytree(out, tmp_path / "before")
    shutil.copytree(judge, tmp_path / "kept")
    shutil.rmtree(judge)
    segmenter(judge, 1)
    said = r"terms\.semantic\.segmenter, .*judge, has other weights than when the run in .*run began; bring those back, or start another"
    with pytest.raises(UserError, match=said):
        quietly(chosen, out, resume=True)
    forget_fixed_weights(tmp_path / "before")
    quietly(chosen, tmp_path / "before", resume=True)
    shutil.rmtree(judge)
    shutil.copytree(tmp_path / "kept", judge)
    assert equal(state(quietly(chosen, out, resume=True), 8), state(whole, 8))


@pytest.mark.parametrize(
    ("method", "keys"),
    [("lsesim", ["self_similarity.features.weights"]), ("vsait", ["vsa.vectors.weights", "discriminator.vectors.weights"])],
)
def test_other_weights_of_features_in_the_same_file_are_refused(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, keys: list[str]
) -> None:
    def stored(value: float) -> Path:
        """A file that holds ``value`` everywhere."""

        def load(network: torch.nn.Module, name: str, weights: str) -> None:
            for weight in network.state_dict().values():
                weight.fill_(value)

        monkeypatch.setattr(features, "_load", load)
        for cache in (features._network, features._placed, features.features):
            cache.cache_clear()
        return tmp_path / "mine.safetensors"

    chosen = config(method, *(f"{key}={stored(0.01)}" for key in keys), "checkpoint_every=4")
    out = stopped(chosen, tmp_path / "run")
    stored(0.02)
    with pytest.raises(UserError, match=rf"{re.escape(keys[0])}, .*mine\.safetensors, has other weights than when the run in .*run began"):
        quietly(chosen, out, resume=True)
    stored(0.01)
    quietly(chosen, out, resume=True)
    stored(0)  # forgets this one
    fixed = checkpoint.read_meta(out / "checkpoints/000000008").fixed_weights
    assert fixed is not None and sorted(fixed) == sorted(key if key.startswith("disc") else f"terms.{key}" for key in keys)


# --- asked to stop


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="has no such signals")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_a_terminal_that_closes_and_a_batch_systems_warning_save(config: Callable[..., RunConfig], tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with at(3, lambda: signal.raise_signal(number)), pytest.raises(Interrupted) as said:
            quietly(config("cut", *SELDOM), tmp_path / "run")
    finally:
        signal.signal(number, before)
    assert said.value.exit_code == EXIT_CODES[number] == 128 + number
    assert (tmp_path / "run/checkpoints/latest").read_text() == "000000004"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="has no such signal")
def test_nohup_is_heeded(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with at(3, lambda: signal.raise_signal(signal.SIGHUP)):
            quietly(config("cut", *SELDOM), tmp_path / "run")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "run/checkpoints/latest").read_text() == "000000008"


# --- other faults


def test_a_clock_that_goes_back_changes_nothing(config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quietly(config("cut", *SELDOM), tmp_path / "whole")
    clock = time.time() + 1e6

    def back() -> float:
        nonlocal clock
        clock -= 3600
        return clock

    monkeypatch.setattr(time, "time", back)
    quietly(config("cut", *SELDOM), tmp_path / "run")
    assert bits(tmp_path / "run") == bits(whole)
    assert all(line["images_per_second"] > 0 for line in log(tmp_path / "run"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs permissions that hold")
def test_a_folder_that_becomes_read_only_leaves_the_last_checkpoint(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("cut", "checkpoint_every=2", "sample_every=1000")
    out = tmp_path / "run"
    try:
        with at(5, lambda: (out / "checkpoints").chmod(0o555)), pytest.raises(UserError, match="no permission to write there"):
            quietly(chosen, out)
    finally:
        (out / "checkpoints").chmod(0o755)
    quietly(chosen, out, resume=True)


def test_a_checkpoint_folder_that_is_gone_is_a_run_from_its_start(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("cut", "checkpoint_every=2", "sample_every=1000")
    whole = quietly(chosen, tmp_path / "whole")
    out = stopped(chosen, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    assert "there is no checkpoint yet: the run begins from its start" in heard(chosen, out)
    assert bits(out) == bits(whole)


def test_a_process_that_hears_usr1_exits_with_its_code(domains: dict[str, Path], tmp_path: Path) -> None:
    if not hasattr(signal, "SIGUSR1"):
        pytest.skip("has no such signal")
    arguments: list[Any] = ["train", "--source", domains["source"], "--target", domains["target"], "--method", "fastcut", "--device", "cpu"]
    arguments += ["--size", SIZE, "--budget", 400, "--out", tmp_path / "run", "--set", "log_every=1"]
    for setting in (*small("fastcut"), *SELDOM):
        arguments += ["--set", setting]
    process = start(arguments)
    try:
        give_up = time.monotonic() + 120
        while not ((tmp_path / "run/log.jsonl").is_file() and (tmp_path / "run/log.jsonl").read_text()):
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 138 and "--resume goes on" in errors, errors


@pytest.mark.skipif(os.name != "posix", reason="nothing is locked there")
def test_a_run_is_not_trained_twice_at_once(config: Callable[..., RunConfig], domains: dict[str, Path], tmp_path: Path) -> None:
    """As where a batch system starts a job again while the old one is still about; and whoever is gone, however, is in nobody's way."""
    out = tmp_path / "run"
    arguments: list[Any] = ["train", "--source", domains["source"], "--target", domains["target"], "--method", "cut", "--device", "cpu"]
    arguments += ["--size", SIZE, "--budget", 4000, "--out", out, "--set", "log_every=1", "--set", "checkpoint_every=4"]
    for setting in (*small("cut"), "sample_every=9999"):
        arguments += ["--set", setting]
    process = start(arguments)
    try:
        give_up = time.monotonic() + 120
        while not (out / "checkpoints/latest").is_file():
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.01)
        chosen = from_yaml(out / "config.yaml")
        with pytest.raises(UserError, match=r"^another process is at work in .*; wait for it, or stop it$"):
            quietly(chosen, out, resume=True)
    finally:
        process.kill()
        process.communicate()
    (out / ".log.jsonl.12.tmp").write_text("cut sh")
    with at(int((out / "checkpoints/latest").read_text()) + 1, crash), pytest.raises(Crash):
        quietly(chosen, out, resume=True)
    assert not list(out.glob(".*.tmp"))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_another_run_took_meanwhile_is_left_to_it(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool, there: bool
) -> None:
    """It came and went while this one looked at its images, and its folder may have been there, empty."""
    out, list_images = tmp_path / "run", prepare.list_images
    other = config("cut", *SELDOM, "seed=5", budget=2)
    if there:
        out.mkdir()

    def slowly(*arguments: Any, **named: Any) -> Listing:
        monkeypatch.setattr(prepare, "list_images", list_images)
        quietly(other, out)
        return list_images(*arguments, **named)

    monkeypatch.setattr(prepare, "list_images", slowly)
    with pytest.raises(UserError, match=r"^another run has begun in .* meanwhile; choose another folder, or --resume"):
        quietly(config("cut", *SELDOM), out, resume=resume)
    assert from_yaml(out / "config.yaml") == other and events(out) == []
    assert any("is complete" in line for line in heard(other, out))


def test_a_run_that_is_complete_is_tidied_up(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """It was killed while its report was written, or the machine lost its power: then the end of a line can be missing."""
    out = quietly(config("cut", *SELDOM, budget=2), tmp_path / "run")
    before = tree(out)
    (out / "report.html").unlink()
    (out / ".report.html.12.tmp").write_text("<html")
    (out / "events.jsonl").write_text('{"seen": 2, "event": "an omen"}\n{"seen": 2, "ev')
    quietly(config("cut", *SELDOM, budget=2), out, resume=True)
    assert tree(out).keys() == before.keys() | {"events.jsonl"}
    assert "At 2 images: an omen" in (out / "report.html").read_text()


def test_what_was_put_aside_by_a_killed_process_is_brought_back(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """It was killed while it replaced its only checkpoint by another of the same name, as where a run goes back."""
    chosen = config("cut", "checkpoint_every=4", "sample_every=1000", "keep=1")
    whole = quietly(chosen, tmp_path / "whole")
    out = stopped(chosen, tmp_path / "run")
    folder = out / "checkpoints"
    shutil.copytree(folder / "000000004", folder / ".000000004.tmp")
    (folder / "000000004").rename(folder / ".000000004.old")
    quietly(chosen, out, resume=True)
    assert bits(out) == bits(whole) and tree(out).keys() == tree(whole).keys()
    shutil.rmtree(out / "checkpoints/000000008")
    with pytest.raises(UserError, match="names a checkpoint that is not there"):
        quietly(chosen, out, resume=True)
