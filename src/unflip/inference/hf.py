"""Translating the data sets of Hugging Face's ``datasets``: one image column, and everything else as it was."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, TracebackType
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from unflip.data.bands import Pixels
from unflip.data.formats import FORMATS, ending
from unflip.data.images import Decoded, read
from unflip.data.places import Place, is_remote, local
from unflip.data.save import name_for
from unflip.data.tiff import SIGNATURES
from unflip.errors import MissingExtra, UserError
from unflip.files import disk_errors, make_folder, write_bytes, write_json
from unflip.inference.flow import Stages, flow
from unflip.inference.jobs import Line, Note
from unflip.inference.manifest import Manifest
from unflip.inference.outcome import Outcome
from unflip.inference.translator import Translator
from unflip.inference.work import at_once, line, stored, translated
from unflip.progress import Bar

EXTRA = "hf"

ROWS = 500
"""Of a shard that is written. What is done is known by the shard: so many images at most are done again after an interrupt."""

AT_ONCE, BYTES = 32, 2**26
"""Rows are written so many at once, or fewer, where they have so many bytes."""

ADDRESS = re.compile(r"hf://datasets/([\w.-]+(?:/[\w.-]+)?)(?:@(refs/(?:convert|pr)/[\w.-]+|[^/#@]+))?/?(?:#(?:([^/#]+)/)?([^/#]+))?")
"""A set on the hub: ``hf://datasets/USER/NAME@REVISION#CONFIGURATION/SPLIT``, of which the last three may be left out."""

ENDINGS = {kind: ending for ending, kind in reversed(FORMATS.items())} | {"MPO": ".jpg"}
"""How files of Pillow's formats are called."""


def is_dataset(source: Path | str) -> bool:
    """Whether ``source`` is a folder that ``save_to_disk`` wrote, of a set or of its splits, or a whole set on the hub."""
    if is_remote(source):
        return ADDRESS.fullmatch(str(source)) is not None
    folder = local(source)
    return (folder / "dataset_dict.json").is_file() or all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))


def translate_dataset(
    translator: Translator, source: Path | str, out: Path | str, *, column: str | None = None, progress: bool = True
) -> Outcome:
    """Translate a column of a data set, by default its first one of images, into a folder ``out`` as ``save_to_disk`` writes it.

    Images keep their format and their size; one that cannot be translated is noted as failed and becomes None, so that no row moves. All
    other columns keep their values, features and order. The set is read row by row and written by shards of :data:`ROWS` rows; those that
    ``manifest.jsonl`` says this model has done are not done again. ``out`` can be loaded as a data set when all of it is there.

    Raises:
        MissingExtra: ``datasets`` is not installed.
        UserError: no such set or column, or ``out`` holds something else.
    """
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise MissingExtra("datasets", EXTRA) from error
    if is_remote(out):
        raise UserError(f"--out {out} is a URL; a data set is written to a folder of this machine: upload that with push_to_hub")
    place = Place(out)
    folder = Path(place.where)
    if not is_remote(source) and folder.resolve().is_relative_to(local(source).resolve()):
        raise UserError(f"--out {out} lies in the folder of the data set, {source}; choose another folder")
    with _quiet(datasets):
        splits = _loaded(datasets, source, column)
    shards = [shard for split in splits for shard in split.shards()]
    with disk_errors(folder):
        manifest = Manifest(place, translator)
        if not manifest.exists and folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"--out {out} holds something that unflip did not write; choose another folder")
        sources = {split.source for split in splits}
        for name, of in manifest.done.items():
            if name.endswith(".arrow") and of not in sources:
                raise UserError(f"--out {out} holds translations of another data set or column, {name}; choose another folder")
        there = place.having([shard.name for shard in shards])
    make_folder(folder)

    done = {shard.name for shard in shards if shard.name in there and shard.name in manifest.done}
    outcome = Outcome(skipped=sum(manifest.images[name] for name in done))
    seen = sum(len(shard.rows) for shard in shards if shard.name in done)
    bar = Bar("translating", sum(len(shard.rows) for shard in shards), seen, quiet=not progress)

    def note(said: Line) -> None:
        if "shard" not in said or said["file"] not in manifest.done:  # of a shard that is done again, the manifest has most images
            manifest.add(said)
        if "error" in said:
            outcome.failed.append(said["error"])
        elif "images" not in said:
            outcome.done += 1

    def tick() -> None:
        nonlocal seen
        seen += 1
        bar.show(seen)

    with disk_errors(folder), manifest, bar:
        for shard in shards:
            if shard.name not in done:
                _translate(translator, shard, place, note, tick)
    with _quiet(datasets), disk_errors(folder):
        for split in splits:
            split.describe(folder, manifest.model)
    if splits[0].name:
        write_json(folder / "dataset_dict.json", {"splits": [split.name for split in splits]})
    return outcome


