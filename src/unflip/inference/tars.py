"""Translating a shard: a tar of the same name, with the same members in the same order, and its images translated."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

from unflip.data.bands import Pixels
from unflip.data.formats import is_image, is_photo
from unflip.data.images import Decoded, read
from unflip.data.places import Place, streamed
from unflip.data.save import name_for
from unflip.data.shards import Header, leads_out
from unflip.errors import UserError, one_line
from unflip.inference.flow import Stages, flow
from unflip.inference.jobs import Job, Line, Note, identity, map_name
from unflip.inference.translator import Translator
from unflip.inference.work import Guard, at_once, line, note_shard, stored, translated, trusted


def translate_shard(translator: Translator, job: Job, out: Place, maps: Place | None, note: Note, guard: Guard | None = None) -> None:
    """Write the translation of a shard to ``out`` and, if there is one, the shard of its trust maps to ``maps``, each at once.

    Images keep their format, all other members their bytes. An image that cannot be translated is noted as failed, and left out. When
    the shard is written, ``note`` gets a line for each image, and one for the shard; where it cannot be read, only that.
    ``guard`` is as in :func:`unflip.inference.work.translate_images`. Raises ``UserError`` where nothing can be written.
    """
    lines: list[Line] = []
    source = identity(job.source)
    try:
        with ExitStack() as stack:
            given = stack.enter_context(_opened(job.source))
            files = [stack.enter_context(place.writing(job.name)) for place in (out, maps) if place is not None]
            tars = [stack.enter_context(tarfile.open(fileobj=file, mode="w")) for file in files]
            members = _Members(translator, job, tars[0], tars[1] if maps is not None else None, lines, guard)
            flow(members, _members(given), at_once(translator, guard))
            if not lines:
                raise _BadShard("no images: a shard's images are members KEY.png (KEY.seg.png is another field of its sample)")
    except _BadShard as error:
        note(line(job.name, source, UserError(f"{error}, {job.source}")))
        return
    note_shard(note, job.name, source, lines)


class _BadShard(Exception):
    """One shard that cannot be translated; the others can."""


class _Member(NamedTuple):
    info: tarfile.TarInfo
    name: str
    data: bytes
    photo: bool


class _Saved(NamedTuple):
    data: bytes
    found: Line
    trust: bytes


class _Members(Stages[_Member, Decoded | None, Pixels | None, _Saved]):
    def __init__(
        self, translator: Translator, job: Job, out: tarfile.TarFile, maps: tarfile.TarFile | None, lines: list[Line], guard: Guard | None
    ) -> None:
        self.translator, self.job, self.out, self.maps, self.lines, self.guard = translator, job, out, maps, lines, guard
        self.mapped: set[str] = set()
        self.written: set[str] = set()

    def decode(self, member: _Member) -> Decoded | None:
        if not member.photo:
            return None
        if self.guard is not None:
            self.guard(f"{self.job.name}/{member.name}")
        return read(self._path(member), str(self.translator.resize), io.BytesIO(member.data), self.translator.source)

    def translate(self, member: _Member, image: Decoded | None) -> Pixels | None:
        return None if image is None else translated(self.translator, image, self._path(member))

    def save(self, member: _Member, image: Decoded | None, translation: Pixels | None, seconds: float) -> _Saved | UserError:
        if image is None or translation is None:
            return _Saved(member.data, {}, b"")
        try:
            data = stored(self.translator, image, translation, f"{self.job.source}/{self._name(member)}")
        except UserError as error:
            return error
        trust, said = (b"", {}) if self.maps is None else trusted(self.translator, image, translation)
        return _Saved(data, {"size": list(image.size), "seconds": seconds, **said}, trust)

    def note(self, member: _Member, found: _Saved | UserError) -> None:
        if member.photo:
            said = found if isinstance(found, UserError) else found.found
            self.lines.append(line(f"{self.job.name}/{member.name}", f"{identity(self.job.source)}/{member.name}", said))
        if isinstance(found, UserError):
            return
        name = self._name(member)
        if name in self.written:
            raise _BadShard(f"two images would become {name}")
        self.written.add(name)
        _add(self.out, member.info, name, found.data)
        if self.maps is not None and member.photo:
            name = map_name(member.info.name)
            if name in self.mapped:
                raise _BadShard(f"two images would have one trust map, {name}; leave out --trust")
            self.mapped.add(name)
            _add(self.maps, member.info, name, found.trust)

    def _name(self, member: _Member) -> str:
        """Of its translation."""
        return name_for(member.info.name, self.translator.target) if member.photo else member.info.name

    def _path(self, member: _Member) -> str:
        return f"{self.job.source}/{member.name}"


def _opened(source: str) -> BinaryIO:
    try:
        return streamed(source)
    except (UserError, OSError) as error:
        raise _BadShard(f"cannot read the shard ({error})") from error


def _members(given: BinaryIO) -> Iterator[_Member]:
    """All members of a tar, from front to back."""
    names: set[str] = set()
    try:
        with tarfile.open(fileobj=given, mode="r|", tarinfo=Header) as tar:
            for info in tar:
                path = PurePosixPath(info.name)
                name = path.as_posix()
                linked = is_image(path.name) and (info.issym() or info.islnk())
                if linked or leads_out(path):
                    raise _BadShard(f"member {name} is a link or leads out of the shard")
                if name in names:
                    raise _BadShard(f"two members are named {name}")
                names.add(name)
                if info.issparse():  # a few bytes that can stand for any number
                    raise _BadShard(f"member {name} is sparse")
                file = tar.extractfile(info) if info.isreg() else None
                yield _Member(info, name, file.read() if file else b"", file is not None and is_photo(name))
    except _BadShard:
        raise
    except Exception as error:  # of the tar, or of a connection
        raise _BadShard(f"broken or truncated shard ({one_line(error)})") from error


def _add(tar: tarfile.TarFile, like: tarfile.TarInfo, name: str, data: bytes) -> None:
    """Add a member that is as ``like``, but for its name and content."""
    info = tarfile.TarInfo(name)  # not a copy: its extended headers can hold the size of what was
    info.mtime, info.mode, info.type, info.linkname = like.mtime, like.mode, like.type, like.linkname
    info.uid, info.gid, info.uname, info.gname = like.uid, like.gid, like.uname, like.gname
    if like.isreg():
        info.type, info.size = tarfile.REGTYPE, len(data)
    tar.addfile(info, io.BytesIO(data))
