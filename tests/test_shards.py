"""Tar shards: members are read as files are, and a run from shards is, bit for bit, the run from a folder."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from test_train import SELDOM, at, bits, quietly, small, tree
from unflip.data.folders import find_images, relative_names, survey
from unflip.data.formats import is_photo
from unflip.data.images import check, read, read_rgb
from unflip.data.inventory import take_inventory
from unflip.data.labels import Classes, match_labels, read_labels, survey_labels
from unflip.data.pairs import Images, Pairs, loader
from unflip.data.shards import expand, opened
from unflip.engine.team import Team
from unflip.errors import Interrupted, UserError
from unflip.recipes.listing import list_images
from unflip.recipes.prepare import _labels
from unflip.recipes.train import configure
from unflip.runs import RunConfig
from unflip.types import Size

CLASSES = Classes(names=("road", "sky"), palette=((0, 0, 0), (9, 9, 200)))


def png(seed: int = 0, size: tuple[int, int] = (40, 34), kind: str = "PNG") -> bytes:
    """A file of random pixels; ``size`` is (width, height)."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng([seed, *size]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def labels(seed: int = 0, size: tuple[int, int] = (40, 34)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng([seed, *size]).integers(0, 2, (size[1], size[0]), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, members: Iterable[tuple[str, bytes]], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


# --- patterns and names


def test_braces_stand_for_what_they_stand_for_in_a_shell() -> None:
    assert expand("a/{08..11}.tar") == ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]
    assert expand("{8..11}") == ["8", "9", "10", "11"] and expand("{000..2}") == ["000", "001", "002"]
    assert expand("{x,yy}-{0..1}.tar") == ["x-0.tar", "x-1.tar", "yy-0.tar", "yy-1.tar"]
    assert expand("plain.tar") == ["plain.tar"]
    for wrong in ("{3..1}.tar", "{a}.tar", "{}.tar", "{0..99999999}.tar", "{a..c}.tar"):
        with pytest.raises(UserError, match=r"; write \{000000\.\.000099\}"):
            expand(wrong)
    with pytest.raises(UserError, match="braces in braces"):
        expand("{a,b{1..2}}.tar")


def test_a_samples_image_has_one_dot() -> None:
    photos = {"a.png", "a/b.JPG", "a.b/c.webp", "00.tiff"}
    others = {"a.seg.png", "a.png.json", "a.json", ".a.png", "a/.png", "a", "a.tar", "a.b.c.jpg"}
    assert {name for name in photos | others if is_photo(name)} == photos


def test_what_counts_as_images_of_a_folder(tmp_path: Path) -> None:
    one = [("b/10.png", png(1)), ("b/9.jpg", png(2, kind="JPEG")), ("b/9.json", b"{}"), ("b/9.seg.png", labels()), ("._b.png", b"x")]
    shard(tmp_path / "s/10.tar", [("z.png", png(3))])
    shard(tmp_path / "s/9.tar", one)
    shard(tmp_path / "s/.hidden.tar", [("h.png", png(4))])
    found = find_images(tmp_path / "s")
    assert names(found, tmp_path / "s") == ["9.tar/b/10.png", "9.tar/b/9.jpg", "10.tar/z.png"], "shards naturally, members as they lie"
    assert [path.as_posix() for path in relative_names(found, tmp_path / "s")] == names(found, tmp_path / "s")
    assert find_images(tmp_path / "s/{9..10}.tar") == found
    assert find_images(tmp_path / "s/9.tar") == found[:2]
    (tmp_path / "s/sub").mkdir()
    (tmp_path / "s/sub/1.png").write_bytes(png())
    assert names(find_images(tmp_path / "s"), tmp_path / "s") == ["sub/1.png"], "shards beside images are an archive of them"


def test_a_folder_whose_name_ends_as_a_shards_is_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "a.tar/b{1}/c.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(png())
    assert find_images(tmp_path) == find_images(path.parent) == [path] and read_rgb(path).shape == (34, 40, 3)


