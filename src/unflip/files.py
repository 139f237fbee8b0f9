"""Atomic writing: a file or folder is there whole, or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from unflip.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


LOCK = ".lock"

NAME = 200
"""Bytes of a file's name that its temporary one begins with; file systems allow 255 in all."""


class Busy(UserError):
    """Another process is at work there, or was: what is there is its own."""


@contextmanager
def disk_errors(where: Path, what: str = "write") -> Iterator[None]:
    """Turn what a disk can do to a writer (or reader) into one clear line."""
    reasons = {
        errno.ENOSPC: "the disk is full; make room and run again",
        errno.EDQUOT: "the disk quota is used up; make room and run again",
        errno.EFBIG: "the file would be larger than the file system or a limit allows; choose another folder",
        errno.EIO: "the disk reports an error; choose another one",
        errno.EISDIR: "a folder of that name is in the way; choose another one",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.EACCES: f"no permission to {what} there; choose another folder",
        errno.EPERM: f"no permission to {what} there; choose another folder",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
        errno.ENOENT: "its folder cannot be made; choose another folder",
        errno.ENOTDIR: "a part of that path is a file; choose another folder",
    }
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        raise UserError(f"cannot {what} {where}: {reasons[error.errno]}") from error


@contextmanager
def undone_on_failure(folder: Path) -> Iterator[None]:
    """Make ``folder``, which is not there or empty; where the block fails, it and its parents are as they were before."""
    there = _nearest(folder)
    make_folder(folder)
    try:
        yield
    except Busy:  # it is another's
        raise
    except BaseException:
        for child in folder.glob("*"):
            shutil.rmtree(child, ignore_errors=True) if child.is_dir() else child.unlink()
        _unmake(folder, there)
        raise


def _nearest(folder: Path) -> Path:
    """The folder itself, or that of its parents which is there."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _unmake(folder: Path, there: Path) -> None:
    """Take away ``folder`` and those of its parents that were made for it, below ``there``, which was there before.

    Only while they are empty: what others have put there meanwhile is theirs.
    """
    made = [path for path in (folder, *folder.parents) if path != there and path.is_relative_to(there)]
    with suppress(OSError):
        for path in made:
            path.rmdir()


def refuse_unwritable(folder: Path) -> None:
    """Raise ``UserError`` where ``folder`` cannot be made or written to: before long work for it. It is left as it was."""
    there = _nearest(folder)
    make_folder(folder)
    try:
        with disk_errors(folder), tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        _unmake(folder, there)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Refuse a folder in which another process is at work, as where a run was started twice; clear away what a killed one left.

    The lock is the process', and gone with it however it ends; its file, ``.lock``, stays. Where the system has none, nothing is locked.
    """
    with disk_errors(folder), open(folder / LOCK, "ab") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"another process is at work in {folder}; wait for it, or stop it") from None
            except OSError:  # a file system without locks
                pass
        for path in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        yield


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents."""
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"cannot write {folder}: a file of that name is in the way; choose another folder") from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``path`` at once: temporary name in the same folder, fsync, rename."""
    with written(path) as file:
        file.write(data)


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """The same for what comes in pieces: the file is there when the block has ended, and not if that fails."""
    name = path.name.encode("utf-8", "surrogateescape")[:NAME].decode("utf-8", "ignore")  # with the rest, it must be a name, too
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON, at once."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which takes the place of ``folder`` when all of it is on the disk, and vanishes if anything fails.

    Of a link to a folder it is that folder whose place is taken, and the link stays.
    """
    folder = Path(os.path.realpath(folder)) if folder.is_symlink() else folder
    # a container's volume, or a folder in another's, stays where it is, and takes its files one by one
    stays = folder.is_dir() and (folder.is_mount() or not os.access(folder.parent, os.W_OK))
    beside = folder / "new" if stays else folder
    temporary, replaced = beside.with_name(f".{beside.name}.tmp"), beside.with_name(f".{beside.name}.old")
    with disk_errors(folder):
        if replaced.exists() and not folder.exists():  # killed between the two renames below
            os.replace(replaced, folder)
        for left in (temporary, replaced):
            left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for path in temporary.rglob("*"):
                sync(path)
            sync(temporary)
            if stays:
                for path in sorted(temporary.iterdir(), key=lambda path: path.name == "config.json"):  # last, as it makes it whole
                    os.replace(path, folder / path.name)
            else:
                if folder.exists():
                    os.replace(folder, replaced)
                os.replace(temporary, folder)
            sync(folder if stays else folder.parent)
        finally:
            if replaced.exists() and not folder.exists():
                os.replace(replaced, folder)
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def nameless(path: object) -> str:
    """A path without the folders of whose machine it is on; a name on the hub as it is."""
    return Path(str(path)).name if Path(str(path)).is_absolute() else str(path)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, where the system can."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
