"""Output folders that long work goes on with: what they were begun with, and whether it is the same that is asked for now."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from unflip.data.folders import find_files
from unflip.data.labels import read_classes
from unflip.errors import UserError
from unflip.files import disk_errors
from unflip.segmenterfolder import WEIGHTS, read_segmenter


def is_fresh(out: Path, file: str, arguments: Mapping[str, Any], what: str) -> bool:
    """Whether nothing is there yet.

    Raises ``UserError`` where what is there is no ``what``, such as a comparison, whose arguments are in ``out / file``, or was begun with
    others.
    """
    with disk_errors(out):
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return True
    try:
        before = json.loads((out / file).read_text(encoding="utf-8"))["arguments"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--out {out} is not empty, and holds no {what} to go on with; choose another folder") from None
    for name in before:  # what it does not tell, an older version began it without
        if before[name] != arguments.get(name):
            changed = f"{name.replace('_', ' ')}: {_text(before.get(name))} there and {_text(arguments.get(name))} here"
            raise UserError(f"--out {out} was begun with other arguments ({changed}); give the same ones, or choose another folder")
    return False


def absolute(path: Any) -> str | None:
    """A path by which it is known from whatever folder; a segmenter of the hub keeps its id."""
    here = path is not None and (isinstance(path, Path) or Path(path).exists())
    return str(Path(path).absolute()) if here else path


def digest(segmenter: str | Path) -> str | None:
    """Of a segmenter's weights: another one in the same folder is another. None for one on the hub."""
    return read_segmenter(Path(segmenter))[1].files.get(WEIGHTS) if Path(segmenter).exists() else None


def classes_digest(classes: str | Path | None) -> str | None:
    """Of what a ``classes.json`` says: with other classes in the same file, numbers cannot stand beside those that are there."""
    return None if classes is None else hashlib.sha256(read_classes(Path(classes)).model_dump_json().encode()).hexdigest()[:12]


def images_digest(images: str | Path | None) -> str | None:
    """Of a folder's (or list's) images or label maps, by names, sizes and times: others in the same place cannot stand beside results of
    those of before."""
    if images is None:
        return None
    found = hashlib.sha256()
    for file in find_files(Path(images)):
        with suppress(OSError):  # what cannot be looked at is named by who reads it
            status = file.stat()
            found.update(os.fsencode(f"{file.absolute()} {status.st_size} {status.st_mtime_ns}\n"))
    return found.hexdigest()[:12]


def _text(value: Any) -> str:
    return (",".join(map(str, value)) if isinstance(value, list) else str(value)) or "none"
