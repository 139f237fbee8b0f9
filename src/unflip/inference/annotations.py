"""What a data set has beside its images: annotations, splits, lists of classes, label maps; copied, so that it trains as it did."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, get_args

from unflip.data.folders import everything
from unflip.data.formats import ending, is_image
from unflip.data.labels import match_labels
from unflip.data.limits import pillow
from unflip.data.places import Place, is_remote, listed, local, opened
from unflip.errors import UserError, one_line
from unflip.files import disk_errors, make_folder
from unflip.inference.jobs import Job, Line, identity
from unflip.inference.labelmaps import Pairs, recognized, within
from unflip.inference.manifest import MANIFEST, Manifest
from unflip.inference.moved import Moved
from unflip.progress import Bar

Annotations = Literal["copy", "link", "none"]

_TEXTS = """
.json .jsonl .ndjson .geojson .topojson .odgt .via .xml .xsd .kml .txt .csv .tsv .yaml .yml .toml .ini .cfg .conf .names .data .list
.lst .md .rst .cff .bib .pbtxt .prototxt .ann .anno .label .labels .gt .pts .caption .captions .prj .cpg
.tfw .jgw .pgw .bpw .wld
"""
TEXTS = {*_TEXTS.split(), ""}
"""The endings of texts that are copied; files without an ending, such as README and LICENSE, are too."""

OTHERS = {".mat", ".shp", ".shx", ".dbf"}
"""The endings of other annotations: Matlab's (SBD), and maps of objects in satellite images."""

STATISTICS = ".aux.xml"
"""So ends what GDAL writes beside an image: not copied, as it says what the lowest and the highest value of the source are."""

AT_ONCE = 8
"""So many files are copied at once: most of it waits for disks."""


class Companion(NamedTuple):
    """A file of the data set that is copied."""

    source: str
    """A path or a URL."""
    name: str
    """Below where it is copied to."""
    images: tuple[str, ...] = ()
    """Of a label map: the images it can belong to, by their names."""


class Beside(NamedTuple):
    """What is to be translated of a data set, and what is to be copied."""

    jobs: list[Job]
    files: list[Companion]
    """Of the source, to the same places of the output."""
    outside: list[Companion]
    """Label maps that are not in the source, for a folder beside the output."""
    labels: dict[str, int]
    """How many images of which folders were taken for label maps."""
    left: dict[str, int]
    """How many files of which endings are not copied."""


def beside(source: Path | str, jobs: Sequence[Job], labels: Path | str | None, annotations: Annotations) -> Beside:
    """Tell the images of a source, ``jobs``, from its label maps, and find what else belongs to the data set.

    ``labels``: the folder of the label maps, in the source or elsewhere; None: folders in the source that
    :func:`unflip.inference.labelmaps.recognized` finds. Files are annotations by their endings. With ``annotations`` "none" there is
    nothing to copy, but label maps are told from images all the same.

    Raises ``UserError`` where images have no label map elsewhere, or all images are label maps.
    """
    if annotations not in get_args(Annotations):
        raise UserError(f"unknown --annotations {annotations}; use {', '.join(get_args(Annotations))}")
    shards = jobs[0].shard
    if labels is not None and shards:
        raise UserError(f"--labels with shards, {source}; they keep all their members, label maps too: leave it out")
    folder = None if labels is None else within(source, labels)
    if folder == ".":
        raise UserError(f"--labels {labels} is where the images are; give the folder of the label maps")
    names = [job.name for job in jobs]
    maps: dict[str, list[str]] = {}
    if folder is not None:
        maps = {folder: [name for name in names if name.startswith(f"{folder}/")]}
        if not maps[folder]:
            raise UserError(f"no label maps, {labels}; give the folder of the label maps")
    elif labels is None and not shards:
        maps = recognized(_root(source), names)
    taken = {name: of for of, found in maps.items() for name in found}
    kept = [job for job in jobs if job.name not in taken]
    if not kept:
        raise UserError(f"no images but the label maps in {labels}, {source}; give the folder that holds the images, too")

    outside: list[Companion] = []
    if labels is not None and folder is None:
        if annotations == "none":
            raise UserError(f"--labels {labels} is not to be copied, as --annotations is none; leave out one of them")
        outside = _matched(source, kept, labels)
    files: list[Companion] = []
    left: Counter[str] = Counter()
    if annotations != "none":
        pairs = Pairs(job.name for job in kept) if taken else None
        files = [Companion(job.source, job.name, pairs.of(job.name, taken[job.name])) for job in jobs if pairs and job.name in taken]
        videos = {job.name for job in jobs if job.video}
        for name in _others(source, shards):
            if name in videos:
                continue
            kind = _kind(name)
            if kind in TEXTS | OTHERS:
                files.append(Companion(f"{_root(source)}/{name}", name))
            else:
                left[kind] += 1
    return Beside(kept, files, outside, {of: len(found) for of, found in maps.items() if labels is None}, dict(left))