# --- reading


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_read_as_files_are(tmp_path: Path, format: int) -> None:
    long = "x" * 90 + "/" + "y" * 90
    given = {"0.png": png(0), f"{long}.jpg": png(1, kind="JPEG"), "ü.webp": png(2, kind="WEBP"), "./2.bmp": png(3, (9, 50), "BMP")}
    given["4.tif"] = png(4, (31, 7), "TIFF")
    path = shard(tmp_path / "s.tar", given.items(), format=format)
    (tmp_path / "files").mkdir()
    for name, found in zip(given, find_images(path), strict=True):
        file = tmp_path / "files" / Path(name).name
        file.write_bytes(given[name])
        assert check(found) == check(file)
        assert all(np.array_equal(a, b) for a, b in zip(read(found, "short:20"), read(file, "short:20"), strict=True) if a is not None)
        with opened(found) as member:
            assert member.read() == given[name]
            assert member.seek(-5, os.SEEK_END) == len(given[name]) - 5 and member.read(99) == given[name][-5:]
            assert member.seek(3) == 3 and member.seek(4, os.SEEK_CUR) == 7 and member.read(2) == given[name][7:9]
            assert member.seek(10**9) == 10**9 and member.read() == b""
    found = take_inventory(find_images(path))
    assert not found.bad and [seen.entry for seen in found.seen] == survey(find_images(path))


def test_what_the_webdataset_library_writes_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "train-%06d.tar"), maxcount=3, verbose=0) as writer:
        for i in range(8):
            writer.write({"__key__": f"part/{i:03}", "png": png(i), "seg.png": labels(i), "json": {"i": i}})
    pattern = tmp_path / "train-{000000..000002}.tar"
    found = find_images(pattern)
    assert [path.name for path in found] == [f"{i:03}.png" for i in range(8)]
    assert all(np.array_equal(read_rgb(path), np.asarray(Image.open(io.BytesIO(png(i))))) for i, path in enumerate(found))
    for i, path in enumerate(match_labels(found, pattern, pattern)):
        assert np.array_equal(read_labels(path, CLASSES), np.asarray(Image.open(io.BytesIO(labels(i)))))


def test_labels_lie_beside_their_images_or_in_shards_of_their_own(tmp_path: Path) -> None:
    both = [(f"{i}.{end}", data(i)) for i in range(3) for end, data in (("png", png), ("seg.png", labels))]
    shard(tmp_path / "both/0.tar", both)
    shard(tmp_path / "images/0.tar", [member for member in both if "seg" not in member[0]])
    shard(tmp_path / "labels/0.tar", [(f"{i}.png", labels(i)) for i in (2, 0, 1)])
    shard(tmp_path / "fields/0.tar", [(f"{i}.seg.png", labels(i)) for i in (2, 0, 1)])
    for images, maps in (("both", "both"), ("images", "labels"), ("images", "fields"), ("both", "labels"), ("both/0.tar", "labels/0.tar")):
        found = find_images(tmp_path / images)
        matched = match_labels(found, tmp_path / images, tmp_path / maps)
        assert [path.name.split(".")[0] for path in matched] == ["0", "1", "2"]
        assert survey_labels(matched, survey(found), CLASSES).pixels[0] > 0
        assert np.array_equal(read_labels(matched[2], CLASSES), np.asarray(Image.open(io.BytesIO(labels(2)))))
    shard(tmp_path / "two/0.tar", [*both, ("1.depth.png", labels(9))])
    with pytest.raises(UserError, match=r"two label maps for one image, .*1\.seg\.png and .*1\.depth\.png"):
        match_labels(find_images(tmp_path / "two"), tmp_path / "two", tmp_path / "two")
    with pytest.raises(UserError, match=r"1 of 3 images have no label map, such as .*0\.tar/2\.png"):
        shard(tmp_path / "labels/0.tar", [(f"{i}.png", labels(i)) for i in (0, 1)])
        match_labels(find_images(tmp_path / "images"), tmp_path / "images", tmp_path / "labels")


