"""Shards, remote places and Ray: every image is there in the end, once, whatever happens to a worker."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

import unflip
from helpers import make_model
from ray_worker import MARK, Bucket, Deadly
from test_shards import labels, png, shard
from test_translate import picture, save, tree
from unflip.data.places import Place
from unflip.errors import MissingExtra, UserError
from unflip.inference import manifest as manifests
from unflip.inference.folders import MANIFEST, Outcome, translate_folder, trust_folder
from unflip.inference.jobs import Job, find_jobs
from unflip.inference.manifest import Manifest
from unflip.inference.scale import CHUNK, _chunks, on_ray
from unflip.inference.translator import Translator

HERE = Path(__file__).parent
Member = tuple[str, bytes]


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty remote place that this process alone sees."""
    store = fsspec.filesystem("memory").store
    store.clear()
    yield "memory://house"
    store.clear()


def quietly(translator: Translator, source: Path | str, out: Path | str, **options: Any) -> Outcome:
    return translate_folder(translator, source, out, progress=False, **options)


def lines(out: Path | str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in Place(out).read(MANIFEST).decode().splitlines()]
    return [line for line in found if line["status"] != "begun"]


def members(where: Path | bytes) -> dict[str, bytes]:
    """The content of a shard, in order."""
    data = where if isinstance(where, bytes) else where.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: tar.extractfile(info).read() if info.isreg() else b"" for info in tar}  # type: ignore[union-attr]


