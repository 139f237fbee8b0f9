"""Data faults do not stop a training: bad files are set aside, others stand in for those that vanish, killed workers are started anew."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from helpers import untouched_global_rng
from test_train import SELDOM, Crash, at, bits, crash, log, quietly, small
from unflip import modelfolder
from unflip.data import shards, workers
from unflip.data.bands import Bands, GivenBands, Kind
from unflip.data.folders import Entry, find_images, survey
from unflip.data.images import check
from unflip.data.labels import Classes, Labels
from unflip.data.measure import find_bands
from unflip.data.pairs import Images, Pairs, loader
from unflip.data.standins import TRIES, read_or_stand_in
from unflip.data.workers import outliving
from unflip.engine import trainer
from unflip.engine.team import Team
from unflip.engine.training import assemble
from unflip.errors import Interrupted, UserError
from unflip.fabric import Fabric
from unflip.recipes import listing as module
from unflip.recipes.listing import Aside, Listing, list_images
from unflip.recipes.train import configure, train
from unflip.runs import RunConfig, from_yaml
from unflip.types import Batch, Size

Folder = Callable[..., Path]
CLASSES = Classes(names=("road", "sky"), palette=((0, 0, 0), (9, 9, 200)))


def scenes(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (40, 36)) -> Path:
    """Random images, some with names beyond ASCII; each with a label map in ``folder``_labels: its red, halved."""
    beside = folder.with_name(f"{folder.name}_labels")
    for each in (folder, beside):
        each.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        name = f"{i:03} größe 路.png" if i % 3 == 2 else f"{i:03}.png"
        Image.fromarray(pixels).save(folder / name)
        Image.fromarray(pixels[..., 0] // 128).save(beside / name)
    return folder


@pytest.fixture
def domains(tmp_path: Path) -> dict[str, Path]:
    """Twelve images each: one may be gone when a run is resumed, two may not."""
    return {side: scenes(tmp_path / side, 12, seed) for seed, side in enumerate(("source", "target"))}


def chosen(domains: dict[str, Path], *settings: str, **fields: Any) -> RunConfig:
    given = {**domains, "size": 32, "budget": 8, "device": "cpu", **fields}
    return configure("cut", settings=[*small("cut"), *SELDOM, *settings], **given)


def labeled(domains: dict[str, Path], *settings: str) -> RunConfig:
    where = domains["source"].parent / "classes.json"
    where.write_text(json.dumps({"names": CLASSES.names, "palette": CLASSES.palette}))
    return chosen(domains, *settings, source_labels=domains["source"].with_name("source_labels"), classes=where)


def images(folder: Path, k: int) -> Path:
    return find_images(folder)[k]


def spoil(path: Path) -> None:
    """Head and tail stay whole, so that it is found only when it is decoded."""
    content = bytearray(path.read_bytes())
    content[200:2000] = bytes(1800)
    path.write_bytes(content)


def lines(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "set_aside.jsonl").read_text().splitlines()]


def said_by(config: RunConfig, out: Path, **arguments: Any) -> list[str]:
    said: list[str] = []
    train(config, out, progress=False, say=said.append, **arguments)
    return said


def stopped_at(seen: int, config: RunConfig, out: Path) -> None:
    with at(seen, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        quietly(config, out)


# --- bad files at the start


def test_bad_files_are_set_aside_and_the_run_is_that_without_them(domains: dict[str, Path], tmp_path: Path) -> None:
    good = domains["target"].joinpath("003.png").read_bytes()
    bad = [images(domains["source"], 2), images(domains["source"], 7), domains["target"] / "003.png"]
    for path, content in zip(bad, (b"", b"no image", good[:-40]), strict=True):
        path.write_bytes(content)
    said = said_by(chosen(domains), tmp_path / "run")
    told = [line for line in said if "set aside" in line]
    assert told == [
        "2 of 12 source images cannot be used and were set aside; run/set_aside.jsonl says which and why",
        "1 of 12 target images cannot be used and were set aside; run/set_aside.jsonl says which and why",
    ]
    assert any("10 source and 11 target images" in line for line in said)
    assert [(line["side"], line["path"]) for line in lines(tmp_path / "run")] == [
        ("source", str(bad[0])),
        ("source", str(bad[1])),
        ("target", str(bad[2])),
    ]
    assert "größe 路" in lines(tmp_path / "run")[0]["path"] and "truncated" in lines(tmp_path / "run")[2]["reason"]
    assert told[0] in modelfolder.load(tmp_path / "run").config.provenance["remarks"], "readers of the model are told"

    for path in bad:
        path.unlink()
    without = tmp_path / "without"
    assert not any("set aside" in line for line in said_by(chosen(domains), without))
    assert bits(without) == bits(tmp_path / "run") and not (without / "set_aside.jsonl").exists()


def test_the_strict_way_is_named(domains: dict[str, Path], tmp_path: Path) -> None:
    images(domains["target"], 1).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^1 of 12 images cannot be used: .*target/001\.png; replace or remove them$"):
        quietly(chosen(domains, "data.bad=stop"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"bad"):
        chosen(domains, "data.bad=ignore")


@pytest.mark.parametrize("side", ["source", "target"])
def test_more_than_half_is_a_wrong_folder(domains: dict[str, Path], tmp_path: Path, side: str) -> None:
    paths = find_images(domains[side])
    for path in paths[:7]:
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^7 of 12 images cannot be used: [^\n]* and 4 more; replace or remove them$"):
        quietly(chosen(domains), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    Image.new("RGB", (40, 40)).save(paths[0])
    quietly(chosen(domains, budget=1), tmp_path / "run")
    assert len(lines(tmp_path / "run")) == 6


def test_a_broken_label_map_sets_its_image_aside_and_a_missing_one_is_an_error(domains: dict[str, Path], tmp_path: Path) -> None:
    beside = domains["source"].with_name("source_labels")
    broken, other, bad = (images(beside, k) for k in (5, 8, 3))
    content = broken.read_bytes()
    broken.write_bytes(content[:60])
    Image.new("L", (9, 9)).save(other)
    (domains["source"] / bad.name).write_bytes(b"")  # its label map does not matter
    bad.unlink()
    listing = list_images(labeled(domains), tmp_path / "run", resume=False, progress=False, say=print, team=Team())
    assert [each.path.name for each in listing.aside] == [bad.name, broken.name, other.name]
    assert "9x9 while its image is 40x36" in listing.aside[2].reason
    assert listing.labels == [beside / entry.path.name for entry in listing.entries["source"]] and len(listing.labels) == 9
    with pytest.raises(UserError, match=r"^2 of 11 label maps cannot be used: .*; correct them, or the classes$"):
        list_images(labeled(domains, "data.bad=stop"), tmp_path / "run", resume=False, progress=False, say=print, team=team_of_images(bad))
    images(beside, 0).unlink()
    with pytest.raises(UserError, match=r"1 of 11 images have no label map"):
        list_images(labeled(domains), tmp_path / "run", resume=False, progress=False, say=print, team=Team())


def team_of_images(bad: Path) -> Team:
    """A team of one, once the bad image of ``bad`` is gone, so that only label maps are left to complain of."""
    (bad.parents[1] / "source" / bad.name).unlink(missing_ok=True)
    return Team()


def test_images_and_label_maps_together_are_bounded(domains: dict[str, Path], tmp_path: Path) -> None:
    beside = domains["source"].with_name("source_labels")
    for path in find_images(domains["source"])[:4]:
        path.write_bytes(b"")
    for path in find_images(beside)[4:8]:
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"^8 of 12 source images cannot be used"):
        list_images(labeled(domains), tmp_path / "run", resume=False, progress=False, say=print, team=Team())


def test_members_of_shards_are_set_aside(domains: dict[str, Path], tmp_path: Path) -> None:
    from test_shards import png, shard

    members = [(f"{i}.png", png(i)) for i in range(6)]
    members[2] = "2.png", members[2][1][:-40]
    source = shard(tmp_path / "shards/000.tar", members).parent
    out = quietly(chosen({**domains, "source": source}), tmp_path / "run")
    assert [line["path"] for line in lines(out)] == [str(source / "000.tar/2.png")]
    stopped_at(2, chosen({**domains, "source": source}), tmp_path / "stopped")
    quietly(chosen({**domains, "source": source}), tmp_path / "stopped", resume=True)
    assert bits(tmp_path / "stopped") == bits(out)


def test_a_broken_shard_is_read_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_shards import png, shard

    path = shard(tmp_path / "0.tar", [(f"{i}.png", png(i)) for i in range(5)])
    found = find_images(path)
    path.write_bytes(path.read_bytes()[:3000])
    scans: list[Path] = []
    scan = shards._scan
    monkeypatch.setattr(shards, "_scan", lambda shard: (scans.append(shard), scan(shard))[1])
    for member in found:
        with pytest.raises(UserError, match=r"broken or truncated shard, .*0\.tar \(unexpected end of data\)"):
            check(member)
    assert len(scans) == 1


class Others(Team):
    """Process 0 of two, of which the other finds this bad."""

    def __init__(self, theirs: list[Aside]) -> None:
        super().__init__()
        self.theirs = theirs

    def gather(self, value: Any) -> list[Any]:
        return [value, self.theirs]


def test_what_one_process_cannot_use_none_does(domains: dict[str, Path], tmp_path: Path) -> None:
    """As where a disk fails one machine only: else their images would differ."""
    images(domains["target"], 4).write_bytes(b"")
    theirs = [Aside(side, images(domains[side], 4), "stale file handle") for side in ("source", "target")]
    found = list_images(chosen(domains), tmp_path / "run", resume=False, progress=False, say=print, team=Others(theirs))
    assert [(each.side, each.path) for each in found.aside] == [(each.side, each.path) for each in reversed(theirs)]
    assert [len(entries) for entries in found.entries.values()] == [11, 11]
    with pytest.raises(UserError, match=r"^7 of 12 source images cannot be used: stale"):
        theirs = [Aside("source", path, "stale") for path in find_images(domains["source"])[:7]]
        list_images(chosen(domains), tmp_path / "run", resume=False, progress=False, say=print, team=Others(theirs))


# --- resumed over other folders


def test_a_repaired_file_stays_aside(domains: dict[str, Path], tmp_path: Path) -> None:
    bad = images(domains["source"], 5)
    good = bad.read_bytes()
    bad.write_bytes(b"no image")
    whole = bits(quietly(chosen(domains), tmp_path / "whole"))
    out = tmp_path / "run"
    stopped_at(3, chosen(domains), out)
    before = (out / "images.json.gz").read_bytes(), (out / "set_aside.jsonl").read_bytes()
    bad.write_bytes(good)
    said = said_by(chosen(domains), out, resume=True)
    assert bits(out) == whole and ((out / "images.json.gz").read_bytes(), (out / "set_aside.jsonl").read_bytes()) == before
    assert sum("1 of 12 source images cannot be used" in line for line in said) == 1 and not any("new" in line for line in said)
    assert bits(quietly(chosen(domains), tmp_path / "repaired")) != whole, "it would have mattered"


def test_new_files_are_left_out(domains: dict[str, Path], tmp_path: Path) -> None:
    whole = bits(quietly(chosen(domains), tmp_path / "whole"))
    out = tmp_path / "run"
    stopped_at(3, chosen(domains), out)
    for k in range(30):
        Image.new("RGB", (50, 50), (k, 0, 0)).save(domains["target"] / f"{k} new.png")
    (domains["target"] / "broken.png").write_bytes(b"")
    said = said_by(chosen(domains), out, resume=True)
    assert said[0] == "31 new target images are left out; a resumed run keeps to those that it began with"
    assert bits(out) == whole and not (out / "set_aside.jsonl").exists()


@pytest.mark.parametrize("change", ["gone", "broken", "another size", "deep"])
def test_gone_and_changed_files_are_stood_in_for(domains: dict[str, Path], tmp_path: Path, change: str) -> None:
    config = chosen(domains, budget=14)
    whole = bits(quietly(config, tmp_path / "whole"))
    outs = [tmp_path / "run", tmp_path / "again"]
    for out in outs:
        stopped_at(1, config, out)
    path = images(domains["source"], 2)
    if change == "gone":
        path.unlink()
    elif change == "broken":
        path.write_bytes(path.read_bytes()[:-40])
    elif change == "another size":
        Image.new("RGB", (36, 40)).save(path)
    else:
        Image.fromarray(np.zeros((36, 40), np.uint16)).save(path)
    for out in outs:
        said = said_by(config, out, resume=True)
        assert said[0].startswith(f"1 of 12 source images are gone or changed, such as {path}; others stand in for them"), said
        assert "no longer exactly the one" in said[0]
    assert [line["seen"] for line in log(outs[0])] == list(range(1, 15))
    assert bits(outs[0]) == bits(outs[1]) != whole


@pytest.mark.parametrize("side", ["source", "target"])
def test_too_many_gone_or_changed_files_are_refused(domains: dict[str, Path], tmp_path: Path, side: str) -> None:
    out = tmp_path / "run"
    stopped_at(1, chosen(domains), out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    images(domains[side], 11).unlink()
    Image.new("RGB", (41, 41)).save(images(domains[side], 0))
    with pytest.raises(UserError) as raised:
        quietly(chosen(domains), out, resume=True)
    text = str(raised.value)
    assert text.startswith(
        f"the images are not those that the run in {out} began with (2 of 12 {side} images are gone or changed, such as "
    )
    assert text.endswith("; restore them, or start another run") and "\n" not in text
    domains[side].rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"12 of 12 {side} images are gone"):
        quietly(chosen(domains), out, resume=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_label_map_that_is_gone_counts_as_its_image(domains: dict[str, Path], tmp_path: Path) -> None:
    config, out = labeled(domains), tmp_path / "run"
    given: dict[str, Any] = {"resume": True, "progress": False, "team": Team()}
    listing = list_images(config, out, **{**given, "resume": False}, say=print)
    out.mkdir()
    listing.write(out, config)
    beside = domains["source"].with_name("source_labels")
    images(beside, 7).unlink()
    said: list[str] = []
    assert list_images(config, out, **given, say=said.append) == listing
    assert len(said) == 1 and said[0].startswith(f"1 of 12 source images are gone or changed, such as {images(domains['source'], 7)}")
    images(beside, 3).write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 12 source images are gone or changed"):
        list_images(config, out, **given, say=said.append)


def test_ranges_stay_when_the_image_that_gave_them_is_gone(domains: dict[str, Path], tmp_path: Path) -> None:
    """Else the networks would see all others in another light."""
    for k, path in enumerate(find_images(domains["source"])):
        Image.fromarray(np.random.default_rng(k).integers(0, 60_000 if k == 4 else 9, (40, 40), dtype=np.uint16)).save(path)
    config, out = chosen(domains), tmp_path / "run"
    before = list_images(config, out, resume=False, progress=False, say=print, team=Team())
    out.mkdir()
    before.write(out, config)
    images(domains["source"], 4).unlink()
    after = list_images(config, out, resume=True, progress=False, say=print, team=Team())
    assert after == before and after.bands["source"].depth == "uint16"
    assert find_bands(survey(find_images(domains["source"])), GivenBands(), "source") != before.bands["source"]


def test_a_run_without_a_list_is_resumed_as_ever(domains: dict[str, Path], tmp_path: Path) -> None:
    """Runs of before have none. From then on it has."""
    whole = bits(quietly(chosen(domains), tmp_path / "whole"))
    out = tmp_path / "run"
    stopped_at(1, chosen(domains), out)
    listed = (out / "images.json.gz").read_bytes()
    (out / "images.json.gz").unlink()
    extra = domains["target"] / "new.png"
    Image.new("RGB", (50, 50)).save(extra)
    with pytest.raises(UserError, match=r"the images are not those that the run in .* began with"):
        quietly(chosen(domains), out, resume=True)
    assert not (out / "images.json.gz").exists()
    extra.unlink()
    quietly(chosen(domains), out, resume=True)
    assert bits(out) == whole and (out / "images.json.gz").read_bytes() == listed


def test_a_damaged_list_is_one_line(domains: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    stopped_at(1, chosen(domains), out)
    good = (out / "images.json.gz").read_bytes()
    for content in (b"", good[:-9], gzip.compress(b"[]"), gzip.compress(b"{}"), gzip.compress(b'{"source": {"kinds": [], "images": 3}}')):
        (out / "images.json.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"images\.json\.gz is damaged; delete it") as raised:
            quietly(chosen(domains), out, resume=True)
        assert "\n" not in str(raised.value)
    (out / "images.json.gz").unlink()
    quietly(chosen(domains), out, resume=True)


def test_a_run_that_died_before_its_first_checkpoint_keeps_its_list(domains: dict[str, Path], tmp_path: Path) -> None:
    whole = bits(quietly(chosen(domains), tmp_path / "whole"))
    out = tmp_path / "run"
    with at(2, crash), pytest.raises(Crash):
        quietly(chosen(domains), out)
    assert not (out / "checkpoints").exists()
    Image.new("RGB", (50, 50)).save(domains["source"] / "000 new.png")
    quietly(chosen(domains), out, resume=True)
    assert bits(out) == whole


def test_a_list_is_the_same_when_read_again(tmp_path: Path) -> None:
    """Of every kind of image, and of names that no text holds."""
    odd = Path(os.fsdecode(b"/data/source/\xff\n\t.png"))
    kinds = [Kind(), Kind(1, "uint16", True, None), Kind(5, "float32", False, -9999.0), Kind(1, "float32", False, 0.1)]
    entries = {side: [Entry(Path(f"/data/{side}/ä/{k}.png"), 3 + k, 5, kind) for k, kind in enumerate(kinds)] for side in module.SIDES}
    entries["source"] += [Entry(odd, 7, 7), Entry(Path("/elsewhere/x.png"), 8, 9), Entry(Path("/data/source/../y.png"), 1, 1)]
    labels = [Path(f"/data/labels/{k}.png") for k in range(7)]
    bands = {
        "source": Bands(count=5, depth="float32", ranges=((0.1, 0.30000000000000004),), nodata=-9999.0, masked=True),
        "target": Bands(),
    }
    given = Listing(entries, labels, [Aside("target", Path("/data/target/b.png"), "broken, ü")], bands)
    config = RunConfig.model_validate(
        {**configure("cut", source="/data/source", target="/data/target", budget=1).model_dump(), "method": "cut"}
    )
    data = config.data.model_copy(update={"source_labels": Path("/data/labels")})
    config = config.model_copy(update={"data": data})
    packed = module._packed(given, config)
    assert module._unpacked(packed, config, tmp_path) == given and module._packed(given, config) == packed
    assert odd.name.encode("utf-8", "surrogateescape") == b"\xff\n\t.png"


def test_a_long_list_is_quick_and_small(tmp_path: Path) -> None:
    entries = {side: [Entry(Path(f"/data/{side}/{k // 1000:04}/{k:07}.png"), 640, 480) for k in range(50_000)] for side in module.SIDES}
    config = configure("cut", source="/data/source", target="/data/target", budget=1)
    given = Listing(entries, None, [], {side: Bands() for side in module.SIDES})
    started = time.process_time()
    packed = module._packed(given, config)
    assert module._unpacked(packed, config, tmp_path) == given
    assert time.process_time() - started < 10 and len(packed) < 1_000_000


def test_what_terms_have_measured_is_not_measured_again(domains: dict[str, Path], tmp_path: Path) -> None:
    """It comes from the first crops, of which some may be gone."""

    def fresh() -> RunConfig:
        given = {**domains, "size": 32, "budget": 14, "device": "cpu"}
        return configure("distancegan", settings=[*small("distancegan"), *SELDOM], **given)

    out = tmp_path / "run"
    stopped_at(1, fresh(), out)
    before = from_yaml(out / "config.yaml")
    assert before.terms["distance"].measured  # type: ignore[attr-defined]
    images(domains["source"], 2).unlink()
    quietly(fresh(), out, resume=True)
    with pytest.raises(UserError, match=r"another configuration \(distance\.weight|another configuration \(terms\.distance\.weight"):
        quietly(
            fresh().model_copy(
                update={"terms": fresh().terms | {"distance": fresh().terms["distance"].model_copy(update={"weight": 9.0})}}
            ),
            out,
            resume=True,
        )


# --- files that vanish and change on the way


@pytest.fixture
def make(domains: dict[str, Path]) -> Callable[..., Pairs]:
    """Pairs of all images, with labels; nothing is kept in memory."""

    def build(length: int = 40, cache: str = "none", seed: int = 0, labels: bool = True) -> Pairs:
        found = {side: survey(find_images(folder)) for side, folder in domains.items()}
        source, target = (Images(found[side], cache=cache) for side in ("source", "target"))
        maps = [entry._replace(path=domains["source"].with_name("source_labels") / entry.path.name) for entry in found["source"]]
        return Pairs(source, target, Size(16, 16), seed, length, True, Labels(maps, CLASSES, cache=cache) if labels else None)

    return build


def same(a: list[Batch], b: list[Batch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x.source, y.source)
        and torch.equal(x.target, y.target)
        and torch.equal(x.labels, y.labels)
        and (x.first, x.step) == (y.first, y.step)
        for x, y in zip(a, b, strict=True)
    )


def test_stand_ins_are_the_same_for_any_number_of_workers(make: Callable[..., Pairs]) -> None:
    before = list(loader(make(), first=0, batch=4, workers=0))
    stream = make()
    lost = [stream.source.paths[3], stream.target.paths[5], stream.target.paths[6]]
    lost[0].unlink()
    spoil(lost[1])
    Image.new("RGB", (36, 40)).save(lost[2])
    with untouched_global_rng():
        alone = list(loader(make_again(stream), first=0, batch=4, workers=0))
    for number in (1, 2):
        found = list(loader(make_again(stream), first=0, batch=4, workers=number))
        assert same(found, alone) and sorted(news_of(found)) == sorted(news_of(alone))
    assert same(list(loader(make_again(stream), first=12, batch=4, workers=1)), alone[3:])
    kept = [i for i in range(40) if stream.indices(i)[0] != 3 and stream.indices(i)[1] not in (5, 6)]
    assert 0 < len(kept) < 40
    flat = [[torch.cat([getattr(batch, side) for batch in each]) for side in ("source", "target", "labels")] for each in (before, alone)]
    for k in range(3):
        assert torch.equal(flat[0][k][kept], flat[1][k][kept]), "an item that is whole is as it was"
    for i in set(range(40)) - set(kept):
        assert not all(torch.equal(flat[0][k][i], flat[1][k][i]) for k in range(3))
    assert not same(alone, list(loader(make_again(stream, seed=1), first=0, batch=4, workers=0)))


def make_again(stream: Pairs, seed: int = 0) -> Pairs:
    """The same, which has looked at nothing yet."""
    return Pairs(stream.source, stream.target, stream.size, seed, stream.length, True, stream.labels)


def news_of(batches: list[Batch]) -> list[str]:
    assert all(isinstance(batch.news, tuple) for batch in batches)
    return [line for batch in batches for line in batch.news]


@pytest.mark.parametrize("workers", [0, 2])
def test_news_says_once_which_files_are_gone(make: Callable[..., Pairs], workers: int) -> None:
    stream = make(length=48)
    assert news_of(list(loader(stream, first=0, batch=4, workers=workers))) == []
    gone, changed = stream.source.paths[2], stream.target.paths[0]
    gone.unlink()
    Image.new("RGB", (36, 40)).save(changed)
    batches = list(loader(stream, first=0, batch=4, workers=workers))
    assert sorted(news_of(batches)) == [
        f"cannot read the image, {gone} (No such file or directory); another source image stands in for it",
        f"image has changed since the run began, {changed} (36x40 instead of 40x36); another target image stands in for it",
    ]
    first = {side: min(i for i in range(48) if stream.indices(i)[side] == k) for side, k in ((0, 2), (1, 0))}
    for side, path in ((0, gone), (1, changed)):
        assert any(str(path) in line for line in batches[first[side] // 4].news), "with the batch that it was missing in"


@pytest.mark.parametrize("which", ["image", "label map"])
def test_labels_go_with_the_stand_in(make: Callable[..., Pairs], domains: dict[str, Path], which: str) -> None:
    stream = make()
    (stream.source.paths[4] if which == "image" else stream.labels.paths[4]).unlink()  # type: ignore[union-attr]
    missed = [i for i in range(40) if stream.indices(i)[0] == 4]
    assert len(missed) == 3
    for i in range(40):
        (source, _, labels), news = stream.drawn(i)
        assert labels is not None and torch.equal(labels, source[0] // 128), "else they are another image's, or cut elsewhere"
        assert bool(news) == (i in missed)


def test_what_is_cached_cannot_vanish(make: Callable[..., Pairs]) -> None:
    stream = make(cache="memory")
    before = list(loader(stream, first=0, batch=4, workers=2))
    for path in (*stream.source.paths, *stream.target.paths):
        path.unlink()
    after = list(loader(stream, first=0, batch=4, workers=2))
    assert same(after, before) and news_of(after) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_is_gone_is_one_line(make: Callable[..., Pairs], workers: int) -> None:
    stream = make()
    for path in stream.target.paths:
        path.unlink()
    with pytest.raises(UserError, match=r"^9 target images in a row cannot be read, the first: .*\.png.*; see whether [^\n]*--resume$"):
        list(loader(stream, first=0, batch=4, workers=workers))


def test_stand_ins_are_tried_in_an_order_of_their_own() -> None:
    tried: list[int] = []

    def read(k: int) -> int:
        tried.append(k)
        if k in bad:
            raise UserError(f"gone, {k}; look for it")
        return k

    bad = {7}
    assert read_or_stand_in(read, 3, 20, "source", 0, 5) == (3, None) and tried == [3]
    found = {
        (side, item, seed): read_or_stand_in(read, 7, 20, side, seed, item)[0] for side in "st" for item in range(60) for seed in (0, 1)
    }
    assert 7 not in found.values() and len(set(found.values())) == 19, "any other one"
    for a, b in ((("s", 0), ("t", 0)), (("s", 0), ("s", 1))):
        assert [found[a[0], item, a[1]] for item in range(60)] != [found[b[0], item, b[1]] for item in range(60)]
    tried.clear()
    with pytest.raises(UserError, match=rf"^{TRIES + 1} s images in a row cannot be read, the first: gone, 7; "):
        bad = set(range(1_000_000))
        read_or_stand_in(read, 7, 1_000_000, "s", 0, 9)
    assert len(set(tried)) == len(tried) == TRIES + 1
    bad = {7, *tried[:TRIES]}
    assert read_or_stand_in(read, 7, 1_000_000, "s", 0, 9)[0] == tried[TRIES], "the last one that is tried"
    bad = {1}
    assert read_or_stand_in(read, 1, 2, "s", 0, 0) == (0, "gone, 1; another s image stands in for it")


def test_an_image_that_is_alone_has_no_stand_in() -> None:
    def read(k: int) -> int:
        raise UserError("gone, a.png; restore it")

    with pytest.raises(UserError, match=r"^1 source images in a row cannot be read, the first: gone, a\.png; "):
        read_or_stand_in(read, 0, 1, "source", 0, 0)


@pytest.mark.parametrize("settings", [(), ("data.workers=2",)])
def test_a_run_outlives_files_that_vanish(domains: dict[str, Path], tmp_path: Path, settings: tuple[str, ...]) -> None:
    config = chosen(domains, "data.cache=none", *settings, budget=12)
    with at(2, lambda: [images(domains[side], 0).unlink() for side in domains]):
        out = quietly(config, tmp_path / "run")
    assert [line["seen"] for line in log(out)] == list(range(1, 13))
    if settings:
        return
    with pytest.raises(UserError, match=r"source images in a row cannot be read"), at(2, lambda: [p.unlink() for p in paths]):
        paths = find_images(domains["source"])
        quietly(config, tmp_path / "all")


def test_a_file_that_is_broken_within_is_stood_in_for_from_the_first(domains: dict[str, Path], tmp_path: Path) -> None:
    """It is in the list: only decoding all files would tell, and that takes long. Samples and measurements take the stand-in, too."""
    for side in domains:
        spoil(images(domains[side], 3))
    first = quietly(chosen(domains, "data.workers=0", budget=14), tmp_path / "first")
    second = quietly(chosen(domains, "data.workers=2", "data.cache=none", budget=14), tmp_path / "second")
    assert bits(first) == bits(second) and not (first / "set_aside.jsonl").exists()


def test_ranges_are_found_without_what_is_broken(tmp_path: Path) -> None:
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 60_000, (50, 50), dtype=np.uint16)).save(tmp_path / f"{i}.png")
    entries = survey(find_images(tmp_path))
    spoil(entries[1].path)
    found = find_bands(entries, GivenBands(), "source")
    assert found == find_bands([entries[0], *entries[2:]], GivenBands(), "source").model_copy(update={"ranges": found.ranges})
    assert found.depth == "uint16" and found.ranges[0][1] > 50_000
    for entry in entries:
        spoil(entry.path)
    with pytest.raises(UserError, match=r"broken or truncated image"):
        find_bands(entries, GivenBands(), "source")


def test_news_changes_nothing_of_a_step() -> None:
    """Steps are recorded by what they are called with: a line of news must not make another kind of step."""
    batch = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), 0, 0, news=("one",))
    assert Batch._fields[-1] == "news" and Batch(*batch[:4]).news == ()
    config = configure("cut", source="a", target="b", budget=4, batch=2, device="cpu", settings=small("cut"))
    training = assemble(config, (Bands(), Bands()), Fabric(accelerator="cpu", devices=1))
    assert [piece.news for piece, _ in trainer._pieces(batch, 2, training)] == [()]


# --- killed workers


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


on_linux = pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs Linux to list processes")


@on_linux
@pytest.mark.parametrize("number", [1, 2])
def test_a_killed_worker_is_started_anew(make: Callable[..., Pairs], number: int) -> None:
    """Bit for bit, and nothing is decoded again that is kept."""
    expected = list(loader(make(length=120), first=10, batch=4, workers=0))
    stream, before = make(length=120, cache="memory"), children()
    with contextlib.closing(loader(stream, first=10, batch=4, workers=number, prefetch=1)) as batches:  # type: ignore[type-var]
        seen = [next(batches) for _ in range(9)]
        os.kill(min(children() - before), signal.SIGKILL)
        assert stream.source.store.filled.all() and stream.target.store.filled.all()
        for path in (*stream.source.paths, *stream.target.paths):
            path.unlink()
        seen += list(batches)
    assert same(seen, expected)
    (line,) = news_of(seen)
    assert line.startswith("a loader worker was killed, and all were started anew (") and line.endswith("or enlarge /dev/shm")
    assert children() <= before


@on_linux
def test_workers_that_are_killed_again_and_again_end_it(make: Callable[..., Pairs], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without memory: each is killed as soon as it draws."""
    stream, before = make(length=120), children()
    home = os.getpid()
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))  # seconds: it looks whether they live

    def deadly(self: Pairs, i: int) -> Any:
        if i >= 24 and os.getpid() != home:
            os.kill(os.getpid(), signal.SIGKILL)
        return drawn(self, i)

    drawn = Pairs.drawn
    monkeypatch.setattr(Pairs, "drawn", deadly)
    seen: list[Batch] = []
    said = r"^loader workers are killed again and again, .*; give fewer data\.workers, set data\.cache=none"
    stopping = contextlib.closing(loader(stream, first=0, batch=4, workers=1, prefetch=2))  # type: ignore[type-var]
    with pytest.raises(UserError, match=said), stopping as batches:
        for batch in batches:
            seen.append(batch)
    assert [batch.first for batch in seen] == list(range(0, 24, 4))[: len(seen)] and seen, "each once; what was made last may be lost"
    assert children() <= before


