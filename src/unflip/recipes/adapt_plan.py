"""What an adaptation is to do: its arms, and all that is checked before one of them is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unflip.data.folders import Entry, keys
from unflip.data.labels import Classes
from unflip.errors import UserError
from unflip.evaluation.labeled import find_entries, find_labeled, find_labels
from unflip.recipes.segmenter import refuse_common
from unflip.seeding import numpy_rng

SOURCE, COLOR, CEILING = "source only", "color transfer", "target"
SELF_TRAINED = " + self-training"
TRANSLATED = "translated"
"""The name of the translations, where they are given without one."""
FINE_TUNING = 0.25
"""The share of the budget that fine-tuning gets: it begins where a whole training has ended, and sees few images many times."""
GOLDEN = 0.6180339887498949
"""The golden ratio's fraction: steps of it round a circle are spread evenly, however many there are (Kronecker sequence)."""


@dataclass(frozen=True)
class Arm:
    """One way to get a network: what it is trained on."""

    name: str
    images: Path
    labels: Path
    unlabeled: Path | None = None
    shots: int | None = None
    """So many of the images only, by the seed; None: all."""
    begins: str | None = None
    """The arm whose network is fine-tuned, of the same seed; None: from scratch."""
    translates: bool = False
    """Whether it is trained on translations, and on nothing else but unlabeled images."""

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return folder_of(self.name)


def folder_of(arm: str) -> str:
    """The name of an arm as that of a folder."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", arm)


def fine_tuning(budget: int) -> int:
    """How many images fine-tuning sees, where a whole training sees ``budget``."""
    return max(1, round(FINE_TUNING * budget))


class Sets(NamedTuple):
    """Images and labels as they were named, before anything was looked at."""

    translated: Mapping[str, Path]
    labels: Path
    test_images: Path
    test_labels: Path
    source: Path | None
    target: Path | None
    target_labels: Path | None


def arms(sets: Sets, colors: Path, shots: Sequence[int], self_training: bool) -> list[Arm]:
    """All arms, in the order of the table; those that begin with another one's network after it.

    ``colors``: where the sources with transferred colors will be.

    Raises:
        UserError: what is asked for needs images or labels that are not given; names that are no names, or are another arm's.
    """
    source, target = sets.source, sets.target
    if not sets.translated:
        raise UserError("no translations; give --translated DIR")
    if self_training and target is None:
        raise UserError("self-training learns from target images without labels; give --target DIR")
    if target is not None and source is None and sets.target_labels is None and not self_training:
        raise UserError("--target is of no use to any arm; give --source, --target-labels or --self-training, too, or leave it out")
    if sets.target_labels is not None and target is None:
        raise UserError("--target-labels are of the target images; give --target DIR, too")
    if shots and sets.target_labels is None:
        raise UserError("--shots are labeled target images; give --target DIR and --target-labels DIR")
    if shots and (min(shots) < 1 or len(set(shots)) < len(shots)):
        raise UserError(f"--shots {','.join(map(str, shots))}: numbers of at least 1, each once, such as 5,20,100")
    for name in sets.translated:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise UserError(f"--translated {name}={sets.translated[name]}: another name is needed, of letters, digits, _ and -")
        if name.lower() == CEILING:
            raise UserError(f"--translated {name}=...: that is what training on real labels is called; give the translations another name")
    found = [Arm(SOURCE, source, sets.labels)] if source is not None else []
    if source is not None and target is not None:
        found.append(Arm(COLOR, colors, sets.labels))
    found += [Arm(name, folder, sets.labels, translates=True) for name, folder in sets.translated.items()]
    if self_training:
        bases = [arm for arm in found if arm.name != COLOR]
        found += [Arm(arm.name + SELF_TRAINED, arm.images, arm.labels, target, translates=arm.translates) for arm in bases]
    if target is not None and sets.target_labels is not None:
        for k in sorted(shots):
            few = f"{k} labeled"
            found.append(Arm(few, target, sets.target_labels, shots=k))
            begins = [SOURCE] if source is not None else []
            found += [Arm(f"{name}, then {few}", target, sets.target_labels, shots=k, begins=name) for name in (*begins, *sets.translated)]
        found.append(Arm(CEILING, target, sets.target_labels))
    folders = [arm.folder.lower() for arm in found]  # some file systems do not tell a from A
    for arm in found:
        if folders.count(arm.folder.lower()) > 1:
            raise UserError(f"two arms would be called {arm.name}; give the translations another name: --translated NAME=DIR")
    return found


def check(sets: Sets, classes: Classes, shots: Sequence[int], progress: bool = True) -> tuple[list[Entry], list[Entry]]:
    """Look at all images and labels, so that what is wrong with them is said before the first training; translations, of which all sets are
    alike, and target images.

    Raises:
        UserError: images that are broken, of other names or sizes than those of another set, or have no label map; test images among those
            that are learned from; fewer labeled target images than are asked for.
    """
    name, folder = next(iter(sets.translated.items()))
    first = find_labeled(folder, sets.labels, classes, progress, f"{name} images").images
    others = {**sets.translated, **({SOURCE: sets.source} if sets.source is not None else {})}
    for other, place in others.items():
        if other != name:
            _alike(first, folder, find_entries(place, progress, f"{other} images"), place)
    tested = find_labeled(sets.test_images, sets.test_labels, classes, progress, "test images").images
    if sets.target is not None:
        target = find_entries(sets.target, progress, "target images")
        refuse_common(target, tested, "--target")
        if sets.target_labels is not None:
            find_labels(target, sets.target, sets.target_labels, classes, progress, "labels of target images")
        if shots and max(shots) > len(target):
            raise UserError(f"--shots {max(shots)}, and there are {len(target)} target images, {sets.target}; ask for fewer")
        return first, target
    return first, []


def _alike(first: list[Entry], here: Path, second: list[Entry], there: Path) -> None:
    """Refuse two sets that do not show the same scenes: their networks would not learn from the same labels."""
    a, b = (dict(zip(keys([e.path for e in found], where), found, strict=True)) for found, where in ((first, here), (second, there)))
    for these, those, place in ((a, b, there), (b, a, here)):
        if missing := [key for key in these if key not in those]:
            what = f"{len(missing)} of {len(these)} images are not in {place}, such as {these[missing[0]].path}"
            raise UserError(f"{what}; all sets must hold the same images, so that they share their labels")
    for key, entry in a.items():
        if (entry.width, entry.height) != (b[key].width, b[key].height):
            sizes = f"{b[key].width}x{b[key].height} and {entry.width}x{entry.height}"
            raise UserError(f"{b[key].path} and {entry.path} differ in size ({sizes}); give images of one size")


def drawn(count: int, shots: int, seed: int) -> list[int]:
    """``shots`` of ``count`` places, in their order: spread over all of them, as neighboring frames of a video resemble each other.

    Fewer of the same seed are among more. Where they begin is the seed's.
    """
    begin, found, step = float(numpy_rng(seed, "shots").random()), dict[int, None](), 0
    while len(found) < min(shots, count):
        found[int((begin + step * GOLDEN) % 1 * count)] = None
        step += 1
    return sorted(found)