def translation(translator: Translator, data: bytes) -> np.ndarray[Any, Any]:
    return translator(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def sample(i: int, kind: str = "png") -> list[Member]:
    return [
        (f"s/{i:03}.{kind}", png(i, (25 + i, 18), "JPEG" if kind == "jpg" else kind.upper())),
        (f"s/{i:03}.seg.png", labels(i, (25 + i, 18))),
        (f"s/{i:03}.json", json.dumps({"i": i}).encode()),
    ]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of two samples each."""
    for i in range(3):
        shard(tmp_path / f"shards/train-{i}.tar", [*sample(2 * i), *sample(2 * i + 1, "webp")])
    return tmp_path / "shards"


# --- shards, in this process


def test_shards_become_shards_of_the_same_members(translator: Translator, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert quietly(translator, shards, out) == Outcome(done=6)
    assert set(tree(out)) == {"train-0.tar", "train-1.tar", "train-2.tar", MANIFEST}
    for i in range(3):
        given, found = members(shards / f"train-{i}.tar"), members(out / f"train-{i}.tar")
        assert list(found) == list(given), "the same members in the same order"
        for name, data in given.items():
            if name.count(".") > 1 or name.endswith("json"):
                assert found[name] == data, "byte for byte"
            else:
                with Image.open(io.BytesIO(found[name])) as image:
                    assert image.format == {"png": "PNG", "webp": "WEBP"}[name[6:]]
                    assert (np.asarray(image) == translation(translator, data)).all()
    noted = lines(out)
    assert [line["file"] for line in noted[:3]] == ["train-0.tar/s/000.png", "train-0.tar/s/001.webp", "train-0.tar"]
    assert [line["images"] for line in noted if "images" in line] == [2, 2, 2]
    assert noted[0]["shard"] == "train-0.tar" and noted[0]["size"] == [25, 18]
    assert noted[0]["source"] == f"{shards.resolve()}/train-0.tar/s/000.png"


def test_the_webdataset_library_reads_what_is_written(translator: Translator, shards: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    quietly(translator, shards, tmp_path / "out")
    urls = str(tmp_path / "out/train-{0..2}.tar")
    read = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [each["__key__"] for each in read] == [f"s/{i:03}" for i in range(6)]
    assert [each["json"]["i"] for each in read] == list(range(6)) and all("seg.png" in each for each in read)
    assert (np.asarray(read[2]["png"]) == translation(translator, dict(sample(2))["s/002.png"])).all()


def test_what_a_member_is_otherwise_is_kept(translator: Translator, tmp_path: Path) -> None:
    data = png()
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/a.png", tarfile.REGTYPE), ("d/link", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.uname, info.uid = kind, 0o640, 1234567890.25, "somebody", 12
            info.linkname = "a.png" if kind == tarfile.SYMTYPE else ""
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            info.pax_headers = {"size": str(len(data)), "comment": "x"} if kind == tarfile.REGTYPE else {}
            tar.addfile(info, io.BytesIO(data))
    quietly(translator, tmp_path / "s.tar", tmp_path / "out")
    with tarfile.open(tmp_path / "s.tar") as given, tarfile.open(tmp_path / "out/s.tar") as found:
        for a, b in zip(given, found, strict=True):
            assert (a.name, a.type, a.mode, a.mtime, a.uname, a.uid, a.linkname) == (
                b.name,
                b.type,
                b.mode,
                b.mtime,
                b.uname,
                b.uid,
                b.linkname,
            )
    assert (np.asarray(Image.open(io.BytesIO(members(tmp_path / "out/s.tar")["d/a.png"]))) == translation(translator, data)).all()


def test_shards_that_are_done_are_not_done_again(translator: Translator, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quietly(translator, shards, out)
    before = tree(out)
    assert quietly(translator, shards, out) == Outcome(skipped=6) and tree(out) == before
    assert quietly(translator, shards / "train-{0..1}.tar", out) == Outcome(skipped=4) and tree(out) == before
    (out / "train-1.tar").unlink()
    assert quietly(translator, shards, out) == Outcome(done=2, skipped=4)
    assert {name: data for name, data in tree(out).items() if name != MANIFEST} == {n: d for n, d in before.items() if n != MANIFEST}
    assert Counter(line["file"] for line in lines(out) if "shard" in line).most_common(1)[0][1] == 1, "each image is listed once"


def test_a_shard_whose_lines_were_cut_short_is_done_again_and_listed_once(translator: Translator, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    quietly(translator, shards, out)
    before = {name: data for name, data in tree(out).items() if name != MANIFEST}
    text = (out / MANIFEST).read_text().splitlines(keepends=True)
    (out / MANIFEST).write_text("".join(text[:8]) + text[8][:40])  # killed after the first image of the last shard
    assert quietly(translator, shards, out) == Outcome(done=2, skipped=4)
    assert {name: data for name, data in tree(out).items() if name != MANIFEST} == before
    whole = [line for line in (out / MANIFEST).read_text().splitlines() if line.endswith("}")]
    assert sorted(json.loads(line)["file"] for line in whole) == sorted(json.loads(line)["file"] for line in text)


def test_bad_members_are_left_out_and_bad_shards_listed(
    cli: Callable[..., Any], model: Path, translator: Translator, shards: Path, tmp_path: Path
) -> None:
    good = (shards / "train-0.tar").read_bytes()
    (shards / "train-0.tar").write_bytes(good[:2048])  # between two members
    shard(shards / "train-1.tar", [*sample(2), ("s/003.png", b"fake"), ("s/003.json", b"{}"), ("s/004.png", png(4)[:-800])])
    shard(shards / "train-3.tar", [("a.json", b"{}")])
    shard(shards / "train-4.tar", [("a.png", png()), ("a.png", png())])
    out = tmp_path / "out"
    result = cli("translate", model, shards, "--out", out, "--device", "cpu")
    assert result.code == 1 and result.stdout == f"{out}: 3 translated\n", result
    said = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(said) == 5 and "Traceback" not in result.stderr
    for words in ("train-0.tar", "train-1.tar/s/003.png", "train-1.tar/s/004.png", "no images: ", "two members are named a.png"):
        assert sum(words in line for line in said) == 1, words
    assert set(tree(out)) == {"train-1.tar", "train-2.tar", MANIFEST}, "a broken shard leaves nothing, and no half of one"
    assert list(members(out / "train-1.tar")) == [name for name, _ in sample(2)] + ["s/003.json"]
    noted = {line["file"]: line for line in lines(out)}
    assert noted["train-1.tar"]["status"] == "failed" and (noted["train-1.tar"]["images"], noted["train-1.tar"]["failed"]) == (1, 2)

    (shards / "train-0.tar").write_bytes(good)
    shard(shards / "train-1.tar", [*sample(2), *sample(3)])
    for name in ("train-3.tar", "train-4.tar"):
        (shards / name).unlink()
    result = cli("translate", model, shards, "--out", out, "--device", "cpu")
    assert result.code == 0 and result.stdout == f"{out}: 4 translated, 2 already there\n", result
    assert cli("translate", model, shards, "--out", out).stdout == f"{out}: 0 translated, 6 already there\n"


def test_links_and_names_that_lead_out_of_a_shard_are_refused(translator: Translator, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shard(folder / "good.tar", sample(0))
    for name in ("/abs/1.png", "../2.png", "a/../../3.json"):
        shard(folder / f"{len(tree(folder))}.tar", [*sample(1), (name, png())])
    for kind, to in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "s/001.png")):
        with tarfile.open(shard(folder / f"{len(tree(folder))}.tar", sample(1)), "a") as tar:
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, to
            tar.addfile(info)
    outcome = quietly(translator, folder, tmp_path / "out")
    assert outcome.done == 1 and len(outcome.failed) == 5 and set(tree(tmp_path / "out")) == {"good.tar", MANIFEST}
    assert all("is a link or leads out of the shard, " in line for line in outcome.failed)


def test_a_shard_that_is_cut_anywhere_is_broken(translator: Translator, shards: Path, tmp_path: Path) -> None:
    data = (shards / "train-0.tar").read_bytes()
    content = len(data.rstrip(b"\0"))
    cuts = [100, 512, 700, 1536, 2048, 2049, 2500, content, -(-content // 512) * 512]
    (tmp_path / "cut").mkdir()
    for cut in cuts:
        (tmp_path / f"cut/{cut}.tar").write_bytes(data[:cut])
    damaged = bytearray(data)
    damaged[2048:2060] = b"\xff" * 12  # a header in the middle
    (tmp_path / "cut/damaged.tar").write_bytes(damaged)
    outcome = quietly(translator, tmp_path / "cut", tmp_path / "out")
    assert outcome.done == 0 and len(outcome.failed) == len(cuts) + 1 and set(tree(tmp_path / "out")) == {MANIFEST}
    assert all("broken or truncated shard" in line for line in outcome.failed)


def test_trust_maps_of_shards_are_shards(translator: Translator, shards: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    for i in range(3):
        for name, data in members(shards / f"train-{i}.tar").items():
            if name.count(".") == 1 and not name.endswith("json"):
                (files / f"train-{i}.tar").mkdir(parents=True, exist_ok=True)
                (files / f"train-{i}.tar" / Path(name).name).write_bytes(data)
    by_file = quietly(translator, files, tmp_path / "file_out", trust=True)
    by_shard = quietly(translator, shards, tmp_path / "out", trust=True)
    assert by_shard.done == 6 and sorted(by_shard.trust.values()) == sorted(by_file.trust.values())
    maps = members(trust_folder(tmp_path / "out") / "train-1.tar")
    assert list(maps) == ["s/002.png", "s/003.png"]
    assert maps["s/003.png"] == (trust_folder(tmp_path / "file_out") / "train-1.tar/003.png").read_bytes()
    assert quietly(translator, shards, tmp_path / "out", trust=True) == Outcome(skipped=6)
    (trust_folder(tmp_path / "out") / "train-2.tar").unlink()
    assert quietly(translator, shards, tmp_path / "out", trust=True).done == 2
    (tmp_path / "out/train-1.tar").unlink()
    assert quietly(translator, shards, tmp_path / "out").done == 2
    assert quietly(translator, shards, tmp_path / "out", trust=True).done == 2, "the maps are those of an earlier translation"
    assert quietly(translator, shards, tmp_path / "out", trust=True) == Outcome(skipped=6)
    shard(shards / "train-2.tar", [("a.png", png()), ("a.jpg", png(kind="JPEG"))])
    refused = quietly(translator, shards / "train-2.tar", tmp_path / "other", trust=True)
    assert len(refused.failed) == 1 and "would have one trust map, a.png" in refused.failed[0]
    assert not any((tmp_path / name / "train-2.tar").exists() for name in ("other", "other_trust"))


# --- remote places


def put(url: str, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        Place(url).write(name, data)


def test_a_remote_folder_is_translated_as_a_local_one(translator: Translator, memory: str, tmp_path: Path) -> None:
    content = {"a/1.png": png(1), "a/b/2.webp": png(2, kind="WEBP"), "10.png": png(3), "9.png": png(4), "bad.png": b"fake"}
    content["notes.txt"] = b"copied as it is"
    put(f"{memory}/in", content | {".hidden.png": png(), "a/.b/c.png": png(), "old.tar": b"x"})
    for name, data in content.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    expected = quietly(translator, tmp_path / "in", tmp_path / "out", trust=True)
    assert expected.done == 4 and len(expected.failed) == 1
    assert [job.name for job in find_jobs(f"{memory}/in")] == [job.name for job in find_jobs(tmp_path / "in")]
    for source, out in ((f"{memory}/in", f"{memory}/out"), (f"{memory}/in", tmp_path / "copy"), (tmp_path / "in", f"{memory}/two")):
        outcome = quietly(translator, source, out, trust=True)
        assert (outcome.done, outcome.trust) == (4, expected.trust) and len(outcome.failed) == 1
        for place, like in ((str(out), "out"), (f"{out}_trust", "out_trust")):
            there = Place(place).having([*content, "a/b/2.png", MANIFEST])
            assert {name: Place(place).read(name) for name in there if name != MANIFEST} == {
                name: data for name, data in tree(tmp_path / like).items() if data is not None and name != MANIFEST
            }
        assert [line["file"] for line in lines(str(out))] == [line["file"] for line in lines(tmp_path / "out")]
        assert lines(str(out))[0]["source"] == (f"{source}/9.png" if isinstance(source, str) else str((source / "9.png").resolve()))
        again = quietly(translator, source, out, trust=True)
        assert (again.done, again.skipped, len(again.failed)) == (0, 4, 1)


def test_remote_shards_are_translated_as_local_ones(translator: Translator, shards: Path, memory: str, tmp_path: Path) -> None:
    quietly(translator, shards, tmp_path / "out")
    put(f"{memory}/in", {f"deep/{path.name}": path.read_bytes() for path in shards.iterdir()})
    for source, prefix in ((f"{memory}/in", "deep/"), (f"{memory}/in/deep/train-{{0..2}}.tar", "")):
        out = f"{memory}/{len(prefix)}"
        assert quietly(translator, source, out) == Outcome(done=6)
        assert quietly(translator, source, out) == Outcome(skipped=6)
        for i in range(3):
            assert members(Place(out).read(f"{prefix}train-{i}.tar")) == members(tmp_path / f"out/train-{i}.tar")
    outcome = quietly(translator, f"{memory}/in/deep/train-{{1..4}}.tar", f"{memory}/some")
    assert outcome.done == 4 and len(outcome.failed) == 2 and "train-3.tar" in outcome.failed[0], "what is not there is listed"


def test_one_remote_image_and_file_urls(translator: Translator, memory: str, tmp_path: Path) -> None:
    put(memory, {"in/1.png": png(1)})
    assert quietly(translator, f"{memory}/in/1.png", tmp_path / "a").done == 1
    (tmp_path / "in dir").mkdir()
    (tmp_path / "in dir/1.png").write_bytes(png(1))
    assert quietly(translator, f"file://{tmp_path}/in dir", f"file://{tmp_path}/b").done == 1
    assert (tmp_path / "a/1.png").read_bytes() == (tmp_path / "b/1.png").read_bytes()
    assert quietly(translator, tmp_path / "in dir", tmp_path / "b").skipped == 1


def test_remote_calls_that_are_wrong(cli: Callable[..., Any], model: Path, translator: Translator, memory: str, tmp_path: Path) -> None:
    put(f"{memory}/in", {"1.png": png(1)})
    put(f"{memory}/taken", {"1.png": b"mine"})
    quietly(translator, f"{memory}/in", f"{memory}/done")
    put(f"{memory}/others", {"1.png": png(2)})
    (tmp_path / "images").mkdir()
    for source, out, said in (
        (f"{memory}/none", tmp_path / "out", "no images, memory://house/none"),
        (f"{memory}/in", f"{memory}/in", "lies in the folder of the source images"),
        (f"{memory}/in/", f"{memory}/in/sub", "lies in the folder of the source images"),
        (f"{memory}/in", f"{memory}/taken", "holds another 1.png, which unflip did not write"),
        (f"{memory}/others", f"{memory}/done", "holds translations of other images, such as 1.png"),
        ("nothing://x/y", tmp_path / "out", "Protocol not known: nothing"),
        (f"{memory}/{{0..3}}.png", tmp_path / "out", "not a shard"),
        ("http://127.0.0.1:1/a.tar", tmp_path / "out", "no images"),
    ):
        result = cli("translate", model, source, "--out", out, "--device", "cpu")
        assert result.code == 2 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result
        assert said in result.stderr and not (tmp_path / "out").exists()
    other = make_model(tmp_path / "other", seed=8)
    assert "by another model, or by this one used otherwise" in cli("translate", other, f"{memory}/in", "--out", f"{memory}/done").stderr
    assert Place(f"{memory}/taken").read("1.png") == b"mine"


def test_a_place_that_cannot_be_written_is_said_in_one_line(
    translator: Translator, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in/1.png", picture())

    def refuse(*given: Any, **more: Any) -> None:
        raise PermissionError("Forbidden\nby the bucket's policy")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", refuse)
    with pytest.raises(UserError, match=r"^cannot write memory://house/out/1\.png \(Forbidden by the bucket's policy\); check"):
        quietly(translator, tmp_path / "in", f"{memory}/out")


def test_a_remote_manifest_is_sent_as_it_grows(translator: Translator, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    upload = Place.upload

    def counting(self: Place, name: str, path: str) -> None:
        sent.append(len(Path(path).read_text().splitlines()))
        upload(self, name, path)

    monkeypatch.setattr(Place, "upload", counting)
    monkeypatch.setattr(manifests, "FIRST", 2)
    with pytest.raises(KeyboardInterrupt), Manifest(Place(memory), translator) as book:
        for i in range(50):
            book.add({"file": f"{i}.png", "source": "x", "status": "done"})
        assert sent[0] == 2 and len(sent) > 5 and 50 / 1.1 - 2 < sent[-1] <= 50
        raise KeyboardInterrupt
    assert sent[-1] == 50 and len(Manifest(Place(memory), translator).done) == 50
    counted = len(sent)
    with Manifest(Place(memory), translator):
        pass
    assert len(sent) == counted, "nothing new, nothing sent"


# --- Ray


@pytest.fixture(scope="module")
def ray_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray on this machine, with two workers' cores; its workers know what is in ray_worker.py, and the place ``bucket://``."""
    import ray

    root = tmp_path_factory.mktemp("ray")
    info = root / "bucket-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bucket\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fsspec.specs]\nbucket = ray_worker.Bucket\n")
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(HERE), str(HERE.parent / "src"), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("UNFLIP_TEST_BUCKET", str(root / "bucket"))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        (root / "bucket").mkdir()
        fsspec.register_implementation("bucket", Bucket, clobber=True)
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        ray.init(address="local", num_cpus=2, object_store_memory=128 * 2**20, **quiet)
        yield
        ray.shutdown()


