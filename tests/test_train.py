"""Whole runs: what they leave on the disk, that the same run gives the same bits however often it is stopped, and how it goes wrong."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import unflip
from running import SELDOM, SIZE, Crash, at, bits, crash, equal, log, quietly, small, start, state, tree
from unflip import modelfolder
from unflip.data.bands import RGB
from unflip.data.folders import find_images, survey
from unflip.data.pairs import Images, Pairs, loader
from unflip.data.transforms import to_network
from unflip.engine import checkpoint
from unflip.engine.launch import launch
from unflip.engine.pool import ImagePool
from unflip.engine.record import Record
from unflip.engine.trainer import Moment
from unflip.engine.trainer import train as training_loop
from unflip.engine.training import Training, assemble
from unflip.errors import Interrupted, MissingExtra, UserError
from unflip.inference.torch_backend import TorchTranslator
from unflip.methods import METHODS
from unflip.recipes.train import configure, train
from unflip.runs import RunConfig, from_yaml, to_yaml
from unflip.types import Batch, Shown, Size

each_method = pytest.mark.parametrize("method", METHODS)


@contextlib.contextmanager
def noting() -> Iterator[list[int]]:
    """Where the runs in the block were when something was due: to see that a resumed one did not quietly start over."""
    add, seen = Record.add, []

    def noted(record: Record, moment: Moment) -> None:
        seen.append(moment.seen)
        add(record, moment)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "add", noted)
        yield seen


def random_batches(budget: int, n: int, seed: int = 0) -> list[Batch]:
    """Batches of ``n`` noise images; the last may be short."""
    rng = torch.Generator().manual_seed(seed)

    def images(count: int) -> Tensor:
        return torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=rng, dtype=torch.uint8)

    return [Batch(images(min(n, budget - first)), images(min(n, budget - first)), first, first // n) for first in range(0, budget, n)]


def assembled(config: RunConfig) -> Training:
    return assemble(config, (RGB, RGB), launch("cpu", "32"))


# --- what a run leaves


@pytest.fixture(scope="module")
def finished(domains: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of SRUNIT whose output is far from gray."""
    settings = [*small("srunit"), "sample_every=3", "checkpoint_every=2", "keep=2", "optimizer.lr=0.05", "tensorboard=true"]
    config = configure("srunit", **domains, size=SIZE, budget=8, seed=3, device="cpu", settings=settings)
    return quietly(config, tmp_path_factory.mktemp("finished") / "deep" / "run")


def test_the_run_folder_holds_what_it_promises(finished: Path) -> None:
    files = {path for path in tree(finished) if not path.startswith("tensorboard/")}
    assert files == {
        *(".lock", "config.yaml", "images.json.gz", "log.jsonl", "report.html", "tensorboard"),
        *("samples", "samples/000000003.png", "samples/000000006.png", "samples/000000008.png"),
        *("checkpoints", "checkpoints/latest"),
        *(f"checkpoints/{name}{file}" for name in ("000000006", "000000008") for file in ("", "/state.json", "/state.safetensors")),
        *("model", "model/config.json", "model/model.safetensors", "model/projector.safetensors", "model/README.md"),
    }


def test_config_yaml_is_complete_and_gives_the_same_run_again(finished: Path, tmp_path: Path) -> None:
    written = from_yaml(finished / "config.yaml")
    assert (written.method, written.seed, written.size, written.budget) == ("srunit", 3, Size(SIZE, SIZE), 8)

    values = yaml.safe_load((finished / "config.yaml").read_text())
    assert values == written.model_dump(mode="json"), "a field is left out"
    again = quietly(configure(file=finished / "config.yaml"), tmp_path / "again")
    assert bits(again) == bits(finished)
    assert (again / "config.yaml").read_bytes() == (finished / "config.yaml").read_bytes()
    assert (again / "samples/000000008.png").read_bytes() == (finished / "samples/000000008.png").read_bytes()


def test_the_log_has_a_line_for_every_interval_with_every_part(finished: Path) -> None:
    lines = log(finished)
    assert [line["seen"] for line in lines] == list(range(1, 9))
    always = {"seen", "lr", "images_per_second", "discriminator_real", "discriminator_fake", "adversarial", "nce", "identity_nce"}
    for line in lines:
        assert set(line) == always | ({"robustness"} if line["seen"] > 2 else set())
        assert line["images_per_second"] > 0


@pytest.mark.parametrize("batch", [1, 3])
def test_a_log_line_is_the_mean_of_the_steps_since_the_last(config: Callable[..., RunConfig], tmp_path: Path, batch: int) -> None:
    each = log(quietly(config("cut", "log_every=1", *SELDOM, batch=batch, budget=12), tmp_path / "each"))
    some = log(quietly(config("cut", "log_every=6", *SELDOM, batch=batch, budget=12), tmp_path / "some"))
    assert [line["seen"] for line in some] == [6, 12]
    for line in some:
        since = [step for step in each if line["seen"] - 6 < step["seen"] <= line["seen"]]
        for name in set(line) - {"seen", "lr", "images_per_second", "contrast", "variety"}:
            assert line[name] == pytest.approx(np.mean([step[name] for step in since]), rel=1e-5), name


