"""Translating folders: the same relative names, a manifest line per file, and going on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unflip.data.folders import find_images, relative_names
from unflip.data.images import Decoded, check, read, write
from unflip.errors import UserError
from unflip.files import disk_errors, make_folder
from unflip.inference.translator import Translator
from unflip.progress import Bar

MANIFEST = "manifest.jsonl"


@dataclass
class Outcome:
    """What came of translating a folder."""

    done: int = 0
    skipped: int = 0
    """Translated already by an earlier call."""
    failed: list[str] = field(default_factory=list)
    """A line for each."""


def translate_folder(translator: Translator, source: Path, out: Path, *, progress: bool = True) -> Outcome:
    """Translate an image, or all images of a folder searched in depth, into ``out``.

    Every file keeps its relative name and its size. ``manifest.jsonl`` gets a line for each: what was done, with which model, how
    long it took, or why not. Files that the manifest says this model has done are not done again. A bad file is listed, and the rest
    is done.

    Raises:
        UserError: no images, or ``out`` is the source, or holds another model's translations.
    """
    paths = find_images(source)
    names = relative_names(paths, source)
    if len(paths) == 1 and source == paths[0]:
        check(source)  # one image that is bad is a wrong call, not a bad file among many
    with disk_errors(out):
        finished = _finished(out, _model_id(translator))
        _refuse_to_overwrite(out, source, paths, names, finished)
    make_folder(out)
    jobs = list(zip(paths, names, strict=True))
    todo = [(path, name) for path, name in jobs if not (name.as_posix() in finished and (out / name).is_file())]
    outcome = Outcome(skipped=len(paths) - len(todo))

    bar = Bar("translating", len(paths), outcome.skipped, quiet=not progress)
    with disk_errors(out), open(out / MANIFEST, "a", encoding="utf-8") as manifest, bar:
        manifest.write(_line_end(out / MANIFEST))
        for count, (path, name, image) in enumerate(_read_ahead(translator, todo), 1):
            began = time.monotonic()
            line: dict[str, Any] = {"file": name.as_posix(), "source": str(path.resolve()), "model": _model_id(translator)}
            if isinstance(image, UserError):
                line |= {"status": "failed", "error": str(image)}
                outcome.failed.append(str(image))
            else:
                write(out / name, translator.pixels(image.rgb, image.size), image.alpha)
                line |= {"status": "done", "size": list(image.size), "seconds": round(time.monotonic() - began, 4)}
                outcome.done += 1
            manifest.write(json.dumps(line) + "\n")
            manifest.flush()
            bar.show(outcome.skipped + count)
    return outcome


def _read_ahead(translator: Translator, todo: list[tuple[Path, Path]]) -> Iterator[tuple[Path, Path, Decoded | UserError]]:
    """Decode the next image while the one before is translated."""

    def decode(path: Path) -> Decoded | UserError:
        try:
            return read(path, str(translator.resize))
        except UserError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(decode, todo[0][0]) if todo else None
        for i, (path, name) in enumerate(todo):
            assert ahead is not None
            image = ahead.result()
            if i + 1 < len(todo):
                ahead = pool.submit(decode, todo[i + 1][0])
            yield path, name, image


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
