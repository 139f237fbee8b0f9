"""Did anything flip? Translations are read by a segmenter and compared with the source's labels, and with real images."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import unflip
from unflip.config import unknown
from unflip.data.clips import paired
from unflip.data.images import read_rgb
from unflip.data.labels import read_classes
from unflip.devices import choose_device
from unflip.errors import UserError
from unflip.evaluation.confusion import Reading
from unflip.evaluation.features import feature_network
from unflip.evaluation.judge import features_of, judge
from unflip.evaluation.labeled import Labeled, find_entries, find_labeled, find_read, same_names
from unflip.evaluation.lpips import Lpips, refuse_small
from unflip.evaluation.maps import map_metrics
from unflip.evaluation.metrics import flip_metrics
from unflip.evaluation.pictures import colored, doubted, flips
from unflip.evaluation.reader import Reader
from unflip.evaluation.realism import realism, small_sample
from unflip.evaluation.temporal import need_opencv, temporal
from unflip.files import disk_errors, refuse_unwritable, undone_on_failure, write_json
from unflip.inference.folders import MANIFEST
from unflip.inference.trust import trust_map
from unflip.progress import Bar
from unflip.report.evaluation import Case, evaluation_page
from unflip.report.page import write as write_page
from unflip.report.pictures import shrunk
from unflip.segmenterfolder import load_segmenter

SHOWN = 24
"""Images in the report: those with the most flips."""

UNKNOWN = "no labeled real images are known, so flips include what the segmenter confuses anyway; give --real-images"
UNLABELED = (
    "no label maps were given: what the segmenter reads in the sources stands for them, so flips include what it misreads there or here, "
    "and miss what it misreads in both"
)
AT_LEAST = ("pixel_accuracy", "pixel_accuracy_void_wrong", "class_accuracy", "mean_iou", "within")
AT_MOST = ("flip_rate", "excess_flip_rate", "frechet", "kid", "cmmd", "lpips", "rmse", "warping_error", "excess_warping_error", "pumping")
"""Of which metrics more, and of which less is better."""
NEEDS = {
    **dict.fromkeys(("frechet", "kid", "cmmd", "lpips"), ("target", "is measured against target images; give --target DIR")),
    **dict.fromkeys(("within", "rmse"), ("reference", "is measured against references; give --reference DIR")),
    **dict.fromkeys(
        ("warping_error", "excess_warping_error", "pumping"), ("clips", "is measured on clips; give --clips DIR and --source-clips DIR")
    ),
    "excess_flip_rate": ("labels", "is measured against labels; give --labels DIR"),
}
"""Without which argument which metrics are not known, and what is said then."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    metrics: dict[str, Any]
    """What metrics.json holds."""
    broken: list[str]
    """A line for every requirement that does not hold."""
    cases: list[Case]
    """The images with the most flips, as the report shows them, the worst first."""
    colors: dict[str, tuple[int, int, int]]
    """Of the classes."""
    folder: Path

    def lines(self) -> list[str]:
        """What it found, in short."""
        names = ["excess_flip_rate", "flip_rate", "pixel_accuracy", "class_accuracy", "mean_iou"]
        found = [_said(name.replace("_", " "), self.metrics.get(name)) for name in names]
        found += [_said(name, value) for name, value in self.metrics.get("realism", {}).items() if isinstance(value, dict)]
        found += [_said(name, value) for name, value in self.metrics.get("reference", {}).items() if isinstance(value, dict)]
        moving = self.metrics.get("temporal", {}).items()
        found += [_said(name.replace("_", " "), value) for name, value in moving if isinstance(value, dict)]
        warned = [f"note: {warning}" for warning in self.metrics["warnings"]]
        return [*(line for line in found if line), *warned, f"{self.folder / 'report.html'}: open it in a browser"]


