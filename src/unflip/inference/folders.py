"""Translating folders: the same relative names, a manifest line per file, and going on where it stopped."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from unflip.data.folders import find_images, relative_names
from unflip.data.images import Array, Decoded, check, read, read_rgb, write
from unflip.errors import UserError
from unflip.files import disk_errors, make_folder
from unflip.inference.translator import Translator
from unflip.inference.trust import fitted, trust_map, write_trust
from unflip.progress import Bar

MANIFEST = "manifest.jsonl"
PROVENANCE = ("method", "seed", "images_seen")
"""What the manifest says of the model."""


@dataclass
class Outcome:
    """What came of translating a folder."""

    done: int = 0
    skipped: int = 0
    """Translated already by an earlier call."""
    failed: list[str] = field(default_factory=list)
    """A line for each."""
    trust: dict[str, float] = field(default_factory=dict)
    """The mean of the trust map of each image that was translated now, by relative name."""


def trust_folder(out: Path) -> Path:
    """Where the trust maps of the translations in ``out`` are: beside it, since whoever reads ``out`` wants translations only."""
    out = out.resolve()
    if not out.name:
        raise UserError(f"no folder can stand beside --out {out}, for the trust maps; choose another folder")
    return out.with_name(f"{out.name}_trust")


def translate_folder(translator: Translator, source: Path, out: Path, *, trust: bool = False, progress: bool = True) -> Outcome:
    """Translate an image, or all images of a folder searched in depth, into ``out``.

    Every file keeps its relative name and its size. ``manifest.jsonl`` gets a line for each: what was done, with which model, the seconds
    that the network took, or why not. Files that the manifest says this model has done are not done again. A bad file is listed, and the
    rest is done. With ``trust`` every translation gets a trust map (:mod:`unflip.inference.trust`) in :func:`trust_folder`, a gray PNG: 255
    is trust; where only that is missing, only that is made.

    Raises:
        UserError: no images, or ``out`` is the source, or holds another model's translations.
    """
    paths = find_images(source)
    names = relative_names(paths, source)
    if len(paths) == 1 and source == paths[0]:
        check(source)  # one image that is bad is a wrong call, not a bad file among many
    maps = trust_folder(out) if trust else None
    with disk_errors(out):
        finished = _finished(out, _model_id(translator))
        _refuse_to_overwrite(out, source, paths, names, finished)
        if maps is not None:
            _refuse_maps(maps, source, names, out)
            fitted()  # read before the first translation, and by one thread
    make_folder(out)
    there = {name for name in names if name.as_posix() in finished and (out / name).is_file()}
    jobs = [_Job(path, name, name in there) for path, name in zip(paths, names, strict=True)]
    todo = [job for job in jobs if not job.translated or (maps is not None and not _map_of(job.name, maps).is_file())]
    outcome = Outcome(skipped=len(paths) - len(todo))

    by = {"model": _model_id(translator), "by": {name: translator.config.provenance.get(name) for name in PROVENANCE}}
    bar = Bar("translating", len(paths), outcome.skipped, quiet=not progress)
    at_once = _at_once(translator)
    with disk_errors(out), open(out / MANIFEST, "a", encoding="utf-8") as manifest, bar, ThreadPoolExecutor(at_once) as writers:
        manifest.write(_line_end(out / MANIFEST))

        def note(job: _Job, result: Future[dict[str, Any]]) -> None:
            line: dict[str, Any] = {"file": job.name.as_posix(), "source": str(job.path.resolve()), **by}
            try:
                line |= {"status": "done", **result.result()}
                outcome.done += 1
                if maps is not None:
                    outcome.trust[line["file"]] = line["trust"]
            except _BadImage as error:
                line |= {"status": "failed", "error": str(error)}
                outcome.failed.append(str(error))
            manifest.write(json.dumps(line) + "\n")
            manifest.flush()
            bar.show(outcome.skipped + outcome.done + len(outcome.failed))

        # the next images are decoded, and the last ones written, while one is translated; what is noted has been written
        behind: deque[tuple[_Job, Future[dict[str, Any]]]] = deque()
        try:
            for job, image in _ahead(todo, str(translator.resize), at_once):
                began = time.monotonic()
                translation = None
                if not job.translated and isinstance(image, Decoded):
                    translation = translator.pixels(image.rgb, image.size)
                while len(behind) >= at_once:
                    note(*behind.popleft())
                behind.append((job, writers.submit(_save, job, image, translation, out, maps, round(time.monotonic() - began, 4))))
            while behind:
                note(*behind.popleft())
        except BaseException:  # whatever stops it, what has been written is noted
            for job, result in behind:
                with suppress(UserError):
                    note(job, result)
            raise
    return outcome


class _Job(NamedTuple):
    path: Path
    name: Path
    translated: bool
    """Already; only its trust map is missing."""


class _BadImage(Exception):
    """One image that cannot be translated; the others can."""


def _save(job: _Job, image: Decoded | UserError, translation: Array | None, out: Path, maps: Path | None, seconds: float) -> dict[str, Any]:
    """Write a translation and its trust map; what the manifest says of them."""
    if isinstance(image, UserError):
        raise _BadImage(str(image))
    found: dict[str, Any] = {"size": list(image.size)}
    if translation is None:
        translation = read_rgb(out / job.name)
    else:
        write(out / job.name, translation, image.alpha)
        found["seconds"] = seconds
    if maps is not None:
        probability = trust_map(image.rgb, translation)
        write_trust(_map_of(job.name, maps), probability)
        found["trust"] = round(float(probability.mean()), 4)
    return found


def _map_of(name: Path, maps: Path) -> Path:
    return (maps / name).with_suffix(".png")


def _at_once(translator: Translator) -> int:
    """How many images are decoded ahead and written behind: a GPU must not wait for them, and a CPU has other things to do."""
    return 1 if translator.device.type == "cpu" else min(8, os.cpu_count() or 1)


def _ahead(todo: list[_Job], resize: str, count: int) -> Iterator[tuple[_Job, Decoded | UserError]]:
    """Every image, decoded, with the next ``count`` on their way."""

    def decode(job: _Job) -> Decoded | UserError:
        try:
            return read(job.path, resize)
        except UserError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        waiting: deque[tuple[_Job, Future[Decoded | UserError]]] = deque()
        for job in todo:
            waiting.append((job, pool.submit(decode, job)))
            if len(waiting) > count:
                first, image = waiting.popleft()
                yield first, image.result()
        for job, image in waiting:
            yield job, image.result()


def _line_end(manifest: Path) -> str:
    """What ends the last line of a manifest that a killed process left unfinished."""
    return "" if manifest.read_bytes()[-1:] in (b"", b"\n") else "\n"


def _model_id(translator: Translator) -> str:
    """The weights and the direction: what makes a translation another one."""
    return f"{translator.config.files.get('model.safetensors', 'unknown')}:{translator.direction}"


def _refuse_to_overwrite(out: Path, source: Path, paths: list[Path], names: list[Path], finished: dict[str, str]) -> None:
    """Nothing is written over an image that is not an earlier translation of the same source."""
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--out {out} lies in the folder of the source images, {source}; choose another folder")
    for path, name in zip(paths, names, strict=True):
        if (out / name).resolve() == path.resolve():
            raise UserError(f"--out {out} is where the source images are; choose another folder")
        if finished.get(name.as_posix(), str(path.resolve())) != str(path.resolve()):
            raise UserError(f"--out {out} holds translations of other images, such as {name}; choose another folder")
        if not finished and not (out / MANIFEST).exists() and (out / name).exists():
            raise UserError(f"--out {out} holds another {name}, which unflip did not write; choose another folder")


def _refuse_maps(maps: Path, source: Path, names: list[Path], out: Path) -> None:
    """Trust maps are named as label maps are, by the path without its ending; none lies among the source images or over another file."""
    if source.is_dir() and maps.is_relative_to(source.resolve()):
        raise UserError(f"the trust maps' folder, {maps}, lies in that of the source images, {source}; choose another --out")
    taken: dict[Path, Path] = {}
    for name in names:
        other = taken.setdefault(name.with_suffix(""), name)
        if other != name:
            raise UserError(f"{other} and {name} would have one trust map; rename one of them, or leave out --trust")
        if not (out / MANIFEST).exists() and _map_of(name, maps).exists():
            raise UserError(f"{maps} holds another {name.with_suffix('.png')}, which unflip did not write; choose another --out")


def _finished(out: Path, model: str) -> dict[str, str]:
    """The names that the manifest in ``out`` says are done, and of what source; refuses a manifest of another model."""
    path = out / MANIFEST
    finished = {}
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
            if line["model"] != model:
                raise UserError(f"--out {out} holds translations by another model or direction; choose another folder")
            if line["status"] == "done":
                finished[line["file"]] = line["source"]
        except (ValueError, KeyError, TypeError):
            continue  # a line cut short by a killed process: that file is done again
    return finished
