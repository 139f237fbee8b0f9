"""What is to be translated: images, videos, or whole shards of images, on this machine or behind a URL."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from unflip.data.folders import find_files, natural, relative_names
from unflip.data.formats import FORMATS, VIDEOS, is_image, is_shard, is_video
from unflip.data.places import is_remote, listed, local
from unflip.data.shards import expand
from unflip.errors import UserError

Line = dict[str, Any]
"""A line of the manifest."""

Note = Callable[[Line], None]
"""Takes what has been done, after it has been written."""


class Job(NamedTuple):
    """An image, a video, or a shard."""

    source: str
    """A path or a URL."""
    name: str
    """Of its translation, below the output."""
    translated: bool = False
    """Already; only its trust map is missing."""

    @property
    def shard(self) -> bool:
        """Whether it is one."""
        return is_shard(self.name)

    @property
    def video(self) -> bool:
        """Whether it is one."""
        return is_video(self.name)


def find_jobs(where: Path | str) -> list[Job]:
    """All images of a folder, a list, a URL, or one image; where there are none but videos, the videos, and where there are none but
    shards, the shards, also those of a pattern. A list may name images and videos.

    Raises ``UserError`` where there is nothing to find.
    """
    if is_remote(where):
        return _remote(str(where).rstrip("/"))
    path = local(where)
    files = find_files(path, videos=True)
    jobs = [Job(str(file), name.as_posix()) for file, name in zip(files, relative_names(files, path), strict=True)]
    return list(dict.fromkeys(jobs))  # a list can name an image twice


def identity(source: str) -> str:
    """One name for a file, however it was reached."""
    return source if is_remote(source) else str(local(source).resolve())


def stamp(source: str) -> tuple[int, int] | None:
    """The size of a file in bytes, and when it was changed, in nanoseconds; None where there is no such file here."""
    try:
        found = os.stat(source)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def map_name(name: str) -> str:
    """The name of the trust map of the translation ``name``, or of the shard of maps: as label maps are named."""
    return name if is_shard(name) else PurePosixPath(name).with_suffix(".png").as_posix()


def _remote(url: str) -> list[Job]:
    if "{" in url:
        return _expanded(url)
    names = listed(url)
    web = url.startswith(("http://", "https://"))  # where names are parts of addresses
    if names == [""] and (is_image(url) or is_video(url) or is_shard(url)):
        name = url.rpartition("/")[2]
        return [Job(url, unquote(name) if web else name)]
    known = {unquote(name) if web else name: name for name in names}
    seen = [name for name in known if not any(part.startswith(".") for part in name.split("/")) and "\0" not in name]  # nor leads upwards
    found = next(filter(None, ([name for name in seen if kind(name)] for kind in (is_image, is_video, is_shard))), [])
    if not found:
        raise UserError(f"no images, {url}; give the URL of files that end in {' '.join([*FORMATS, *VIDEOS])}, or of tar shards of images")
    return [Job(f"{url}/{known[name]}", name) for name in sorted(found, key=lambda name: (natural(Path(name)), name))]


def _expanded(pattern: str) -> list[Job]:
    urls = expand(pattern)
    for url in urls:
        if not is_shard(url):
            raise UserError(f"not a shard, {url} (of {pattern}); braces stand for names that end in .tar")
    paths = [url.partition(":/")[2] for url in urls]
    root = posixpath.commonpath(map(posixpath.dirname, paths))
    return [Job(url, posixpath.relpath(path, root)) for url, path in zip(urls, paths, strict=True)]
