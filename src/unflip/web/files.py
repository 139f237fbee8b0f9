"""The page's files: what visitors upload, and what becomes of it. They lie in one private folder that is gone with the server."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from unflip.web.limits import Limits

EVERY = 300.0
"""Seconds."""


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
    total, count, now = sum(size for _, size, _ in found), len(found), time.time()
    for when, size, path in sorted(found):
        if when >= now - limits.age and total <= limits.folder and count <= limits.files:
            break
        total, count = total - size, count - 1
        with suppress(OSError):
            path.unlink()
    for path in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
        with suppress(OSError):  # not empty
            if path.stat().st_mtime < now - 60:  # else it may have been made for what is about to come
                path.rmdir()


async def keep_tidy(folder: Path, limits: Limits, listed: Sequence[set[str]]) -> None:
    """Tidy up every few minutes, and have Gradio forget the files that are gone, which it has ``listed``."""
    while True:
        await asyncio.sleep(EVERY)
        await asyncio.to_thread(tidy, folder, limits)
        for names in listed:
            names.difference_update([name for name in names if not Path(name).exists()])
