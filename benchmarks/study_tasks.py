"""What the study consists of, piece by piece: scenes, judges, rivals and runs. Each is done once, and leaves one JSON file or folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from study_boxes import box_reading
from study_place import GUIDE, JUDGES, READERS, Place, second_record, write_record
from study_plan import BATCH, FIRST, VARIANTS, Labeled, Scale, Study, Variant, studies

from unflip.data import streets
from unflip.data.color_transfer import transfer_folder
from unflip.errors import UserError
from unflip.evaluation.confusion import Reading
from unflip.files import sha256, write_json
from unflip.inference.folders import translate_folder
from unflip.inference.translator import load
from unflip.recipes.apart import read_memory, train_apart
from unflip.recipes.audit import audit
from unflip.recipes.compare_table import training_time
from unflip.recipes.evaluate import evaluate
from unflip.recipes.segmenter import segmenter, summary
from unflip.recipes.train import configure
from unflip.runs import RunConfig, from_yaml
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


def tasks(data: Path, place: Place, names: Sequence[str], methods: Sequence[str], seeds: int) -> list[Task]:
    """All of it, in the order in which it is to be done: the first methods before any other, a seed in every study before the next seed.

    What the second judge reads comes last.
    """
    chosen = [study for name, study in studies(data, place.out, place.scale).items() if name in names]
    begun: dict[str, list[Task]] = {}
    judges: dict[str, Task] = {}
    guides: dict[str, Task] = {}
    second: dict[str, Task] = {}
    again: list[Task] = []
    for study in chosen:
        needs = [_scenes(study, place)] if study.made else []
        if study.judge not in judges:
            made = [_judge(study, place, which, tuple(needs)) for which in READERS]
            judges[study.judge], second[study.judge], guides[study.judge] = made
            needs.append(judges[study.judge])
        untranslated = _untranslated(study, place, judges[study.judge])
        begun[study.name] = [*needs, untranslated]
        again.append(_second(study, place, UNTRANSLATED, 0, untranslated, second[study.judge]))
    found: list[Task] = []
    for first in (True, False):
        for seed in range(seeds):
            for study in chosen:
                wanted = [each for each in methods if (each in FIRST) == first and VARIANTS[each].fits(study)]
                judge, guide = judges[study.judge], guides[study.judge]
                found += begun.pop(study.name, [])
                for method in wanted:
                    guided = VARIANTS[method].weighed
                    found += [guide] if guided and guide not in found else []
                    found.append(_run(study, place, method, seed, (judge, guide) if guided else (judge,)))
                    again.append(_second(study, place, method, seed, found[-1], second[study.judge]))
                if first and study.adapt_test is not None:
                    found += [_rival(study, place, rival, seed, judge) for rival in RIVALS]
    return [*found, *second.values(), *again]


def _scenes(study: Study, place: Place) -> Task:
    folder = place.out / "scenes"
    width, height = place.scale.scene

    def do() -> None:
        for name, what in study.made.items():
            where = {"labels": folder / f"{name}_labels", "width": width, "height": height}
            streets.write(folder / name, count=what.count, look=what.look, shares=what.shares, first=what.first, **where)
        write_json(folder / "made.json", {"width": width, "height": height})

    return Task("scenes", folder, folder / "made.json", do)


def _judge(study: Study, place: Place, which: str, needs: tuple[Task, ...]) -> Task:
    segmenter, scale = place.judge(study, which), place.scale

    def do() -> None:
        sizes = (scale.judge_budget, scale.judge_size)
        read_by(scale, study.judge_train, study.judge_test, study.classes, segmenter, *sizes, READERS.index(which))

    return Task(f"{which.replace('_', ' ')} {study.judge}", segmenter.parent, segmenter / "config.json", do, needs)


def _untranslated(study: Study, place: Place, judge: Task) -> Task:
    folder, result = place.out / study.name / UNTRANSLATED, place.record(study, UNTRANSLATED, 0)

    def do() -> None:
        write_record(result, place, study, UNTRANSLATED, 0, judged(study, place, study.test_source, folder))

    return Task(f"{study.name} {UNTRANSLATED}", folder, result, do, (judge,))


def _second(study: Study, place: Place, what: str, seed: int, run: Task, judge: Task) -> Task:
    result = second_record(run.result)
    images = study.test_source if what == UNTRANSLATED else run.folder / "translated"

    def do() -> None:
        if not images.is_dir():
            raise UserError(f"no translations, {images}; remove {run.result}, and they are made again")
        write_record(result, place, study, what, seed, judged(study, place, images, run.folder, which=JUDGES[1]))

    return Task(f"{run.name}, by the second judge", run.folder, result, do, (run, judge))


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


def _run(study: Study, place: Place, variant: str, seed: int, needs: tuple[Task, ...]) -> Task:
    folder, result, scale = place.out / study.name / variant / f"seed{seed}", place.record(study, variant, seed), place.scale

    def do() -> None:
        run, translated = folder / "run", folder / "translated"
        chosen, balance = VARIANTS[variant], None
        if chosen.balanced:
            ends = (study.source, study.target)
            reading = {"source_labels": study.source_labels, "classes": study.classes, "segmenter": place.judge(study)}
            balance = audit(*ends, **reading, balance=folder / "lists", device=scale.device, progress=False).balance
        train_apart(configured(study, place, chosen, seed, folder / "lists"), run)
        model = load(run, device=scale.device)
        whole(translate_folder(model, study.test_source, translated, annotations="none"))
        found = judged(study, place, translated, folder)
        if study.adapt_test is not None:
            assert study.source_labels is not None
            training = Labeled(folder / "train_translated", study.source_labels)
            whole(translate_folder(model, study.source, training.images, annotations="none"))
            found["adapted"] = adapted(study, place, training, seed, folder / "adapted")
        seen, seconds = training_time(run / "log.jsonl")
        memory = read_memory(run)
        found["training"] = {
            "method": chosen.method,
            "settings": settings(study, scale, chosen),
            "labels": chosen.labels,
            "matched": chosen.matched,
            "balance": balance and {**asdict(balance), "where": "lists"},
            "weighed": _weighed(run),
            "budget": scale.budget,
            "images_seen": seen,
            "seconds": seconds,
            "memory_bytes": memory and memory["bytes"],
            "validation": list(_lines(run / "validation.jsonl")),
        }
        write_record(result, place, study, variant, seed, found)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)  # the model stays

    return Task(f"{study.name} {variant} seed{seed}", folder, result, do, needs)


def _weighed(run: Path) -> dict[str, Any] | None:
    """What a run's balance says, without the path of its segmenter; None: it has none."""
    balance = from_yaml(run / "config.yaml").balance
    return balance and {**balance.model_dump(mode="json", exclude={"segmenter"}), "variation": list(balance.variation)}


