"""The images of a run, as a list in its folder: bad ones are set aside at its start, and a resumed run draws from the same ones."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from unflip.data.bands import Bands, Kind
from unflip.data.folders import Entry, Sifted, find_images, refuse_bad, same_folder, sift
from unflip.data.labels import match_labels, survey_labels
from unflip.data.measure import find_bands
from unflip.engine.team import Team
from unflip.errors import UserError
from unflip.files import write_bytes
from unflip.progress import Bar
from unflip.runs import RunConfig

SIDES = ("source", "target")
LIST, ASIDE = "images.json.gz", "set_aside.jsonl"
FORMAT = 1

GONE = 0.1
"""The share of a side's images that may be gone or changed when a run is resumed."""


class Aside(NamedTuple):
    """An image that a run does without, as its file or its label map cannot be used."""

    side: str
    path: Path
    reason: str


class Listing(NamedTuple):
    """The images that a run draws from, by side, in the order from which that of its draws follows."""

    entries: dict[str, list[Entry]]
    labels: list[Path] | None
    """The label maps of the source images, at the same places."""
    aside: list[Aside]
    bands: dict[str, Bands]
    """How the images are stored, by side; empty until it is found out."""

    def remarks(self, out: Path) -> list[str]:
        """A line for each side of which images were set aside."""
        lines = []
        for side in SIDES:
            if count := sum(each.side == side for each in self.aside):
                what = f"{count:,} of {count + len(self.entries[side]):,} {side} images cannot be used and were set aside"
                lines.append(f"{what}; {out.name}/{ASIDE} says which and why")
        return lines

    def write(self, out: Path, config: RunConfig) -> None:
        """Into a run's folder, unless it is there: a run never changes its list."""
        if (out / LIST).is_file():
            return
        if self.aside:
            lines = [json.dumps({"side": each.side, "path": str(each.path), "reason": each.reason}) for each in self.aside]
            write_bytes(out / ASIDE, "".join(f"{line}\n" for line in lines).encode())
        write_bytes(out / LIST, _packed(self, config))


def list_images(config: RunConfig, out: Path, *, resume: bool, progress: bool, say: Callable[[str], None], team: Team) -> Listing:
    """The images of a run, the same in all its processes: found and checked, or where a run in ``out`` is resumed, those of its list.

    What bad files come to is for ``data.bad`` to say; more than half of a side's are never set aside. What is no longer as it was when a
    resumed run began is told to ``say``. Called outside of ``team.together()``, by all processes alike. Raises ``UserError``.
    """
    with team.together():
        packed = _read(out / LIST) if resume and team.leads else None
    packed = team.share(packed)
    if packed is not None:
        with team.together():
            listing = _unpacked(packed, config, out / LIST)
            for line in _changes(listing, config, out, progress):
                say(line)
        return listing
    with team.together():
        listing = _found(config, progress)
    listing = _agreed(listing, team)
    with team.together():
        for side, entries in listing.entries.items():
            bad = [each.reason for each in listing.aside if each.side == side]
            if len(bad) > len(entries):
                refuse_bad(f"{side} images", bad, len(bad) + len(entries))
        bands = {side: _bands(side, entries, config, progress) for side, entries in listing.entries.items()}
    return listing._replace(bands=team.share(bands))


def _found(config: RunConfig, progress: bool) -> Listing:
    """What this process sees in the folders."""
    data = config.data
    if same_folder(data.source, data.target):
        raise UserError(f"source and target are the same folder, {data.source}; nothing would be translated")
    paths = {"source": find_images(data.source), "target": find_images(data.target)}
    common = {path.resolve() for path in paths["source"]} & {path.resolve() for path in paths["target"]}
    if common:
        raise UserError(f"{len(common)} images are in both domains, such as {min(common)}; name folders that do not overlap")
    listing = Listing({}, None, [], {})
    for side in SIDES:
        entries, bad = _sifted(side, paths[side], progress)
        if bad and (data.bad == "stop" or 2 * len(bad) > len(paths[side])):
            refuse_bad("images", list(bad.values()), len(paths[side]))
        listing.entries[side] = entries
        listing.aside.extend(Aside(side, paths[side][k], reason) for k, reason in bad.items())
    if data.source_labels is None or data.classes is None:
        return listing
    images = listing.entries["source"]
    labels = match_labels([image.path for image in images], data.source, data.source_labels, data.classes)
    broken = _broken_labels(labels, images, config, progress, strict=data.bad == "stop")
    listing.aside.extend(Aside("source", images[k].path, reason) for k, reason in broken.items())
    return listing._replace(labels=labels)


def _agreed(mine: Listing, team: Team) -> Listing:
    """Less the images that any process cannot use: a disk may fail one of them only."""
    every = {each[:2]: each for theirs in team.gather(mine.aside) for each in theirs}
    aside = team.share(list(every.values()))
    if not aside:
        return mine
    bad = {each[:2] for each in aside}
    kept = {side: [k for k, entry in enumerate(entries) if (side, entry.path) not in bad] for side, entries in mine.entries.items()}
    entries = {side: [mine.entries[side][k] for k in kept[side]] for side in SIDES}
    return mine._replace(entries=entries, labels=mine.labels and [mine.labels[k] for k in kept["source"]], aside=aside)


