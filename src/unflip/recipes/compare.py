"""Several methods and seeds, trained or taken as they are, judged on the same images: one table."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unflip.data.folders import same_folder
from unflip.data.labels import Classes, read_classes
from unflip.devices import choose_device
from unflip.errors import Interrupted, UserError
from unflip.files import make_folder, undone_on_failure, write_bytes, write_json
from unflip.inference.folders import translate_folder
from unflip.inference.translator import load
from unflip.recipes.apart import train_apart
from unflip.recipes.begun import absolute, classes_digest, digest, images_digest, is_fresh
from unflip.recipes.compare_page import compare_page
from unflip.recipes.compare_plan import ARGUMENTS, Job, check_images, given, trainings, translations
from unflip.recipes.compare_table import EVALUATION, UNTRANSLATED, Row, Trial, markdown, methods_csv, runs_csv
from unflip.recipes.evaluate import evaluate, made
from unflip.report.page import write as write_page
from unflip.segmenterfolder import load_segmenter


@dataclass(frozen=True)
class Comparison:
    """What a comparison found; all of it lies in ``folder``."""

    folder: Path
    rows: list[Row]
    """The sources as they are, and a row for each method."""
    markdown: str
    """The table, as table.md holds it."""
    failed: list[str]
    """A line for each run that failed."""


def compare(
    out: str | Path,
    *,
    test_source: str | Path,
    test_labels: str | Path,
    segmenter: str | Path,
    methods: Sequence[str] = (),
    source: str | Path | None = None,
    target: str | Path | None = None,
    seeds: int = 3,
    budget: int | None = None,
    size: int | str | None = None,
    batch: int | None = None,
    settings: Sequence[str] = (),
    val_source: str | Path | None = None,
    val_labels: str | Path | None = None,
    val_target: str | Path | None = None,
    runs: Sequence[tuple[str, str | Path]] = (),
    test_target: str | Path | None = None,
    classes: str | Path | None = None,
    features: str = "segmenter",
    real_images: str | Path | None = None,
    real_labels: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    say: Callable[[str], None] = print,
    command: str = "",
) -> Comparison:
    """Train, translate and evaluate, and write table.md, table.csv, runs.csv and report.html to ``out``.

    ``out/METHOD/seedK`` gets the run, the translated test images and their evaluation. Called again with the same arguments it goes on
    where it stopped, and does nothing again that is complete; what failed is tried again. Each training is a process of its own.

    Args:
        test_source, test_labels: images that no run has seen, and their label maps: what is translated and judged.
        segmenter, classes, features, real_images, real_labels: as :func:`unflip.evaluate` has them.
        methods: names out of ``METHODS``, each trained from ``source`` to ``target`` with the seeds 0 to ``seeds - 1``.
        budget, size, batch: of every training, as :func:`unflip.configure` has them.
        settings: ``key=value`` for all methods, which must all have what it sets; ``cut,srunit:key=value`` for those named.
        val_source, val_labels, val_target: where given, every run is validated with the same ``segmenter`` and takes a checkpoint by it.
        runs: names and folders of trained runs or models to judge as well; those of one name are one method's.
        test_target: what realism is measured against; default: ``target``.
        command: what the report says it was made by.

    Raises:
        UserError: wrong arguments, found before the first training; or ``out`` holds another comparison.
        Interrupted: SIGINT or SIGTERM came while a run was training; it has been saved.
    """
    out, source_images = Path(out), Path(test_source)
    choose_device(device)
    training = {"source": source, "target": target, "budget": budget, "size": size, "batch": batch, "device": device}
    training |= {"val_source": val_source, "val_labels": val_labels, "val_target": val_target}
    if val_source is not None:
        training |= {"segmenter": segmenter, "classes": classes}
    judged = {"labels": test_labels, "target": test_target or target, "segmenter": segmenter, "classes": classes}
    judged |= {"real_images": real_images, "real_labels": real_labels}
    if not methods and not runs:
        raise UserError("nothing to compare; give --methods NAME,NAME to train, or --run NAME=RUN to take")
    jobs = [*trainings(out, methods, seeds, settings, **training), *given(out, runs, methods)]
    folders = {"source": source, "target": target, "val_source": val_source, "val_labels": val_labels, "val_target": val_target}
    folders |= {"test_source": test_source, "test_labels": test_labels, "test_target": judged["target"]}
    folders |= {"real_images": real_images, "real_labels": real_labels}
    arguments = {
        "methods": list(methods),
        "seeds": seeds,
        "runs": [job.identity for job in jobs if job.config is None],
        "settings": list(settings),
        "budget": budget,
        "size": size,
        "batch": batch,
        "device": device,
        **{name: absolute(folder) for name, folder in folders.items()},
        **{f"{name}_content": images_digest(folder) for name, folder in folders.items()},
        "segmenter": absolute(segmenter),
        "segmenter_weights": digest(segmenter),
        "classes": absolute(classes and str(classes)),  # or a known set's name
        "classes_content": classes_digest(classes),
        "features": features,
    }
    judge = partial(evaluate, **judged, features=features, device=device, progress=progress, command=command)  # type: ignore[arg-type]
    fresh = is_fresh(out, ARGUMENTS, arguments, "comparison")
    if fresh:
        check_images([job.config for job in jobs if job.config is not None], out, [test_source, test_labels, judged["target"]])
    with undone_on_failure(out) if fresh else nullcontext():
        write_json(out / ARGUMENTS, {"format": 1, "arguments": arguments})
        # judged first, which shows what is wrong with the test images, the labels, the segmenter or the target before anything is trained
        say("the sources as they are")
        _evaluate_once(out / UNTRANSLATED, partial(judge, source_images))

    trials: dict[str, list[Trial]] = {
        UNTRANSLATED: [Trial.read(UNTRANSLATED, "", out / UNTRANSLATED, None)],
        **{job.method: [] for job in jobs},
    }
    for i, job in enumerate(sorted(jobs, key=lambda job: job.index), 1):  # the first run of every method before the second of any
        say(f"{job.method} {job.name} ({i} of {len(jobs)})")
        error = ""
        try:
            _run(job, source_images, judge, device, progress)
        except Interrupted as stopped:
            raise Interrupted(f"stopped; {out} is saved: the same command goes on", stopped.exit_code) from None
        except UserError as problem:
            error = str(problem)
            say(f"failed: {job.method} {job.name}: {error}")
        trials[job.method].append(Trial.read(job.method, job.name, job.folder, job.run, error))
    rows = [Row(method, tuple(found)) for method, found in trials.items()]
    known = read_classes(Path(classes)) if classes else load_segmenter(Path(segmenter)).config.classes
    return _write(out, rows, source_images, Path(test_labels), known, {"command": command, **made(), **arguments})


def _write(out: Path, rows: list[Row], test_source: Path, test_labels: Path, classes: Classes, facts: Mapping[str, Any]) -> Comparison:
    trials = [trial for row in rows for trial in row.trials]
    failed = [f"{trial.method} {trial.name}: {trial.error}" for trial in trials if trial.error]
    warnings = list(dict.fromkeys(warning for trial in trials for warning in (trial.metrics or {}).get("warnings", ())))
    if facts["val_source"] and same_folder(Path(facts["val_source"]), test_source):
        warnings.append("checkpoints were chosen on the test images themselves, which flatters every method")
    notes, cost = _notes(trials), _notes_on_cost(trials)
    table = markdown(rows, [*notes, *cost, *(f"Mind: {line}" for line in warnings), *(f"Failed: {line}" for line in failed)])
    for name, text in {"table.md": table, "table.csv": methods_csv(rows), "runs.csv": runs_csv(rows)}.items():
        write_bytes(out / name, text.encode())
    page = compare_page(
        rows,
        out,
        notes=notes,
        cost=cost,
        warnings=warnings,
        test_source=test_source,
        test_labels=test_labels,
        classes=classes,
        made=[(name.replace("_", " "), str(value)) for name, value in facts.items() if value],
    )
    write_page(page, out / "report.html")
    return Comparison(out, rows, table, failed)


def _notes(trials: Sequence[Trial]) -> list[str]:
    """How to read the table."""
    metrics = trials[0].metrics  # of the sources as they are
    assert metrics is not None
    notes = [
        f"Mean of the runs (lowest to highest); in bold the best mean; {UNTRANSLATED}: the sources as they are. "
        f"{metrics['images']:,} test images, read by the segmenter {metrics['segmenter']['path']}."
    ]
    realism = metrics.get("realism")
    if realism:
        notes.append(f"Fréchet distance and KID to {realism['target_images']:,} target images, in features: {realism['features']}.")
    return notes


def _notes_on_cost(trials: Sequence[Trial]) -> list[str]:
    """What time and memory are."""
    timed = any(trial.numbers["seconds"] for trial in trials)
    kinds = dict.fromkeys(trial.numbers["memory"] for trial in trials if trial.numbers["memory"])
    notes = ["Training time: of the steps, without start, samples, checkpoints and validation."] if timed else []
    return notes + [f"Memory: the training's peak {kind}." for kind in kinds]


def _run(job: Job, test_source: Path, judge: Callable[..., Any], device: str, progress: bool) -> None:
    """Train, translate and judge, as far as it has not been done."""
    translated = job.folder / "translated"
    if _is_evaluated(job.folder):
        return
    if job.config is not None and not translated.exists():  # there are translations of complete runs only
        make_folder(job.folder)
        train_apart(job.config, job.run, progress=progress)
    outcome = translate_folder(load(job.run, device=device), test_source, translated, annotations="none", progress=progress)
    if outcome.failed:
        raise UserError(f"{len(outcome.failed)} test images cannot be translated: {outcome.failed[0]}")
    _evaluate_once(job.folder, partial(judge, translations(job.folder, test_source), source=test_source))


def _is_evaluated(folder: Path) -> bool:
    return all((folder / EVALUATION / name).is_file() for name in ("metrics.json", "report.html"))


def _evaluate_once(folder: Path, judge: Callable[..., Any]) -> None:
    if not _is_evaluated(folder):
        shutil.rmtree(folder / EVALUATION, ignore_errors=True)  # of a process that was killed meanwhile
        judge(out=folder / EVALUATION)