class _Split(NamedTuple):
    """One split of a data set, or the rows of a set without splits, whose name is empty."""

    name: str
    data: Any
    """A ``datasets.Dataset``."""
    column: str
    where: str
    """The data set's folder or address."""

    @property
    def source(self) -> str:
        """What makes its translation another one."""
        return f"{self.where}:{self.name}:{self.column}:{self.data._fingerprint}"

    def shards(self) -> list[_Shard]:
        """The files that it becomes: at least one, for ``datasets`` cannot load a split without."""
        starts = range(0, max(1, len(self.data)), ROWS)
        names = [f"data-{i:05}-of-{len(starts):05}.arrow" for i in range(len(starts))]
        ends = [min(start + ROWS, len(self.data)) for start in starts]
        return [_Shard(self, f"{self.name}/{name}".lstrip("/"), range(*rows)) for name, *rows in zip(names, starts, ends, strict=True)]

    def describe(self, out: Path, model: str) -> None:
        """Write what ``datasets`` must know of the files: what it says of the source, save for their names and the fingerprint."""
        with TemporaryDirectory(prefix="unflip-") as empty:
            self.data.select(range(0)).save_to_disk(empty)
            state = json.loads(Path(empty, "state.json").read_bytes())
            info = Path(empty, "dataset_info.json").read_bytes()
        state["_data_files"] = [{"filename": Path(shard.name).name} for shard in self.shards()]
        state["_fingerprint"] = hashlib.sha256(f"{self.source}:{model}".encode()).hexdigest()[:16]
        write_bytes(out / self.name / "dataset_info.json", info)
        write_json(out / self.name / "state.json", state)


class _Shard(NamedTuple):
    """Rows of a split, which become one file."""

    split: _Split
    name: str
    rows: range


class _Row(NamedTuple):
    number: int
    called: str
    """In errors."""
    table: Any
    """Of this row alone."""
    path: str | None
    data: bytes | None
    """The image; None where there is none."""
    error: UserError | None
    """Why there is none."""


class _Saved(NamedTuple):
    data: bytes | None
    found: Line


class _Rows(Stages[_Row, Decoded | None, Pixels | None, _Saved]):
    """The rows of a shard: their images decoded, translated, encoded, and all of it given to a file."""

    def __init__(self, translator: Translator, shard: _Shard, file: _File, lines: list[Line], tick: Callable[[], None]) -> None:
        self.translator, self.shard, self.file, self.lines, self.tick = translator, shard, file, lines, tick

    def decode(self, row: _Row) -> Decoded | None:
        if row.error is not None:
            raise row.error
        return None if row.data is None else read(row.called, str(self.translator.resize), io.BytesIO(row.data), self.translator.source)

    def translate(self, row: _Row, image: Decoded | None) -> Pixels | None:
        return None if image is None else translated(self.translator, image, row.called)

    def save(self, row: _Row, image: Decoded | None, translation: Pixels | None, seconds: float) -> _Saved | UserError:
        if row.data is None or image is None or translation is None:
            return _Saved(None, {})
        try:
            name = name_for(f"x{_ending(row.data)}", self.translator.target)
            data = stored(self.translator, image, translation, row.called + ending(name))
        except UserError as error:
            return error
        return _Saved(data, {"size": list(image.size), "seconds": seconds})

    def note(self, row: _Row, found: _Saved | UserError) -> None:
        data = None if isinstance(found, UserError) else found.data
        if isinstance(found, UserError) or found.data is not None:
            name = f"{self.shard.split.name}/{row.number}".lstrip("/")
            self.lines.append(line(name, row.called, found if isinstance(found, UserError) else found.found))
        path = None if row.path is None else name_for(row.path, self.translator.target)
        self.file.add(row.table, None if data is None else {"bytes": data, "path": path})
        self.tick()