def evaluate(
    translated: str | Path,
    labels: str | Path | None,
    segmenter: str | Path,
    out: str | Path,
    *,
    source: str | Path | None = None,
    target: str | Path | None = None,
    reference: str | Path | None = None,
    clips: str | Path | None = None,
    source_clips: str | Path | None = None,
    real_images: str | Path | None = None,
    real_labels: str | Path | None = None,
    classes: str | Path | None = None,
    features: str = "segmenter",
    lpips: bool = False,
    require: Mapping[str, float] | None = None,
    device: str = "auto",
    progress: bool = True,
    command: str = "",
) -> Evaluation:
    """Judge translated images, and write ``metrics.json`` and ``report.html`` to the folder ``out``.

    Args:
        translated: the translations, a folder searched in depth.
        labels: the label maps of their sources, matched by relative path less the ending. None: what the segmenter reads in ``source``
            stands for them.
        segmenter: what reads the classes, best trained on real images of the target: a segmenter's folder or a hub id.
        source: the images that were translated, for the report.
        target: images of the target, for the realism.
        reference: images that the translations ought to be, pixel by pixel.
        real_images, real_labels: on which to see what the segmenter confuses anyway; default: the held-out images of its training.
        clips, source_clips: translated videos, or a folder of frames for each, and their sources, to see whether they flicker.
        classes: the classes.json of the labels, or a known set's name; default: the segmenter's classes.
        features: the network in whose features realism is measured, as :func:`unflip.evaluation.features.feature_network` has it.
        lpips: measure LPIPS to the source, too; its weights are downloaded once.
        require: values that metrics must reach: at least, or at most where less is better.
        command: what the report says it was made by.

    Raises:
        UserError: files without a partner, of other sizes, broken or too few; classes that the segmenter does not know; ``out`` not empty.
    """
    out, chosen, require = Path(out), choose_device(device), dict(require or {})
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--out {out} is not empty; choose another folder")
    refuse_unwritable(out)
    for name in require:
        if name not in AT_LEAST + AT_MOST:
            raise UserError("--require: " + unknown("metric", name, AT_LEAST + AT_MOST))
    given = {"target": target, "reference": reference, "clips": clips, "labels": labels}
    for name in require:
        if name in NEEDS and given[NEEDS[name][0]] is None:
            raise UserError(f"--require {name}: that {NEEDS[name][1]}")
    if "lpips" in require and not lpips:
        raise UserError("--require lpips: that is measured on demand; give --lpips")
    if target is None and features != "segmenter":
        raise UserError(f"--features {features} are for the realism, which is measured against target images; give --target DIR")
    if (real_images is None) != (real_labels is None):
        raise UserError("real images come with their labels; give both, --real-images DIR and --real-labels DIR")
    if labels is None and source is None:
        raise UserError("no labels; give --labels DIR, or --source DIR, for the segmenter to read the sources in their place")
    if labels is None and real_images is not None:
        raise UserError("an excess over real images needs labels of the translations, too; give --labels DIR, or leave the real images out")
    if (clips is None) != (source_clips is None):
        raise UserError("clips are judged beside their sources; give both, --clips DIR and --source-clips DIR")
    moving = paired(Path(clips), Path(source_clips)) if clips and source_clips else []
    if moving:
        need_opencv()
    model = load_segmenter(Path(segmenter), chosen)
    reader = Reader(model, read_classes(Path(classes)) if classes else None, chosen)
    if lpips and not (source and target):
        raise UserError("LPIPS is the distance to the source, one of the figures on realism; give --source DIR and --target DIR")
    if "excess_flip_rate" in require and real_images is None and reader.held_out is None:
        raise UserError("--require excess_flip_rate: no labeled real images are known; give --real-images DIR and --real-labels DIR")
    network = feature_network(features, model, chosen) if target else None
    if "cmmd" in require and (network is None or network.kind != "clip"):
        raise UserError("--require cmmd: that is measured in CLIP's features; give --features clip")
    lpips_to = Lpips(device=chosen) if lpips else None

    if labels is not None:
        found = find_labeled(Path(translated), Path(labels), reader.classes, progress, "translations")
    else:
        found = find_read(Path(translated), Path(str(source)), reader, progress, "translations")
    if len(found) < 2:
        raise UserError(f"one image only, {translated}; intervals need several")
    paths = [image.path for image in found.images]
    sources = same_names(Path(source), found, "source") if source else None
    references = same_names(Path(reference), found, "reference") if reference else None
    wanted = [image.path for image in find_entries(Path(target), progress, "target images")] if target else []
    if target and len(wanted) < 2:
        raise UserError(f"one target image only, {target}, and realism compares sets; give more, or leave the target out")

    if lpips:
        refuse_small(found.images)
    shown = (
        find_labeled(Path(real_images), Path(real_labels), reader.classes, progress, "real images") if real_images and real_labels else None
    )
    _decode([*paths, *(sources or ()), *(references or ()), *wanted, *(image.path for image in (shown.images if shown else ()))], progress)
    flicker = None
    if moving:  # first, as it is only by doing it that one sees whether clips fit their sources
        with Bar("following the motion of clips", len(moving), quiet=not progress) as bar:
            flicker = temporal(moving, bar.show)

    real = reader.held_out if labels is not None else None
    if shown is not None:
        with Bar("reading real images", len(shown), quiet=not progress) as bar:
            real = judge(shown.rgb(), shown.ids, len(shown), reader, progress=bar.show).reading
    with Bar("reading translations", len(found), quiet=not progress) as bar:
        reading, mine = judge(found.rgb(), found.ids, len(found), reader, network, bar.show)

    metrics = flip_metrics(reading, real)
    warnings = [] if real else [UNKNOWN if labels is not None else UNLABELED]
    if network is not None and mine is not None:
        with Bar("looking at the target", len(wanted), quiet=not progress) as bar:
            theirs = features_of(wanted, network, bar.show)
        distances = None
        if lpips_to is not None and sources:
            with Bar("comparing with the source", len(found), quiet=not progress) as bar:
                distances = lpips_to.of_files(paths, sources, bar.show)
        metrics["realism"] = realism(network, mine, theirs, distances)
        few = small_sample(len(mine), len(theirs), network.dimension)
        warnings += [few] if few else []
    if references:
        with Bar("comparing with the reference", len(found), quiet=not progress) as bar:
            metrics["reference"] = map_metrics(paths, references, progress=bar.show)
    if flicker is not None:
        metrics["temporal"] = flicker
    metrics["segmenter"] = {
        "path": str(segmenter),
        "name": Path(segmenter).resolve().name if Path(segmenter).exists() else str(segmenter),  # what may be published: no folders
        "held_out": None if reader.held_out is None else _brief(reader.held_out),
        "real": None if real is None else _brief(real),  # those that translations are compared with
    }
    metrics["per_image"] = [
        {"file": name.as_posix(), "flip_rate": None if math.isnan(rate) else rate}
        for name, rate in zip(found.names, reading.flipped, strict=True)
    ]
    metrics["warnings"] = warnings
    given |= {"translated": translated, "segmenter": segmenter, "source": source, "source_clips": source_clips}
    metrics["made"] = {"command": command, **made(), **{name: path and str(path) for name, path in given.items()}}
    metrics["made"] |= {"features": features if target else None, "translated_by": _translated_by(Path(translated))}
    cases = _cases(found, reader, reading, sources)
    with undone_on_failure(out):
        write_json(out / "metrics.json", metrics)
        lead = "" if labels is not None else f"{len(found):,} translations: what a segmenter reads in them and in their sources."
        write_page(evaluation_page(metrics, cases, lead=lead, colors=reader.classes.colors), out / "report.html")
    return Evaluation(metrics, _broken(metrics, require), cases, reader.classes.colors, out)