@pytest.mark.parametrize("where", ["i0.tar", "i{0..0}.tar"])
def test_some_members_of_a_shard_have_the_names_that_they_have_among_all(tmp_path: Path, where: str) -> None:
    stems = ["0", "1", "night/0", "night/1"]
    shard(tmp_path / "i0.tar", [member for stem in stems for member in ((f"all/{stem}.png", png()), (f"fields/{stem}.seg.png", labels()))])
    shard(tmp_path / "l.tar", [(f"{stem}.png", labels()) for stem in stems])
    images = tmp_path / where
    found = find_images(images)
    assert relative_names(found[2:], images) == [Path("night/0.png"), Path("night/1.png")]
    for maps in (images, tmp_path / "l.tar"):
        assert match_labels(found[2:], images, maps) == match_labels(found, images, maps)[2:]


# --- what is wrong


def link(path: Path, kind: bytes, to: str) -> Path:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, to
        tar.addfile(info)
    return path


def test_bad_shards_are_said_in_one_line(tmp_path: Path) -> None:
    good = shard(tmp_path / "good.tar", [(f"{i}.png", png(i)) for i in range(4)]).read_bytes()
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    (tmp_path / "renamed.tar").write_bytes(packed.read_bytes())
    cuts = (
        1000,
        len(png()) + 700,
        first := 512 + -(-len(png()) // 512) * 512,
        first + 1,
        first + 511,
        3 * first + 512,
        len(good.rstrip(b"\0")),
    )
    for i, end in enumerate(cuts):
        (tmp_path / f"cut{i}.tar").write_bytes(good[:end])
    (tmp_path / "text.tar").write_text("no tar at all")
    (tmp_path / "empty.tar").write_bytes(b"")
    shard(tmp_path / "twice.tar", [("a.png", png()), ("./a.png", png(1))])
    shard(tmp_path / "up.tar", [("../a.png", png())])
    shard(tmp_path / "root.tar", [(f"{tmp_path}/a.png", png())])
    link(tmp_path / "symlink.tar", tarfile.SYMTYPE, "/etc/passwd")
    link(tmp_path / "hardlink.tar", tarfile.LNKTYPE, "b.png")
    shard(tmp_path / "texts.tar", [("a.json", b"{}"), ("b.seg.png", labels())])
    said = {
        **{f"cut{i}.tar": r"broken or truncated shard, .*; replace" for i in range(len(cuts))},
        **dict.fromkeys(("text.tar", "empty.tar", "renamed.tar"), r"broken or truncated shard, .*; replace"),
        "packed.tar.gz": r"neither a folder .* nor a \.tar shard",
        "twice.tar": r"two members are named a\.png, ",
        **dict.fromkeys(("up.tar", "root.tar", "symlink.tar", "hardlink.tar"), r"is a link or leads out of the shard, "),
        "texts.tar": r"no images in the shards, .*KEY\.png",
        "good{0..1}.tar": r"no such shard, .*good0\.tar \(of .*\{0\.\.1\}",
        "good{,s}.png": r"not a shard, ",
        "{1..0}.tar": "counts backwards",
        "none.tar": "no such folder",
    }
    for name, words in said.items():
        with pytest.raises(UserError, match=words) as raised:
            find_images(tmp_path / name)
        assert "\n" not in str(raised.value) and "; " in str(raised.value), name


def test_a_bad_member_is_named(tmp_path: Path) -> None:
    good = png(1)
    path = shard(tmp_path / "s.tar", [("0.png", png()), ("1.png", good[:-30]), ("2.png", b"fake"), ("3.png", b"")])
    with pytest.raises(UserError, match=r"^3 of 4 images cannot be used: .*s\.tar/1\.png.*s\.tar/2\.png.*s\.tar/3\.png"):
        survey(find_images(path))


def test_a_url_is_no_source_of_a_training(cli: Callable[..., Any], images_folder: Callable[..., Path], tmp_path: Path) -> None:
    for url in ("s3://bucket/shards", "https://host/train-{0..9}.tar"):
        result = cli("train", "--source", url, "--target", images_folder(), "--out", tmp_path / "out", "--budget", "2")
        assert result.code == 2 and result.stderr.startswith("error: a URL") and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "out").exists()