@on_linux
def test_a_worker_that_dies_raises_nothing_elsewhere(make: Callable[..., Pairs]) -> None:
    """Torch's handler of SIGCHLD would raise in the middle of whatever the process does, such as a step."""
    before = children()
    with contextlib.closing(loader(make(length=40), first=0, batch=4, workers=1)) as batches:  # type: ignore[type-var]
        next(batches)
        os.kill(min(children() - before), signal.SIGKILL)
        for _ in range(50):
            time.sleep(0.01)
    assert children() <= before


def test_starts_go_on_where_they_were_and_are_counted() -> None:
    kills_before = {0: 3, 3: 3, 4: 5, 5: 6}  # by where it started; 6: never
    tries: list[int] = []

    def start(done: int) -> Iterator[int]:
        tries.append(done)
        for k in range(done, 6):
            if k == kills_before[done] and tries.count(done) < workers.TRIES:
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
            if k == 4 and done == 3:
                raise OSError(12, "Cannot allocate memory")
            yield k

    found = list(outliving(start))
    assert [value for value, _ in found] == list(range(6)) and tries == [0, 3, 3, 3, 4, 5]
    assert [bool(told) for _, told in found] == [False, False, False, True, True, True]

    def hopeless(done: int) -> Iterator[int]:
        tries.append(done)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that it needs more shared memory.")
        yield 0

    tries.clear()
    with pytest.raises(UserError, match=r"killed again and again.*Bus error.*enlarge /dev/shm$"):
        list(outliving(hopeless))
    assert tries == [0] * (workers.TRIES + 1)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Caught RuntimeError in DataLoader worker process 0."), EOFError("Caught EOFError in"), OSError(5, "Input/output error")],
)
def test_other_errors_are_not_taken_for_a_kill(error: Exception) -> None:
    def start(done: int) -> Iterator[int]:
        yield done
        raise error

    with pytest.raises(type(error)):
        list(outliving(start))


@on_linux
def test_a_run_outlives_a_killed_worker(domains: dict[str, Path], tmp_path: Path) -> None:
    config = chosen(domains, "data.workers=2", budget=30)
    whole = bits(quietly(chosen(domains, "data.workers=2", budget=30), tmp_path / "whole"))
    before = children()
    with at(3, lambda: os.kill(min(children() - before), signal.SIGKILL)):
        out = quietly(config, tmp_path / "run")
    assert bits(out) == whole and [line["seen"] for line in log(out)] == list(range(1, 31))
