"""Translating the data sets of Hugging Face's ``datasets``: one image column, and everything else as it was."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from unflip.data.bands import Pixels
from unflip.data.formats import FORMATS, ending
from unflip.data.images import Decoded, read
from unflip.data.limits import pillow
from unflip.data.places import Place, is_remote, local
from unflip.data.save import name_for
from unflip.data.tiff import SIGNATURES
from unflip.errors import MissingExtra, UserError
from unflip.files import disk_errors, make_folder, write_json
from unflip.inference.flow import Stages, flow
from unflip.inference.jobs import Line, Note
from unflip.inference.manifest import Manifest
from unflip.inference.outcome import Outcome
from unflip.inference.saved import Row, Shard, Writer, loaded, quiet, rows_of
from unflip.inference.translator import Translator
from unflip.inference.work import at_once, line, note_shard, stored, translated
from unflip.progress import Bar

ENDINGS = {kind: ending for ending, kind in reversed(FORMATS.items())} | {"MPO": ".jpg"}
"""How files of Pillow's formats are called."""


def translate_dataset(
    translator: Translator, source: Path | str, out: Path | str, *, column: str | None = None, progress: bool = True
) -> Outcome:
    """Translate a column of a data set, by default its first one of images, into a folder ``out`` as ``save_to_disk`` writes it.

    Images keep their format and their size; one that cannot be translated is noted as failed and becomes None, so that no row moves. All
    other columns keep their values, features and order. The set is read row by row and written by shards
    (:data:`unflip.inference.saved.ROWS`); those that ``manifest.jsonl`` says this model has done are not done again. ``out`` can be loaded
    as a data set when all of it is there.

    Raises:
        MissingExtra: ``datasets`` is not installed.
        UserError: no such set or column, or ``out`` holds something else.
    """
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise MissingExtra("datasets", "hf") from error
    if is_remote(out):
        raise UserError(f"--out {out} is a URL; a data set is written to a folder of this machine: upload that with push_to_hub")
    place = Place(out)
    folder = Path(place.where)
    if not is_remote(source) and folder.resolve().is_relative_to(local(source).resolve()):
        raise UserError(f"--out {out} lies in the folder of the data set, {source}; choose another folder")
    with quiet(datasets):
        splits = loaded(datasets, source, column)
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
    with quiet(datasets), disk_errors(folder):
        for split in splits:
            split.describe(folder, manifest.model)
    if splits[0].name:
        write_json(folder / "dataset_dict.json", {"splits": [split.name for split in splits]})
    return outcome


class _Saved(NamedTuple):
    data: bytes | None
    found: Line


class _Rows(Stages[Row, Decoded | None, Pixels | None, _Saved]):
    """The rows of a shard: their images decoded, translated, encoded, and all of it given to a file."""

    def __init__(self, translator: Translator, shard: Shard, file: Writer, lines: list[Line], tick: Callable[[], None]) -> None:
        self.translator, self.shard, self.file, self.lines, self.tick = translator, shard, file, lines, tick

    def decode(self, row: Row) -> Decoded | None:
        if row.error is not None:
            raise row.error
        return None if row.data is None else read(row.called, str(self.translator.resize), io.BytesIO(row.data), self.translator.source)

    def translate(self, row: Row, image: Decoded | None) -> Pixels | None:
        return None if image is None else translated(self.translator, image, row.called)

    def save(self, row: Row, image: Decoded | None, translation: Pixels | None, seconds: float) -> _Saved | UserError:
        if row.data is None or image is None or translation is None:
            return _Saved(None, {})
        try:
            name = name_for(f"x{_ending(row.data)}", self.translator.target)
            data = stored(self.translator, image, translation, row.called + ending(name))
        except UserError as error:
            return error
        return _Saved(data, {"size": list(image.size), "seconds": seconds})

    def note(self, row: Row, found: _Saved | UserError) -> None:
        data = None if isinstance(found, UserError) else found.data
        if isinstance(found, UserError) or found.data is not None:
            name = f"{self.shard.split.name}/{row.number}".lstrip("/")
            self.lines.append(line(name, row.called, found if isinstance(found, UserError) else found.found))
        path = None if row.path is None else name_for(row.path, self.translator.target)
        self.file.add(row.table, None if data is None else {"bytes": data, "path": path})
        self.tick()


def _translate(translator: Translator, shard: Shard, out: Place, note: Note, tick: Callable[[], None]) -> None:
    """Write a shard at once, then note its images, and itself."""
    lines: list[Line] = []
    with out.writing(shard.name) as stream, Writer(stream, shard.split) as file:
        flow(_Rows(translator, shard, file, lines, tick), rows_of(shard), at_once(translator, None))
    note_shard(note, shard.name, shard.split.source, lines)


def _ending(data: bytes) -> str:
    """Of an image that could be read."""
    if data.startswith(SIGNATURES):
        return ".tif"
    with pillow(io.BytesIO(data), "an image") as image:
        return ENDINGS[str(image.format)]
