"""The audit: do two domains match at all? Their files, looks and class shares, with a verdict; as text, audit.json and report.html."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import unflip
from unflip.data.folders import find_images, in_shard, root, same_folder
from unflip.data.inventory import Inventory, take_inventory
from unflip.data.labels import Classes, match_labels, read_classes, survey_labels
from unflip.data.shares import ClassShares, Floats, count, gather, label_shares
from unflip.data.unmatched import LISTS, write_lists
from unflip.devices import choose_device
from unflip.errors import UserError
from unflip.evaluation.advice import advice, balance_line, times, verdict
from unflip.evaluation.audit import Audit, Balance, Copies, Files, describe, looks_apart, shared
from unflip.evaluation.balance import choose
from unflip.evaluation.reader import Reader
from unflip.evaluation.shares import SPLITS, Comparison, compare
from unflip.files import disk_errors, refuse_unwritable, undone_on_failure, write_json
from unflip.progress import Bar
from unflip.report.audit import Shown, audit_page
from unflip.report.page import write as write_page
from unflip.segmenterfolder import load_segmenter

SIDES = ("source", "target")
JSON = "audit.json"

SHOWN = 6
"""Examples of each domain in the report."""


def audit(
    source: str | Path,
    target: str | Path,
    *,
    source_labels: str | Path | None = None,
    target_labels: str | Path | None = None,
    classes: str | Path | None = None,
    segmenter: str | Path | None = None,
    balance: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
) -> Audit:
    """Look at two domains before training; with ``out``, write audit.json and report.html there.

    What the images show is taken from label maps, of ``classes``, or read by a ``segmenter`` (what ``load_segmenter`` takes) where a domain
    has none; without both it is not compared. Files that cannot be used are listed in the result, and the rest is looked at. ``balance``: a
    folder for ``source.txt`` and ``target.txt``, lists of images that are chosen so that the mixtures match
    (:func:`unflip.evaluation.balance.choose`), to train on. ``command``: what the report says it was made by.

    Raises:
        UserError: what is asked for does not fit together, a folder is missing, no image can be used, label maps do not fit, or ``out``
            or ``balance`` holds something else.
    """
    where = dict(zip(SIDES, map(Path, (source, target)), strict=True))
    labels = dict(zip(SIDES, map(_path, (source_labels, target_labels)), strict=True))
    classes, out, balance = map(_path, (classes, out, balance))
    _check(where, labels, classes, segmenter, out, balance)
    chosen = choose_device(device)
    known, reader = read_classes(classes) if classes else None, None
    if segmenter:
        reader = Reader(load_segmenter(segmenter, chosen), known, chosen)
        known = reader.classes

    paths = {side: find_images(where[side]) for side in SIDES}
    if balance is not None and any(in_shard(found[0]) for found in paths.values()):
        raise UserError(f"--balance {balance}: a list cannot name what is in shards; unpack them, or leave it out")
    maps = {
        side: dict(zip(paths[side], match_labels(paths[side], where[side], of, known), strict=True)) for side, of in labels.items() if of
    }
    found = {side: _inventory(side, where[side], paths[side], progress) for side in SIDES}
    files = {side: describe(where[side], found[side]) for side in SIDES}
    both = shared(found["source"], found["target"])
    colors = {side: np.stack([seen.colors for seen in found[side].seen]).astype(np.float64) for side in SIDES}
    looks = looks_apart(colors["source"], colors["target"])
    shares, read, balanced = None, {}, None
    if known:
        apart = {side: _shares(side, found[side], maps.get(side), known, reader, progress) for side in SIDES}
        shares = compare(apart["source"], apart["target"], known)
        read = {side: f"label maps, {labels[side]}" if labels[side] else f"segmenter, {segmenter}" for side in SIDES}
        balanced = _balance(balance, where, found, apart) if balance is not None else None
    level, reason = verdict(shares, looks)
    todo = advice(level, files["source"], files["target"], both, read, balanced is not None)
    result = Audit(files["source"], files["target"], both, looks, shares, read, level, reason, todo, balanced)
    if out is not None:
        _write(result, found, known, out, command)
    return result


def text(result: Audit) -> list[str]:
    """The audit in lines, for a terminal; of bad files only their number."""
    lines = [line for side, files in (("source", result.source), ("target", result.target)) for line in _file_lines(side, files)]
    for how, number, example, other in _copies(result.both):
        lines.append(f"both     {number} source images look {how} like one of the target, such as {example} and {other}")
    if result.source.copies.near + result.target.copies.near + result.both.near:
        lines.append(
            "note     neighboring frames of a video look nearly alike, and that is no error: they only teach less than their number says"
        )
    if result.looks is None:
        lines.append("looks    too few images to compare")
    else:
        lines.append(f"looks    {times(result.looks)} (Fréchet distance of color statistics, {result.looks.images} images each)")
    if result.shares is not None:
        lines += _share_lines(result.shares, result.read)
    lines += [f"verdict  {result.verdict}: {result.reason}", *(f"advice   {line}" for line in result.advice)]
    return [*lines, *([f"balance  {balance_line(result)}"] if result.balance else [])]


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _check(
    where: dict[str, Path],
    labels: dict[str, Path | None],
    classes: Path | None,
    segmenter: str | Path | None,
    out: Path | None,
    balance: Path | None,
) -> None:
    """Refuse a call that cannot be meant, before anything is read."""
    if same_folder(where["source"], where["target"]):
        raise UserError(f"source and target are the same, {where['source']}; give two domains")
    given = [side for side in SIDES if labels[side]]
    if given and classes is None:
        raise UserError(f"--{given[0]}-labels {labels[given[0]]} without --classes; give the classes.json of the labels")
    if len(given) == 1 and segmenter is None:
        other = next(side for side in SIDES if side not in given)
        raise UserError(f"--{given[0]}-labels without --{other}-labels; give both, or a --segmenter that reads the {other}")
    if len(given) == 2 and segmenter is not None:
        raise UserError(f"--segmenter {segmenter} has nothing to read where both domains have labels; leave it or one of the labels out")
    if classes is not None and not given and segmenter is None:
        raise UserError(f"--classes {classes} without labels; add --source-labels and --target-labels, or --segmenter")
    if out is not None:
        with disk_errors(out):
            if out.exists() and not (out / JSON).is_file() and (not out.is_dir() or any(out.iterdir())):
                raise UserError(f"--out {out} is not empty and holds no audit; choose another folder")
        refuse_unwritable(out)
    if balance is not None:
        if segmenter is None and len(given) < 2:
            raise UserError(f"--balance {balance} needs to know what the images show; give labels of both with --classes, or a --segmenter")
        with disk_errors(balance):
            if balance.exists() and (not balance.is_dir() or {path.name for path in balance.iterdir()} - set(LISTS)):
                raise UserError(f"--balance {balance} holds other files than {' and '.join(LISTS)}; choose another folder")
        refuse_unwritable(balance)


def _inventory(side: str, where: Path, paths: list[Path], progress: bool) -> Inventory:
    with Bar(f"looking at {side}", len(paths), quiet=not progress or len(paths) < 500) as bar:
        found = take_inventory(paths, lambda done, _: bar.show(done))
    if not found.seen:
        raise UserError(f"none of the {len(paths)} images can be used, {where} (the first: {found.bad[0]}); replace them")
    return found


def _shares(
    side: str, found: Inventory, maps: dict[Path, Path] | None, classes: Classes, reader: Reader | None, progress: bool
) -> ClassShares:
    entries = [seen.entry for seen in found.seen]
    few = len(entries) < (500 if maps else 50)  # a segmenter takes its time
    with Bar(f"classes of {side}", len(entries), quiet=not progress or few) as bar:
        if maps is not None:
            labels = survey_labels([maps[entry.path] for entry in entries], entries, classes)
            return label_shares(labels.entries, classes, bar.show)
        assert reader is not None

        def read(reader: Reader) -> Iterator[Floats]:
            for done, entry in enumerate(entries, start=1):
                yield count(reader(found.view(entry.path)), classes)
                bar.show(done)

        return gather(read(reader))


def _balance(folder: Path, where: dict[str, Path], found: dict[str, Inventory], shares: dict[str, ClassShares]) -> Balance:
    chosen = choose(shares["source"], shares["target"])
    lists = [[seen.entry.path for seen, taken in zip(found[side].seen, getattr(chosen, side), strict=True) if taken] for side in SIDES]
    source, target = (root([seen.entry.path for seen in found[side].seen], where[side]) for side in SIDES)
    write_lists(folder, lists[0], lists[1], (source, target))
    return Balance(str(folder), len(lists[0]), len(lists[1]), chosen.total_variation)


def _write(result: Audit, found: dict[str, Inventory], classes: Classes | None, out: Path, command: str) -> None:
    values: dict[str, Any] = asdict(result)
    if result.looks is not None:
        values["looks"]["times"] = result.looks.times
    made = {"command": command, "unflip": unflip.__version__, "date": datetime.date.today().isoformat()}
    values["made"] = {**made, **{side: values[side]["where"] for side in SIDES}}
    examples = []
    for side in SIDES:
        seen = found[side].seen
        chosen = [seen[i * len(seen) // SHOWN] for i in range(SHOWN)] if len(seen) > SHOWN else seen
        examples.append(Shown(side, [(one.entry.path.name, found[side].view(one.entry.path)) for one in chosen]))
    copies = [
        Shown(
            f"{title}: look {how} alike", [(Path(path).name, found[side].view(Path(path))) for path, side in zip(pair, sides, strict=True)]
        )
        for title, of, sides in (
            ("source", result.source.copies, ("source", "source")),
            ("target", result.target.copies, ("target", "target")),
            ("source and target", result.both, SIDES),
        )
        for how, _, *pair in _copies(of)
    ]
    palette = dict(zip(classes.names, classes.palette, strict=True)) if classes else {}
    page = audit_page(values, examples, copies, palette)
    with contextlib.nullcontext() if (out / JSON).is_file() else undone_on_failure(out):
        write_json(out / JSON, values)
        write_page(page, out / "report.html")


def _file_lines(side: str, files: Files) -> Iterator[str]:
    bad = f" and {len(files.bad)} that cannot be used" if files.bad else ""
    kinds = ", ".join(kind if len(files.kinds) == 1 else f"{number} {kind}" for kind, number in files.kinds.items())
    yield f"{side}   {files.where}: {files.images} images{bad}, {kinds}; {_sizes(files)}"
    for how, number, *pair in _copies(files.copies):
        example, other = (path.removeprefix(f"{files.where}{os.sep}") for path in pair)
        yield f"         {number} look {how} like another one, such as {example} and {other}"


def _copies(copies: Copies) -> Iterator[tuple[str, int, str, str]]:
    """In words how they are alike, how many, and an example, for exact and near copies, where there are any."""
    for how, number, examples in (("exactly", copies.exact, copies.exact_examples), ("nearly", copies.near, copies.near_examples)):
        if number:
            yield how, number, *examples[0]


def _sizes(files: Files) -> str:
    if files.sizes == 1:
        return f"{files.width[0]}x{files.height[0]}"
    ranges = (f"{side[0]} to {side[2]} (median {side[1]})" for side in (files.width, files.height))
    return f"{files.sizes} sizes: {' x '.join(ranges)}"


def _share_lines(shares: Comparison, read: dict[str, str]) -> Iterator[str]:
    yield f"classes  shares of all pixels, every image counting the same; source: {read['source']}; target: {read['target']}"
    rows = [(name, p, shares.target[name]) for name, p in shares.source.items()]
    if shares.ignored is not None:
        rows.append(("(ignored)", *shares.ignored))
    width = max(len(name) for name, _, _ in rows)
    for name, p, q in rows:
        yield f"         {name:{width}}  {_percent(p):>7} -> {_percent(q):>7}"
    ignored = f" ({shares.total_variation_with_ignored:.3f} with ignored pixels as a class)" if shares.ignored else ""
    chance = f"{shares.by_chance:.3f} on average, 95 % of {SPLITS} below {shares.by_chance_95:.3f}"
    yield f"         total variation {shares.total_variation:.3f}{ignored}; random splits of the same images: {chance}"
    for flip in shares.flips:
        into = ", ".join(f"{name} ({_percent(part)})" for name, part in flip.into.items())
        of = " of what is not ignored" if shares.ignored else ""
        yield f"flips    {flip.name} ({_percent(flip.source)} -> {_percent(flip.target)}{of}) is likely to be turned into {into}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