def mark(path: Path) -> None:
    """Make an image deadly."""
    with Image.open(path) as image:
        image.putpixel((0, 0), MARK)
        image.save(path)


def deadly(model: Path, diary: Path, out: Path, times: int) -> Translator:
    """The model, with a generator that kills the first ``times`` workers that come to a marked image."""
    translator = unflip.load(model, device="cpu")
    translator.generator = Deadly(translator.generator, diary, out, times)  # type: ignore[assignment]
    return translator


def without_manifest(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in sorted(tree(folder).items()) if data is not None and name != MANIFEST}


def alike(found: dict[str, bytes], expected: dict[str, bytes]) -> bool:
    """Whether these are the same files, images within one level: a worker's one thread rounds otherwise than this process' several."""
    if list(found) != list(expected):
        return False
    for name, data in found.items():
        if name.endswith(".tar") and not alike(members(data), members(expected[name])):
            return False
        if name.endswith((".png", ".webp")):
            a, b = (np.asarray(Image.open(io.BytesIO(each))).astype(int) for each in (data, expected[name]))
            if a.shape != b.shape or np.abs(a - b).max() > 1:
                return False
    return True


def test_a_worker_is_killed_and_every_image_is_there_once(ray_of_two: None, model: Path, translator: Translator, tmp_path: Path) -> None:
    source, out, diary = tmp_path / "in", tmp_path / "out", tmp_path / "diary"
    for i in range(40):
        save(source / f"{i % 3}/{i}.png", picture(25 + i % 7, 18, seed=i))
    mark(source / "1/19.png")
    outcome = quietly(deadly(model, diary, out, times=1), source, out, trust=True, how=on_ray(2, "cpu"))
    there, sharing = map(int, diary.read_text().split())
    assert 0 < there < 40, "a worker was killed midway"
    assert sharing == 2, "each takes its share of the memory"
    expected = quietly(translator, source, tmp_path / "alone", trust=True)
    assert (outcome.done, outcome.skipped, outcome.failed) == (expected.done, 0, []) == (40, 0, [])
    assert outcome.trust == pytest.approx(expected.trust, abs=0.01)
    assert alike(without_manifest(out), without_manifest(tmp_path / "alone")) and len(without_manifest(out)) == 40
    assert not alike(without_manifest(source), without_manifest(out))
    assert without_manifest(trust_folder(out)).keys() == without_manifest(trust_folder(tmp_path / "alone")).keys()
    assert sorted(line["file"] for line in lines(out)) == sorted(line["file"] for line in lines(tmp_path / "alone"))
    assert all(line["status"] == "done" and Path(line["source"]).is_file() for line in lines(out))
    assert quietly(translator, source, out, how=lambda *given: pytest.fail("done again") if given[1] else None).skipped == 40