def test_a_shard_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", [(f"{i}.png", png(i)) for i in range(3)])
    stream = stream_of(path, path, "none")
    shard(path, [("0.png", png()), ("1.png", png(1, (34, 40)))])
    with pytest.raises(UserError, match=r"image has changed since the run began, .*s\.tar/1\.png \(34x40 instead of 40x34\)"):
        stream.source[1]
    with pytest.raises(UserError, match=r"cannot read the image, .*s\.tar/2\.png"):
        stream.source[2]
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read the image, .*s\.tar/0\.png"):
        stream.source[0]


# --- training


def stream_of(source: Path, target: Path, cache: str, length: int = 23) -> Pairs:
    images = (Images(survey(find_images(where)), cache=cache) for where in (source, target))
    return Pairs(*images, Size(32, 32), 0, length, True)


@pytest.fixture
def domains(tmp_path: Path) -> dict[str, Path]:
    """The same images in folders and in shards, in the same order; the sources with labels."""
    sizes = [(40, 34), (33, 50), (36, 36), (48, 33), (35, 35)]
    sources = [(f"{i}.{end}", data(i, sizes[i])) for i in range(5) for end, data in (("png", png), ("seg.png", labels))]
    targets = [(f"{i}.jpg", png(i + 10, kind="JPEG")) for i in range(4)]
    for name, members in (("source", sources[::2]), ("target", targets)):
        (tmp_path / "files" / name).mkdir(parents=True)
        for file, data in members:
            (tmp_path / "files" / name / file).write_bytes(data)
    (tmp_path / "files/labels").mkdir()
    for file, data in sources[1::2]:
        (tmp_path / "files/labels" / file.replace(".seg", "")).write_bytes(data)
    shard(tmp_path / "shards/source/0.tar", sources[:6])
    shard(tmp_path / "shards/source/1.tar", sources[6:])
    shard(tmp_path / "shards/target-0.tar", targets[:1])
    shard(tmp_path / "shards/target-1.tar", targets[1:])
    (tmp_path / "classes.json").write_text(json.dumps({"names": CLASSES.names, "palette": CLASSES.palette}))
    return {"files": tmp_path / "files", "shards": tmp_path / "shards", "classes": tmp_path / "classes.json"}


