"""Videos: as many frames at the same times and of the same size come out, with their sound, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unflip
from test_tiles import write_model
from unflip.data import video_writer
from unflip.data.bands import Bands
from unflip.data.folders import find_images
from unflip.data.formats import VIDEOS
from unflip.data.video_writer import ENCODERS, VideoWriter
from unflip.data.videos import frames, look, upright
from unflip.errors import UserError
from unflip.inference import clip
from unflip.inference.clip import fixed
from unflip.inference.folders import MANIFEST, Outcome, translate_folder
from unflip.inference.translator import Translator

av = pytest.importorskip("av")
Array = np.ndarray[Any, Any]

EVEN = [Fraction(1, 25)]
UNEVEN = [Fraction(1, 30), Fraction(1, 15), Fraction(1, 10), Fraction(1, 30)]
"""How long frames are shown, over and over."""


def scenes(count: int, width: int, height: int) -> list[Array]:
    """Waves that move, with red at the left and blue at the right, so that what is turned, mirrored or of wrong colors is told."""
    y, x = np.mgrid[:height, :width]
    found = []
    for i in range(count):
        waves = np.stack([120 + 60 * np.sin((x + 3 * i) / (7 + k) + y / (4 + k)) for k in range(3)], -1)
        waves[: height // 3, : width // 3] = [230, 30, 30]
        waves[-height // 3 :, -width // 3 :] = [30, 30, 230]
        found.append(waves.clip(0, 255).astype(np.uint8))
    return found


def write(
    path: Path,
    images: list[Array],
    *,
    times: list[Fraction] = EVEN,
    start: Fraction = Fraction(0),
    codec: str | None = None,
    pixels: str = "yuv420p",
    audio: str | None = None,
    aspect: Fraction | None = None,
    rotation: int | None = None,
    transfer: int | None = None,
    **options: str,
) -> Path:
    """A video by PyAV, of a codec that the container takes; sound, if any, is a tone as long as the pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = ENCODERS[path.suffix.lower()]
    base = Fraction(1, 25) if encoder.container == "avi" else Fraction(1, 90_000)
    with av.open(str(path), "w", format=encoder.container) as container:
        stream = container.add_stream(codec or encoder.codec, rate=25, options={"crf": "4"} | options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.codec_context.time_base = pixels, base
        if codec not in ("ffv1", "libx264rgb"):
            stream.codec_context.colorspace, stream.codec_context.color_range = 5 if encoder.container == "avi" else 1, 1
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if transfer:
            stream.codec_context.color_trc = transfer
        if rotation is not None:
            stream.set_display_rotation(rotation)
        sound = container.add_stream(audio, rate=48_000) if audio else None
        at, ends = start, {}
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image)
            kind = (
                {}
                if pixels in ("rgb24", "bgr0", "gray")
                else {"dst_colorspace": 5 if encoder.container == "avi" else 1, "dst_color_range": 1}
            )
            frame = frame.reformat(format=pixels, **kind)
            frame.pts, frame.time_base = int(at / base), base
            ends[frame.pts] = int(times[i % len(times)] / base)
            at += times[i % len(times)]
            for packet in stream.encode(frame):
                packet.duration = ends.get(packet.pts, packet.duration)
                container.mux(packet)
        for packet in stream.encode(None):
            packet.duration = ends.get(packet.pts, packet.duration)
            container.mux(packet)
        if sound is not None:
            for i in range(int(float(at) * 48_000) // 1024):
                tone = (8000 * np.sin(2 * np.pi * 440 * (i * 1024 + np.arange(1024)) / 48_000)).astype(np.int16)
                block = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
                block.sample_rate, block.pts = 48_000, i * 1024
                container.mux(sound.encode(block))
            container.mux(sound.encode(None))
    return path


def read(path: Path) -> list[Array]:
    turn = look(path).turn
    return [upright(frame, turn) for frame in frames(path)]


def times(path: Path) -> list[float]:
    return [float(frame.pts * frame.time_base) for frame in frames(path)]


def sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux() if packet.size and packet.stream.type == "audio"]


def length(path: Path) -> float:
    """The second at which its last frame ends."""
    with av.open(str(path)) as container:
        return max(float((packet.pts + packet.duration) * packet.time_base) for packet in container.demux(video=0) if packet.size)


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]
    return [line for line in found if line["status"] != "begun"]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def quietly(translator: Translator, source: Path, out: Path) -> Outcome:
    return translate_folder(translator, source, out, progress=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("video") / "model")


