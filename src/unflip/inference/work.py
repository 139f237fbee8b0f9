"""Translating images and shards from where they are to where they belong: what one process does, alone or as one of many."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing

import torch

from unflip.data.bands import Pixels
from unflip.data.images import Decoded, read
from unflip.data.places import Place
from unflip.data.save import encode
from unflip.errors import UserError
from unflip.inference.flow import Stages, flow
from unflip.inference.jobs import Job, Line, Note, identity, map_name, stamp
from unflip.inference.translator import Translator
from unflip.inference.trust import trust_map, trust_png
from unflip.inference.windows import Large, Unreadable, large, translate_large

Guard = Callable[[str], None]
"""Is asked before each image, by name; its ``UserError`` keeps the image from being tried."""


def translate_images(
    translator: Translator, jobs: Sequence[Job], out: Place, maps: Place | None, note: Note, guard: Guard | None = None
) -> None:
    """Write the translations of images to ``out`` and, if there is one, their trust maps to ``maps``; a line for each goes to ``note``.

    With a ``guard`` they are done one after the other, so that it is clear which one ends a process. What cannot be read, or not be
    stored in its format, is noted as failed. Raises ``UserError`` where nothing can be written.
    """
    try:
        flow(_Images(translator, out, maps, note, guard), jobs, at_once(translator, guard))
    except _Unwritable as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None


def at_once(translator: Translator, guard: Guard | None) -> int:
    """How many images are decoded ahead and saved behind: a GPU must not wait for that, and a CPU has other things to do."""
    if guard is not None:
        return 0
    return 1 if str(translator.device) == "cpu" else min(8, os.cpu_count() or 1)


def translated(translator: Translator, image: Decoded, path: str) -> Pixels:
    """The translation of an image; ``UserError`` where the device has no memory for it, as it may have for the next one."""
    try:
        return translator.pixels(image.pixels, image.size, image.valid, image.nodata)
    except torch.OutOfMemoryError as error:
        height, width = image.pixels.shape[:2]
        raise _too_large(translator, (width, height), path) from error


def _too_large(translator: Translator, size: tuple[int, int], path: str) -> UserError:
    return UserError(f"not enough memory on {translator.device} for {size[0]}x{size[1]} pixels, {path}")


def stored(translator: Translator, image: Decoded, translation: Pixels, path: str) -> bytes:
    """The file of a translation: with the image's alpha, its place on Earth, and what stands for nothing."""
    return encode(path, translation, image.alpha, translator.target.empty(image.nodata), image.georeference)


def trusted(translator: Translator, image: Decoded, translation: Pixels) -> tuple[bytes, Line]:
    """The file of a translation's trust map, and what the manifest says of it."""
    trust = trust_map(translator.source.view(image.pixels, image.valid), translator.target.view(translation))
    return trust_png(trust), {"trust": round(float(trust.mean()), 4)}


def line(name: str, source: str, found: Line | UserError) -> Line:
    """What the manifest says of a file."""
    head: Line = {"file": name, "source": source}
    if isinstance(found, UserError):
        return head | {"status": "failed", "error": str(found)}
    of = stamp(source)
    return head | {"status": "done", **found} | ({"stamp": list(of)} if of else {})


def note_shard(note: Note, name: str, source: str, lines: Sequence[Line]) -> None:
    """Tell of what is in a shard, ``lines``, and then of the shard itself, which has been written."""
    failed = sum(each["status"] == "failed" for each in lines)
    for each in lines:
        note(each | {"shard": name})
    trust = {"trust": True} if any("trust" in each for each in lines) else {}
    whole = line(name, source, {"images": len(lines) - failed, **trust})
    note(whole | {"status": "failed", "failed": failed} if failed else whole)


class _Unwritable(Exception):
    """Ends the whole, where a ``UserError`` would be noted as that image's."""


class _Images(Stages[Job, Decoded | Large, Pixels | None, Line]):
    def __init__(self, translator: Translator, out: Place, maps: Place | None, note: Note, guard: Guard | None) -> None:
        self.translator, self.out, self.maps, self.tell, self.guard = translator, out, maps, note, guard

    def decode(self, job: Job) -> Decoded | Large:
        if self.guard is not None:
            self.guard(job.name)
        if self.maps is None and not job.translated and (found := large(job.source, self.translator, job.name)):
            return found
        return read(job.source, str(self.translator.resize), bands=self.translator.source)

    def translate(self, job: Job, image: Decoded | Large) -> Pixels | None:
        if isinstance(image, Large):
            self._large(job, image)
            return None
        return None if job.translated else translated(self.translator, image, job.source)

    def _large(self, job: Job, image: Large) -> None:
        try:
            with closing(image), self.out.writing(job.name) as file:
                translate_large(image, file)
        except Unreadable as error:
            raise UserError(str(error)) from error
        except torch.OutOfMemoryError as error:
            raise _too_large(self.translator, image.size, job.source) from error
        except UserError as error:  # nor can any other be written
            raise _Unwritable from error

    def save(self, job: Job, image: Decoded | Large, translation: Pixels | None, seconds: float) -> Line | UserError:
        found: Line = {"size": list(image.size)}
        if isinstance(image, Large):  # written as it was made
            return found | {"seconds": seconds}
        found |= {"turned": True} if image.turned else {}
        if translation is None:
            try:
                translation = read(self.out.path(job.name), bands=self.translator.target).pixels
            except UserError as error:
                return error
        else:
            try:
                data = stored(self.translator, image, translation, self.out.path(job.name))
            except UserError as error:
                return error
            self.out.write(job.name, data)
            found["seconds"] = seconds
        if self.maps is not None:
            png, trust = trusted(self.translator, image, translation)
            self.maps.write(map_name(job.name), png)
            found |= trust
        return found

    def note(self, job: Job, found: Line | UserError) -> None:
        self.tell(line(job.name, identity(job.source), found))
