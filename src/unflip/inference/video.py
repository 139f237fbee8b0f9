"""Translating a video: a video of the same name, with as many frames at the same times, and the same sound."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from unflip.data.images import Array
from unflip.data.places import Place
from unflip.data.video_writer import VideoWriter
from unflip.data.videos import Look, Sound, frames, look, need_av, upright
from unflip.errors import UserError
from unflip.inference.clip import fixed, resized, spread
from unflip.inference.flow import Stages, flow
from unflip.inference.jobs import Job, Line, Note, identity
from unflip.inference.torch_backend import TorchTranslator
from unflip.inference.translator import Translator
from unflip.inference.work import Guard, line

if TYPE_CHECKING:
    from av import VideoFrame

TOLD = 100
"""How often ``note`` hears of the progress of one video."""


def translate_video(translator: Translator, job: Job, out: Place, note: Note, guard: Guard | None = None) -> None:
    """Write the translation of a video to ``out``, at once; ``note`` gets a line for it, and lines without a status on the way.

    All frames share the norms' statistics, unless the translator's ``statistics`` are "frame". The memory does not grow with the video's
    length. What cannot be read, or not be stored in its format, is noted as failed. ``guard`` is asked once, as in
    :func:`unflip.inference.work.translate_images`. Raises ``UserError`` where nothing can be written.
    """
    found: Line | UserError
    try:
        with _bad(translator, job):
            if guard is not None:
                guard(job.name)
            seen = look(job.source)
            shared = _shared(translator, job.source, seen)
            sound = Sound(job.source)
        with closing(sound), out.writing(job.name) as file, _bad(translator, job):
            found = _translated(translator, job, seen, shared, VideoWriter(file, job.name, seen, sound), note)
    except _BadVideo as error:
        found = UserError(str(error))
    note(line(job.name, identity(job.source), found))


def refuse_videos(translator: Translator, job: Job, trust: bool) -> None:
    """Raise ``UserError`` where videos, such as ``job``, cannot be translated here, or not so."""
    need_av()
    if trust:
        raise UserError(f"a video gets no trust maps, {job.source}; leave out --trust, or translate its frames as images")
    if translator.statistics != "frame" and not isinstance(translator, TorchTranslator):
        raise UserError(f"an ONNX file translates every frame by itself, {job.source}; add --statistics frame, or give the model's folder")
    for side in (translator.source, translator.target):
        if not (side.plain and side.count == 3):
            raise UserError(f"videos hold 8-bit color, and the model's images are {side}, {job.source}; translate its frames as images")


class _BadVideo(Exception):
    """One video that cannot be translated; the others can."""


@contextmanager
def _bad(translator: Translator, job: Job) -> Iterator[None]:
    """What is wrong with a video ends only its own translation; what is wrong with the disk is no ``UserError`` yet."""
    try:
        yield
    except UserError as error:
        raise _BadVideo(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise _BadVideo(f"not enough memory on {translator.device} for the frames of {job.source}") from error


def _translated(
    translator: Translator, job: Job, seen: Look, shared: AbstractContextManager[None], writer: VideoWriter, note: Note
) -> Line:
    told, translator.shown = translator.shown, None  # of a video, frames are counted, not the tiles of each
    try:
        with writer:
            began = time.monotonic()
            with shared:
                stages = _Frames(translator, job, seen, writer, note, time.monotonic() - began)
                flow(stages, frames(job.source), 1)
    finally:
        translator.shown = told
    found: Line = {"frames": stages.done, "size": list(seen.size), "seconds": round(stages.seconds, 4)}
    return found | ({"silent": writer.silent} if writer.silent else {})


def _shared(translator: Translator, source: str, seen: Look) -> AbstractContextManager[None]:
    """What makes all frames share their statistics: those of frames that are spread over the video."""
    if translator.statistics == "frame":
        return nullcontext()
    assert isinstance(translator, TorchTranslator)
    wanted, sampled = spread(seen.frames), []
    with closing(frames(source)) as stream:
        for i, frame in enumerate(stream):
            if i in wanted:
                sampled.append(upright(frame, seen.turn))
            if i == wanted[-1]:
                break
    return fixed(translator, sampled)


class _Frames(Stages["VideoFrame", Array, Array, None]):
    """One after the other, so that they stay in order: the next one is decoded and the last one encoded while one is in the network."""

    def __init__(self, translator: Translator, job: Job, seen: Look, writer: VideoWriter, note: Note, seconds: float) -> None:
        self.translator, self.job, self.seen, self.writer, self.tell = translator, job, seen, writer, note
        self.seconds, self.done, self.told = seconds, 0, 0

    def decode(self, job: VideoFrame) -> Array:
        return resized(self.translator, upright(job, self.seen.turn))

    def translate(self, job: VideoFrame, image: Array) -> Array:
        return self.translator.pixels(image, self.seen.size)

    def save(self, job: VideoFrame, image: Array, translation: Array, seconds: float) -> None:
        self.seconds += seconds
        self.writer.add(translation, job.pts or 0, job.duration)

    def note(self, job: VideoFrame, found: UserError | None) -> None:
        if found is not None:
            raise found
        self.done += 1
        count = max(self.done, self.seen.frames)
        if self.done * TOLD // count > self.told:
            self.told = self.done * TOLD // count
            share = min(self.done / count, 1 - 1 / TOLD)  # written it is only when the file is closed
            self.tell({"file": self.job.name, "share": share, "news": f"{self.job.name}: frame {self.done:,} of {count:,}"})
