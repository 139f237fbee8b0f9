"""The page's files: what visitors upload, and what becomes of it. They lie in one private folder that is gone with the server."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from unflip.web.limits import Limits


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that only this user can look into, until the end of the block."""
    folder = Path(mkdtemp(prefix="unflip-serve-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tidy(folder: Path, limits: Limits) -> None:
    """Remove what is too old, and the oldest files until the others fit."""
    found = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone meanwhile
            if path.is_file():
                about = path.stat()
                found.append((about.st_mtime, about.st_size, path))
    total, oldest = sum(size for _, size, _ in found), time.time() - limits.age
    for when, size, path in sorted(found):
        if when >= oldest and total <= limits.folder:
            break
        total -= size
        with suppress(OSError):
            path.unlink()
    for path in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
        with suppress(OSError):  # not empty
            if path.stat().st_mtime < time.time() - 60:  # else it may have been made for what is about to come
                path.rmdir()