class Copies:
    """Files on their way to ``place``: first :meth:`plan`, when nothing has been written yet, then :meth:`write`."""

    def __init__(self, files: Sequence[Companion], place: Place, how: Annotations, moved: Moved | None = None, prefix: str = "") -> None:
        if how == "link" and place.remote and files:
            raise UserError(f"--annotations link to {place}; there are no links behind URLs: use copy")
        self.files, self.place, self.how, self.moved, self.prefix = list(files), place, how, moved, prefix

    def plan(self, manifest: Manifest) -> None:
        """Leave out what is there and up to date.

        A copy is made anew where the original has changed since. Raises ``UserError`` where that would write over what unflip did not
        write, or what somebody has changed since.
        """
        if not self.files:
            return
        there = self.place.having([file.name for file in self.files])
        with ThreadPoolExecutor(AT_ONCE) as pool:
            needed = list(pool.map(lambda file: file.name not in there or self._outdated(file, manifest), self.files))
        self.files = [file for file, need in zip(self.files, needed, strict=True) if need]

    def write(self, manifest: Manifest, quiet: bool = False) -> Iterator[Line]:
        """Copy or link, and give a line for each file, for the manifest: what was done, or why not.

        A label map must have the size of its image, as the manifest has it.
        """
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            with Bar("linking" if self.how == "link" else "copying", len(self.files), quiet=quiet) as bar:
                for i, line in enumerate(pool.map(lambda file: self._written(file, manifest.sizes), self.files), start=1):
                    bar.show(i)
                    yield line
        finally:
            pool.shutdown(cancel_futures=True)

    def _outdated(self, file: Companion, manifest: Manifest) -> bool:
        try:
            data = self._wanted(file)
        except UserError:
            return True  # which is to be said in its turn
        digest, known = _digest(data), manifest.copied.get(self.prefix + file.name)
        if self._is_linked(file):
            return True
        if digest == known:
            return False
        with disk_errors(Path(self.place.path(file.name))):
            found = _digest(self.place.read(file.name))
        if found not in (digest, known) and file.name not in manifest.done:  # a label map that an earlier call took for an image
            more = "which unflip did not write" if known is None else "which was changed, as was its original"
            raise UserError(f"{self.place} holds another {file.name}, {more}; move it away, or choose another --out")
        return found != digest

    def _is_linked(self, file: Companion) -> bool:
        """Whether a link to the original is where a copy is to be."""
        if self.how != "copy" or self.place.remote or is_remote(file.source):
            return False
        path = self.place.path(file.name)
        return os.path.islink(path) and os.path.realpath(path) == os.path.realpath(local(file.source))

    def _written(self, file: Companion, sizes: dict[str, tuple[int, ...]]) -> Line:
        line: Line = {"file": self.prefix + file.name, "source": identity(file.source)}
        try:
            data = self._wanted(file)
            _check_size(file, data, sizes)
        except UserError as error:
            return line | {"status": "failed", "error": str(error)}
        line["sha256"] = _digest(data)
        if self.how == "link" and self._can_be_linked(file, data):
            _link(local(file.source), Path(self.place.path(file.name)))
            return line | {"status": "linked"}
        self.place.write(file.name, data)
        return line | {"status": "copied"}

    def _wanted(self, file: Companion) -> bytes:
        data = _read(file.source)
        return self.moved(data) if self._is_moved(file) and self.moved is not None else data

    def _is_moved(self, file: Companion) -> bool:
        return self.moved is not None and ending(file.name) in TEXTS

    def _can_be_linked(self, file: Companion, data: bytes) -> bool:
        """Not a member of a shard, nor what is behind a URL, nor a text that must name another folder than its original."""
        if is_remote(file.source) or not local(file.source).is_file():
            return False
        return not self._is_moved(file) or data == _read(file.source)


def _kind(name: str) -> str:
    """What decides whether a file is copied: its ending, in general."""
    return MANIFEST if name == MANIFEST else STATISTICS if name.lower().endswith(STATISTICS) else ending(name)


def _root(source: Path | str) -> str:
    return str(source).rstrip("/") if is_remote(source) else str(local(source))


def _others(source: Path | str, shards: bool) -> list[str]:
    """The names of all files in a source that are not to be translated; none of a list, of one image and of a pattern."""
    if is_remote(source):
        url = _root(source)
        names = [] if "{" in url else [name for name in listed(url) if name]
        names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    else:
        names = everything(local(source)) if local(source).is_dir() else []
    return sorted(name for name in names if not is_image(name) and not (shards and ending(name) == ".tar"))


def _matched(source: Path | str, jobs: Sequence[Job], labels: Path | str) -> list[Companion]:
    """The label maps of images, in a folder elsewhere, each to be named as its image."""
    if is_remote(source) or is_remote(labels):
        raise UserError(f"--labels {labels} is not in {source}; that goes with folders of this machine only: copy them here, or mount them")
    if not local(labels).exists():
        raise UserError(f"no such folder, --labels {labels}; check the path")
    found = match_labels([Path(job.source) for job in jobs], local(source), local(labels))
    names = [PurePosixPath(job.name).with_suffix(path.suffix).as_posix() for job, path in zip(jobs, found, strict=True)]
    return [Companion(str(path), name, (job.name,)) for job, path, name in zip(jobs, found, names, strict=True)]


def _read(source: str) -> bytes:
    try:
        with opened(source) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read {source} ({error.strerror or error}); check the path and its permissions") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_size(file: Companion, data: bytes, sizes: dict[str, tuple[int, ...]]) -> None:
    """Raise ``UserError`` where a label map has the size of none of its images."""
    expected = [sizes[image] for image in file.images if image in sizes]
    if not expected:
        return
    try:
        with pillow(io.BytesIO(data), file.source) as image:
            width, height = image.size
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything from a decoder
        raise UserError(f"label map cannot be read, {file.source} ({one_line(error)}); replace it") from error
    if (width, height) not in expected:
        wide, high = expected[0]
        raise UserError(f"label map is {width}x{height} while its image {file.images[0]} is {wide}x{high}, {file.source}; correct it")


def _link(to: Path, link: Path) -> None:
    """Make a symbolic link at once: relative on one disk, so that both can be moved together."""
    make_folder(link.parent)
    target, folder = os.path.realpath(to), os.path.realpath(link.parent)
    if os.stat(target).st_dev == os.stat(folder).st_dev:
        target = os.path.relpath(target, folder)
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    with disk_errors(link):
        try:
            os.symlink(target, temporary)
            os.replace(temporary, link)
        finally:
            temporary.unlink(missing_ok=True)