@pytest.mark.slow
def test_a_worker_is_killed_within_a_remote_shard(ray_of_two: None, model: Path, translator: Translator, tmp_path: Path) -> None:
    bucket, diary = Path(os.environ["UNFLIP_TEST_BUCKET"]), tmp_path / "diary"
    for i in range(4):
        content = [member for k in range(4) for member in sample(4 * i + k)]
        if i == 2:
            save(tmp_path / "marked.png", picture(41, 18))
            mark(tmp_path / "marked.png")
            content[6] = content[6][0], (tmp_path / "marked.png").read_bytes()
        shard(bucket / f"in/train-{i}.tar", content)
    outcome = quietly(deadly(model, diary, bucket / "out", times=1), "bucket://in", "bucket://out", how=on_ray(2, "cpu"))
    assert outcome == Outcome(done=16) and len(diary.read_text().splitlines()) == 1
    quietly(translator, bucket / "in", tmp_path / "alone")
    assert alike(without_manifest(bucket / "out"), without_manifest(tmp_path / "alone"))
    assert not alike(without_manifest(bucket / "in"), without_manifest(bucket / "out"))
    found = Counter(line["file"] for line in lines(bucket / "out"))
    assert set(found.values()) == {1} and found.keys() == {line["file"] for line in lines(tmp_path / "alone")}


