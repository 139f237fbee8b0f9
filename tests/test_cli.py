"""The command line: names are frozen, exit codes mean something, and what is wrong is said in one line and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import unflip
from helpers import rng, scale_weights
from running import tree
from unflip import modelfolder
from unflip.cli.main import app
from unflip.engine.record import Record
from unflip.engine.trainer import Moment
from unflip.errors import UserError
from unflip.files import sha256
from unflip.losses import TERMS
from unflip.methods import METHODS
from unflip.networks import ResnetConfig
from unflip.runs import leaves

# Names and flags are never renamed or removed. What is added is added here too.
VERBS: dict[str, list[str]] = {
    "demo": ["--out"],
    "audit": [
        "--source",
        "--target",
        "--source-labels",
        "--target-labels",
        "--classes",
        "--segmenter",
        "--balance",
        "--out",
        "--device",
    ],
    "train": [
        "--out",
        "--source",
        "--target",
        "--method",
        "--size",
        "--budget",
        "--batch",
        "--seed",
        "--device",
        "--precision",
        "--init",
        "--source-labels",
        "--classes",
        "--balance",
        "--val-source",
        "--val-labels",
        "--segmenter",
        "--val-target",
        "--track",
        "--config",
        "--set",
        "--resume",
    ],
    "translate": [
        "RUN",
        "INPUT",
        "--out",
        "--trust",
        "--labels",
        "--annotations",
        "--column",
        "--direction",
        "--device",
        "--tile",
        "--statistics",
        "--depth",
        "--ray",
        "--workers",
    ],
    "segmenter": [
        "--images",
        "--labels",
        "--classes",
        "--out",
        "--budget",
        "--test-images",
        "--test-labels",
        "--model",
        "--weights",
        "--resize",
        "--size",
        "--batch",
        "--unlabeled",
        "--seed",
        "--device",
        "--precision",
    ],
    "evaluate": [
        "--translated",
        "--segmenter",
        "--out",
        "--labels",
        "--target",
        "--source",
        "--reference",
        "--clips",
        "--source-clips",
        "--real-images",
        "--real-labels",
        "--classes",
        "--features",
        "--lpips",
        "--require",
        "--device",
    ],
    "adapt": [
        "--translated",
        "--labels",
        "--test-images",
        "--test-labels",
        "--classes",
        "--out",
        "--source",
        "--target",
        "--target-labels",
        "--self-training",
        "--shots",
        "--seeds",
        "--budget",
        "--model",
        "--weights",
        "--resize",
        "--size",
        "--batch",
        "--device",
        "--precision",
    ],
    "compare": [
        "--test-source",
        "--test-labels",
        "--segmenter",
        "--out",
        "--source",
        "--target",
        "--methods",
        "--seeds",
        "--budget",
        "--size",
        "--batch",
        "--set",
        "--val-source",
        "--val-labels",
        "--val-target",
        "--run",
        "--test-target",
        "--real-images",
        "--real-labels",
        "--classes",
        "--features",
        "--device",
    ],
    "serve": ["RUN...", "--host", "--port", "--token", "--device", "--max-mb", "--max-pixels", "--queue", "--rate"],
    "bench": ["--method", "--size", "--batch", "--steps", "--device", "--precision", "--set"],
    "export": ["RUN", "--out", "--direction"],
    "methods": ["[NAME]"],
    "import": ["FILE", "--out", "--backward", "--resize"],
}
REQUIRED = {
    ("demo", frozenset()),
    ("train", frozenset({"--out"})),
    ("translate", frozenset({"RUN", "INPUT", "--out"})),
    ("audit", frozenset({"--source", "--target"})),
    ("segmenter", frozenset({"--images", "--labels", "--classes", "--out"})),
    ("evaluate", frozenset({"--translated", "--segmenter", "--out"})),
    ("compare", frozenset({"--test-source", "--test-labels", "--segmenter", "--out"})),
    ("adapt", frozenset({"--translated", "--labels", "--test-images", "--test-labels", "--classes", "--out"})),
    ("bench", frozenset()),
    ("export", frozenset({"RUN", "--out"})),
    ("serve", frozenset({"RUN..."})),
    ("methods", frozenset()),
    ("import", frozenset({"FILE", "--out"})),
}
FLAGS_WITHOUT_A_VALUE = {"--resume", "--lpips", "--trust", "--ray", "--self-training", "--version"}
REPEATED = {
    ("train", "--track"),
    ("train", "--set"),
    ("evaluate", "--require"),
    ("compare", "--set"),
    ("compare", "--run"),
    ("adapt", "--translated"),
    ("bench", "--set"),
}

SMALL = ["generator.width=4", "generator.blocks=1", "discriminator.width=4", "discriminator.layers=2", "projector.width=8", "nce.patches=8"]
CALL = "train --source source --target target --out out --method fastcut --size 32 --budget 4 --device cpu " + " ".join(
    f"--set {setting}" for setting in SMALL
)
"""A call that works, in the folder ``world``."""


def commands() -> dict[str, Any]:
    """The verbs, as Typer built them."""
    group: Any = typer.main.get_command(app)
    return group.commands


def names(parameter: Any) -> list[str]:
    """A parameter as it is written on the command line."""
    return list(parameter.opts) + list(parameter.secondary_opts) if parameter.param_type_name == "option" else [parameter.metavar]


# --- what is promised


def test_names_and_flags_are_frozen() -> None:
    assert {name: [flag for p in verb.params for flag in names(p)] for name, verb in commands().items()} == VERBS
    main: Any = typer.main.get_command(app)
    assert [flag for parameter in main.params for flag in names(parameter)] == ["--version"]


def test_what_is_required_stays_so_and_flags_take_what_they_took() -> None:
    found = {(name, frozenset(flag for p in verb.params if p.required for flag in names(p))) for name, verb in commands().items()}
    assert found == REQUIRED
    for name, verb in commands().items():
        for parameter in verb.params:
            if parameter.param_type_name == "option":
                assert parameter.is_flag == (parameter.opts[0] in FLAGS_WITHOUT_A_VALUE)
                assert parameter.multiple == ((name, parameter.opts[0]) in REPEATED)


def test_help_names_every_verb_and_flag(cli: Callable[..., Any]) -> None:
    result = cli("--help")
    assert result.code == 0 and not result.stderr
    assert cli().stdout == result.stdout
    for name, verb in commands().items():
        assert name in result.stdout
        shown = cli(name, "--help")
        assert shown.code == 0 and not shown.stderr
        assert all(flag in shown.stdout for flag in VERBS[name]), name
        assert " ".join(shown.stdout.split()).count(verb.help.split(":")[0].split(".")[0]), name
        for parameter in verb.params:
            assert parameter.help, f"{name} {parameter.name} has no help"


def test_version(cli: Callable[..., Any]) -> None:
    assert cli("--version") == (0, f"{unflip.__version__}\n", "")


def test_methods(cli: Callable[..., Any]) -> None:
    result = cli("methods")
    assert result.code == 0 and not result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(METHODS)
    assert all(method.title in line and method.summary in line for method, line in zip(METHODS.values(), lines, strict=True))


def written(values: dict[str, Any]) -> dict[str, str]:
    """As ``unflip methods`` shows fields: by dotted key, as --set takes it."""
    return {key: ",".join(map(str, value)) if isinstance(value, tuple) else str(value) for key, value in leaves(values).items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_in_full(cli: Callable[..., Any], name: str) -> None:
    method = METHODS[name]
    result = cli("methods", name)
    assert result.code == 0 and not result.stderr
    head, terms, networks = result.stdout.split("\n\n")
    assert all(text in head for text in (method.title, method.summary, method.paper, str(method.epochs)))
    shown = {}
    lines = terms.splitlines()[1:]
    for title, fields in zip(lines[::2], lines[1::2], strict=True):
        shown[title.split(":")[0].strip()] = dict(field.split("=") for field in fields.split())
        assert title.split(": ")[1].strip(), "no description"
    assert shown == {name: written(term.model_dump()) for name, term in method.recipe.terms.items()}
    for key, value in method.recipe.model_dump(exclude={"terms"}).items():
        [line] = [line.strip() for line in networks.splitlines() if line.strip().startswith(f"{key}:")]
        for field, shown in written(value).items() if isinstance(value, dict) else ():
            assert f"{field}={shown}" in line


# --- calls that are wrong


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that can be right or wrong. Nobody writes into it."""
    root = tmp_path_factory.mktemp("world")
    random = np.random.default_rng(0)

    def images(name: str, count: int = 3, side: int = 36) -> None:
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(root / name / f"{i}.png")

    for name in ("source", "target", "truncated", "fake", "one_small"):
        images(name)
    path = root / "truncated/1.png"
    path.write_bytes(path.read_bytes()[:-500])
    (root / "fake/2.png").write_text("this is no image")
    Image.fromarray(random.integers(0, 256, (31, 90, 3), dtype=np.uint8)).save(root / "one_small/narrow.png")
    (root / "several").mkdir()
    Image.fromarray(random.integers(0, 256, (40, 40), dtype=np.uint16)).save(root / "several/deep.png")
    Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / "several/shallow.png")
    (root / "empty").mkdir()
    (root / "texts").mkdir()
    (root / "texts/notes.txt").write_text("no image")
    (root / "empty.txt").write_text("# nothing\n")
    (root / "both.txt").write_text("source/0.png\ntarget/0.png\ntarget/1.png\n")
    (root / "link").symlink_to("source", target_is_directory=True)
    (root / "another_run").mkdir()
    (root / "another_run/config.yaml").write_text("method: cut\n")
    (root / "file").write_text("a file")
    (root / "bad.yaml").write_text("method: cut\n  data: [\n")
    (root / "list.yaml").write_text("- cut\n")
    (root / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01\x80")
    (root / "unknown.yaml").write_text("method: fastcut\ngenerator: {widht: 3}\n")
    (root / "cut.yaml").write_text("method: cut\n")
    (root / "classes.json").write_text('{"names": ["road", "sky"], "palette": [[0, 0, 0], [0, 0, 9]]}')
    (root / "method_list.yaml").write_text("method: [cut]\n")
    (root / "no_model").mkdir()
    (root / "no_model/log.jsonl").write_text("")
    config = ResnetConfig(width=4, blocks=1)
    network = scale_weights(config.build(3, 3, rng())).float()
    modelfolder.save(root / "model", modelfolder.ModelConfig(generator=config), nn.ModuleDict({"to_target": network}), None)
    return root


def assert_refused(result: Any, *said: str) -> None:
    """Exit code 2, and one line on standard error, which says all that is wanted."""
    assert result.code == 2, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in result.stderr, result.stderr
    for text in said:
        assert text in lines[0], lines[0]


TRAIN = {
    "missing folder": ("--source nowhere", "nowhere"),
    "empty folder": ("--source empty", "no images", "empty"),
    "folder without images": ("--target texts", "no images", "texts"),
    "empty list": ("--target empty.txt", "no images", "empty.txt"),
    "a file that is no image": ("--source file", "file", "neither a folder nor"),
    "truncated image": ("--source truncated --set data.bad=stop", "truncated/1.png", "1 of 3"),
    "fake image": ("--target fake --set data.bad=stop", "fake/2.png"),
    "images of several kinds": ("--target several", "not of one kind", "several/deep.png is uint16 with 1 band"),
    "image smaller than the crop": ("--source one_small", "one_small/narrow.png", "90x31", "use --set data.resize=short:"),
    "all images smaller than the crop": ("--size 64", "smaller than the 64x64 crop", "36x36"),
    "source is target": ("--target source", "same folder"),
    "source is target by a link": ("--target link", "same folder"),
    "source and target overlap": ("--source both.txt", "2 images are in both domains", "target/0.png"),
    "source is target by another path": ("--target target/../source", "same folder"),
    "unknown method": ("--method srunitt", "unknown method 'srunitt'", "did you mean srunit?"),
    "unknown key": ("--set generator.widht=3", "unknown key 'widht'", "did you mean width?"),
    "unknown term": ("--set robustnes.weight=3", "did you mean robustness?"),
    "term without a field": ("--set nce=3", "nce.weight"),
    "setting without a value": ("--set seed", "expected key=value"),
    "setting that is no YAML": ("--set seed=[1", "cannot be read"),
    "method by a setting": ("--set method=cut", "--method"),
    "not a number": ("--set optimizer.lr=fast", "optimizer.lr"),
    "infinite": ("--set optimizer.lr=.inf", "optimizer.lr"),
    "too large for a number": ("--set seed=1e400", "seed"),
    "a record where a number belongs": ("--set 'seed={a: 1}'", "seed"),
    "a number where a record belongs": ("--set generator=3", "generator"),
    "terms that are no table": ("--set terms=3", "terms"),
    "data that is no table": ("--set data=3", "no source images"),
    "no resize": ("--set data.resize=short", "data.resize"),
    "unknown device": ("--device tpu", "device", "'tpu'"),
    "unknown precision": ("--precision 16", "precision", "'16'"),
    "bf16 on a CPU": ("--precision bf16", "bf16", "--precision 32"),
    "budget 0": ("--budget 0", "budget", "greater than 0"),
    "budget -1": ("--budget -1", "budget"),
    "budget abc": ("--budget abc", "--budget"),
    "batch 0": ("--batch 0", "batch"),
    "seed -1": ("--seed -1", "seed"),
    "size that is no multiple": ("--size 34", "34", "multiple of 4", "36"),
    "size too small": ("--size 12", "12", "too small", "16"),
    "size of a word": ("--size big", "size", "'big'", "512x256"),
    "size with half a side": ("--size 36x", "size", "'36x'"),
    "size of three sides": ("--size 36x36x36", "size", "'36x36x36'"),
    "size below nothing": ("--size -36", "size", "'-36'"),
    "size of nothing": ("--size 36x0", "size", "at least 1 pixel"),
    "oblong size that is no multiple": ("--size 36x34", "36x34", "multiple of 4", "36"),
    "oblong size too small": ("--size 36x12", "36x12", "too small", "16"),
    "all images smaller than the oblong crop": ("--size 40x20", "smaller than the 40x20 crop", "36x36", "data.resize=40x20"),
    "labels without classes": ("--source-labels source", "--source-labels DIR", "--classes FILE"),
    "classes without labels": ("--classes classes.json", "--source-labels DIR", "--classes FILE"),
    "classes that are none": ("--source-labels source --classes file", "classes", "file", "not valid JSON"),
    "labels that no term reads": ("--source-labels source --classes classes.json --set semantic.weight=0", "no term reads them"),
    "labels of unknown classes": ("--source-labels source --classes classes.json", "3 of 3 label maps", "source/0.png", "no class"),
    "a term without its labels": ("--set semantic.weight=1", "term semantic", "--source-labels DIR --classes FILE"),
    "out holds another run": ("--out another_run", "another_run", "not empty"),
    "out is a file": ("--out file", "file"),
    "out is under a file": ("--out file/run", "file/run", "a part of that path is a file"),
    "out is a source": ("--out source", "source", "choose another"),
    "bad YAML": ("--config bad.yaml", "bad.yaml", "not valid YAML", "line 2"),
    "YAML that is no table": ("--config list.yaml", "list.yaml", "does not hold a configuration"),
    "config that is no text": ("--config binary.yaml", "binary.yaml"),
    "config that is a folder": ("--config source", "source"),
    "missing config": ("--config nowhere.yaml", "nowhere.yaml"),
    "unknown key in a config": ("--config unknown.yaml", "widht", "did you mean width?"),
    "config of another method": ("--config cut.yaml", "cut.yaml", "method cut, not fastcut"),
    "resume of what is no run": ("--resume --out no_model", "no_model is not empty, and holds no run"),
    "resume of another run": ("--resume --out another_run", "another_run"),
    "init without a model": ("--init no_model", "no_model", "holds no model"),
    "init of nothing": ("--init nowhere", "nowhere", "does not exist"),
    "init that does not fit": ("--init model --set generator.width=5", "--init", "generator.width is 4", "add --set generator.width=4"),
    "unknown flag": ("--epochs 3", "--epochs"),
    "flag without its value": ("--seed", "--seed"),
    "surplus argument": ("again", "again"),
}


@pytest.mark.parametrize("case", TRAIN)
def test_a_wrong_training_call(cli: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    more, *said = TRAIN[case]
    before = tree(world)
    monkeypatch.chdir(world)
    assert_refused(cli(*shlex.split(CALL), *shlex.split(more)), *said)
    assert tree(world) == before, "something is left behind"


TRANSLATE = {
    "missing run": ("nowhere source --out out", "nowhere", "does not exist"),
    "run without a model": ("no_model source --out out", "no_model", "holds no model"),
    "run that is a file": ("file source --out out", "file", "holds no model"),
    "missing input": ("model nowhere --out out", "nowhere"),
    "empty input": ("model empty --out out", "no images", "empty"),
    "input without images": ("model texts --out out", "no images"),
    "input that is no image": ("model fake/2.png --out out", "fake/2.png"),
    "out is the input": ("model source --out source", "the source images", "choose another folder"),
    "out is the input by a link": ("model source --out link", "the source images", "choose another folder"),
    "out is a file": ("model source --out file", "file"),
    "out is under a file": ("model source --out file/out", "file/out", "a part of that path is a file"),
    "unknown direction": ("model source --out out --direction sideways", "sideways", "forward or backward"),
    "no way back": ("model source --out out --direction backward", "forward only"),
    "unknown device": ("model source --out out --device tpu", "tpu", "auto, cpu or cuda"),
    "unknown annotations": ("model source --out out --annotations move", "--annotations move", "copy, link, none"),
    "missing labels": ("model source --out out --labels nowhere", "--labels nowhere", "no such folder"),
    "labels without label maps": ("model source --out out --labels texts", "no images, texts"),
    "labels that are the images": ("model source --out out --labels source", "is where the images are"),
    "labels of other images": ("model one_small --out out --labels source", "1 of 4 images have no label map", "one_small/narrow.png"),
    "labels that are not to be copied": ("model source --out out --labels target --annotations none", "leave out one of them"),
    "column of a folder": ("model source --out out --column image", "--column image", "Hugging Face"),
    "no out": ("model source", "--out"),
    "no input": ("model --out out", "INPUT"),
}


@pytest.mark.parametrize("case", TRANSLATE)
def test_a_wrong_translation_call(cli: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    call, *said = TRANSLATE[case]
    before = tree(world)
    monkeypatch.chdir(world)
    assert_refused(cli("translate", *shlex.split(call)), *said)
    assert tree(world) == before, "something is left behind"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("methods srunitt", "did you mean srunit?"),
        ("methods ''", "there are cut, fastcut"),
        ("trian", "trian"),
        ("--verbose", "--verbose"),
        ("train", "--out"),
        ("train --out out", "no source images are named; give --source DIR"),
        ("train --out out --source source", "no target images are named; give --target DIR"),
        ("train --out out --resume", "no run to resume"),
        ("demo --out another_run", "not empty"),
        ("demo --out file", "not empty"),
        ("demo --out file/demo", "a part of that path is a file"),
    ],
)
def test_other_wrong_calls(cli: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch, call: str, said: str) -> None:
    before = tree(world)
    monkeypatch.chdir(world)
    assert_refused(cli(*shlex.split(call)), said)
    assert tree(world) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_no_cuda_here(cli: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    assert_refused(cli(*shlex.split(CALL), "--device", "cuda"), "device cuda", "--device cpu")
    assert_refused(cli("translate", "model", "source", "--out", "out", "--device", "cuda"), "device cuda", "--device cpu")


def test_a_config_whose_method_is_a_list(cli: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    call = CALL.replace("--method fastcut", "--config method_list.yaml")
    assert_refused(cli(*shlex.split(call)), "method")


@pytest.mark.parametrize("value", ["3", "true", "[a]"])
def test_a_folder_that_is_no_text(cli: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.chdir(world)
    assert_refused(cli(*shlex.split(CALL), "--set", f"data.source={value}"), "source")


@pytest.mark.parametrize(
    "call",
    [
        CALL.replace("--out out", "--out " + 300 * "a"),
        f"translate model source --out {300 * 'a'}",
        f"import x.pth --out {300 * 'a'}",
    ],
)
def test_a_name_that_is_too_long(cli: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.chdir(world)
    assert_refused(cli(*shlex.split(call)), "aaa")


def test_a_run_that_cannot_start_leaves_no_parents(cli: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    before = tree(world)
    monkeypatch.setattr(os, "fsync", full_disk)
    try:
        assert_refused(cli(*shlex.split(CALL), "--out", "deep/er/out"), "the disk is full")
        assert tree(world) == before
    finally:
        shutil.rmtree(world / "deep", ignore_errors=True)


def test_a_message_is_one_line_whatever_it_says(cli: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise UserError("two\nlines,\n  of them")

    monkeypatch.setattr("unflip.recipes.demo.demo", refuse)
    assert cli("demo", "--out", "demo") == (2, "", "error: two lines, of them\n")


def test_an_interrupt_is_said(cli: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unflip.recipes.demo.demo", interrupted)
    assert cli("demo", "--out", "demo") == (130, "", "interrupted\n")


# --- the calls that work


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: an empty one with links to the world's images and model."""
    for name in ("source", "target", "model"):
        (tmp_path / name).symlink_to(world / name, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_train_then_translate(cli: Callable[..., Any], here: Path) -> None:
    result = cli(*shlex.split(CALL))
    assert result.code == 0 and "error" not in result.stderr
    assert result.stdout.splitlines() == ["out: model in out/model; translate with: unflip translate out INPUT --out DIR"]
    assert "fastcut: 3 source and 3 target images, budget 4 images at 32 px, on cpu" in result.stderr
    assert "training 4/4" in result.stderr
    for run in ("out", "out/model"):
        result = cli("translate", run, "source", "--out", run.replace("/", "_") + "_translated")
        assert (result.code, result.stdout) == (0, f"{run.replace('/', '_')}_translated: 3 translated\n")
    assert (here / "out_translated/0.png").read_bytes() == (here / "out_model_translated/0.png").read_bytes()
    again = cli("train", "--out", "out", "--resume")
    assert again.code == 0 and "complete" in again.stderr


def test_flags_reach_the_config(cli: Callable[..., Any], here: Path) -> None:
    flags = "--size 24 --budget 3 --batch 2 --seed 5 --precision 32 --set nce.weight=3 --set data.flip=false --init model"
    result = cli(*shlex.split(CALL), *shlex.split(flags))
    assert result.code == 0, result.stderr
    values = yaml.safe_load((here / "out/config.yaml").read_text())
    expected = {"method": "fastcut", "size": 24, "budget": 3, "batch": 2, "seed": 5, "precision": "32", "device": "cpu"}
    assert expected.items() <= values.items() and Path(values["init"]) == here / "model"
    assert values["terms"]["nce"]["weight"] == 3 and values["data"]["flip"] is False and values["generator"]["width"] == 4
    again = cli("train", "--config", "out/config.yaml", "--out", "again", "--seed", 6)
    assert again.code == 0 and yaml.safe_load((here / "again/config.yaml").read_text()) == {**values, "seed": 6}


# --- a full disk


def full_disk(*arguments: Any, **more: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_for(ending: str) -> Callable[..., None]:
    """``os.replace``, which finds the disk full once, for a name that ends so."""
    replace, found = os.replace, []

    def sometimes(old: Path, new: Path) -> None:
        if Path(new).name.endswith(ending) and not found:
            found.append(new)
            full_disk()
        replace(old, new)

    return sometimes


def test_a_disk_that_is_full_from_the_start(cli: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(here)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full_disk)
            assert_refused(cli(*shlex.split(CALL)), "out/config.yaml", "the disk is full; make room and run again")
        assert tree(here) == before


@pytest.mark.parametrize(
    "full",
    [
        "fsync",
        "rename to 000000003.png",
        "rename to model.safetensors",
        "rename to config.json",
        "rename to .old",
        "rename to model",
        "rename to state.safetensors",
        "rename to 000000004",
        "rename to latest",
    ],
)
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_and_model(
    cli: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """Full from image 3 of 4 on; there are checkpoints at 2 and 4, samples at 3 and 4."""
    settings = "--set checkpoint_every=2 --set sample_every=3 --set log_every=1"
    assert cli(*shlex.split(CALL), *shlex.split(settings), "--out", "whole").code == 0
    add = Record.add

    def added(record: Record, moment: Moment) -> None:
        add(record, moment)
        if moment.seen != 3:
            return
        if full == "fsync":
            patch.setattr(os, "fsync", full_disk)
        else:
            patch.setattr(os, "replace", full_for(full.removeprefix("rename to ")))

    with monkeypatch.context() as patch:
        patch.setattr(Record, "add", added)
        result = cli(*shlex.split(CALL), *shlex.split(settings))
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.code == 2 and not result.stdout and len(errors) == 1 and "Traceback" not in result.stderr
    assert "the disk is full; make room and run again" in errors[0]
    latest = here / "out/checkpoints" / (here / "out/checkpoints/latest").read_text()
    assert json.loads((latest / "state.json").read_text())["sha256"] == sha256(latest / "state.safetensors")
    assert modelfolder.load(here / "out").config.provenance["images_seen"] in (2, 4)  # the one before or the new one, but whole
    assert not [name for name in tree(here / "out") if ".tmp" in name or ".old" in name]

    if latest.name == "000000002":
        assert cli("train", "--out", "out", "--resume").code == 0
        a, b = (load_file(here / run / "model/model.safetensors") for run in ("out", "whole"))
        assert all((a[name] == b[name]).all() for name in b)


def test_a_disk_that_fills_up_during_translation(cli: Callable[..., Any], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_for("1.png"))
        result = cli("translate", "model", "source", "--out", "out")
    assert result.code == 2 and not result.stdout and "Traceback" not in result.stderr
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "out/1.png" in error and "the disk is full; make room and run again" in error
    assert {path.name for path in (here / "out").iterdir()} == {"0.png", "manifest.jsonl"}
    assert cli("translate", "model", "source", "--out", "out").stdout == "out: 2 translated, 1 already there\n"


# --- a fresh interpreter


PROBE = """
import sys, time
began = time.process_time()
{work}
seconds = time.process_time() - began
heavy = sorted({heavy} & set(sys.modules))
print(repr((seconds, heavy)), file=sys.stderr)
"""
HEAVY = {"torch", "torchvision", "numpy", "PIL", "lightning_fabric", "tensorboard", "safetensors", "jinja2"}
AS_LONG_AS_TORCH = {"torch._dynamo", "torchmetrics", "transformers", "torchvision", "scipy"}
"""What takes seconds to import."""


def probe(work: str, heavy: set[str] = HEAVY, cwd: Path | None = None) -> tuple[float, list[str]]:
    """How many seconds of a core ``work`` took in a fresh interpreter, and which heavy modules it imported."""
    import ast
    import subprocess
    import sys

    environment = {**os.environ, "PYTHONPATH": str(Path(unflip.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(work=work, heavy=heavy)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=cwd,
    )
    seconds, imported = ast.literal_eval(done.stderr.splitlines()[-1])
    return seconds, imported


def test_importing_unflip_is_quick_and_imports_no_torch() -> None:
    seconds, heavy = probe("import unflip")
    assert heavy == []
    assert seconds < 1, "0.3 s is meant; the rest is for slow machines"


def test_help_is_quick_and_imports_no_torch() -> None:
    work = "from unflip.cli.main import run; codes = [run(list(a)) for a in {calls}]; assert codes == [0] * len(codes)"
    calls = [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)]
    seconds, heavy = probe(work.format(calls=calls))
    assert heavy == []
    assert seconds < 2, "0.6 s is meant; the rest is for slow machines"


def test_wrong_words_are_refused_without_torch() -> None:
    calls = "[['trian'], ['train', '--epochs', '3'], ['train', '--out', 'x', '--budget', 'abc']]"
    _, heavy = probe(f"from unflip.cli.main import run; codes = [run(a) for a in {calls}]; assert codes == [2, 2, 2], codes")
    assert heavy == []


def test_translating_loads_torch_and_not_as_much_again(here: Path) -> None:
    work = "from unflip.cli.main import run; code = run(['translate', 'model', 'source', '--out', 'out']); assert code == 0"
    _, heavy = probe(work, {"torch"} | AS_LONG_AS_TORCH, here)
    assert heavy == ["torch"]


def test_training_loads_what_it_uses(here: Path) -> None:
    """Lightning would import torchmetrics, and with it all that torchmetrics might ever want."""
    call = ["train", "--source", "source", "--target", "target", "--out", "run", "--size", "32", "--budget", "1", "--device", "cpu"]
    settings = ("generator.width=8", "generator.blocks=1", "discriminator.width=8", "discriminator.layers=1", "projector.width=16")
    call += [part for setting in settings for part in ("--set", setting)]
    _, heavy = probe(
        f"from unflip.cli.main import run; assert run({call}) == 0", {"lightning_fabric"} | AS_LONG_AS_TORCH - {"torch._dynamo"}, here
    )
    assert heavy == ["lightning_fabric"]


def test_the_process_ends_with_the_exit_code(cli_process: Callable[..., Any], tmp_path: Path) -> None:
    assert_refused(cli_process("train", "--out", "run", "--epochs", 3, cwd=tmp_path), "--epochs")
    assert cli_process("--version", cwd=tmp_path) == (0, f"{unflip.__version__}\n", "")
    assert not list(tmp_path.iterdir())


def test_every_term_is_described() -> None:
    assert all((type_.__doc__ or "").strip() for type_ in TERMS.values())
