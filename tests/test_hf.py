"""Data sets of Hugging Face: one column is translated, and everything else is as it was."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

import unflip
from helpers import make_model
from test_translate import picture, save, tree
from unflip.errors import MissingExtra, UserError
from unflip.inference import saved
from unflip.inference.folders import MANIFEST, Outcome, translate_folder
from unflip.inference.scale import on_ray
from unflip.inference.translator import Translator

SIZES = [(40, 33), (25, 38), (37, 24)]
FEATURES = datasets.Features(
    {
        "image_id": datasets.Value("int64"),
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "objects": {
            "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
            "category": datasets.List(datasets.ClassLabel(names=["car", "sign"])),
        },
        "depth": datasets.Array2D((2, 3), "float32"),
        "text": datasets.Value("large_string"),
    }
)


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Several shards for a few images."""
    monkeypatch.setattr(saved, "ROWS", 3)
    monkeypatch.setattr(saved, "AT_ONCE", 2)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def quietly(translator: Translator, source: Path | str, out: Path | str, **options: Any) -> Outcome:
    return translate_folder(translator, source, out, progress=False, **options)


def encoded(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


KINDS = ["PNG", "JPEG", "WEBP"]


def rows(count: int, first: int = 0) -> datasets.Dataset:
    """Images of several formats and sizes; one row in five has none."""
    found = []
    for i in range(first, first + count):
        width, height = SIZES[i % len(SIZES)]
        kind = KINDS[i % len(KINDS)]
        data = encoded(picture(width, height, seed=i), kind, **({"lossless": True} if kind == "WEBP" else {}))
        mask = encoded(np.random.default_rng(i).integers(0, 3, (height, width), dtype=np.uint8))
        found.append(
            {
                "image_id": 1000 + i,
                "image": None if i % 5 == 4 else {"bytes": data, "path": f"{i:03}.{kind.lower()}" if i % 2 else None},
                "mask": {"bytes": mask, "path": None},
                "objects": {"bbox": [[1.0, 2.5, 3.0, i]] * (i % 3), "category": [i % 2] * (i % 3)},
                "depth": np.full((2, 3), i, np.float32),
                "text": None if i == 3 else f"scene {i}",
            }
        )
    return datasets.Dataset.from_list(found, features=FEATURES, split=datasets.NamedSplit("train"))


def stored(data: datasets.Dataset) -> dict[str, list[Any]]:
    """All columns as they are stored, images as their bytes."""
    return data.with_format("arrow")[:].to_pydict()


def assert_translated(translator: Translator, given: datasets.Dataset, found: datasets.Dataset, column: str = "image") -> None:
    assert found.features == given.features and found.column_names == given.column_names and len(found) == len(given)
    assert found.split == given.split and found.data.schema.equals(given.data.schema, check_metadata=True)
    before, after = stored(given), stored(found)
    for name in given.column_names:
        if name != column:
            assert after[name] == before[name], name
    for old, new in zip(before[column], after[column], strict=True):
        if old is None:
            assert new is None
            continue
        assert new["path"] == old["path"]
        with Image.open(io.BytesIO(old["bytes"])) as source, Image.open(io.BytesIO(new["bytes"])) as image:
            assert (image.format, image.size) == (source.format, source.size)
            wanted = np.asarray(translator(source.convert("RGB"))).astype(int)
            difference = np.abs(np.asarray(image).astype(int) - wanted)
            assert difference.mean() < 5 and wanted.std() > 25 if image.format == "JPEG" else not difference.any()


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """A set of two splits, one of them in several files, and one that is empty."""
    train = rows(8).with_format("numpy", columns=["image", "image_id"], output_all_columns=True)
    datasets.DatasetDict({"train": train, "test": rows(2, 20), "none": rows(1).select([])}).save_to_disk(
        tmp_path / "set", num_shards={"train": 2, "test": 1, "none": 1}
    )
    return tmp_path / "set"


# --- what comes out


def test_splits_become_splits(cli: Callable[..., Any], model: Path, translator: Translator, splits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = cli("translate", model, splits, "--out", out, "--device", "cpu")
    assert (result.code, result.stdout) == (0, f"{out}: 9 translated\n") and "10/10" in result.stderr
    assert "Saving" not in result.stderr and "examples" not in result.stderr, "the libraries' own bars"
    given, found = datasets.load_from_disk(splits), datasets.load_from_disk(out)
    assert list(found) == list(given) == ["train", "test", "none"]
    for name in given:
        assert_translated(translator, given[name], found[name])
        assert found[name].format == given[name].format
    assert found["train"]._fingerprint != given["train"]._fingerprint, "else what is computed of one were taken for the other"
    assert len({found[name]._fingerprint for name in found}) == 3
    assert found["train"].with_format(None)[0]["image"].size == SIZES[0]
    files = {path for path, data in tree(out).items() if data is not None}
    train = {f"train/data-0000{i}-of-00003.arrow" for i in range(3)}
    assert files == train | {f"{name}/data-00000-of-00001.arrow" for name in ("test", "none")} | {
        f"{name}/{file}" for name in given for file in ("state.json", "dataset_info.json")
    } | {"dataset_dict.json", MANIFEST}
    images = {line["file"]: line for line in lines(out) if "shard" in line}
    assert set(images) == {f"train/{i}" for i in (0, 1, 2, 3, 5, 6, 7)} | {"test/0", "test/1"}
    assert images["train/1"]["size"] == list(SIZES[1]) and images["train/1"]["status"] == "done" and images["train/1"]["seconds"] >= 0
    assert not any(path.name.endswith(".tmp") for path in tmp_path.rglob("*")) and not (tmp_path / "cache").exists()


def test_a_set_without_splits(translator: Translator, tmp_path: Path) -> None:
    rows(4).save_to_disk(tmp_path / "set")
    assert quietly(translator, str(tmp_path / "set"), tmp_path / "out") == Outcome(done=4)
    found = datasets.load_from_disk(tmp_path / "out")
    assert_translated(translator, datasets.load_from_disk(tmp_path / "set"), found)
    quietly(unflip.load(make_model(tmp_path / "other", seed=8), device="cpu"), tmp_path / "set", tmp_path / "by_another")
    assert datasets.load_from_disk(tmp_path / "by_another")._fingerprint != found._fingerprint
    assert {line["file"] for line in lines(tmp_path / "out")} >= {"0", "3", "data-00001-of-00002.arrow"}


def test_another_column(cli: Callable[..., Any], model: Path, translator: Translator, splits: Path, tmp_path: Path) -> None:
    source = splits / "test"
    assert cli("translate", model, source, "--out", tmp_path / "out", "--column", "mask", "--device", "cpu").code == 0
    assert_translated(translator, datasets.load_from_disk(source), datasets.load_from_disk(tmp_path / "out"), "mask")
    with pytest.raises(UserError, match="holds translations of another data set or column"):
        quietly(translator, source, tmp_path / "out")
    for column in ("text", "nothing"):
        result = cli("translate", model, source, "--out", tmp_path / "no", "--column", column, "--device", "cpu")
        assert result.code == 2 and f"no column of images is called '{column}', {source}; there are image, mask" in result.stderr
    datasets.Dataset.from_dict({"a": [1], "b": ["x"]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(UserError, match=r"no column of images, .*texts \(there are a, b\); cast one"):
        quietly(translator, tmp_path / "texts", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_files_that_a_set_names_are_read_into_it(translator: Translator, tmp_path: Path) -> None:
    """As ``save_to_disk`` does; and one that is gone is a bad image, not the end."""
    files = [str(save(tmp_path / f"files/{i}.png", picture(30, 20, seed=i))) for i in range(4)]
    data = datasets.Dataset.from_dict({"image": files, "id": range(4)}).cast_column("image", datasets.Image())
    split = saved.Split("", data, "image", "somewhere")
    Path(files[2]).unlink()
    rows = list(saved.rows_of(saved.Shard(split, "x", range(4))))
    assert [row.path for row in rows if row.error is None] == ["0.png", "1.png", "3.png"]
    assert rows[1].data == Path(files[1]).read_bytes()
    assert "row 2" in str(rows[2].error) and "2.png" in str(rows[2].error)


# --- bad images


def test_a_bad_image_is_listed_and_becomes_none(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    given = stored(rows(7))
    given["image"][1]["bytes"] = given["image"][1]["bytes"][:200]
    given["image"][5] = {"bytes": b"this is no image", "path": "x.png"}
    given["image"][6] = {"bytes": encoded(picture(), "GIF"), "path": None}
    datasets.Dataset.from_dict(given, features=FEATURES).save_to_disk(tmp_path / "set")
    for _ in range(2):  # shards with bad images are tried again
        result = cli("translate", model, tmp_path / "set", "--out", tmp_path / "out", "--device", "cpu")
        assert (result.code, result.stdout) == (1, f"{tmp_path}/out: 3 translated\n")
        failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
        assert len(failed) == 3 and all(f", {tmp_path}/set, row {row}" in line for row, line in zip((1, 5, 6), failed, strict=True)), failed
        found = stored(datasets.load_from_disk(tmp_path / "out"))
        assert [i for i, image in enumerate(found["image"]) if image is None] == [1, 4, 5, 6]
        assert all(found[name] == given[name] for name in given if name != "image"), "no row moves"
    known = [line["file"] for line in lines(tmp_path / "out") if line["status"] == "done"]
    assert sorted(known) == ["0", "2", "3"], "each is noted once"


# --- going on


def test_an_interrupted_set_goes_on(translator: Translator, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, calls = translator.pixels, []

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return pixels(*given)

    monkeypatch.setattr(translator, "pixels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quietly(translator, splits, tmp_path / "out")
    assert {name for name, data in tree(tmp_path / "out").items() if data is not None} == {"train/data-00000-of-00003.arrow", MANIFEST}
    with pytest.raises(Exception):  # noqa: B017
        datasets.load_from_disk(tmp_path / "out")
    first = (tmp_path / "out/train/data-00000-of-00003.arrow").stat().st_mtime_ns
    assert quietly(translator, splits, tmp_path / "out") == Outcome(done=6, skipped=3)
    assert (tmp_path / "out/train/data-00000-of-00003.arrow").stat().st_mtime_ns == first
    quietly(translator, splits, tmp_path / "whole")
    given, found = tree(tmp_path / "whole"), tree(tmp_path / "out")
    assert all(found[name] == given[name] for name in given if name != MANIFEST) and found.keys() == given.keys()
    assert quietly(translator, splits, tmp_path / "out") == Outcome(skipped=9)


def test_what_is_not_ours_is_left_alone(translator: Translator, splits: Path, tmp_path: Path) -> None:
    before = tree(splits)
    for out in (splits, splits / "train", splits / "new"):
        with pytest.raises(UserError, match="lies in the folder of the data set"):
            quietly(translator, splits, out)
    assert tree(splits) == before
    shutil.copytree(splits / "test", tmp_path / "other")
    with pytest.raises(UserError, match="holds something that unflip did not write"):
        quietly(translator, splits, tmp_path / "other")
    assert tree(tmp_path / "other") == tree(splits / "test")
    quietly(translator, splits, tmp_path / "out")
    before = tree(tmp_path / "out")
    for count in (8, 12):
        datasets.DatasetDict({"train": rows(count, 1)}).save_to_disk(tmp_path / f"set{count}")
        shutil.rmtree(splits)
        shutil.copytree(tmp_path / f"set{count}", splits)
        with pytest.raises(UserError, match="holds translations of another data set or column"):
            quietly(translator, splits, tmp_path / "out")
    with pytest.raises(UserError, match="by another model, or by this one used otherwise"):
        quietly(unflip.load(make_model(tmp_path / "model8", seed=8), device="cpu"), splits, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_few_rows_are_in_memory(translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a shard is: rows wait to be written by a few, or fewer where they are large."""
    monkeypatch.setattr(saved, "ROWS", 100)
    rows(12).save_to_disk(tmp_path / "set")
    for most, size, wanted in ((4, 2**26, 4), (100, 1, 1)):
        monkeypatch.setattr(saved, "AT_ONCE", most)
        monkeypatch.setattr(saved, "BYTES", size)
        quietly(translator, tmp_path / "set", tmp_path / f"out{most}")
        found = datasets.load_from_disk(tmp_path / f"out{most}")
        assert {len(batch) for batch in found.data.to_batches()} == {wanted}


# --- calls that are wrong


def test_what_does_not_go_together(translator: Translator, splits: Path, tmp_path: Path) -> None:
    for options in ({"trust": True}, {"labels": tmp_path}, {"annotations": "none"}, {"how": on_ray(1)}):
        with pytest.raises(UserError, match="whose columns stay together; leave out --trust, --labels, --annotations and --ray"):
            quietly(translator, splits, tmp_path / "out", **options)
    with pytest.raises(UserError, match="is a URL; a data set is written to a folder"):
        quietly(translator, splits, "memory://out")
    assert not (tmp_path / "out").exists()


def test_a_broken_set_is_said_in_one_line(cli: Callable[..., Any], model: Path, splits: Path, tmp_path: Path) -> None:
    for damage in ("state.json", "data-00000-of-00001.arrow"):
        shutil.copytree(splits / "test", tmp_path / damage)
        (tmp_path / damage / damage).write_text("{")
        result = cli("translate", model, tmp_path / damage, "--out", tmp_path / "out", "--device", "cpu")
        assert result.code == 2 and result.stderr.startswith("error: cannot read the data set, ") and result.stderr.count("\n") == 1, result
    assert not (tmp_path / "out").exists()


def test_a_missing_extra(translator: Translator, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"datasets is not installed; run: pip install 'unflip\[hf\]'"):
        quietly(translator, splits, tmp_path / "out")


# --- the hub


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("hf://datasets/user/name", ("user/name", None, None, None)),
        ("hf://datasets/mnist", ("mnist", None, None, None)),
        ("hf://datasets/user/na-me.2@v1.0#train", ("user/na-me.2", "v1.0", None, "train")),
        ("hf://datasets/user/name@refs/convert/parquet#plain/test", ("user/name", "refs/convert/parquet", "plain", "test")),
        ("hf://datasets/user/name#train[:10%]", ("user/name", None, None, "train[:10%]")),
        ("hf://datasets/user/name/", ("user/name", None, None, None)),
        ("hf://datasets/user/name/data", None),
        ("hf://datasets/user/name@main/data/0.png", None),
        ("hf://user/name", None),
        ("s3://datasets/user/name", None),
        ("datasets/user/name", None),
    ],
)
def test_addresses(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, wanted: tuple[str | None, ...] | None
) -> None:
    """A whole set on the hub; files in it stay files, which fsspec reads."""
    assert saved.is_dataset(address) == (wanted is not None)
    if wanted is None:
        return
    asked = []

    def load_dataset(name: str, configuration: str | None, *, revision: str | None, split: str | None) -> datasets.Dataset:
        asked.append((name, revision, configuration, split))
        return rows(2) if split else datasets.DatasetDict({"train": rows(2)})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert quietly(translator, address, tmp_path / "out") == Outcome(done=2)
    assert asked == [wanted]
    found = datasets.load_from_disk(tmp_path / "out")
    assert_translated(translator, rows(2), found if wanted[3] else found["train"])


def test_without_a_network_the_hub_is_one_line(cli_process: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    call = ("translate", model, "hf://datasets/unflip-nobody/nothing#train", "--out", "out", "--device", "cpu")
    result = cli_process(*call, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home"))
    assert result.code == 2 and not result.stdout and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: cannot read the data set, hf://datasets/unflip-nobody/nothing#train (")
    assert not (tmp_path / "out").exists()