def test_sample_grids_show_sources_and_what_the_model_makes_of_them(finished: Path) -> None:
    grid = np.array(Image.open(finished / "samples/000000008.png"))
    assert grid.shape == (2 * 34, 6 * 34, 3)
    translator = TorchTranslator(modelfolder.load(finished))  # with weights laid out as in training: another layout rounds otherwise
    quick = unflip.load(finished, device="cpu")
    columns = [(grid[:32, left : left + 32], grid[34:66, left : left + 32]) for left in range(0, 6 * 34, 34)]
    assert len({source.tobytes() for source, _ in columns}) == 6
    for source, translation in columns:
        assert translation.std() > 10, "nearly gray, anything would agree"
        assert (translator(source) == translation).all()
        assert (translator(source[..., ::-1]) != translation).any()
        assert np.abs(quick(source).astype(int) - translation).max() <= 1
    assert (grid[32:34] == 255).all() and (grid[:, 32:34] == 255).all()


@pytest.mark.parametrize("budget", [2, 7])
def test_sample_grids_of_two_sided_methods_show_both_directions(config: Callable[..., RunConfig], tmp_path: Path, budget: int) -> None:
    out = quietly(config("cyclegan", *SELDOM, budget=budget), tmp_path / "run")
    with Image.open(out / f"samples/{budget:09d}.png") as grid:
        assert grid.size == (min(6, budget) * 34, 4 * 34)


