"""Does it help downstream? A segmentation network is trained on translations, and tested on real images of the target."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unflip.data.color_transfer import transfer_folder
from unflip.data.folders import find_images
from unflip.data.labels import Classes, read_classes
from unflip.data.pairs import Images
from unflip.devices import choose_device, choose_precision
from unflip.errors import Interrupted, UserError
from unflip.evaluation.confusion import Reading
from unflip.files import make_folder, undone_on_failure, write_bytes, write_json
from unflip.recipes.adapt_page import adapt_page
from unflip.recipes.adapt_plan import CEILING, COLOR, SOURCE, TRANSLATED, Arm, Sets, arms, check, drawn, fine_tuning, folder_of
from unflip.recipes.adapt_table import Outcome, answer, arms_csv, markdown, metrics, read, runs_csv
from unflip.recipes.begun import absolute, classes_digest, digest, images_digest, is_fresh
from unflip.recipes.evaluate import made
from unflip.recipes.segmenter import BUDGET, UNET, crop, refuse_small, segmenter
from unflip.report.page import write as write_page
from unflip.segmenterfolder import HELD_OUT
from unflip.types import Size

ARGUMENTS = "adapt.json"
"""In the folder of an adaptation: what it was asked for."""


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation found; all of it lies in ``folder``."""

    folder: Path
    outcomes: list[Outcome]
    """Of every arm, in the order of the table."""
    metrics: dict[str, Any]
    """What metrics.json holds."""
    markdown: str
    """The table, as table.md holds it."""
    verdict: str
    """Do the translations help?"""
    failed: list[str]
    """A line for each network that failed."""


def adapt(
    translated: str | Path | Mapping[str, str | Path],
    labels: str | Path,
    test_images: str | Path,
    test_labels: str | Path,
    classes: str | Path,
    out: str | Path,
    *,
    source: str | Path | None = None,
    target: str | Path | None = None,
    target_labels: str | Path | None = None,
    self_training: bool = False,
    shots: Sequence[int] = (),
    seeds: int = 3,
    budget: int = BUDGET,
    model: str = UNET,
    weights: str = "balanced",
    resize: str = "none",
    size: str | None = None,
    batch: int = 4,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
    say: Callable[[str], None] = print,
    command: str = "",
) -> Adaptation:
    """Train networks that differ in nothing but what they are trained on, and test them on the same real images.

    Writes table.md, table.csv, runs.csv, metrics.json and report.html to ``out``; ``out/arms/ARM/seedK`` holds each network. Called again
    with the same arguments it goes on where it stopped, and trains no network again that is there; what failed is tried again.

    Args:
        translated: the translations, or several sets of them by name; with the label maps ``labels`` of their sources.
        test_images, test_labels: real images of the target, which no network learns from.
        source: the images that were translated. With it there is an arm ``source only``, and with ``target`` one of ``color transfer``
            (:func:`unflip.data.color_transfer.transfer_folder`), the cheap rival.
        target: real images without labels, for color transfer and self-training.
        target_labels: their labels, for the ceiling: an arm that is trained on them.
        self_training: arms that also learn from ``target`` (:class:`unflip.evaluation.lesson.SelfTraining`).
        shots: numbers of labeled target images; for each an arm that is trained on so many alone, and one for each set of translations, and
            the sources, whose network is fine-tuned on them: SemST's use of translations, as pre-training (Zhao et al., WACV 2024).
        seeds: networks of each arm, with the seeds 0 to ``seeds - 1``.
        budget: images that each training sees; fine-tuning sees a quarter more.
        model, weights, resize, size, batch, device, precision: of all networks, as :func:`unflip.recipes.segmenter.segmenter` has them;
            without ``size``, crops are as large as all images that any arm learns from allow, up to 256 pixels a side.
        command: what the report says it was made by.

    Raises:
        UserError: wrong arguments or images, found before the first training; or ``out`` holds another adaptation.
        Interrupted: SIGINT or SIGTERM came; the networks that are there are kept.
    """
    out = Path(out)
    named = translated if isinstance(translated, Mapping) else {TRANSLATED: translated}
    sets = Sets(
        {name: Path(folder) for name, folder in named.items()},
        *map(Path, (labels, test_images, test_labels)),
        *map(_path, (source, target, target_labels)),
    )
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: at least 1 is needed")
    choose_precision(precision, choose_device(device))
    plan = arms(sets, out / "color_transfer", shots, self_training)
    known = read_classes(Path(classes))
    settings = {
        "budget": budget,
        "model": model,
        "weights": weights,
        "resize": resize,
        "size": size,
        "batch": batch,
        "precision": precision,
    }
    arguments = {
        "translated": [f"{name}={absolute(folder)}" for name, folder in sets.translated.items()],
        "translated_content": [f"{name}={images_digest(folder)}" for name, folder in sets.translated.items()],
        **{name: absolute(getattr(sets, name)) for name in Sets._fields[1:]},
        **{f"{name}_content": images_digest(getattr(sets, name)) for name in Sets._fields[1:]},
        "classes": absolute(str(classes)),  # or a known set's name
        "classes_content": classes_digest(classes),
        "self_training": self_training,
        "shots": list(shots),
        "seeds": seeds,
        "device": device,
        **settings,
        "model": absolute(model),
        "model_weights": None if model == UNET else digest(model),
    }
    fresh = is_fresh(out, ARGUMENTS, arguments, "adaptation")
    for folder in (*sets.translated.values(), *sets[1:]):
        if folder is not None and folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"--out {out} lies in the folder {folder}; choose another")
    translations, targets = check(sets, known, shots, progress)
    learned = Images([*translations, *(targets if self_training or sets.target_labels else [])], resize, cache="none")
    if size is None:  # one for all: crops, and the network that is made for them, must not differ with what an arm learns from
        settings["size"] = "{}x{}".format(*crop(learned.sizes))
    else:
        refuse_small(learned, _size(size))

    outcomes = {arm.name: Outcome(arm) for arm in plan}
    jobs = [(seed, arm) for seed in range(seeds) for arm in plan]  # the first network of every arm before the second of any
    for number, (seed, arm) in enumerate(jobs, 1):
        say(f"{arm.name} seed{seed} ({number} of {len(jobs)})")
        first = fresh and number == 1
        with undone_on_failure(out) if first else nullcontext():  # what the first one refuses is a wrong call
            try:
                if first:
                    write_json(out / ARGUMENTS, {"format": 1, "arguments": arguments})
                outcomes[arm.name].readings[seed] = _network(
                    arm, seed, sets, known, Path(classes), out, settings | {"device": device}, progress, say
                )
            except Interrupted as stopped:
                kept = "nothing is saved" if first else f"the networks in {out} are kept: the same command goes on"
                raise Interrupted(f"stopped; {kept}", stopped.exit_code) from None
            except UserError as problem:
                if first:
                    raise
                outcomes[arm.name].errors[seed] = str(problem)
                say(f"failed: {arm.name} seed{seed}: {problem}")
    return _write(out, list(outcomes.values()), sets, known, {"command": command, **made(), **arguments})


