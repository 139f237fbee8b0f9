"""The manifest of a folder of translations: a line for every image, by which a later call knows what is done."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TextIO

from unflip.data.bands import FULL, Bands
from unflip.data.places import Place
from unflip.errors import UserError
from unflip.inference.jobs import Line, stamp
from unflip.inference.translator import Translator

MANIFEST = "manifest.jsonl"
PROVENANCE = ("method", "seed", "images_seen")
"""What the manifest says of the model."""

GROWTH = 1.1
FIRST = 100
"""A remote manifest, to which nothing can be added, is written anew when it is so many times as long, and so many lines longer."""


class Manifest:
    """``manifest.jsonl`` in ``out``: read when made, added to within ``with``.

    Raises ``UserError`` where it is another model's, or of one that was used otherwise; of ``videos``, with other statistics, too.
    """

    def __init__(self, out: Place, translator: Translator, videos: bool = False) -> None:
        self.out = out
        self.model = _key(translator, videos)
        """What makes a translation another one."""
        self.by: Line = {"model": self.model, "by": {name: translator.config.provenance.get(name) for name in PROVENANCE}}
        self.done: dict[str, str] = {}
        """The names of what is done, and of what source."""
        self.begun: set[str] = set()
        """What was translated into it, call by call: an image of these may be there before its line is."""
        self.trusted: set[str] = set()
        """The names of what is done and has trust maps, of these very translations."""
        self._stamps: dict[str, int] = {}
        self.images: dict[str, int] = {}
        """How many there are in each shard that is done."""
        self.copied: dict[str, str] = {}
        """The names of the files beside the images that were copied or linked, and the SHA-256 of what they hold."""
        self.sizes: dict[str, tuple[int, ...]] = {}
        """(width, height) of the images that are done."""
        self._same: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.exists = out.has(MANIFEST)
        self.text = out.read(MANIFEST) if self.exists else b""
        for line in self.text.decode(errors="replace").splitlines():
            self._read(line)

    def __enter__(self) -> Manifest:
        if self.out.remote:
            handle, name = tempfile.mkstemp(prefix="unflip-", suffix=".jsonl")
            os.close(handle)
            Path(name).write_bytes(self.text)
        else:
            name = self.out.path(MANIFEST)
        self.path = Path(name)
        self.lines = self.sent = self.text.count(b"\n")
        self.file: TextIO = open(name, "a", encoding="utf-8")
        self.file.write("" if self.text[-1:] in (b"", b"\n") else "\n")  # what a killed process left unfinished
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
        if self.out.remote:
            try:
                if self.lines > self.sent or not self.exists:
                    self._send()
            finally:
                self.path.unlink()

    def begin(self, source: str) -> None:
        """Write that ``source`` is being translated, once."""
        if source not in self.begun:
            self.begun.add(source)
            self.add({"file": "", "source": source, "status": "begun"})

    def foreign(self, name: str, source: str) -> bool:
        """Whether a file of that name, which is there, is none of unflip's: not by this manifest, nor begun by a call on ``source``."""
        return name not in self.done and source not in self.begun and (not self.exists or bool(self.begun))  # older ones do not tell

    def changed(self, name: str, source: str) -> bool:
        """Whether the ``source`` of what is done has been changed since, where that can be told."""
        known = self._stamps.get(name)
        return known is not None and (found := stamp(source)) is not None and hash(found) != known

    def add(self, line: Line) -> None:
        """Write a line, and what the model is."""
        self._keep_size(line)
        self.file.write(json.dumps(line | self.by) + "\n")
        self.file.flush()
        self.lines += 1
        if self.out.remote and self.lines >= self.sent * GROWTH + FIRST:
            self._send()

    def _send(self) -> None:
        self.out.upload(MANIFEST, str(self.path))
        self.sent = self.lines

    def _read(self, text: str) -> None:
        try:
            line = json.loads(text)
            if line["model"] != self.model:
                raise UserError(
                    f"--out {self.out} holds translations by another model, or by this one used otherwise; choose another folder"
                )
            if line["status"] == "begun":
                self.begun.add(line["source"])
            elif line["status"] == "done":
                self.done[line["file"]] = line["source"]
                self.images[line["file"]] = line.get("images", 1)
                self.copied.pop(line["file"], None)  # the last word counts: --labels may have been given to only one of two calls
                (self.trusted.add if "trust" in line else self.trusted.discard)(line["file"])
                self._keep_size(line)
                if "stamp" in line:
                    self._stamps[line["file"]] = hash(tuple(line["stamp"]))
            elif line["status"] in ("copied", "linked"):
                self.copied[line["file"]] = line["sha256"]
                self.done.pop(line["file"], None)
        except (ValueError, KeyError, TypeError):
            return  # a line cut short by a killed process: that file is done again

    def _keep_size(self, line: Line) -> None:
        if "size" in line:
            size = tuple(line["size"])
            self.sizes[line["file"]] = self._same.setdefault(size, size)  # of a million images, most have one size


def _key(translator: Translator, videos: bool) -> str:
    """The weights, the direction, and of how they are used all that is not as usual, so that early manifests still hold."""
    parts = [translator.config.files.get("model.safetensors", "unknown"), translator.direction, translator.depth]
    parts.append(None if str(translator.resize) == "none" else f"resize={translator.resize}")
    parts += [_ends("source", translator.source), _ends("target", translator.target)]
    parts.append(f"statistics={translator.statistics}" if videos and translator.statistics != "exact" else None)
    return ":".join(filter(None, parts))


def _ends(side: str, bands: Bands) -> str | None:
    """What the values of a side's images mean, where that is not as usual."""
    if set(bands.ranges) == {FULL[bands.depth]} and bands.nodata is None:
        return None
    return f"{side}={','.join(f'{low:g}..{high:g}' for low, high in bands.ranges)},{bands.nodata}"
