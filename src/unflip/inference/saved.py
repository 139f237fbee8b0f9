"""The data sets of Hugging Face's ``datasets`` on the disk: their splits, their rows, and the files in which they are saved."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, TracebackType
from typing import Any, BinaryIO, NamedTuple

from unflip.data.places import is_remote, local
from unflip.errors import UserError, one_line
from unflip.files import disk_errors, write_bytes, write_json

ROWS = 500
"""Of a shard that is written. What is done is known by the shard: so many images at most are done again after an interrupt."""

AT_ONCE, BYTES = 32, 2**26
"""Rows are written so many at once, or fewer, where they have so many bytes."""

ADDRESS = re.compile(r"hf://datasets/([\w.-]+(?:/[\w.-]+)?)(?:@(refs/(?:convert|pr)/[\w.-]+|[^/#@]+))?/?(?:#(?:([^/#]+)/)?([^/#]+))?")
"""A set on the hub: ``hf://datasets/USER/NAME@REVISION#CONFIGURATION/SPLIT``, of which the last three may be left out."""


def is_dataset(source: Path | str) -> bool:
    """Whether ``source`` is a folder that ``save_to_disk`` wrote, of a set or of its splits, or a whole set on the hub."""
    if is_remote(source):
        return ADDRESS.fullmatch(str(source)) is not None
    folder = local(source)
    with disk_errors(folder, "read"):
        return (folder / "dataset_dict.json").is_file() or all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))


def loaded(datasets: ModuleType, source: Path | str, column: str | None) -> list[Split]:
    """The splits of a data set, memory-mapped."""
    where = str(source) if is_remote(source) else str(local(source).resolve())
    with _reading(where):
        if is_remote(source):
            name, revision, configuration, split = ADDRESS.fullmatch(where).groups()  # type: ignore[union-attr]
            found = datasets.load_dataset(name, configuration, revision=revision, split=split)
        else:
            found = datasets.load_from_disk(where)
    splits = dict(found) if isinstance(found, dict) else {"": found}
    if not splits:
        raise UserError(f"no splits, {where}; give a data set that holds rows")
    return [Split(name, data, _column(datasets, data, column, where), where) for name, data in splits.items()]


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


class Split(NamedTuple):
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

    def shards(self) -> list[Shard]:
        """The files that it becomes: at least one, for ``datasets`` cannot load a split without."""
        starts = range(0, max(1, len(self.data)), ROWS)
        names = [f"data-{i:05}-of-{len(starts):05}.arrow" for i in range(len(starts))]
        ends = [min(start + ROWS, len(self.data)) for start in starts]
        return [Shard(self, f"{self.name}/{name}".lstrip("/"), range(*rows)) for name, *rows in zip(names, starts, ends, strict=True)]

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


class Shard(NamedTuple):
    """Rows of a split, which become one file."""

    split: Split
    name: str
    rows: range


class Row(NamedTuple):
    """One row of a split, and its image."""

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


class Writer:
    """An Arrow stream, as ``save_to_disk`` writes them, with other images in a column; complete when the block has ended."""

    def __init__(self, stream: BinaryIO, split: Split) -> None:
        import pyarrow

        self.schema = split.data.features.arrow_schema
        self.at = self.schema.get_field_index(split.column)
        self.stream = pyarrow.ipc.new_stream(stream, self.schema)
        self.waiting: list[Any] = []
        self.bytes = 0

    def __enter__(self) -> Writer:
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


def rows_of(shard: Shard) -> Iterator[Row]:
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
        yield Row(number, called, table, image["path"], image["bytes"], failed)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn whatever ``datasets`` raises, which can be anything, into one line."""
    try:
        yield
    except Exception as error:
        reason = one_line(error)
        raise UserError(f"cannot read the data set, {what} ({reason}); check its address, and that it can be reached") from error


@contextmanager
def quiet(datasets: ModuleType) -> Iterator[None]:
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