def config_of(domains: dict[str, Path], kind: str, *settings: str, **fields: Any) -> RunConfig:
    target = "target" if kind == "files" else "target-{0..1}.tar"
    given = {"source": domains[kind] / "source", "target": domains[kind] / target, "size": 32, "budget": 8, "device": "cpu", **fields}
    return configure("cut", settings=[*small("cut"), *SELDOM, *settings], **given)


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_stream_is_that_of_a_folder(domains: dict[str, Path], workers: int, cache: str) -> None:
    folder = stream_of(domains["files"] / "source", domains["files"] / "target", "none")
    shards = stream_of(domains["shards"] / "source", domains["shards"] / "target-{0..1}.tar", cache)
    expected = list(loader(folder, first=0, batch=4, workers=0))
    for first in (0, 8):
        found = list(loader(shards, first=first, batch=4, workers=workers))
        assert len(found) == len(expected[first // 4 :])
        for a, b in zip(found, expected[first // 4 :], strict=True):
            assert (a.source == b.source).all() and (a.target == b.target).all() and a.first == b.first


def test_a_run_is_that_of_a_folder_for_any_number_of_workers_stopped_or_not(domains: dict[str, Path], tmp_path: Path) -> None:
    expected = bits(quietly(config_of(domains, "files", batch=2), tmp_path / "files_run"))
    assert bits(quietly(config_of(domains, "shards", "data.workers=0", batch=2), tmp_path / "alone")) == expected
    chosen, stopped = config_of(domains, "shards", "data.workers=2", batch=2), tmp_path / "stopped"
    with at(2, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(chosen, stopped)
    assert bits(stopped) != expected
    assert bits(quietly(chosen, stopped, resume=True)) == expected
    other = bits(quietly(config_of(domains, "shards", batch=2, seed=1), tmp_path / "other"))
    assert other != expected


def test_labels_in_shards_are_cut_as_those_in_folders(domains: dict[str, Path], tmp_path: Path) -> None:
    batches = []
    for kind, place in (("files", "labels"), ("shards", "source")):
        config = config_of(domains, kind, "semantic.weight=1", source_labels=domains[kind] / place, classes=domains["classes"])
        listing = list_images(config, tmp_path, resume=False, progress=False, say=print, team=Team())
        found = _labels(config, listing, shared=True)
        images = Images(listing.entries["source"]), Images(listing.entries["target"])
        batches.append(list(loader(Pairs(*images, Size(32, 32), 0, 12, True, found), first=0, batch=4, workers=2)))
    for a, b in zip(*batches, strict=True):
        assert (a.source == b.source).all() and (a.labels == b.labels).all() and 0 < a.labels.float().mean() < 1


def test_what_is_set_aside_leaves_the_others_their_label_maps(domains: dict[str, Path], tmp_path: Path) -> None:
    shard(tmp_path / "i.tar", [("0.png", b"broken"), *((f"a/{i}.png", png(i)) for i in range(3))])
    shard(tmp_path / "l.tar", [("0.png", labels(9)), *((f"a/{i}.png", labels(i)) for i in range(3))])
    places = {"source": tmp_path / "i.tar", "source_labels": tmp_path / "l.tar", "classes": domains["classes"]}
    config = config_of(domains, "shards", "semantic.weight=1", **places)
    listing = list_images(config, tmp_path, resume=False, progress=False, say=print, team=Team())
    assert [path.relative_to(tmp_path).as_posix() for path in listing.labels or []] == [f"l.tar/a/{i}.png" for i in range(3)]


def test_the_default_budget_counts_members(domains: dict[str, Path]) -> None:
    given = [config_of(domains, kind, budget=None) for kind in ("files", "shards")]
    assert given[0].budget == given[1].budget > 8


def test_the_command_takes_shards(
    cli: Callable[..., Any], domains: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(domains["shards"])
    settings = [part for setting in [*small("cut"), *SELDOM] for part in ("--set", setting)]
    call = [
        "train",
        "--method",
        "cut",
        "--source",
        "source",
        "--target",
        "target-{0..1}.tar",
        "--size",
        32,
        "--budget",
        4,
        "--device",
        "cpu",
    ]
    before = tree(domains["shards"])
    assert cli(*call, "--out", tmp_path / "run", *settings).code == 0
    monkeypatch.chdir(tmp_path)
    result = cli("train", "--out", tmp_path / "run", "--resume")
    assert result.code == 0 and "is complete: 4 of 4 images" in result.stderr, "its config works from anywhere"
    assert tree(domains["shards"]) == before


def test_the_other_verbs_take_shards(cli: Callable[..., Any], domains: dict[str, Path], tmp_path: Path) -> None:
    """And find in them what they find in folders."""
    found: dict[str, list[Any]] = {}
    for kind, target, maps in (("files", "target", "labels"), ("shards", "target-{0..1}.tar", "source")):
        root, out = domains[kind], tmp_path / f"{kind}_out"
        source, labels_of, classes = root / "source", root / maps, ["--classes", domains["classes"]]
        judge = ["--target", root / target, "--segmenter", out / "segmenter", "--out"]
        for call in (
            ["segmenter", "--images", source, "--labels", labels_of, *classes, "--out", out / "segmenter", "--budget", 2, "--size", 32],
            ["audit", "--source", source, "--source-labels", labels_of, *classes, *judge, out / "audit"],
            ["evaluate", "--translated", source, "--labels", labels_of, *classes, *judge, out / "evaluation", "--source", source],
        ):
            result = cli(*call, "--device", "cpu")
            assert result.code == 0, result
        metrics = json.loads((out / "evaluation/metrics.json").read_text())
        audit = json.loads((out / "audit/audit.json").read_text())
        weights = (out / "segmenter/model.safetensors").read_bytes()
        found[kind] = [weights, metrics["pixel_accuracy"], metrics["flips"], metrics["realism"]["frechet"], audit["shares"], audit["looks"]]
    assert found["files"] == found["shards"]
