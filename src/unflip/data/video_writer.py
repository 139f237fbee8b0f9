"""Writing videos: frames as H.264, VP9 or MPEG-4, as the container of the file's name has it, with the sound of another video."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from unflip.data.formats import ending
from unflip.data.images import Array
from unflip.data.videos import Look, Sound
from unflip.errors import UserError

if TYPE_CHECKING:
    from av import Packet, VideoStream


class Encoder(NamedTuple):
    """How a kind of video is written."""

    container: str
    codec: str
    options: dict[str, str]
    chroma: tuple[str, ...]
    """How finely it can store colors; half as finely in both directions first."""
    even: bool = False
    """Whether only sides that are even can store colors less finely than brightness."""
    matrix: str = "ITU709"
    """How colors become brightness and color differences."""


# Qualities at which nothing is to be seen of the compression: docs/decisions/video.md
_H264 = Encoder("mp4", "libx264", {"crf": "15"}, ("420", "422", "444"), even=True)
_VP9 = Encoder("webm", "libvpx-vp9", {"crf": "15", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}, ("420", "422", "444"))
_MPEG4 = Encoder("avi", "mpeg4", {"qmin": "2", "qmax": "2"}, ("420",), matrix="ITU601")  # AVI cannot say which; players take this
ENCODERS = {
    ".mp4": _H264,
    ".m4v": _H264,
    ".mov": _H264._replace(container="mov"),
    ".mkv": _H264._replace(container="matroska"),
    ".webm": _VP9,
    ".avi": _MPEG4,
}


class VideoWriter:
    """``with VideoWriter(file, name, look, sound) as writer``: a video like the one that was looked at, in ``file``, as ``name`` ends.

    ``sound`` is copied as far as the container takes it; ``silent`` says how many of its streams that leaves out. Raises ``UserError``
    where the container cannot hold such frames, or the sound cannot be read; the errors of ``file`` as they are.
    """

    def __init__(self, file: BinaryIO, name: str, look: Look, sound: Sound) -> None:
        import av
        from av.video.reformatter import ColorRange, Colorspace

        self.encoder = encoder = ENCODERS[ending(name)]
        self.name, self.time_base, (width, height) = name, look.time_base, look.size
        self.container = av.open(file, "w", format=encoder.container)
        rate = look.rate.limit_denominator(65_535)
        self.stream: VideoStream = self.container.add_stream(encoder.codec, rate=rate, options=dict(encoder.options))  # type: ignore[assignment]
        self.stream.width, self.stream.height = width, height
        self.stream.pix_fmt = f"yuv{chroma(encoder, look)}p"
        context = self.stream.codec_context
        context.time_base = self.stream.time_base = look.time_base
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace[encoder.matrix]
        if look.aspect:
            context.sample_aspect_ratio = look.aspect
        self.durations: dict[int, int] = {}
        """Of the frames that are in the encoder, by their time."""
        self.copies = {}
        for stream in sound.streams:
            with suppress(ValueError):  # the container does not take it
                self.copies[stream] = self.container.add_stream_from_template(stream)
        self.silent = len(sound.streams) - len(self.copies)
        self.sound = sound.packets(list(self.copies)) if self.copies else iter(())
        self.next = next(self.sound, None)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                with _writing(self.name):
                    self._write(self.stream.encode(None))
                    self._write_sound(None)
                    self.container.close()
        finally:
            with suppress(Exception):  # where that failed, nobody wants the file any more
                self.container.close()

    def add(self, rgb: Array, pts: int, duration: int) -> None:
        """The next frame, ``(H, W, 3)`` uint8, and when and how long it is shown, in units of the video that was looked at."""
        from av import VideoFrame

        frame = VideoFrame.from_ndarray(rgb, format="rgb24")
        frame = frame.reformat(format=self.stream.pix_fmt, dst_colorspace=self.encoder.matrix, dst_color_range="MPEG")
        frame.pts, frame.time_base = pts, self.time_base
        self.durations[pts] = duration
        with _writing(self.name):
            self._write(self.stream.encode(frame))

    def _write(self, packets: list[Packet]) -> None:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self.durations.pop(packet.pts, packet.duration)
            if packet.dts is not None and packet.time_base is not None:
                self._write_sound(float(packet.dts * packet.time_base))
            self.container.mux(packet)

    def _write_sound(self, until: float | None) -> None:
        """The sound up to a second, so that both lie side by side in the file; None: all that is left."""
        while self.next is not None:
            packet = self.next
            if until is not None and float((packet.dts or 0) * (packet.time_base or 1)) > until:
                return
            copy = self.copies[packet.stream]  # type: ignore[index]
            packet.stream = copy
            self.container.mux(packet)
            self.next = next(self.sound, None)


@contextmanager
def _writing(name: str) -> Iterator[None]:
    """Turn what an encoder or a container does not take into one line. What the file itself raises is no error of FFmpeg."""
    from av.error import FFmpegError

    try:
        yield
    except FFmpegError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise UserError(f"cannot write {name}: {reason}; use another format") from error


def chroma(encoder: Encoder, look: Look) -> str:
    """How finely a video's colors are stored: as finely as in the one that was looked at, or more so where that cannot be."""
    if encoder.even and any(side % 2 for side in look.size):
        return "444"
    return look.chroma if look.chroma in encoder.chroma else encoder.chroma[0]
