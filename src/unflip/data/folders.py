"""Finding images: in folders in depth, text lists and shards, checked before anything is computed from them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, NoReturn

from unflip.data.bands import Kind
from unflip.data.formats import FORMATS, VIDEOS, is_image, is_photo, is_shard, is_video
from unflip.data.images import check
from unflip.data.places import is_remote
from unflip.data.shards import expand, label_maps, members
from unflip.errors import UserError

SHOWN = 3
"""How many bad files an error names."""

ROOT = "# root:"
"""How the line of a list begins that names the folder below which its images have their names, as that of the list's own folder."""


class Entry(NamedTuple):
    """An image that was found whole; its size is upright (EXIF) and before any resize."""

    path: Path
    width: int
    height: int
    kind: Kind = Kind()


def find_images(where: Path) -> list[Path]:
    """The images of a folder and the folders in it (natural order: 2 before 10), of a ``.txt`` list (its order), or one image itself.

    Hidden files and folders are skipped; linked folders are followed, after all others, but no folder is entered twice. A list has one
    path per line, relative to the list's folder; lines that begin with # are comments, but for :data:`ROOT`. Where a folder holds no
    images but tar shards, and of one shard or a pattern of shards (``train-{000..099}.tar``), they are the members that
    :func:`unflip.data.shards.members` finds.
    Raises ``UserError`` where there is nothing to find.
    """
    return _images(where, find_files(where), members)


def find_label_maps(where: Path) -> list[Path]:
    """The same for label maps, which in shards can stand beside the images: see :func:`unflip.data.shards.label_maps`."""
    return _images(where, find_files(where), label_maps)


def find_files(where: Path, videos: bool = False) -> list[Path]:
    """The files that hold the images of :func:`find_images`: either images, or shards.

    With ``videos``, one of them itself, those in a list, and those of a folder that holds no images.
    """
    if where.is_dir():
        found = _walk(where, videos)
    elif is_remote(where):
        raise UserError(f"a URL, {where}; only translate reads those: copy the images to this machine, or mount them")
    elif "{" in str(where) and not where.exists():
        found = _expanded(where)
    elif not where.exists():
        raise UserError(f"no such folder or list, {where}; check the path")
    elif where.suffix.lower() == ".txt":
        found = _listed(where, videos)
    elif is_image(where.name) or is_shard(where.name) or (videos and is_video(where.name)):
        found = [where]
    else:
        film = " nor a video" if videos else ""
        raise UserError(f"neither a folder nor a .txt list nor an image{film} nor a .tar shard, {where}; give one of them")
    if not found:
        endings = " ".join([*FORMATS, *(VIDEOS if videos else ())])
        raise UserError(f"no images, {where}; give a folder or a list with files that end in {endings}, or tar shards of images")
    return found


def everything(root: Path) -> list[str]:
    """The relative names of all files of a folder and the folders in it, images or not; hidden ones are skipped, loops are not entered.

    Pipes, sockets and devices are no files: who reads them may wait for ever.
    """
    return [path.relative_to(root).as_posix() for path in _seen(root) if os.path.isfile(path) or not os.path.exists(path)]


class Sifted(NamedTuple):
    """Images that were found whole, in their order, and what is wrong with every other one, by its place among all."""

    entries: list[Entry]
    bad: dict[int, str]