def _translate(translator: Translator, shard: _Shard, out: Place, note: Note, tick: Callable[[], None]) -> None:
    """Write a shard at once, then note its images, and itself."""
    lines: list[Line] = []
    with out.writing(shard.name) as stream, _File(stream, shard.split) as file:
        flow(_Rows(translator, shard, file, lines, tick), _rows(shard), at_once(translator, None))
    failed = sum(each["status"] == "failed" for each in lines)
    for each in lines:
        note(each | {"shard": shard.name})
    whole = line(shard.name, shard.split.source, {"images": len(lines) - failed})
    note(whole | {"status": "failed", "failed": failed} if failed else whole)


class _File:
    """An Arrow stream, as ``save_to_disk`` writes them, with other images in a column; complete when the block has ended."""

    def __init__(self, stream: BinaryIO, split: _Split) -> None:
        import pyarrow

        self.schema = split.data.features.arrow_schema
        self.at = self.schema.get_field_index(split.column)
        self.stream = pyarrow.ipc.new_stream(stream, self.schema)
        self.waiting: list[Any] = []
        self.bytes = 0

    def __enter__(self) -> _File:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._write()
        self.stream.close()

    def add(self, row: Any, image: dict[str, Any] | None) -> None:
        """Write a row, sooner or later."""
        import pyarrow
        from datasets.table import table_cast

        field = self.schema.field(self.at)
        table = table_cast(row, self.schema).set_column(self.at, field, pyarrow.array([image], type=field.type))
        self.waiting.append(table)
        self.bytes += table.nbytes
        if len(self.waiting) >= AT_ONCE or self.bytes >= BYTES:
            self._write()

    def _write(self) -> None:
        import pyarrow

        if self.waiting:
            self.stream.write_table(pyarrow.concat_tables(self.waiting).combine_chunks())
        self.waiting, self.bytes = [], 0


def _rows(shard: _Shard) -> Iterator[_Row]:
    """The rows of a shard. Where a data set only names files, they are read into it, as ``save_to_disk`` does."""
    from datasets.table import embed_table_storage

    split = shard.split
    rows = split.data.with_format("arrow")
    for number in shard.rows:
        called = f"{split.where}, row {number}" + (f" of {split.name}" if split.name else "")
        failed = None
        with _reading(called):
            table = rows[number : number + 1]
        try:
            with _reading(called):
                table = embed_table_storage(table)
        except UserError as error:
            failed = error
        image = table.column(split.column)[0].as_py() or {"bytes": None, "path": None}
        yield _Row(number, called, table, image["path"], image["bytes"], failed)


def _loaded(datasets: ModuleType, source: Path | str, column: str | None) -> list[_Split]:
    """The splits of a data set, memory-mapped."""
    where = str(source) if is_remote(source) else str(local(source).resolve())
    with _reading(where):
        if is_remote(source):
            name, revision, configuration, split = ADDRESS.fullmatch(where).groups()  # type: ignore[union-attr]
            loaded = datasets.load_dataset(name, configuration, revision=revision, split=split)
        else:
            loaded = datasets.load_from_disk(where)
    splits = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    if not splits:
        raise UserError(f"no splits, {where}; give a data set that holds rows")
    return [_Split(name, data, _column(datasets, data, column, where), where) for name, data in splits.items()]


def _column(datasets: ModuleType, data: Any, column: str | None, where: str) -> str:
    """The column to translate."""
    images = [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]
    if not images:
        raise UserError(f"no column of images, {where} (there are {', '.join(data.features)}); cast one to datasets.Image")
    if column is None:
        return images[0]
    if column not in images:
        raise UserError(f"no column of images is called {column!r}, {where}; there are {', '.join(images)}")
    return column


def _ending(data: bytes) -> str:
    """Of an image that could be read."""
    if data.startswith(SIGNATURES):
        return ".tif"
    with Image.open(io.BytesIO(data)) as image:
        return ENDINGS[str(image.format)]


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn whatever ``datasets`` raises, which can be anything, into one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read the data set, {what} ({reason}); check its address, and that it can be reached") from error


@contextmanager
def _quiet(datasets: ModuleType) -> Iterator[None]:
    """No bars and no remarks of the libraries: what is wrong is said in one line."""
    loggers = {logger: logger.level for logger in map(logging.getLogger, ("datasets", "huggingface_hub", "fsspec"))}
    bars = not datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
