"""Where files are: on this machine's disks, or behind a URL that fsspec knows (``s3://``, ``gs://``, ``https://`` and many more)."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from unflip.data import shards
from unflip.errors import UserError, one_line
from unflip.files import disk_errors, make_folder, write_bytes, written


def is_remote(where: Path | str) -> bool:
    """Whether ``where`` is a URL of another place than this machine's disks. (Paths make ``s3:/x`` of ``s3://x``.)"""
    scheme, colon, _ = str(where).partition(":/")
    return bool(colon) and len(scheme) > 1 and "/" not in scheme and not is_file_url(where)


def is_file_url(where: Path | str) -> bool:
    """Whether ``where`` is a URL of this machine's disks."""
    return str(where).startswith(("file:/", "local:/"))


def local(where: Path | str) -> Path:
    """The path of a file that is not remote."""
    return Path("/" + str(where).partition(":/")[2].lstrip("/")) if is_file_url(where) else Path(where)


def opened(where: Path | str) -> BinaryIO:
    """A file, a member of a shard, or what a URL holds, to be read.

    Raises ``OSError`` as ``open`` does; ``UserError`` for a broken shard, and for a URL that cannot be read.
    """
    if not is_remote(where):
        return shards.opened(local(where))
    with _asking("read", where):
        file_system, path = _resolve(str(where))
        return io.BytesIO(file_system.cat_file(path))  # in one request


def streamed(where: Path | str) -> BinaryIO:
    """The same, for files that are large and read from front to back."""
    if not is_remote(where):
        return shards.opened(local(where))
    with _asking("read", where):
        file_system, path = _resolve(str(where))
        file: BinaryIO = file_system.open(path, "rb")
        return file


class Place:
    """A folder to write to. What is written is there whole or not at all, and takes the place of what had its name.

    Everything raises ``UserError`` where the place cannot be read or written to.
    """

    def __init__(self, where: Path | str) -> None:
        self.where = str(where).rstrip("/") if is_remote(where) else str(local(where))
        self.remote = is_remote(where)

    def __str__(self) -> str:
        return self.where

    def path(self, name: str) -> str:
        """Where ``name`` is."""
        return f"{self.where}/{name}" if self.remote else str(Path(self.where, name))

    def having(self, names: Iterable[str]) -> set[str]:
        """Which of ``names`` are there."""
        if not self.remote:
            return {name for name in names if os.path.exists(self.path(name))} if os.path.isdir(self.where) else set()
        return set(listed(self.where)).intersection(names)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        if not self.remote:
            return Path(self.where, name).is_file()
        with _asking("read", self.path(name)):
            file_system, path = _resolve(self.path(name))
            return bool(file_system.isfile(path))

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with opened(self.path(name)) as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Write a file; missing folders are made."""
        if not self.remote:
            path = Path(self.where, name)
            make_folder(path.parent)
            write_bytes(path, data)
            return
        with _asking("write", self.path(name)):
            file_system, there = _resolve(self.path(name))
            file_system.makedirs(file_system._parent(there), exist_ok=True)  # nothing, where there are no folders
            file_system.pipe_file(there, data)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """The same for a file that is large: it is there when the block has ended, and not if that fails."""
        if not self.remote:
            path = Path(self.where, name)
            make_folder(path.parent)
            with written(path) as file:
                yield file
            return
        with disk_errors(Path(tempfile.gettempdir())), tempfile.NamedTemporaryFile(prefix="unflip-") as file:
            yield file  # type: ignore[misc]
            file.flush()
            self.upload(name, file.name)

    def sweep(self, names: Iterable[str]) -> None:
        """Remove what processes that were killed while they wrote ``names`` have left; nobody may be writing."""
        if self.remote:
            return
        folders: dict[Path, set[str]] = {}
        for path in map(Path, map(self.path, names)):
            folders.setdefault(path.parent, set()).add(path.name)
        for folder, known in folders.items():
            for left in folder.glob(".*.tmp"):
                if left.name[1:].rsplit(".", 2)[0] in known:
                    left.unlink(missing_ok=True)

    def upload(self, name: str, path: str) -> None:
        """Write a file of this machine to the remote place."""
        with _asking("write", self.path(name)):
            file_system, there = _resolve(self.path(name))
            file_system.makedirs(file_system._parent(there), exist_ok=True)
            file_system.put_file(path, there)


def listed(url: str) -> list[str]:
    """The names of all files below a URL; of a file, the empty one; none where there is nothing."""
    with _asking("read", url):
        file_system, root = _resolve(url)
        file_system.invalidate_cache()  # others write there
        try:
            found = file_system.find(root)
        except FileNotFoundError:
            return []
    return [path[len(root) :].lstrip("/") for path in found if path.startswith(root)]  # a web page can link anywhere


def _resolve(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    scheme, _, rest = url.partition(":/")
    file_system, path = url_to_fs(f"{scheme}://{rest.lstrip('/')}")
    return file_system, path.rstrip("/")


@contextmanager
def _asking(what: str, url: Path | str) -> Iterator[None]:
    """Turn whatever a remote file system raises, which can be anything, into one line."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:  # the driver of its protocol: fsspec says which package has it
        raise UserError(f"cannot {what} {url}: {error}") from error
    except Exception as error:
        reason = one_line(error)
        raise UserError(f"cannot {what} {url} ({reason}); check the address, and the permissions to {what} there") from error