def survey(paths: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> list[Entry]:
    """Check every image, in ``paths``' order; ``progress(done, total)`` is called as they are done.

    Raises one ``UserError`` for all bad files, which names the first few.
    """
    found = sift(paths, progress)
    if found.bad:
        refuse_bad("images", list(found.bad.values()), len(paths))
    return found.entries


def sift(paths: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> Sifted:
    """The same, for whoever can do without the bad files."""
    found = Sifted([], {})
    # More threads than cores: most of it waits for the disk. An interrupt leaves what is not yet begun.
    with ThreadPoolExecutor(max_workers=min(32, 4 * (os.cpu_count() or 1))) as pool:
        for k, result in enumerate(pool.map(_checked, paths)):
            if isinstance(result, Entry):
                found.entries.append(result)
            else:
                found.bad[k] = result
            if progress is not None:
                progress(k + 1, len(paths))
    return found


def refuse_bad(what: str, reasons: Sequence[str], total: int, advice: str = "replace or remove them") -> NoReturn:
    """Raises the ``UserError`` that says why some of ``total`` files cannot be used, of the first few."""
    more = f" | and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
    raise UserError(f"{len(reasons)} of {total} {what} cannot be used: {' | '.join(reasons[:SHOWN])}{more}; {advice}")


def relative_names(paths: Sequence[Path], where: Path) -> list[Path]:
    """Each image's path below the folder :func:`root`. Never absolute and never with ``..``: safe to append to an output folder."""
    below = root(paths, where)
    if where.is_dir():
        return [path.relative_to(below) for path in paths]
    absolute = [Path(os.path.abspath(path)) for path in paths]
    for path in absolute:
        if not path.is_relative_to(below):
            raise UserError(f"{path} is not below {below}, the root of {where}; correct the line that names it")
    return [path.relative_to(below) for path in absolute]


def root(paths: Sequence[Path], where: Path) -> Path:
    """The folder that the names of the images ``paths``, all or some of those of ``where``, count from: that folder itself; of a list, a
    shard or a pattern of shards, the one that all its images have in common, or that a list names itself (:data:`ROOT`); of an image, its
    own. A shard's label maps in a field of their own have one of their own."""
    if where.is_dir():
        return where
    if where.suffix.lower() == ".txt":
        lines = _lines(where)
        named = [line.removeprefix(ROOT).strip() for line in lines if line.startswith(ROOT)]
        if named:
            return Path(os.path.abspath(where.parent / named[-1]))
        return _common([where.parent / line for line in lines if _names(line)], where)
    files = _expanded(where) if "{" in str(where) and not where.exists() else [where]
    if len(files) == 1 and is_shard(files[0].name) and not is_shard(paths[0].name):  # not the shard itself, but members
        return _common((members if is_photo(paths[0].name) else label_maps)(files), where)
    return _common(files, where)


def _common(paths: Sequence[Path], where: Path) -> Path:
    try:
        return Path(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))
    except ValueError as error:  # Windows: several drives
        raise UserError(f"images without a common folder, {where}; list images of one drive") from error


def keys(paths: Sequence[Path], where: Path) -> list[Path]:
    """What an image and its label map have in common: :func:`relative_names`, less the ending; of shards' members, less all endings."""
    return [name.with_name(key_name(path)) for path, name in zip(paths, relative_names(paths, where), strict=True)]


def key_name(path: Path) -> str:
    """The name of a file less its ending; of a shard's member, less all endings."""
    return path.name.split(".")[0] if in_shard(path) else path.stem


def same_folder(a: Path, b: Path) -> bool:
    """Whether ``a`` and ``b`` are one folder (or list), under whatever names."""
    try:
        return a.samefile(b)
    except OSError:  # one of them does not exist yet
        return a.resolve() == b.resolve()


def _walk(root: Path, videos: bool) -> list[Path]:
    images: list[Path] = []
    clips: list[Path] = []
    shards: list[Path] = []
    for path in _seen(root):
        if is_image(path.name):
            images.append(path)
        elif videos and is_video(path.name):
            clips.append(path)
        elif is_shard(path.name):
            shards.append(path)
    return sorted(images or clips or shards, key=lambda path: (natural(path.relative_to(root)), str(path)))


def _seen(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read a folder, {error.filename} ({error.strerror}); check its permissions") from error

    entered: set[tuple[int, int]] = set()
    places = [str(root)]
    for place in places:  # linked folders last: what is here under its own name has that name
        for folder, folders, files in os.walk(place, onerror=refuse):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:  # by a link: around a loop, or to what is searched anyway
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            places += [path for name in folders if os.path.islink(path := os.path.join(folder, name))]
            # A dangling link counts as a file, so that the survey names it.
            yield from (Path(folder, name) for name in files if not name.startswith("."))


def _expanded(pattern: Path) -> list[Path]:
    """The shards that a pattern with braces names."""
    found = [Path(name) for name in expand(str(pattern))]
    for path in found:
        if not is_shard(path.name):
            raise UserError(f"not a shard, {path} (of {pattern}); braces stand for names that end in .tar")
        if not path.is_file():
            raise UserError(f"no such shard, {path} (of {pattern}); check the pattern")
    return found


def _images(where: Path, files: list[Path], within: Callable[[Sequence[Path]], list[Path]]) -> list[Path]:
    """``files``, or the images within them where they are shards."""
    if not is_shard(files[0].name):
        return files
    found = within(files)
    if not found:
        raise UserError(f"no images in the shards, {where}; an image is a member KEY.png (KEY.seg.png is another field of its sample)")
    return found


def in_shard(path: Path) -> bool:
    """Whether it is a member of one."""
    return any(is_shard(part) for part in path.parts[:-1])


def _lines(file: Path) -> list[str]:
    """Of a list, without white space around them."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list, {file}; it must be readable UTF-8 text") from error


def _names(line: str) -> bool:
    """Whether a line of a list names an image: neither empty nor a comment."""
    return line != "" and not line.startswith("#")


def _listed(file: Path, videos: bool) -> list[Path]:
    found = []
    for number, name in enumerate(_lines(file), start=1):
        if not _names(name):
            continue
        path = file.parent / name
        if not path.is_file():
            raise UserError(f"no such image, {path} (line {number} of {file}); correct or remove the line")
        if not is_image(path.name) and not (videos and is_video(path.name)):
            endings = " ".join([*FORMATS, *(VIDEOS if videos else ())])
            raise UserError(f"not an image that unflip reads, {path} (line {number} of {file}); use {endings}")
        found.append(path)
    return found


def _checked(path: Path) -> Entry | str:
    """The entry, or what is wrong with the file."""
    try:
        return Entry(path, *check(path))
    except UserError as error:
        return str(error).rpartition("; ")[0]  # less the advice: given once for all


def natural(path: Path) -> list[list[str | int]]:
    """A sort key in which the numbers in names compare as numbers; they lie at the odd places, so that like is compared with like."""
    return [[int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))] for name in path.parts]