class Copying:
    """A translator that changes nothing, so that what comes out shows what reading and writing do."""

    def __init__(self, like: Translator) -> None:
        self.like = like

    def __enter__(self) -> Translator:
        self.pixels, self.statistics = self.like.pixels, self.like.statistics
        self.like.pixels, self.like.statistics = lambda image, size: image, "frame"  # type: ignore[method-assign]
        return self.like

    def __exit__(self, *error: object) -> None:
        self.like.pixels, self.like.statistics = self.pixels, self.statistics  # type: ignore[method-assign]


SOUNDS = {".mp4": "aac", ".m4v": "aac", ".mov": "pcm_s16le", ".mkv": "flac", ".webm": "libopus", ".avi": "libmp3lame"}


@pytest.mark.parametrize("suffix", VIDEOS)
@pytest.mark.parametrize("size", [(64, 48), (51, 37)])
def test_frames_times_size_and_sound_are_kept(translator: Translator, tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    pixels = "yuv444p" if size[0] % 2 and suffix != ".avi" else "yuv420p"
    shown = EVEN if suffix == ".avi" else UNEVEN
    source = write(tmp_path / f"in/a{suffix}", scenes(30, *size), times=shown, pixels=pixels, audio=SOUNDS[suffix])
    with Copying(translator):
        assert quietly(translator, source, tmp_path / "out") == Outcome(done=1)
    result = tmp_path / f"out/a{suffix}"
    assert names(tmp_path / "out") == [f"a{suffix}", MANIFEST]
    before, after = read(source), read(result)
    assert len(before) == len(after) == 30 and after[0].shape == (size[1], size[0], 3)
    difference = [np.abs(a.astype(int) - b).mean() for a, b in zip(before, after, strict=True)]
    assert max(difference) < 5 and np.abs(before[3].astype(int) - after[4]).mean() > 6, "each in its place, in its colors"
    assert times(result) == pytest.approx(times(source), abs=1e-6) and length(result) == pytest.approx(length(source), abs=1e-6)
    if suffix != ".avi":  # whose frames are 1/25 s long each; FFmpeg shifts them where there is sound
        wanted = [float(sum(shown[k % len(shown)] for k in range(i))) for i in range(30)]
        assert times(result) == pytest.approx(wanted, abs=1e-3)
    assert sound(source) and sound(result) == sound(source)
    [line] = lines(tmp_path / "out")
    assert line["frames"] == 30 and line["size"] == list(size) and line["status"] == "done" and line["seconds"] >= 0
    assert "silent" not in line


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_turned_videos_become_upright(translator: Translator, tmp_path: Path, rotation: int) -> None:
    images = scenes(4, 64, 48)
    source = write(tmp_path / "in/a.mp4", images, rotation=rotation, aspect=Fraction(4, 3))
    with av.open(str(source)) as container:
        assert next(container.decode(video=0)).rotation in (rotation, rotation - 360)
    with Copying(translator):
        quietly(translator, source, tmp_path / "out")
    result = tmp_path / "out/a.mp4"
    wanted = [np.rot90(image, rotation // 90) for image in images]
    for path in (source, result):
        for image, turned in zip(read(path), wanted, strict=True):
            assert image.shape == turned.shape and np.abs(image.astype(int) - turned).mean() < 6
    with av.open(str(result)) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
        assert container.streams.video[0].sample_aspect_ratio == (Fraction(4, 3) if rotation == 180 else Fraction(3, 4))


def test_pixels_that_are_no_squares(translator: Translator, tmp_path: Path) -> None:
    source = write(tmp_path / "in/a.mkv", scenes(3, 64, 48), aspect=Fraction(16, 11))
    with Copying(translator):
        quietly(translator, source, tmp_path / "out")
    assert look(tmp_path / "out/a.mkv").aspect == look(source).aspect == Fraction(16, 11)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "stored"),
    [
        ("a.mp4", "libx264", "yuv420p10le", "yuv420p"),
        ("a.mp4", "libx264", "yuv422p", "yuv422p"),
        ("a.mp4", "libx264", "yuv444p", "yuv444p"),
        ("a.mp4", "libx264rgb", "rgb24", "yuv444p"),
        ("a.mkv", "ffv1", "bgr0", "yuv444p"),
        ("a.mkv", "libx264", "gray", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p", "yuv420p"),
        ("a.avi", "ffv1", "yuv444p", "yuv420p"),
    ],
)
def test_colors_are_stored_as_finely_as_they_were(
    translator: Translator, tmp_path: Path, name: str, codec: str, pixels: str, stored: str
) -> None:
    extra = {"b": "2M"} if codec == "libvpx" else {}
    source = write(tmp_path / "in" / name, scenes(5, 64, 48), codec=codec, pixels=pixels, **extra)
    with Copying(translator):
        quietly(translator, source, tmp_path / "out")
    with av.open(str(tmp_path / "out" / name)) as container:
        assert container.streams.video[0].pix_fmt == stored
    for a, b in zip(read(source), read(tmp_path / "out" / name), strict=True):
        assert np.abs(a.astype(int) - b).mean() < 6


def test_frames_share_their_statistics(model: Path, tmp_path: Path) -> None:
    """As the frames themselves say, one by one; and with --statistics frame, they do not."""
    images = scenes(20, 64, 48)
    for i, image in enumerate(images):
        image[:, : 2 * i] = 250
    source = write(tmp_path / "a.mkv", images, pixels="yuv444p")
    decoded = read(source)
    translator = unflip.load(model, device="cpu")
    alone = [translator(image).astype(int) for image in decoded]
    with fixed(translator, [decoded[i] for i in clip.spread(20)]):
        together = [translator(image).astype(int) for image in decoded]
    assert np.mean([np.abs(a - b).mean() for a, b in zip(alone, together, strict=True)]) > 10
    for statistics, wanted, other in (("exact", together, alone), ("frame", alone, together)):
        quietly(unflip.load(model, device="cpu", statistics=statistics), source, tmp_path / statistics)  # type: ignore[arg-type]
        found = read(tmp_path / statistics / "a.mkv")
        assert np.mean([np.abs(a - b).mean() for a, b in zip(found, wanted, strict=True)]) < 6
        assert np.mean([np.abs(a - b).mean() for a, b in zip(found, other, strict=True)]) > 10


def test_other_statistics_are_another_translation(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.mkv", scenes(2, 32, 32))
    quietly(unflip.load(model, device="cpu"), source, tmp_path / "out")
    with pytest.raises(UserError, match="by this one used otherwise"):
        quietly(unflip.load(model, device="cpu", statistics="frame"), source, tmp_path / "out")


def test_large_frames_go_by_tiles(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.mkv", scenes(5, 150, 100), pixels="yuv444p")
    added: list[Array] = []
    add = VideoWriter.add
    monkeypatch.setattr(VideoWriter, "add", lambda writer, rgb, *when: added.append(rgb) or add(writer, rgb, *when))
    quietly(unflip.load(model, device="cpu"), source, tmp_path / "whole")
    monkeypatch.setattr(clip, "_fit", lambda translator, size: 1)
    quietly(unflip.load(model, device="cpu", tile=64), source, tmp_path / "tiles")
    whole, tiles = added[:5], added[5:]
    assert all(np.abs(a.astype(int) - b).max() <= 1 and a.std() > 30 for a, b in zip(whole, tiles, strict=True))


def test_resized_models(tmp_path: Path) -> None:
    translator = unflip.load(write_model(tmp_path / "model", resize="short:32"), device="cpu")
    source = write(tmp_path / "a.mkv", scenes(5, 100, 64), pixels="yuv444p")
    quietly(translator, source, tmp_path / "out")
    decoded = read(source)
    with fixed(translator, decoded):
        for image, found in zip(decoded, read(tmp_path / "out/a.mkv"), strict=True):
            assert found.shape == (64, 100, 3) and np.abs(translator(image).astype(int) - found).mean() < 6


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mp4"])
def test_a_video_need_not_start_at_0(translator: Translator, tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"late{suffix}", scenes(5, 32, 32), start=Fraction(5))
    assert times(source)[0] == pytest.approx(5)
    assert quietly(translator, source, tmp_path / "out") == Outcome(done=1)
    assert times(tmp_path / "out" / source.name) == pytest.approx(times(source), abs=2e-3)


# --- folders


def test_a_folder_of_videos(translator: Translator, tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("a.mp4", "sub/deep er/b.MKV", "sub/a.webm"):
        write(root / name, scenes(3, 32, 32))
    assert quietly(translator, root, tmp_path / "out") == Outcome(done=3)
    assert names(tmp_path / "out") == sorted(["a.mp4", "sub/deep er/b.MKV", "sub/a.webm", MANIFEST])
    assert quietly(translator, root, tmp_path / "out") == Outcome(skipped=3)
    (tmp_path / "out/a.mp4").unlink()
    assert quietly(translator, root, tmp_path / "out") == Outcome(done=1, skipped=2)


def test_where_there_are_images_videos_are_left(translator: Translator, images_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = images_folder("in", count=2)
    write(root / "a.mp4", scenes(3, 32, 32))
    assert quietly(translator, root, tmp_path / "out") == Outcome(done=2, left={".mp4": 1}), "which is said"
    (root / "list.txt").write_text("000.png\na.mp4\n")
    assert quietly(translator, root / "list.txt", tmp_path / "both") == Outcome(done=2)
    assert names(tmp_path / "both") == ["000.png", "a.mp4", MANIFEST]
    write(tmp_path / "only/a.mp4", scenes(2, 32, 32))
    with pytest.raises(UserError, match="no images"):
        find_images(tmp_path / "only")


def test_a_url(translator: Translator, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    data = write(tmp_path / "a.mp4", scenes(3, 32, 32), audio="aac").read_bytes()
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/clips/sub/a.mp4", data)
    try:
        assert translate_folder(translator, "memory://clips", "memory://out", progress=False) == Outcome(done=1)
        (tmp_path / "b.mp4").write_bytes(memory.cat_file("/out/sub/a.mp4"))
        assert len(read(tmp_path / "b.mp4")) == 3 and sound(tmp_path / "b.mp4") == sound(tmp_path / "a.mp4")
        assert translate_folder(translator, "memory://clips/sub/a.mp4", tmp_path / "out", progress=False) == Outcome(done=1)
    finally:
        memory.rm("/clips", recursive=True)


# --- what can be wrong


def broken(path: Path, how: str) -> Path:
    data = bytearray(write(path, scenes(40, 64, 48), audio=SOUNDS[path.suffix]).read_bytes())
    if how == "fake":
        data = bytearray(b"this is no video" * 100)
    elif how == "empty":
        data = bytearray()
    else:
        del data[int(float(how) * len(data)) :]
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi"])
@pytest.mark.parametrize("how", ["fake", "empty", "0.1", "0.5"])
def test_a_bad_video_is_listed_and_the_rest_is_done(cli: Callable[..., Any], model: Path, tmp_path: Path, suffix: str, how: str) -> None:
    broken(tmp_path / f"in/a{suffix}", how)
    write(tmp_path / "in/b.mkv", scenes(3, 32, 32))
    result = cli("translate", model, tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu")
    assert result.code == 1 and result.stdout == f"{tmp_path / 'out'}: 1 translated\n"
    [failed] = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert "video" in failed and str(tmp_path / f"in/a{suffix}") in failed and "Traceback" not in result.stderr
    assert names(tmp_path / "out") == ["b.mkv", MANIFEST]
    assert [line["status"] for line in lines(tmp_path / "out")] == ["failed", "done"]
    alone = cli("translate", model, tmp_path / f"in/a{suffix}", "--out", tmp_path / "alone")
    assert alone.code == 2 and alone.stderr.startswith("error: ") and alone.stderr.count("\n") == 1 and not (tmp_path / "alone").exists()


def test_hdr_and_frames_of_several_sizes(translator: Translator, tmp_path: Path) -> None:
    write(tmp_path / "in/hdr.mp4", scenes(3, 64, 48), pixels="yuv420p10le", transfer=16)
    one, two = (write(tmp_path / f"{side}.webm", scenes(30, side, side)) for side in (64, 48))
    with av.open(str(tmp_path / "in/sizes.webm"), "w") as container, av.open(str(one)) as a, av.open(str(two)) as b:
        stream = container.add_stream_from_template(a.streams.video[0])
        for i, given in enumerate((a, b)):
            for packet in given.demux(video=0):
                if packet.size:
                    packet.pts, packet.dts = packet.pts + i * 2_000, packet.dts + i * 2_000
                    packet.stream = stream
                    container.mux(packet)
    outcome = quietly(translator, tmp_path / "in", tmp_path / "out")
    assert outcome.done == 0 and len(outcome.failed) == 2 and names(tmp_path / "out") == [MANIFEST]
    assert "HDR" in outcome.failed[0] and "change their size from 64x64" in outcome.failed[1]


def test_trust_is_refused_and_a_missing_package_named(
    cli: Callable[..., Any], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in/a.mp4", scenes(3, 32, 32))
    refused = cli("translate", model, source, "--out", tmp_path / "out", "--trust")
    assert refused.code == 2 and "leave out --trust" in refused.stderr
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    missing = cli("translate", model, source.parent, "--out", tmp_path / "out")
    assert missing == (2, "", "error: av is not installed; run: pip install 'unflip[video]'\n")
    assert not (tmp_path / "out").exists()


def test_models_of_other_images_take_no_videos(cli: Callable[..., Any], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", target=Bands(depth="uint16", ranges=((0, 65535),)))
    result = cli("translate", model, write(tmp_path / "in/a.mp4", scenes(3, 32, 32)), "--out", tmp_path / "out")
    assert result.code == 2 and "videos hold 8-bit color" in result.stderr and not (tmp_path / "out").exists()


def test_an_interrupted_video_leaves_nothing_and_is_done_again(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.mkv", "b.mkv"):
        write(tmp_path / "in" / name, scenes(6, 32, 32))
    pixels, calls = translator.pixels, []

    def interrupted(*given: Any) -> Array:
        calls.append(given)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return pixels(*given)

    monkeypatch.setattr(translator, "pixels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quietly(translator, tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mkv", MANIFEST]
    assert quietly(translator, tmp_path / "in", tmp_path / "out") == Outcome(done=1, skipped=1)


def test_a_disk_that_fills_up(translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in/a.mkv", scenes(30, 64, 48))
    open_, limit = av.open, 2_000

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, limit

        def write(self, data: bytes) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    monkeypatch.setattr(av, "open", lambda file, *more, **options: open_(Full(file) if "w" in more else file, *more, **options))
    with pytest.raises(UserError, match="the disk is full; make room and run again"):
        quietly(translator, source, tmp_path / "out")
    assert names(tmp_path / "out") == [MANIFEST]


def test_a_device_without_memory_fails_one_video(translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    source = write(tmp_path / "in/a.mkv", scenes(3, 32, 32))

    def too_much(*given: Any) -> Array:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(translator, "pixels", too_much)
    assert "not enough memory on cpu" in quietly(translator, source.parent, tmp_path / "out").failed[0]


def test_sound_that_the_container_does_not_take_is_left_out_and_said(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "in/a.mkv", scenes(3, 32, 32), audio="flac")
    monkeypatch.setitem(video_writer.ENCODERS, ".mkv", ENCODERS[".webm"])
    quietly(translator, source, tmp_path / "out")
    [line] = lines(tmp_path / "out")
    assert line["silent"] == 1 and sound(tmp_path / "out/a.mkv") == []


def test_progress_counts_frames(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in/a.mkv", scenes(40, 32, 32))
    result = cli("translate", model, source, "--out", tmp_path / "out")
    assert result.code == 0 and result.stdout == f"{tmp_path / 'out'}: 1 translated\n"
    assert "translating 0/1  a.mkv: frame 20 of 40" in result.stderr.splitlines()
    assert result.stderr.splitlines()[-1].startswith("translating 1/1")
    assert 8 <= len(result.stderr.splitlines()) <= 11


def test_the_memory_does_not_grow_with_the_length(translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more frames are alive at once for a long video than for a short one."""
    import gc

    alive: dict[int, int] = {}
    for count in (30, 120):
        source = write(tmp_path / f"{count}/a.mkv", scenes(count, 32, 32))
        with Copying(translator), monkeypatch.context() as patch:
            copy, seen = translator.pixels, []

            def counted(image: Array, size: tuple[int, int], copy: Any = copy, seen: list[int] = seen) -> Array:
                # looking through all objects takes a while: at every tenth frame
                seen.append(sum(type(each) is av.VideoFrame for each in gc.get_objects()) if len(seen) % 10 == 9 else 0)
                return copy(image, size)

            patch.setattr(translator, "pixels", counted)
            gc.collect()
            quietly(translator, source, tmp_path / f"out{count}")
        alive[count] = max(seen)
    assert 1 <= alive[120] <= alive[30] + 5, "of 90 more; the threads do not always meet at the same frame"


def test_every_ending_has_its_encoder() -> None:
    assert set(VIDEOS) == set(ENCODERS)