def _network(
    arm: Arm,
    seed: int,
    sets: Sets,
    known: Classes,
    classes: Path,
    out: Path,
    settings: dict[str, Any],
    progress: bool,
    say: Callable[[str], None],
) -> Reading:
    """Train the network of an arm and a seed, where it is not there; how it reads the test images."""
    folder = out / "arms" / arm.folder / f"seed{seed}"
    if not (folder / HELD_OUT).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed meanwhile, or could not read the test images
        if arm.name == COLOR:
            assert sets.source is not None and sets.target is not None
            transfer_folder(sets.source, sets.target, arm.images, progress=progress)
        if arm.begins is not None:
            begin = out / "arms" / folder_of(arm.begins) / f"seed{seed}"
            if not begin.exists():
                raise UserError(f"there is no network to fine-tune, {begin}; see what became of {arm.begins}")
            settings = settings | {"model": str(begin), "budget": fine_tuning(settings["budget"])}
        only = None if arm.shots is None else drawn(len(find_images(arm.images)), arm.shots, seed)
        make_folder(folder.parent)
        segmenter(
            arm.images,
            arm.labels,
            classes,
            folder,
            test_images=sets.test_images,
            test_labels=sets.test_labels,
            seed=seed,
            unlabeled=arm.unlabeled,
            only=only,
            progress=progress,
            say=say,
            **settings,
        )
    return read(folder, known)


def _write(out: Path, outcomes: list[Outcome], sets: Sets, classes: Classes, facts: dict[str, Any]) -> Adaptation:
    failed = [f"{each.arm.name} seed{seed}: {why}" for each in outcomes for seed, why in each.errors.items()]
    said = "{0.headline}: {0.text}".format(answer(outcomes))
    notes = _notes(outcomes, facts)
    table = markdown(outcomes, [*notes, said, *(f"Failed: {line}" for line in failed)])
    found = metrics(outcomes, facts)
    for name, content in {"table.md": table, "table.csv": arms_csv(outcomes), "runs.csv": runs_csv(outcomes)}.items():
        write_bytes(out / name, content.encode())
    write_json(out / "metrics.json", found)
    write_page(adapt_page(outcomes, out, notes=notes, failed=failed, sets=sets, classes=classes, facts=facts), out / "report.html")
    return Adaptation(out, outcomes, found, table, said, failed)


def _notes(outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> list[str]:
    """How to read the table."""
    names = {each.arm.name for each in outcomes}
    tested = next((reading.images for each in outcomes for reading in each.readings.values()), 0)
    notes = [f"Mean of the networks (lowest to highest), on {tested:,} real test images; each training sees {facts['budget']:,} images."]
    if SOURCE in names:
        notes.append("Over source only: in mean IoU, of networks of the same seed.")
    if CEILING in names:
        notes.append(f"The ceiling: {CEILING}, trained on real target images with labels.")
    if facts["shots"]:
        notes.append(f"Fine-tuning sees {fine_tuning(facts['budget']):,} images, after the training that it begins with.")
    return notes


def _size(given: str) -> Size:
    try:
        return Size.parse(given)
    except ValueError as error:
        raise UserError(f"--size: {error}") from None


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