def settings(study: Study, scale: Scale, variant: Variant) -> list[str]:
    """What is set in a method, as ``--set`` takes it."""
    validated = [f"validate_every={scale.validate_every}"] if study.val is not None else []
    return [f"data.resize={scale.resize}", *scale.settings, *variant.settings, *validated]


def configured(study: Study, place: Place, variant: Variant, seed: int, lists: Path) -> RunConfig:
    """A training, as ``unflip train`` would configure it."""
    scale, (source, target) = place.scale, variant.ends(study, lists)
    more: dict[str, Any] = {}
    if variant.labels or variant.weighed:
        more |= {"source_labels": study.source_labels, "classes": study.classes if study.source_labels else None}
    if variant.weighed:
        more["balance"] = place.judge(study, GUIDE)
    if study.val is not None:
        val = {"val_source": study.val.images, "val_labels": study.val.labels, "val_target": target}
        more |= {**val, "segmenter": place.judge(study)}
    return configure(
        variant.method,
        source=source,
        target=target,
        size=scale.size,
        budget=scale.budget,
        seed=seed,
        device=scale.device,
        settings=settings(study, scale, variant),
        **more,
    )


def judged(study: Study, place: Place, images: Path, folder: Path, which: str = JUDGES[0]) -> dict[str, Any]:
    """How a judge reads images, which may be the sources themselves, and how near they are to the target."""
    report = folder / ("evaluation" if which == JUDGES[0] else f"evaluation_{which}")
    shutil.rmtree(report, ignore_errors=True)
    segmenter, device = place.judge(study, which), place.scale.device
    found = evaluate(
        images,
        study.test_labels,
        segmenter,
        report,
        source=study.test_source,
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


def _lines(path: Path) -> Iterator[Any]:
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())