def test_intervals_need_not_be_multiples_of_the_batch(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Something is due at the first step that reaches the next multiple of its interval, and at the end."""
    settings = ("log_every=4", "sample_every=5", "checkpoint_every=7", "keep=9")
    out = quietly(config("fastcut", *settings, batch=3, budget=16), tmp_path / "run")
    assert [line["seen"] for line in log(out)] == [6, 9, 12, 16]
    assert sorted(int(path.stem) for path in (out / "samples").iterdir()) == [6, 12, 15, 16]
    assert sorted(int(path.name) for path in (out / "checkpoints").iterdir() if path.is_dir()) == [9, 15, 16]


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_checkpoints_are_kept(config: Callable[..., RunConfig], tmp_path: Path, keep: int) -> None:
    out = quietly(config("cut", "checkpoint_every=1", "sample_every=1000", f"keep={keep}", budget=5), tmp_path / "run")
    names = [f"{seen:09d}" for seen in range(6 - keep, 6)]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [*names, "latest"]
    assert (out / "checkpoints/latest").read_text() == "000000005"
    for name in names:
        where = out / "checkpoints" / name
        meta = json.loads((where / "state.json").read_text())
        assert meta["seen"] == int(name)
        assert meta["sha256"] == hashlib.sha256((where / "state.safetensors").read_bytes()).hexdigest()


def test_the_model_folder_is_the_moving_average_and_says_where_it_is_from(finished: Path) -> None:
    model = modelfolder.load(finished)
    averages = {name.removeprefix("ema/"): value for name, value in state(finished, 8).items() if name.startswith("ema/")}
    assert equal(averages, load_file(finished / "model/model.safetensors"))
    raw = {
        name.removeprefix("generator/generators."): v for name, v in state(finished, 8).items() if name.startswith("generator/generators.")
    }
    assert raw.keys() == averages.keys() and not equal(raw, averages)
    stored = {f"to_target.{name}": value for name, value in model.generators["to_target"].state_dict().items()}
    assert equal(stored, averages)
    expected = {"method": "srunit", "images_seen": 8, "budget": 8, "size": SIZE, "seed": 3, "source_images": 5, "target_images": 4}
    assert expected.items() <= model.config.provenance.items()
    for name in ("model.safetensors", "projector.safetensors"):
        assert model.config.files[name] == hashlib.sha256((finished / "model" / name).read_bytes()).hexdigest()
    card = (finished / "model/README.md").read_text()
    assert "moving average" in card and "srunit" in card


def test_nothing_that_a_run_writes_is_a_pickle(finished: Path) -> None:
    known = {".yaml", ".jsonl", ".json", ".png", ".safetensors", ".md", ".html", ".gz", ""}
    assert {Path(name).suffix for name in tree(finished) if not name.startswith("tensorboard/")} <= known


def test_the_default_budget_is_the_papers_epochs_of_the_larger_folder(domains: dict[str, Path]) -> None:
    swapped = {"source": domains["target"], "target": domains["source"]}
    for method, epochs in {"cut": 400, "fastcut": 200, "cyclegan": 200, "srunit": 400}.items():
        assert configure(method, **domains, size=SIZE).budget == 5 * epochs
        assert configure(method, **swapped, size=SIZE).budget == 5 * epochs
        assert METHODS[method].epochs == epochs
    assert configure(**domains).method == "srunit"
    with pytest.raises(UserError, match="no such folder"):
        configure("cut", source=domains["source"] / "missing", target=domains["target"])


# --- the same run, the same bits


def test_the_same_seed_gives_the_same_bits_for_any_number_of_workers(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    first = bits(quietly(config("srunit", *SELDOM, batch=2), tmp_path / "first"))
    for workers in (0, 1, 2):
        out = quietly(config("srunit", f"data.workers={workers}", *SELDOM, batch=2), tmp_path / f"{workers}")
        assert bits(out) == first, f"{workers} workers"
    assert bits(quietly(config("srunit", "data.cache=none", *SELDOM, batch=2), tmp_path / "uncached")) == first
    other = bits(quietly(config("srunit", *SELDOM, batch=2, seed=1), tmp_path / "other"))
    assert other[0] != first[0] and other[1] != first[1]


def test_training_neither_reads_nor_moves_the_global_random_state(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        outputs.append(bits(quietly(config("srunit", *SELDOM, budget=4), tmp_path / f"{seed}")))
        assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    assert outputs[0] == outputs[1]


def test_the_seed_decides_the_weights_too(config: Callable[..., RunConfig]) -> None:
    first, same, other = (assembled(config("cut", seed=seed)) for seed in (0, 0, 1))
    assert equal(first.generator.state_dict(), same.generator.state_dict())
    assert equal(first.discriminator.state_dict(), same.discriminator.state_dict())
    assert not equal(first.generator.state_dict(), other.generator.state_dict())


@pytest.mark.parametrize("batch", [1, 3])
@each_method
def test_stopped_and_resumed_equals_never_stopped(config: Callable[..., RunConfig], tmp_path: Path, method: str, batch: int) -> None:
    """Bit for bit: networks, optimizers, average, pools; the last batch is short, terms come and go, the pool is full."""
    second = list(METHODS[method].recipe.terms)[1]
    chosen = config(method, "pool=2", f"{second}.every=2", *SELDOM, batch=batch)
    whole = quietly(chosen, tmp_path / "whole")
    seen = [line["seen"] for line in log(whole)]
    assert seen == ([3, 6, 8] if batch == 3 else list(range(1, 9)))

    stopped = tmp_path / "stopped"
    with at(3, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted, match=r"stopped after \d images.*--resume") as said:
        quietly(chosen, stopped)
    assert said.value.exit_code == 143
    stops = 6 if batch == 3 else 4  # the step after the one that was asked
    assert (stopped / "checkpoints/latest").read_text() == f"{stops:09d}"
    assert modelfolder.load(stopped).config.provenance["images_seen"] == stops
    with noting() as played:
        quietly(chosen, stopped, resume=True)
    assert played == [line for line in seen if line > stops]

    assert bits(stopped) == bits(whole)
    assert equal(state(stopped, 8), state(whole, 8))
    assert (stopped / "samples/000000008.png").read_bytes() == (whole / "samples/000000008.png").read_bytes()
    for a, b in zip(log(stopped), log(whole), strict=True):
        assert a | {"images_per_second": 0} == b | {"images_per_second": 0}


def test_a_stop_between_two_lines_of_the_log_changes_neither(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("cut", "log_every=4", "sample_every=5", "checkpoint_every=1000", budget=12)
    whole = quietly(chosen, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    with at(5, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted, match="stopped after 6 images"):
        quietly(chosen, stopped)
    quietly(chosen, stopped, resume=True)
    assert [line["seen"] for line in log(whole)] == [4, 8, 12]
    for a, b in zip(log(stopped), log(whole), strict=True):
        assert a | {"images_per_second": 0} == b | {"images_per_second": 0}
    assert bits(stopped) == bits(whole)


def test_a_resume_restores_everything(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """The comparison above can fail: a run that goes on without its optimizers' state ends elsewhere."""
    chosen = config("cut", *SELDOM)
    whole = quietly(chosen, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    with at(3, lambda: signal.raise_signal(signal.SIGINT)), pytest.raises(Interrupted) as said:
        quietly(chosen, stopped)
    assert said.value.exit_code == 130
    restore = checkpoint.restore

    def forgetful(folder: Path, training: Training) -> list[str]:
        remarks = restore(folder, training)
        for optimizer in training.optimizers.values():
            optimizer.state.clear()
        return remarks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "restore", forgetful)
        quietly(chosen, stopped, resume=True)
    assert bits(stopped)[0] != bits(whole)[0]


def test_stopped_and_resumed_with_workers(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("srunit", "data.workers=1", *SELDOM, budget=3)
    whole = bits(quietly(chosen, tmp_path / "whole"))
    out = tmp_path / "out"
    with at(1, lambda: signal.raise_signal(signal.SIGINT)), pytest.raises(Interrupted):
        quietly(chosen, out)
    quietly(chosen, out, resume=True)
    assert bits(out) == whole


def test_a_killed_run_goes_on_from_its_last_checkpoint(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """No signal, no chance to save; what it logged after the checkpoint is logged again, once, and a line cut short is dropped."""
    chosen = config("cyclegan", "pool=2", "checkpoint_every=3", "sample_every=1000")
    whole = quietly(chosen, tmp_path / "whole")
    killed = tmp_path / "killed"
    with at(5, crash), pytest.raises(Crash):
        quietly(chosen, killed)
    assert [line["seen"] for line in log(killed)] == [1, 2, 3, 4, 5]
    with open(killed / "log.jsonl", "a") as file:
        file.write('{"seen": 3, "adversar')
    with noting() as played:
        quietly(chosen, killed, resume=True)
    assert played == [4, 5, 6, 7, 8]
    assert bits(killed) == bits(whole)
    assert [line["seen"] for line in log(killed)] == list(range(1, 9))


def test_an_interrupt_at_the_end_is_no_interrupt(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("cut", *SELDOM, budget=2)
    with at(2, lambda: signal.raise_signal(signal.SIGTERM)):
        out = quietly(chosen, tmp_path / "run")
    assert (out / "checkpoints/latest").read_text() == "000000002"
    before = tree(out)
    said: list[str] = []
    train(chosen, out, resume=True, progress=False, say=said.append)
    assert tree(out) == before and len(said) == 1 and "complete" in said[0]


def test_signal_handlers_are_put_back(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    during = []
    with at(1, lambda: during.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))):
        quietly(config("cut", *SELDOM, budget=2), tmp_path / "run")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert all(new != old for new, old in zip(during, before, strict=True))


def test_the_second_interrupt_stops_at_once(cli: Callable[..., Any], config: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(config("cut", "checkpoint_every=2", "sample_every=1000")))
    went_on = []

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        went_on.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it from the start
    try:
        with at(3, twice):
            result = cli("train", "--config", tmp_path / "config.yaml", "--out", tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.code == 130 and not result.stdout and "Traceback" not in result.stderr
    assert not went_on and (tmp_path / "run/checkpoints/latest").read_text() == "000000002"
    assert cli("train", "--out", tmp_path / "run", "--resume").code == 0
    assert (tmp_path / "run/checkpoints/latest").read_text() == "000000008"


def test_a_process_that_is_asked_to_stop_saves(cli: Callable[..., Any], domains: dict[str, Path], tmp_path: Path) -> None:
    """Ctrl-C, and a scheduler's SIGTERM, in two processes at once."""
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143}
    arguments = ["train", "--source", domains["source"], "--target", domains["target"], "--method", "fastcut", "--device", "cpu"]
    arguments += ["--size", SIZE, "--budget", 60]
    for setting in (*small("fastcut"), *SELDOM, "log_every=1"):
        arguments += ["--set", setting]
    outs = {number: tmp_path / number.name for number in codes}
    processes = {number: start([*arguments, "--out", out]) for number, out in outs.items()}
    try:
        waiting, give_up = set(codes), time.monotonic() + 120
        while waiting:
            for number in sorted(waiting):
                assert processes[number].poll() is None and time.monotonic() < give_up, "it never began, or ended too soon"
                if (outs[number] / "log.jsonl").is_file() and (outs[number] / "log.jsonl").read_text():
                    processes[number].send_signal(number)
                    waiting.remove(number)
            time.sleep(0.005)
        ends = {number: process.communicate(timeout=60) for number, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()

    for number, (stdout, stderr) in ends.items():
        out = outs[number]
        assert processes[number].returncode == codes[number], stderr
        assert not stdout and "Traceback" not in stderr and "--resume" in stderr.splitlines()[-1]
        seen = int((out / "checkpoints/latest").read_text())
        assert 0 < seen < 60 and log(out)[-1]["seen"] == seen
        assert unflip.load(out, device="cpu").config.provenance["images_seen"] == seen
        result = cli("train", "--out", out, "--resume")
        assert result.code == 0, result.stderr
        assert [line["seen"] for line in log(out)] == list(range(1, 61))
    assert bits(outs[signal.SIGINT]) == bits(outs[signal.SIGTERM])


def test_another_configuration_is_not_resumed(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with at(2, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(config("cut", *SELDOM), out)
    before = tree(out)
    for other in (
        config("cut", *SELDOM, seed=1),
        config("cut", *SELDOM, budget=9),
        config("cut", "nce.weight=2", *SELDOM),
        config("fastcut"),
    ):
        with pytest.raises(UserError, match="another configuration"):
            quietly(other, out, resume=True)
        with pytest.raises(UserError, match=r"not empty; choose another folder, or --resume"):
            quietly(other, out)
    assert tree(out) == before


def test_what_differs_is_named(cli: Callable[..., Any], config: Callable[..., RunConfig], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with at(2, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(config("cut", *SELDOM), out)
    result = cli("train", "--out", out, "--resume", "--seed", 2)
    assert result.code == 2 and "seed is 0 there and 2 here" in result.stderr and result.stderr.count("\n") == 1
    result = cli("train", "--out", out, "--resume", "--method", "fastcut")
    assert result.code == 2 and "method cut, not fastcut" in result.stderr and result.stderr.count("\n") == 1


def test_other_images_are_not_resumed(domains: dict[str, Path], tmp_path: Path) -> None:
    """The order in which images are seen follows from all of them. One of four is too many; tests/test_faults.py has what is not."""
    folders = {side: shutil.copytree(folder, tmp_path / side) for side, folder in domains.items()}
    chosen = configure("cut", **folders, size=SIZE, budget=8, device="cpu", settings=[*small("cut"), *SELDOM])
    whole = bits(quietly(chosen, tmp_path / "whole"))
    out = tmp_path / "run"
    with at(3, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(chosen, out)
    last = folders["target"] / "3.png"
    content = last.read_bytes()
    for change in ("one less", "another size"):
        if change == "one less":
            last.unlink()
        else:
            shutil.copy(folders["target"] / "2.png", last)
        with pytest.raises(UserError, match=r"the images are not those that the run in .* began with \(1 of 4 target images are gone or"):
            quietly(chosen, out, resume=True)
        last.write_bytes(content)
    (folders["target"] / "4.png").write_bytes(content)  # a new one is left out
    quietly(chosen, out, resume=True)
    assert bits(out) == whole


def test_a_config_works_from_anywhere(domains: dict[str, Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(domains["source"].parent)
    settings = [*small("srunit"), *SELDOM]
    chosen = configure("srunit", source="source", target=Path("target"), size=SIZE, budget=2, device="cpu", settings=settings)
    quietly(chosen, tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert bits(quietly(configure(file=tmp_path / "run/config.yaml"), Path("again"))) == bits(tmp_path / "run")


def test_a_config_with_init_works_from_anywhere(
    domains: dict[str, Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.parent)
    settings = [*small("srunit"), *SELDOM]
    chosen = configure("srunit", **domains, size=SIZE, budget=1, device="cpu", settings=settings, init="run")
    quietly(chosen, tmp_path / "started")
    monkeypatch.chdir(tmp_path)
    assert bits(quietly(configure(file=tmp_path / "started/config.yaml"), tmp_path / "again")) == bits(tmp_path / "started")


def test_what_a_killed_process_leaves_is_cleared_away(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Killed between the two renames that put a new model in the place of the old one, and while a checkpoint was written."""
    chosen = config("cut", "checkpoint_every=2", "sample_every=1000")
    whole = quietly(chosen, tmp_path / "whole")
    out = tmp_path / "run"
    with at(5, crash), pytest.raises(Crash):
        quietly(chosen, out)
    (out / "model").rename(out / ".model.old")
    shutil.copytree(out / ".model.old", out / ".model.tmp")
    (out / "checkpoints/.000000006.tmp").mkdir()
    quietly(chosen, out, resume=True)
    assert bits(out) == bits(whole) and tree(out).keys() == tree(whole).keys()


def test_a_run_that_died_before_its_last_model_writes_it_when_resumed(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("cut", "checkpoint_every=3", "sample_every=1000")
    whole = quietly(chosen, tmp_path / "whole")
    out = tmp_path / "run"
    save = modelfolder.save

    def saved(folder: Path, model: modelfolder.ModelConfig, *rest: Any) -> None:
        if model.provenance["images_seen"] == 8:
            raise Crash
        save(folder, model, *rest)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Crash):
        patch.setattr(modelfolder, "save", saved)
        quietly(chosen, out)
    quietly(chosen, out, resume=True)
    assert bits(out) == bits(whole)


def test_a_run_that_died_before_its_first_checkpoint_can_be_resumed(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("cut", *SELDOM, budget=4)
    whole = quietly(chosen, tmp_path / "whole")
    out = tmp_path / "run"
    with at(2, crash), pytest.raises(Crash):
        quietly(chosen, out)
    quietly(chosen, out, resume=True)
    assert bits(out) == bits(whole)


def test_the_latest_checkpoint_is_never_pruned(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("cut", "checkpoint_every=4", "sample_every=1000", "keep=1")
    out = tmp_path / "run"
    with at(5, crash), pytest.raises(Crash):
        quietly(chosen, out)
    orphan = out / "checkpoints/000000007"  # as a process leaves it that dies before it points `latest` at it
    shutil.copytree(out / "checkpoints/000000004", orphan)
    with at(5, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(chosen, out, resume=True)
    quietly(chosen, out, resume=True)


def test_a_run_inside_its_source_folder_is_refused_or_harmless(domains: dict[str, Path], tmp_path: Path) -> None:
    source = shutil.copytree(domains["source"], tmp_path / "source")
    settings = [*small("cut"), "sample_every=1", "checkpoint_every=1000"]
    chosen = configure("cut", source=source, target=domains["target"], size=SIZE, budget=8, device="cpu", settings=settings)
    whole = bits(quietly(chosen, tmp_path / "whole"))
    try:
        with at(3, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
            quietly(chosen, source / "run")
    except UserError:
        return
    quietly(chosen, source / "run", resume=True)
    assert bits(source / "run") == whole


# --- starting from another run


def first_losses(out: Path) -> dict[str, float]:
    return {name: value for name, value in log(out)[0].items() if name not in ("seen", "lr", "images_per_second")}


def test_init_starts_from_another_runs_weights(config: Callable[..., RunConfig], finished: Path, tmp_path: Path) -> None:
    chosen = config("srunit", *SELDOM, budget=4, seed=9)
    by_hand = assembled(chosen)
    by_hand.generator.generators.load_state_dict(load_file(finished / "model/model.safetensors"))
    by_hand.generator.projectors.load_state_dict(load_file(finished / "model/projector.safetensors"))
    batches = []

    for init in (finished, finished / "model"):
        out = quietly(config("srunit", *SELDOM, budget=4, seed=9, init=init), tmp_path / init.name)
        if not batches:
            batches = list(crops(chosen))
            [moment, *_] = training_loop(by_hand, batches)
        assert first_losses(out) == moment.parts
    fresh = first_losses(quietly(chosen, tmp_path / "fresh"))
    assert all(abs(fresh[name] - value) > 1e-3 for name, value in moment.parts.items() if name in ("nce", "identity_nce"))

    config_again = from_yaml(tmp_path / "model/config.yaml")
    assert config_again.init == finished / "model"


def crops(config: RunConfig) -> Iterator[Batch]:
    """The stream of a run's batches."""
    stores = [Images(survey(find_images(folder)), shared=False) for folder in (config.data.source, config.data.target)]
    return loader(Pairs(*stores, config.size, config.seed, config.budget, config.data.flip), first=0, batch=config.batch, workers=0)


def test_a_run_goes_on_without_the_model_that_it_began_with(config: Callable[..., RunConfig], finished: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(finished / "model", tmp_path / "model"))
    chosen = config("srunit", *SELDOM, "checkpoint_every=2", budget=6, init=model)
    whole = quietly(chosen, tmp_path / "whole")
    with at(5, crash), pytest.raises(Crash):
        quietly(chosen, tmp_path / "run")
    shutil.rmtree(model)
    assert bits(quietly(chosen, tmp_path / "run", resume=True)) == bits(whole)
    with pytest.raises(UserError, match="model"):
        quietly(chosen, tmp_path / "other", resume=True)


def test_init_without_a_projector_says_so(config: Callable[..., RunConfig], finished: Path, tmp_path: Path) -> None:
    model = shutil.copytree(finished / "model", tmp_path / "model")
    (model / "projector.safetensors").unlink()
    said: list[str] = []
    train(config("srunit", *SELDOM, budget=1, init=model), tmp_path / "run", progress=False, say=said.append)
    assert len(said) == 3 and "has no projector: the run starts with a new one" in said[0]


def test_the_average_starts_from_the_other_runs_weights_too(
    config: Callable[..., RunConfig], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_file(finished / "model/model.safetensors")

    def look(training: Training, *arguments: Any) -> Iterator[Moment]:
        assert equal(training.ema.network.state_dict(), weights) and equal(training.generator.generators.state_dict(), weights)
        raise Crash

    monkeypatch.setattr("unflip.recipes.train.training_loop", look)
    with pytest.raises(Crash):
        quietly(config("srunit", *SELDOM, init=finished), tmp_path / "run")


def test_a_resumed_run_does_not_start_over_from_init(config: Callable[..., RunConfig], finished: Path, tmp_path: Path) -> None:
    chosen = config("srunit", *SELDOM, init=finished)
    whole = quietly(chosen, tmp_path / "whole")
    with at(3, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(chosen, tmp_path / "stopped")
    quietly(chosen, tmp_path / "stopped", resume=True)
    assert bits(tmp_path / "stopped") == bits(whole)


@pytest.mark.parametrize(
    ("method", "setting", "named"),
    [
        ("srunit", "generator.width=5", r"generator\.width is \d+ in --init .* and 5 here; add --set generator\.width="),
        ("srunit", "generator.blocks=2", r"generator\.blocks is \d+ in --init .* and 2 here"),
        ("srunit", "projector.width=9", r"projector\.safetensors .* tensor to_target\.heads\.0\.\S+ is "),
        ("cyclegan", "seed=0", r"generator\.downsample is blur in --init .* and stride here"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    config: Callable[..., RunConfig], finished: Path, tmp_path: Path, method: str, setting: str, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        quietly(config(method, setting, init=finished), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_init_without_a_model_is_refused(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for init, said in (("missing", "does not exist"), ("empty", "holds no model")):
        with pytest.raises(UserError, match=said):
            quietly(config("cut", init=tmp_path / init), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- averages, rates, pools


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("half_life", [0.4, 1e4])
def test_the_average_follows_the_half_life_rule(config: Callable[..., RunConfig], batch: int, half_life: float) -> None:
    """Against a loop in float64: the half-life is that many images, but never more than 5 % of those seen."""
    budget = 16
    training = assembled(config("fastcut", f"ema.half_life={half_life}", "optimizer.lr=0.02", *SELDOM, batch=batch, budget=budget))

    def weights() -> dict[str, np.ndarray]:
        return {name: p.detach().numpy().astype(np.float64) for name, p in training.generator.generators.named_parameters()}

    expected = {cap: weights() for cap in (0.05, 0.1)}
    before = 0
    for moment in training_loop(training, random_batches(budget, batch)):
        images, before = moment.seen - before, moment.seen
        for cap, averages in expected.items():
            keep = math.exp(-math.log(2) * images / min(half_life, cap * moment.seen))
            for name, value in weights().items():
                averages[name] = keep * averages[name] + (1 - keep) * value
    assert before == budget
    found = {name: p.numpy() for name, p in training.ema.network.named_parameters()}
    assert found.keys() == expected[0.05].keys() and not any(p.requires_grad for p in training.ema.network.parameters())

    def error(averages: dict[str, np.ndarray]) -> float:
        return max(float(np.abs(found[name] - averages[name]).max()) for name in found)

    assert error(expected[0.05]) < 1e-6
    assert error(weights()) > 1e-4, "the average is the weights themselves"
    if half_life > 1:
        assert error(expected[0.1]) > 1e-4, "any rule would do"


@pytest.mark.parametrize("constant", [0.5, 0.25])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_learning_rate_is_constant_then_linear_in_images(
    config: Callable[..., RunConfig], tmp_path: Path, batch: int, constant: float
) -> None:
    """And so the same for every batch size, at the same image."""
    chosen = config("fastcut", *SELDOM, f"optimizer.constant={constant}", "optimizer.lr=0.001", batch=batch, budget=10)
    firsts = list(range(0, 10, batch))
    lines = log(quietly(chosen, tmp_path / "run"))
    assert [line["seen"] for line in lines] == [min(first + batch, 10) for first in firsts]
    for first, line in zip(firsts, lines, strict=True):
        whole = 0.001 if first <= 10 * constant else 0.001 * (10 - first) / (10 - 10 * constant)
        assert line["lr"] == pytest.approx(whole, rel=1e-12)

    training = assembled(chosen)
    for moment, line in zip(training_loop(training, random_batches(10, batch)), lines, strict=True):
        rates = {group["lr"] for optimizer in training.optimizers.values() for group in optimizer.param_groups}
        assert rates == {moment.rate} == {line["lr"]}


def pool_by_hand(size: int, seed: int, side: str, images: list[int]) -> list[int]:
    """An independent pool: (what is shown for each image), for images with the running numbers 0, 1, 2, ..."""
    held: list[int] = []
    shown = []
    for number, image in enumerate(images):
        if len(held) < size:
            held.append(image)
            shown.append(image)
            continue
        key = hashlib.blake2b(repr((seed, "pool", side, number)).encode(), digest_size=8).digest()
        rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        if rng.random() < 0.5:
            i = int(rng.integers(size))
            shown.append(held[i])
            held[i] = image
        else:
            shown.append(image)
    return shown


@pytest.mark.parametrize("batch", [1, 3])
def test_the_pool_against_an_independent_one(batch: int) -> None:
    for size, seed, side in ((5, 0, "to_target"), (5, 0, "to_source"), (50, 4, "to_target")):
        pool = ImagePool(size, seed, side)
        shown: list[int] = []
        for first in range(0, 300, batch):
            images = torch.arange(first, min(first + batch, 300)).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
            result = pool.query(images.clone(), first)
            assert result.shape == images.shape
            shown += result[:, 0, 0, 0].tolist()
        assert shown == pool_by_hand(size, seed, side, list(range(300)))
        assert len(pool.images) == size
        assert shown[:size] == list(range(size)), "while it fills, images pass unchanged"
        old = sum(image != number for number, image in enumerate(shown[size:], size))
        assert 0.4 < old / (300 - size) < 0.6
        assert max(shown.count(image) for image in range(300)) <= 2, "an image is shown when it comes, and once more when it leaves"
    assert pool_by_hand(5, 0, "to_target", list(range(300))) != pool_by_hand(5, 0, "to_source", list(range(300)))


def test_no_pool_passes_everything() -> None:
    images = torch.rand(3, 3, 2, 2)
    pool = ImagePool(0, 0, "to_target")
    assert all(torch.equal(pool.query(images, first), images) for first in (0, 3, 6)) and not pool.images


def test_the_discriminators_see_the_pool(config: Callable[..., RunConfig]) -> None:
    training = assembled(config("cyclegan", "pool=2", *SELDOM, batch=2, budget=12, seed=5))
    made, seen, real = ({side: list[Tensor]() for side in ("to_target", "to_source")} for _ in range(3))
    generator, discriminator = training.wrapped["generator"], training.wrapped["discriminator"]

    def watched_generator(*arguments: Any) -> Any:
        total, parts, shown = generator(*arguments)
        for side, pair in shown.items():
            made[side] += pair.fake.clone()
        return total, parts, shown

    def watched_discriminator(shown: dict[str, Shown]) -> Any:
        for side, pair in shown.items():
            real[side] += pair.real.clone()
            seen[side] += pair.fake.clone()
        return discriminator(shown)

    training.wrapped |= {"generator": watched_generator, "discriminator": watched_discriminator}
    batches = random_batches(12, 2)
    list(training_loop(training, batches))
    for side, domain in (("to_target", "target"), ("to_source", "source")):
        drawn = torch.cat([to_network(getattr(batch, domain)) for batch in batches])
        assert torch.equal(torch.stack(real[side]), drawn), "the real images are the batch's, not the pool's"
        order = pool_by_hand(2, 5, side, list(range(12)))
        assert order != list(range(12))
        assert len(seen[side]) == 12 and all(torch.equal(image, made[side][i]) for image, i in zip(seen[side], order, strict=True))


def test_the_pool_keeps_no_more_than_its_images(config: Callable[..., RunConfig]) -> None:
    training = assembled(config("cyclegan", *SELDOM, batch=3, budget=6))
    list(training_loop(training, random_batches(6, 3)))
    held = training.pools["to_target"].images
    assert len(held) == 6 and all(image.untyped_storage().nbytes() == image.nbytes for image in held)


# --- SRUNIT's start


@pytest.mark.parametrize("batch", [1, 2])
def test_before_its_start_srunit_is_cut(config: Callable[..., RunConfig], tmp_path: Path, batch: int) -> None:
    """Up to 25 % of the budget every bit is the same; then the term is evaluated, and moves the weights."""
    settings = ("checkpoint_every=2", "sample_every=1000", "keep=9")
    cut, srunit, off = (
        quietly(config(method, *settings, *more, batch=batch), tmp_path / name)
        for name, method, more in (("cut", "cut", ()), ("srunit", "srunit", ()), ("off", "srunit", ("robustness.weight=0",)))
    )
    assert equal(state(cut, 2), state(srunit, 2))
    for seen in (4, 6, 8):
        assert not equal(state(cut, seen), state(srunit, seen))
    assert bits(off) == bits(cut)
    assert [line["seen"] for line in log(srunit) if "robustness" in line] == [line["seen"] for line in log(srunit) if line["seen"] > 2]
    assert not any("robustness" in line for line in [*log(off), *log(cut)])


def test_a_term_with_every_is_logged_and_weighted_where_it_is_evaluated(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    out = quietly(config("srunit", "robustness.every=3", "robustness.start=0", *SELDOM), tmp_path / "run")
    assert [line["seen"] for line in log(out) if "robustness" in line] == [1, 4, 7]


# --- TensorBoard


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of an event folder, by name: (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {name: [(event.step, event.value) for event in reader.Scalars(name)] for name in reader.Tags()["scalars"]}


def test_tensorboard_reads_what_the_log_says(finished: Path) -> None:
    read = events(finished / "tensorboard")
    lines = log(finished)
    assert set(read) == set().union(*lines) - {"seen"}
    for name, values in read.items():
        assert values == [(line["seen"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]


def test_tensorboard_has_every_step_once_after_a_resume(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    chosen = config("cut", "checkpoint_every=2", "sample_every=1000", "tensorboard=true", budget=6)
    with at(5, crash), pytest.raises(Crash):
        quietly(chosen, tmp_path / "run")
    time.sleep(1.1)  # event files are named by the second
    quietly(chosen, tmp_path / "run", resume=True)
    assert [step for step, _ in events(tmp_path / "run/tensorboard")["nce"]] == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard" or name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)


def test_a_missing_tensorboard_says_what_to_install(no_tensorboard: None, config: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"tensorboard is not installed; run: pip install 'unflip\[tensorboard\]'"):
        quietly(config("cut", "tensorboard=true"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    quietly(config("cut", *SELDOM, budget=1), tmp_path / "run")


def test_a_failed_start_leaves_an_empty_folder_empty(no_tensorboard: None, config: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(MissingExtra):
        quietly(config("cut", "tensorboard=true"), tmp_path / "run")
    assert tree(tmp_path / "run") == {}


# --- images of all kinds


def test_images_of_every_mode_train_as_their_colors(tmp_path: Path) -> None:
    """Gray, palette, 1-bit and transparent images of mixed sizes, against the same colors stored as RGB: the same bits."""
    rng = np.random.default_rng(1)
    for kind in ("as_stored", "as_rgb"):
        for side in ("source", "target"):
            (tmp_path / kind / side).mkdir(parents=True)
    for side in ("source", "target"):
        for i, mode in enumerate(("L", "P", "RGBA", "1", "LA", "RGB")):
            height, width = 32 + 3 * i, 50 - 3 * i
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            image = image.quantize(9) if mode == "P" else image.convert(mode)
            if mode in ("RGBA", "LA"):
                image.putalpha(Image.fromarray(rng.integers(1, 256, (height, width), dtype=np.uint8)))
            image.save(tmp_path / "as_stored" / side / f"{i}.png")
            colors = image.convert("RGBA" if mode in ("RGBA", "LA") else "RGB")
            Image.fromarray(np.array(colors)[..., :3]).save(tmp_path / "as_rgb" / side / f"{i}.png")
    outs = []
    for kind in ("as_stored", "as_rgb"):
        folders = {side: tmp_path / kind / side for side in ("source", "target")}
        chosen = configure("cut", **folders, size=SIZE, budget=12, batch=2, device="cpu", settings=[*small("cut"), *SELDOM])
        outs.append(quietly(chosen, tmp_path / kind / "run"))
    assert bits(outs[0]) == bits(outs[1])


def test_small_images_train_when_they_are_resized(images_folder: Callable[..., Path], tmp_path: Path) -> None:
    folders = {"source": images_folder("source", 3, (20, 27)), "target": images_folder("target", 3, (90, 25))}

    def chosen(*more: str) -> RunConfig:
        return configure("cut", **folders, size=SIZE, budget=4, device="cpu", settings=[*small("cut"), *SELDOM, *more])

    with pytest.raises(UserError, match=r"smaller than the 32x32 crop, such as .*\.png \(20x27\).*data\.resize=short:32"):
        quietly(chosen(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    out = quietly(chosen("data.resize=short:40"), tmp_path / "run")
    assert modelfolder.load(out).config.resize == "short:40"
    translated = unflip.load(out, device="cpu")(Image.open(folders["source"] / "000.png"))
    assert translated.size == (20, 27)
    assert from_yaml(out / "config.yaml").data.resize == "short:40"