def _changes(listing: Listing, config: RunConfig, out: Path, progress: bool) -> list[str]:
    """What is no longer as it was when the run began, a line each. Raises ``UserError`` where it is too much."""
    lines = []
    for side in SIDES:
        before, where = listing.entries[side], getattr(config.data, side)
        found = _sifted(side, [entry.path for entry in before], progress)
        good = iter(found.entries)
        lost = {k for k, entry in enumerate(before) if k in found.bad or _shape(next(good)) != _shape(entry)}
        there = [k for k in range(len(before)) if k not in lost]
        if side == "source" and listing.labels is not None and there:
            labels, images = [listing.labels[k] for k in there], [before[k] for k in there]
            lost |= {there[k] for k in _broken_labels(labels, images, config, progress, strict=False)}
        what = f"{len(lost):,} of {len(before):,} {side} images are gone or changed, such as {before[min(lost, default=0)].path}"
        if len(lost) > GONE * len(before):
            raise UserError(f"the images are not those that the run in {out} began with ({what}); restore them, or start another run")
        if lost:
            lines.append(f"{what}; others stand in for them, so that the run is no longer exactly the one that it would have been")
        with suppress(UserError):  # a part of it may be gone; what is listed has been looked at
            known = {entry.path for entry in before} | {each.path for each in listing.aside}
            if new := set(find_images(where)) - known:
                lines.append(f"{len(new):,} new {side} images are left out; a resumed run keeps to those that it began with")
    return lines


def _sifted(side: str, paths: list[Path], progress: bool) -> Sifted:
    with Bar(f"checking {side} images", len(paths), quiet=not progress or len(paths) < 2_000) as bar:
        return sift(paths, lambda done, total: bar.show(done))


def _bands(side: str, entries: list[Entry], config: RunConfig, progress: bool) -> Bands:
    layered = sum(entry.kind.alpha for entry in entries)
    with Bar(f"looking for transparency in {side}", layered, quiet=not progress or layered < 500) as bar:
        return find_bands(entries, getattr(config.data, f"{side}_bands"), side, lambda done, total: bar.show(done))


def _broken_labels(paths: Sequence[Path], images: Sequence[Entry], config: RunConfig, progress: bool, strict: bool) -> dict[int, str]:
    """What is wrong with which of the images' label maps, by their places."""
    assert config.data.classes is not None
    with Bar("checking labels", len(paths), quiet=not progress or len(paths) < 500) as bar:
        return survey_labels(paths, images, config.data.classes, lambda done, total: bar.show(done), strict=strict).bad


def _shape(entry: Entry) -> tuple[int, int, str]:
    return entry.width, entry.height, entry.kind.depth


def _read(path: Path) -> bytes | None:
    """The packed list of a run; None in a run of before there were lists."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); check its permissions") from error


def _packed(listing: Listing, config: RunConfig) -> bytes:
    """Paths are below the folder that their domain lies in, and kinds, of which there are few, by number; the same bytes every time."""
    values: dict[str, Any] = {"format": FORMAT}
    for side, entries in listing.entries.items():
        prefix = _prefix(getattr(config.data, side))
        kinds = {kind: k for k, kind in enumerate(dict.fromkeys(entry.kind for entry in entries))}
        rows = [[str(entry.path).removeprefix(prefix), entry.width, entry.height, kinds[entry.kind]] for entry in entries]
        aside = [[str(each.path).removeprefix(prefix), each.reason] for each in listing.aside if each.side == side]
        values[side] = {"kinds": list(kinds), "bands": listing.bands[side].model_dump(mode="json"), "images": rows, "aside": aside}
    if listing.labels is not None and config.data.source_labels is not None:
        prefix = _prefix(config.data.source_labels)
        values["labels"] = [str(path).removeprefix(prefix) for path in listing.labels]
    return gzip.compress(json.dumps(values).encode(), compresslevel=5, mtime=0)


def _unpacked(packed: bytes, config: RunConfig, where: Path) -> Listing:
    listing = Listing({}, None, [], {})
    try:
        values = json.loads(gzip.decompress(packed))
        for side in SIDES:
            found, below = values[side], getattr(config.data, side).parent
            kinds = [Kind(*kind) for kind in found["kinds"]]
            listing.entries[side] = [Entry(below / name, width, height, kinds[kind]) for name, width, height, kind in found["images"]]
            listing.bands[side] = Bands.model_validate(found["bands"])
            listing.aside.extend(Aside(side, below / name, reason) for name, reason in found["aside"])
        if config.data.source_labels is None or "labels" not in values:
            return listing
        return listing._replace(labels=[config.data.source_labels.parent / name for name in values["labels"]])
    except (OSError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{where} is damaged; delete it, and the run goes on if the images are still those that it began with") from error


def _prefix(where: Path) -> str:
    return f"{where.parent}{os.sep}"
