"""What the study consists of, piece by piece: scenes, judges, rivals and runs. Each is done once, and leaves one JSON file or folder."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from study_boxes import box_reading
from study_plan import BATCH, FIRST, VARIANTS, Labeled, Scale, Study, studies

from unflip.data import streets
from unflip.data.color_transfer import transfer_folder
from unflip.errors import UserError
from unflip.evaluation.confusion import Reading
from unflip.files import make_folder, sha256, write_json
from unflip.inference.folders import translate_folder
from unflip.inference.translator import load
from unflip.recipes.apart import read_memory, train_apart
from unflip.recipes.compare_table import training_time
from unflip.recipes.evaluate import evaluate, made
from unflip.recipes.segmenter import segmenter, summary
from unflip.recipes.train import configure
from unflip.segmenterfolder import WEIGHTS

RIVALS = ("source_only", "color_transfer", "target")
"""What a network is trained on besides translations: the cheap ways, and what there is to reach."""
UNTRANSLATED = "untranslated"


@dataclass(frozen=True)
class Task:
    """A piece of work that one process does, and others leave to it."""

    name: str
    folder: Path
    """Where it works; it is locked meanwhile."""
    result: Path
    """There when it is done."""
    do: Callable[[], None]
    needs: tuple[Task, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        return self.result.exists()


@dataclass(frozen=True)
class Place:
    """Where a study works and what it leaves, at one scale."""

    out: Path
    records: Path
    scale: Scale
    scale_name: str

    def record(self, study: Study, what: str, seed: int) -> Path:
        """The file that is kept."""
        return self.records / study.name / self.scale_name / what / f"seed{seed}.json"


def tasks(data: Path, place: Place, names: Sequence[str], methods: Sequence[str], seeds: int) -> list[Task]:
    """All of it, in the order in which it is to be done: the first methods before any other, a seed in every study before the next seed."""
    chosen = [study for name, study in studies(data, place.out, place.scale).items() if name in names]
    begun: dict[str, list[Task]] = {}
    judges: dict[str, Task] = {}
    for study in chosen:
        needs = [_scenes(study, place)] if study.made else []
        if study.judge not in judges:
            judges[study.judge] = _judge(study, place, tuple(needs))
            needs.append(judges[study.judge])
        begun[study.name] = [*needs, _untranslated(study, place, judges[study.judge])]
    found: list[Task] = []
    for first in (True, False):
        for seed in range(seeds):
            for study in chosen:
                wanted = [each for each in methods if (each in FIRST) == first and (study.teaches or not VARIANTS[each].labels)]
                judge = judges[study.judge]
                found += begun.pop(study.name, [])
                found += [_run(study, place, method, seed, judge) for method in wanted]
                if first and study.adapt_test is not None:
                    found += [_rival(study, place, rival, seed, judge) for rival in RIVALS]
    return found


def _scenes(study: Study, place: Place) -> Task:
    folder = place.out / "scenes"
    width, height = place.scale.scene

    def do() -> None:
        for name, what in study.made.items():
            where = {"labels": folder / f"{name}_labels", "width": width, "height": height}
            streets.write(folder / name, count=what.count, look=what.look, shares=what.shares, first=what.first, **where)
        write_json(folder / "made.json", {"width": width, "height": height})

    return Task("scenes", folder, folder / "made.json", do)


def _judge(study: Study, place: Place, needs: tuple[Task, ...]) -> Task:
    folder, scale = place.out / f"judge_{study.judge}", place.scale

    def do() -> None:
        read_by(scale, study.judge_train, study.judge_test, study.classes, folder / "segmenter", scale.judge_budget, scale.judge_size)

    return Task(f"judge {study.judge}", folder, folder / "segmenter/config.json", do, needs)


def _untranslated(study: Study, place: Place, judge: Task) -> Task:
    folder, result = place.out / study.name / UNTRANSLATED, place.record(study, UNTRANSLATED, 0)

    def do() -> None:
        write_record(result, place, study, UNTRANSLATED, 0, judged(study, place, study.test_source, folder))

    return Task(f"{study.name} {UNTRANSLATED}", folder, result, do, (judge,))


def _rival(study: Study, place: Place, rival: str, seed: int, judge: Task) -> Task:
    folder, result = place.out / study.name / rival / f"seed{seed}", place.record(study, rival, seed)

    def do() -> None:
        assert study.source_labels is not None
        training = Labeled(study.source, study.source_labels)
        if rival == "color_transfer":
            training = Labeled(folder / "images", study.source_labels)
            transfer_folder(study.source, study.target, training.images, seed=seed)
        elif rival == "target":
            assert study.target_labels is not None
            training = Labeled(study.target, study.target_labels)
        write_record(result, place, study, rival, seed, {"adapted": adapted(study, place, training, seed, folder / "adapted")})
        shutil.rmtree(folder / "images", ignore_errors=True)

    return Task(f"{study.name} {rival} seed{seed}", folder, result, do, (judge,))


def _run(study: Study, place: Place, variant: str, seed: int, judge: Task) -> Task:
    folder, result, scale = place.out / study.name / variant / f"seed{seed}", place.record(study, variant, seed), place.scale

    def do() -> None:
        run, translated = folder / "run", folder / "translated"
        chosen = VARIANTS[variant]
        more: dict[str, Any] = {"source_labels": study.source_labels, "classes": study.classes} if chosen.labels else {}
        settings = [f"data.resize={scale.resize}", *scale.settings, *chosen.settings]
        if study.val is not None:
            more |= {"val_source": study.val.images, "val_labels": study.val.labels, "val_target": study.target}
            more |= {"segmenter": judge_of(study, place)}
            settings.append(f"validate_every={scale.validate_every}")
        config = configure(
            chosen.method,
            source=study.source,
            target=study.target,
            size=scale.size,
            budget=scale.budget,
            seed=seed,
            device=scale.device,
            settings=settings,
            **more,
        )
        train_apart(config, run)
        model = load(run, device=scale.device)
        whole(translate_folder(model, study.test_source, translated, annotations="none"))
        found = judged(study, place, translated, folder, source=study.test_source)
        if study.adapt_test is not None:
            assert study.source_labels is not None
            training = Labeled(folder / "train_translated", study.source_labels)
            whole(translate_folder(model, study.source, training.images, annotations="none"))
            found["adapted"] = adapted(study, place, training, seed, folder / "adapted")
        seen, seconds = training_time(run / "log.jsonl")
        memory = read_memory(run)
        found["training"] = {"method": chosen.method, "settings": settings, "labels": chosen.labels, "budget": scale.budget}
        found["training"] |= {"images_seen": seen, "seconds": seconds}
        found["training"] |= {"memory_bytes": memory and memory["bytes"], "validation": list(_lines(run / "validation.jsonl"))}
        write_record(result, place, study, variant, seed, found)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)  # the model stays

    return Task(f"{study.name} {variant} seed{seed}", folder, result, do, (judge,))


def judge_of(study: Study, place: Place) -> Path:
    """The folder of the segmenter that reads a study's translations."""
    return place.out / f"judge_{study.judge}" / "segmenter"