def _decode(files: Sequence[Path], progress: bool) -> None:
    """Decode every image once, so that a damaged one is found before the long reading, and not after it."""

    def decode(file: Path) -> None:
        read_rgb(file)

    threads = min(8, os.cpu_count() or 1)  # no more: each holds a decoded image
    with Bar("decoding images", len(files), quiet=not progress or len(files) < 500) as bar, ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(decode, files), start=1):
            bar.show(done)


def made() -> dict[str, str]:
    """With what and when a result was made."""
    return {"unflip": unflip.__version__, "torch": torch.__version__, "date": datetime.date.today().isoformat()}


def value_of(metrics: Mapping[str, Any], name: str) -> float | None:
    """A metric by its name, wherever it stands in metrics.json; None where it is not defined."""
    for part in (metrics, *(metrics.get(name) or {} for name in ("realism", "reference", "temporal"))):
        if isinstance(part.get(name), dict):
            return part[name]["value"]
    return None


def _translated_by(folder: Path) -> dict[str, Any] | None:
    """The model of the translations, as their manifest has it; None where they have none."""
    try:
        with open(folder / MANIFEST, encoding="utf-8") as manifest:
            line = json.loads(manifest.readline())
        return {"model": line["model"], **line.get("by", {})}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _said(name: str, figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return ""
    low, high = figure["low"], figure["high"]
    return f"{name:18} {figure['value']:.4g}" + ("" if low is None or high is None else f"  (95 %: {low:.4g} to {high:.4g})")


def _brief(reading: Reading) -> dict[str, Any]:
    metrics = flip_metrics(reading, None)
    return {"images": reading.images, "mean_iou": metrics["mean_iou"]["value"], "pixel_accuracy": metrics["pixel_accuracy"]["value"]}


def _cases(found: Labeled, reader: Reader, reading: Reading, sources: list[Path] | None) -> list[Case]:
    """The images with the most flips, the worst first."""
    worst = np.argsort(-np.nan_to_num(reading.flipped, nan=-1), kind="stable")[:SHOWN]
    cases = []
    for i in worst.tolist():
        image, labels = read_rgb(found.images[i].path), found.ids(i)
        read = reader(image)
        source = read_rgb(sources[i]) if sources else None
        more = {} if source is None else {"trust map, made without labels": doubted(image, trust_map(source, image))}
        cases.append(
            Case(
                name=found.names[i].as_posix(),
                flip_rate=reading.flipped[i],
                source=None if source is None else shrunk(source),
                translation=shrunk(image),
                label=shrunk(colored(labels, reader.classes)),
                reading=shrunk(colored(read, reader.classes)),
                flips=shrunk(flips(image, labels, read, reader.classes)),
                more={caption: shrunk(picture) for caption, picture in more.items()},
            )
        )
    return cases


def _broken(metrics: Mapping[str, Any], require: Mapping[str, float]) -> list[str]:
    lines = []
    for name, bar in require.items():
        value = value_of(metrics, name)
        if value is None:
            lines.append(f"{name} is not known, and {bar:g} is required")
        elif value < bar if name in AT_LEAST else value > bar:
            lines.append(f"{name} is {value:.4g}, and at {'least' if name in AT_LEAST else 'most'} {bar:g} is required")
    return lines