@pytest.mark.slow
def test_an_image_that_kills_every_worker_is_given_up(ray_of_two: None, model: Path, tmp_path: Path) -> None:
    source, out, diary = tmp_path / "in", tmp_path / "out", tmp_path / "diary"
    for i in range(32):
        save(source / f"{i}.png", picture(25, 18, seed=i))
    mark(source / "5.png")
    (source / "fake.png").write_text("no image")
    outcome = quietly(deadly(model, diary, out, times=99), source, out, how=on_ray(1, "cpu"))
    assert (outcome.done, len(outcome.failed)) == (31, 2) and len(without_manifest(out)) == 31
    assert any("workers keep dying of 5.png" in line for line in outcome.failed) and any("fake.png" in line for line in outcome.failed)
    assert len(diary.read_text().splitlines()) == 3
    assert set(Counter(line["file"] for line in lines(out)).values()) == {1} and len(lines(out)) == 33


def test_the_command(ray_of_two: None, cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(3):
        save(tmp_path / f"in/{i}.png", picture(seed=i))
    (tmp_path / "in/fake.png").write_text("no image")
    monkeypatch.chdir(tmp_path)  # the workers are elsewhere: relative paths must mean the same
    result = cli("translate", model, "in", "--out", "out", "--ray", "--device", "cpu")
    assert result.code == 1 and result.stdout == "out: 3 translated\n" and result.stderr.count("failed: ") == 1, result
    alone = cli("translate", model, "in", "--out", "alone", "--device", "cpu")
    assert alone.code == 1 and alike(without_manifest(tmp_path / "out"), without_manifest(tmp_path / "alone"))
    (tmp_path / "in/fake.png").unlink()
    again = cli("translate", model, "in", "--out", "out", "--ray", "--workers", "1")
    assert again == (0, "out: 0 translated, 3 already there\n", "")
    shutil.copytree(tmp_path / "in", tmp_path / "more")
    (tmp_path / "closed").write_text("a file")
    refused = cli("translate", model, "more", "--out", "closed/out", "--ray")
    assert refused.code == 2 and refused.stderr.count("\n") == 1 and "closed/out" in refused.stderr


def test_videos_are_shared_out(ray_of_two: None, translator: Translator, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from test_video import read, scenes, write

    for i in range(3):
        write(tmp_path / f"in/{i}.mkv", scenes(3, 32, 32), pixels="yuv444p")
    (tmp_path / "in/1.mkv").write_text("no video")
    outcome = quietly(translator, tmp_path / "in", tmp_path / "out", how=on_ray(2, "cpu"))
    assert outcome.done == 2 and len(outcome.failed) == 1 and "in/1.mkv" in outcome.failed[0]
    assert len(read(tmp_path / "out/2.mkv")) == 3
    assert [len(chunk) for chunk in _chunks([Job(f"{i}.mp4", f"{i}.mp4") for i in range(100)], 2, 64)] == [1] * 100


@pytest.mark.slow
def test_what_a_worker_cannot_write_stops_all(ray_of_two: None, translator: Translator, tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"in/{i}.png", picture(seed=i))
    (tmp_path / "out/3.png").mkdir(parents=True)
    (tmp_path / "out" / MANIFEST).touch()
    with pytest.raises(UserError, match=r"^cannot write .*out/3\.png: a folder of that name is in the way"):
        quietly(translator, tmp_path / "in", tmp_path / "out", how=on_ray(1, "cpu"))


def test_calls_that_are_wrong(cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in/1.png", picture())
    call = ["translate", model, tmp_path / "in", "--out", tmp_path / "out"]
    for more, said in (
        (["--workers", "2"], "--workers counts the workers of Ray; add --ray"),
        (["--ray", "--workers", "0"], "--workers"),
        (["--ray", "--device", "tpu"], "unknown device 'tpu'"),
    ):
        result = cli(*call, *more)
        assert result.code == 2 and said in result.stderr and result.stderr.count("\n") == 1, result
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray.data", raising=False)
    result = cli(*call, "--ray")
    assert result == (2, "", "error: ray is not installed; run: pip install 'unflip[scale]'\n")
    with pytest.raises(MissingExtra):
        on_ray()
    assert not (tmp_path / "out").exists()


def test_what_killed_writers_leave_is_swept_away(tmp_path: Path) -> None:
    kept = [".b.png.12.tmp", "a.png", ".hidden.png", ".tmp", "sub/.a.png.1.tmp"]
    for name in [*kept, ".a.png.12.tmp", ".a.png.7.tmp", "sub/.c.d.png.9.tmp"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    Place(tmp_path).sweep(["a.png", "sub/c.d.png", "nowhere/e.png"])
    assert sorted(name for name, data in tree(tmp_path).items() if data is not None) == sorted(kept)


def test_chunks_are_small_for_few_images_and_bounded_for_many() -> None:
    for count, workers in ((1, 4), (100, 2), (20_000, 3)):
        jobs = [Job(f"/in/{i}.png", f"{i}.png") for i in range(count)]
        for most in CHUNK.values():
            chunks = list(_chunks(jobs, workers, most))
            assert [job for chunk in chunks for job in chunk] == jobs
            assert max(map(len, chunks)) <= most and (count < 16 * workers or len(chunks) >= 8 * workers)
    shards = [Job(f"s3://b/{i}.tar", f"{i}.tar") for i in range(100)]
    assert [len(chunk) for chunk in _chunks(shards, 2, 8)] == [1] * 100


def test_nothing_of_it_is_loaded_before_it_is_needed() -> None:
    code = "import sys, unflip.cli.main, unflip.inference.folders; print({'ray', 'pyarrow', 'pandas', 'aiohttp'} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(HERE.parent / "src")}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout == "set()\n"


def test_names_behind_a_web_server_are_those_of_its_files(translator: Translator, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    names = ["a b.c.png", "palette é.png", "100%25.png", "in/d.png"]
    for name in names:
        save(tmp_path / "in" / name, picture(25, 18))

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(tmp_path / "in"))

        def log_message(self, *given: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert quietly(translator, f"{address}/", tmp_path / "out") == Outcome(done=4)
        assert quietly(translator, f"{address}/a%20b.c.png", tmp_path / "one") == Outcome(done=1)
        server.shutdown()
    assert sorted(without_manifest(tmp_path / "out")) == sorted(names) and [*without_manifest(tmp_path / "one")] == ["a b.c.png"]
