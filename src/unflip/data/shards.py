"""Tar shards, as WebDataset writes them: where each member lies, so that any of them is read as quickly as a file of its own.

A member is named by a path that goes on below its shard, ``shards/000.tar/a.png``: so whatever takes the paths of images takes these.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path, PurePosixPath
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import BinaryIO

from unflip.data.formats import is_image, is_photo, is_shard
from unflip.errors import UserError

MOST_SHARDS = 1_000_000
"""A pattern that stands for more is a slip."""


LONGEST = 2**20
"""Bytes of a member's name, and of its other extended fields."""

NAMING = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
"""Types of members that hold those of the next one."""


class Header(tarfile.TarInfo):
    """What ``tarfile.open`` needs as ``tarinfo`` so that only the mark at the end ends a shard.

    By itself it takes what is cut short between two members, or damaged there, for the end.
    """

    def _block(self, count: int) -> int:
        """How many bytes ``count`` fill up to; older Pythons go backwards for negative ones, for ever (CVE-2025-8194)."""
        if not 0 <= count < 2**62:
            raise ReadError("a member of a size that cannot be")
        return -(-count // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def _proc_member(self, tarfile: tarfile.TarFile) -> tarfile.TarInfo:
        """The member behind a header; a long name or other fields of it, which are read whole, may be only so long."""
        if self.type in NAMING and self.size > LONGEST:
            raise ReadError("a name that is too long")
        return super()._proc_member(tarfile)  # type: ignore[misc,no-any-return]

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Header:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            raise
        except HeaderError as error:
            raise ReadError(str(error)) from error


def expand(pattern: str) -> list[str]:
    """What a pattern with braces stands for, in its order: ``{000..099}`` counts, with as many digits; ``{a,b}`` lists.

    Raises ``UserError`` where a brace does neither.
    """
    brace = re.search(r"\{([^}]*)\}", pattern)
    if brace is None:
        return [pattern]
    if "{" in brace[1]:
        raise UserError(f"braces in braces, {pattern}; write one after the other, or several calls")
    counted = re.fullmatch(r"([0-9]+)\.\.([0-9]+)", brace[1])
    if counted:
        first, last = counted.groups()
        digits = max(map(len, counted.groups())) if first.startswith("0") or len(first) == len(last) else 0
        if not int(first) <= int(last) < int(first) + MOST_SHARDS:
            raise UserError(f"{brace[0]} counts backwards or too far, {pattern}; write {{000000..000099}}")
        options = [f"{number:0{digits}d}" for number in range(int(first), int(last) + 1)]
    elif "," in brace[1]:
        options = brace[1].split(",")
    else:
        raise UserError(f"{brace[0]} is no range and no list, {pattern}; write {{000000..000099}} or {{a,b}}")
    return [whole for option in options for whole in expand(pattern[: brace.start()] + option + pattern[brace.end() :])]


def members(shards: Sequence[Path]) -> list[Path]:
    """The images of the shards, member after member in the order in which they lie there.

    Raises ``UserError`` for a shard that is broken, or has members that cannot be told apart or lead elsewhere.
    """
    return [path for path in _all(shards) if is_photo(path.name)]


def label_maps(shards: Sequence[Path]) -> list[Path]:
    """The label maps of the shards: images in a field of their own, ``KEY.seg.png``; where there are none, the images themselves."""
    found = _all(shards)
    return [path for path in found if not is_photo(path.name)] or found


def opened(path: Path) -> BinaryIO:
    """A file, or a member of a shard, to be read. Raises ``OSError`` as ``open`` does, and ``UserError`` for a broken shard."""
    try:
        return open(path, "rb")
    except (NotADirectoryError, FileNotFoundError):  # a part of the path is a file: the shard
        for parent in path.parents:
            if is_shard(parent.name) and parent.is_file():
                place = _index(parent).get(path.relative_to(parent).as_posix())
                if place is None:
                    break
                return io.BufferedReader(_Part(parent, *place))  # type: ignore[return-value]
        raise


class _Part(io.RawIOBase):
    """``size`` bytes of a file from ``start`` on, as a file of their own."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self.file, self.start, self.size, self.place = open(path, "rb", buffering=0), start, size, 0  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = max(0, {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.size}[whence] + offset)
        return self.place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.file.seek(self.start + self.place)
        count = self.file.readinto(memoryview(buffer)[: max(0, self.size - self.place)]) or 0
        self.place += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def _all(shards: Sequence[Path]) -> list[Path]:
    """All members whose names are those of images."""
    with ThreadPoolExecutor(max_workers=min(32, 4 * (os.cpu_count() or 1))) as pool:
        return [shard / name for shard, index in zip(shards, pool.map(_index, shards), strict=True) for name in index]


def _index(shard: Path) -> dict[str, tuple[int, int]]:
    """Where the shard's images begin and how long they are, by name, in their order; read once, and again when the shard has changed."""
    try:
        status = os.stat(shard)
        found: dict[str, tuple[int, int]] | str = _scanned(shard, status.st_size, status.st_mtime_ns)
    except OSError as error:
        found = error.strerror or str(error)
    if isinstance(found, str):
        raise UserError(f"broken or truncated shard, {shard} ({found}); replace or remove it")
    return found


@cache
def _scanned(shard: Path, size: int, modified: int) -> dict[str, tuple[int, int]] | str:
    """Or what is wrong with it, so that a broken shard is not read through again for each of its members."""
    try:
        return _scan(shard)
    except tarfile.TarError as error:
        return str(error)


def leads_out(name: PurePosixPath) -> bool:
    """Whether a member of this name would not be unpacked below where it is unpacked to."""
    return name.is_absolute() or ".." in name.parts


def _scan(shard: Path) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    with tarfile.open(shard, "r:", tarinfo=Header) as tar:  # a pass over the headers: what lies between them is not read
        for member in tar:
            name = PurePosixPath(member.name)
            if member.isdir() or not is_image(name.name) or name.name.startswith("."):
                continue
            if leads_out(name) or not member.isreg() or member.issparse():
                raise UserError(f"member {member.name} is a link or leads out of the shard, {shard}; write the shard again")
            if name.as_posix() in found:
                raise UserError(f"two members are named {name}, {shard}; write the shard again")
            found[name.as_posix()] = (member.offset_data, member.size)
    return found