def judged(study: Study, place: Place, images: Path, folder: Path, source: Path | None = None) -> dict[str, Any]:
    """How the judge reads images, which may be the sources themselves, and how near they are to the target."""
    shutil.rmtree(folder / "evaluation", ignore_errors=True)
    segmenter, device = judge_of(study, place), place.scale.device
    found = evaluate(
        images,
        study.test_labels,
        segmenter,
        folder / "evaluation",
        source=source or study.test_source,
        target=study.target,
        classes=study.classes,
        device=device,
    ).metrics
    metrics = {name: value for name, value in found.items() if name not in ("per_image", "made", "segmenter")}
    metrics["realism"] = {**metrics["realism"], "features": "encoder of the judge"}  # without its path
    metrics["judge"] = {**found["segmenter"]["held_out"], "sha256": sha256(segmenter / WEIGHTS)}
    boxes = {"boxes": box_reading(images, study.boxes, segmenter, device)} if study.boxes else {}
    return {"metrics": metrics, **boxes}


def adapted(study: Study, place: Place, training: Labeled, seed: int, folder: Path) -> dict[str, Any]:
    """How a network reads real target images that was trained on ``training``, as ``unflip adapt`` trains its arms."""
    assert study.adapt_test is not None
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed meanwhile
    scale = place.scale
    reading = read_by(scale, training, study.adapt_test, study.classes, folder, scale.adapt_budget, scale.adapt_size, seed)
    known = summary(reading).model_dump(mode="json")
    return {name: value for name, value in known.items() if name not in ("sizes", "voids", "blocks")} | {"budget": scale.adapt_budget}


def read_by(scale: Scale, training: Labeled, test: Labeled, classes: Path, folder: Path, budget: int, size: str, seed: int = 0) -> Reading:
    """How a segmenter that is trained on ``training``, into ``folder``, reads ``test``."""
    return segmenter(
        training.images,
        training.labels,
        classes,
        folder,
        budget=budget,
        test_images=test.images,
        test_labels=test.labels,
        resize=scale.resize,
        size=size,
        batch=BATCH,
        seed=seed,
        device=scale.device,
    )


def whole(outcome: Any) -> None:
    """Refuse a translation that left files out."""
    if outcome.failed:
        raise UserError(f"{len(outcome.failed)} images cannot be translated: {outcome.failed[0]}")


def write_record(path: Path, place: Place, study: Study, what: str, seed: int, found: dict[str, Any]) -> None:
    """Keep what was found, and by what it was."""
    where = {"study": study.name, "scale": place.scale_name, "what": what, "seed": seed}
    make_folder(path.parent)
    write_json(path, {**where, **rounded(found), "made": made_here(place.scale.device)})


def rounded(value: Any) -> Any:
    """Numbers to six digits: what is kept is read and compared by people."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float | np.floating) else value


def made_here(device: str) -> dict[str, Any]:
    """Hardware, versions, date and commit."""
    root = Path(__file__).parents[1]
    git = partial(subprocess.run, cwd=root, capture_output=True, text=True, check=False)
    commit = git(["git", "rev-parse", "--short", "HEAD"]).stdout.strip()
    changed = bool(git(["git", "status", "--porcelain", "--", "src"]).stdout.strip())
    return {
        **made(),
        "commit": commit + ("+" if changed else ""),
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _lines(path: Path) -> Iterator[Any]:
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())
