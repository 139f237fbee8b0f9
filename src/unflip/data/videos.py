"""Videos at the border, by PyAV (the extra ``video``): what one is, its frames, and its sound.

As with images, every error that a file can cause is a ``UserError`` of one line that names it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from unflip.data.images import Array
from unflip.data.limits import max_pixels, refuse_bombs
from unflip.data.places import streamed
from unflip.errors import MissingExtra, UserError

if TYPE_CHECKING:
    from av import AudioStream, Packet, VideoFrame, VideoStream
    from av.container import InputContainer

READ = {"format_whitelist": "mov,mp4,matroska,webm,avi"}
"""FFmpeg knows many more, some of which lead to other files."""

LATE = 0.5
"""A video that ends so many seconds before the end that it announces was cut short."""

HDR = {16, 18}
"""The transfer characteristics of PQ and HLG: as 8-bit colors they are dull and wrong."""


class Turn(NamedTuple):
    """Whether rows become columns, and whether then columns and rows are mirrored."""

    transposed: bool = False
    across: bool = False
    down: bool = False


class Look(NamedTuple):
    """What there is to know of a video before its frames are decoded."""

    frames: int
    """Packets that hold pictures: the number of frames, or a few more."""
    size: tuple[int, int]
    """(width, height), upright."""
    time_base: Fraction
    """Seconds for each unit of a time stamp."""
    rate: Fraction
    """Frames per second, on average."""
    aspect: Fraction | None
    """The width of a pixel, upright, in units of its height; None: not said."""
    chroma: str
    """How finely colors are stored: 420, 422 or 444."""
    turn: Turn
    """What turns its frames upright."""


def need_av() -> None:
    """Raise ``MissingExtra`` where PyAV is not installed."""
    try:
        import_module("av")
    except ImportError as error:
        raise MissingExtra("av", "video") from error


def look(source: Path | str) -> Look:
    """Read a video from front to back, without decoding more than one frame.

    Raises:
        UserError: no video, broken, cut short, too large, or with more brightness than 8 bits show.
        MissingExtra: PyAV is not installed.
    """
    with _reading(source), _opened(source) as container:
        stream = _video(container, source)
        count, last = 0, 0.0
        for packet in container.demux():
            if packet.size and packet.pts is not None and packet.time_base is not None:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            count += bool(packet.size) and packet.stream is stream and not packet.is_discard
        if not count or last < _end(container, stream) - LATE:
            raise UserError(f"broken or truncated video, {source} (it ends after {last:.1f} s); replace or remove it")
    with _reading(source), _opened(source) as container:  # anew: not every file can be wound back
        stream = _video(container, source)
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise UserError(f"broken video, {source} (no frame can be decoded); replace or remove it")
        if first.color_trc in HDR:
            raise UserError(f"HDR video, {source}; unflip translates 8-bit colors: convert it to SDR")
        aspect, turn = stream.sample_aspect_ratio or None, _turn(first)
        return Look(
            count,
            (first.height, first.width) if turn.transposed else (first.width, first.height),
            stream.time_base or Fraction(1, 1000),
            stream.average_rate or stream.guessed_rate or Fraction(25),
            1 / aspect if aspect and turn.transposed else aspect,
            _chroma(first, turn),
            turn,
        )


def frames(source: Path | str) -> Generator[VideoFrame]:
    """The frames of a video, as they are stored, each with a time stamp larger than the last one's.

    FFmpeg's threads decode ahead. Raises ``UserError`` for a video that is broken, or whose frames change their size.
    """
    with _reading(source), _opened(source) as container:
        stream = _video(container, source)
        stream.thread_type = "AUTO"
        step = round(1 / ((stream.average_rate or stream.guessed_rate or 25) * (stream.time_base or Fraction(1, 1000)))) or 1
        size, last = None, None
        for frame in container.decode(stream):
            size = size or (frame.width, frame.height)
            if (frame.width, frame.height) != size:
                raise UserError(f"the frames change their size from {size[0]}x{size[1]}, {source}; convert it to one size")
            if frame.pts is None or (last is not None and frame.pts <= last):  # nothing that can be written says so
                frame.pts = 0 if last is None else last + (step if frame.pts is None else 1)
            last = frame.pts
            yield frame


def upright(frame: VideoFrame, turn: Turn) -> Array:
    """The colors of a frame, ``(H, W, 3)`` uint8, turned."""
    rgb = frame.to_ndarray(format="rgb24")
    if turn.transposed:
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(rgb[:: -1 if turn.down else 1, :: -1 if turn.across else 1])


class Sound:
    """The audio streams of a video, to be copied as they are."""

    def __init__(self, source: Path | str) -> None:
        self.source = source
        with _reading(source):
            self.file = streamed(source)
            self.container = _open(self.file)
        self.streams: list[AudioStream] = list(self.container.streams.audio)

    def packets(self, streams: list[AudioStream]) -> Iterator[Packet]:
        """What the ``streams`` hold, in the order of the file."""
        with _reading(self.source):
            for packet in self.container.demux(streams):
                if packet.dts is not None:  # the last one of each is empty
                    yield packet

    def close(self) -> None:
        """Close the file."""
        self.container.close()
        self.file.close()


@contextmanager
def _opened(source: Path | str) -> Iterator[InputContainer]:
    with streamed(source) as file, _open(file) as container:
        yield container


def _open(file: BinaryIO) -> InputContainer:
    import av

    return av.open(file, options=READ, metadata_errors="replace")  # type: ignore


@contextmanager
def _reading(source: Path | str) -> Iterator[None]:
    """Turn what a damaged file can raise into one line. What is done with the frames must lie outside."""
    need_av()
    from av.error import FFmpegError

    try:
        yield
    except FFmpegError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UserError(f"broken or truncated video, {source} ({reason}); replace or remove it") from error
    except OSError as error:
        raise UserError(f"cannot read the video, {source} ({error.strerror}); check the path and its permissions") from error


def _video(container: InputContainer, source: Path | str) -> VideoStream:
    """The pictures of a video; a cover is none of them."""
    from av.stream import Disposition

    known = [stream for stream in container.streams.video if stream.codec_context is not None]  # None: of a codec that FFmpeg has not
    found = [stream for stream in known if not stream.disposition & Disposition.attached_pic]
    if not found:
        raise UserError(f"no pictures in the video, {source}; replace or remove it")
    refuse_bombs(found[0].width, found[0].height, source)
    found[0].codec_context.options = {"max_pixels": str(max_pixels())}  # what the frames themselves say can differ
    return found[0]


def _end(container: InputContainer, stream: VideoStream) -> float:
    """The second at which a video says that it ends; 0 where it does not say."""
    ends = []
    if container.duration:
        start = 0 if "matroska" in container.format.name else container.start_time or 0  # Matroska's duration is where the end is
        ends.append((container.duration + start) / 1e6)
    if stream.duration and stream.time_base:
        ends.append(float((stream.duration + (stream.start_time or 0)) * stream.time_base))
    if container.format.name == "avi" and stream.average_rate:  # where FFmpeg takes the end from the size of the file
        ends.append(float(stream.frames / stream.average_rate))
    return max(ends, default=0.0)


def _turn(frame: VideoFrame) -> Turn:
    """As the display matrix has it. Asked once for a video: a frame that was asked is freed only when Python looks for cycles."""
    from av.sidedata.sidedata import Type

    known: Any = frame.side_data
    data = next((known[i] for i in range(len(known)) if known[i].type == Type.DISPLAYMATRIX), None)
    if data is None:
        return Turn()
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()  # (x, y) goes to (a x + c y, b x + d y)
    return Turn(True, c < 0, b < 0) if abs(b) > abs(a) else Turn(False, a < 0, d < 0)


def _chroma(frame: VideoFrame, turn: Turn) -> str:
    if frame.format.is_rgb:
        return "444"
    wide, high = frame.format.chroma_width(4), frame.format.chroma_height(4)
    if (wide, high) == (2, 4) and not turn.transposed:
        return "422"
    gray = frame.format.name.startswith("gray")
    return "444" if 4 in (wide, high) and not gray else "420"
