"""Flicker: the warping error is what was put into a clip, and no more where something moves, appears or hides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from test_evaluate import segmenter as segmenter
from test_evaluate import world as world
from unflip.data.clips import Clip, find_clips, paired
from unflip.errors import UserError
from unflip.evaluation import temporal as temporal_module
from unflip.evaluation.temporal import changes, motion, step, temporal, warped, warping_error

cv2 = pytest.importorskip("cv2")
Array = np.ndarray[Any, Any]
HEIGHT, WIDTH = 120, 160


def texture(height: int, width: int, seed: int = 0, cell: int = 6) -> Array:
    """Smooth noise, ``(height, width, 3)`` float, 40 to 215."""
    random = np.random.default_rng([seed, height, width])
    coarse = torch.from_numpy(random.uniform(0, 1, (1, 3, height // cell + 2, width // cell + 2)))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0].permute(1, 2, 0).numpy()
    return 40 + 175 * smooth.clip(0, 1)


def moving(count: int, right: int = 2, down: int = 1) -> list[Array]:
    """A texture that moves by whole pixels."""
    whole = texture(HEIGHT + 80, WIDTH + 120)
    return [whole[40 - down * i :][:HEIGHT, 60 - right * i :][:, :WIDTH].round().astype(np.uint8) for i in range(count)]


def brighter(frames: list[Array], by: float) -> list[Array]:
    """Every second frame, in all channels."""
    return [(frame.astype(float) + by * (i % 2)).clip(0, 255).astype(np.uint8) for i, frame in enumerate(frames)]


def occluding(count: int) -> list[Array]:
    """A striped square in front of a still texture, 4 pixels further in every frame: it hides things, and others appear."""
    back, front = texture(HEIGHT, WIDTH).round(), texture(48, 48, seed=5, cell=4).round()[..., ::-1]
    found = []
    for i in range(count):
        frame = back.copy()
        frame[36:84, 20 + 4 * i : 68 + 4 * i] = front
        found.append(frame.astype(np.uint8))
    return found


def clip(folder: Path, frames: list[Array]) -> Clip:
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i}.png")
    [found] = find_clips(folder)
    return found


def test_the_motion_is_found() -> None:
    before, after = moving(2, right=3, down=-2)
    flow, visible = motion(before, after)
    assert np.abs(flow[visible] - [3, -2]).mean() < 0.05
    assert visible[10:-10, 10:-10].mean() > 0.98, "nothing is hidden"
    assert not visible[:, -2:].any() and not visible[0].any(), "what leaves the frame is not seen again"
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(warped(after, flow)[inside] - before[inside]).mean() < 1
    assert np.abs(warped(after, -flow)[inside] - before[inside]).mean() > 20, "the other way round it does not fit"


def test_what_only_moves_does_not_flicker() -> None:
    before, after = moving(2)
    found = step((before, after), (before, after))
    assert found.translation == found.source < 1e-4 and found.visible > 0.9
    still, everywhere = np.zeros((HEIGHT, WIDTH, 2), np.float32), np.ones((HEIGHT, WIDTH), bool)
    assert warping_error(changes(before, after, still, everywhere)) > 0.005, "without its motion it would"


@pytest.mark.parametrize("by", [5, 20, 40])
def test_a_flicker_of_known_size_is_found(by: int) -> None:
    """Three channels, each off by as much: 3 (by / 255)^2."""
    before, after = moving(2)
    found = step((before, brighter([before, after], by)[1]), (before, after))
    assert found.translation == pytest.approx(3 * (by / 255) ** 2, rel=0.05, abs=found.source)
    assert found.pumping == pytest.approx(found.translation, rel=0.05), "all pixels alike"
    noise = np.random.default_rng(0).choice([-by, by], before.shape)
    noisy = step((before, (after + noise).clip(0, 255).astype(np.uint8)), (before, after))
    assert noisy.translation > 0.3 * found.translation and noisy.pumping < 0.01 * noisy.translation
    recolored = [255 - frame for frame in (before, after)]
    assert step((recolored[0], recolored[1]), (before, after)).translation < 1e-4, "another color is no flicker"


def test_what_is_hidden_or_appears_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = occluding(2)
    found = step((before, after), (before, after))
    assert found.source < 1e-3 and 0.7 < found.visible < 0.99
    flow, visible = motion(before, after)
    hidden = np.zeros((HEIGHT, WIDTH), bool)
    hidden[36:84, 68:72] = True  # what the square's front edge will cover
    assert visible[hidden].mean() < 0.1 and visible[:, :15].mean() > 0.9 and visible[45:75, 30:58].mean() > 0.9
    everything = warping_error(changes(before, after, flow, np.ones_like(visible)))
    assert everything > 10 * found.source, "without the mask it would"


def test_a_clip_and_its_numbers(tmp_path: Path) -> None:
    source = moving(12)
    clips = [
        (clip(tmp_path / "steady", [255 - frame for frame in source])._replace(name="steady"), clip(tmp_path / "a", source)),
        (clip(tmp_path / "pumping", brighter(source, 30))._replace(name="pumping"), clip(tmp_path / "b", source)),
    ]
    calls: list[int] = []
    found = temporal(clips, calls.append)
    expected = 3 * (30 / 255) ** 2
    by_name = {each["clip"]: each for each in found["per_clip"]}
    assert by_name["pumping"]["warping_error"] == pytest.approx(expected, rel=0.05)
    assert by_name["steady"]["warping_error"] < 1e-4 and by_name["steady"]["frames"] == 12
    assert found["warping_error"]["value"] == pytest.approx(expected / 2, rel=0.05) and found["warping_error"]["n"] == 22
    assert found["excess_warping_error"]["value"] == pytest.approx(found["warping_error"]["value"] - found["source_warping_error"]["value"])
    assert found["warping_error"]["low"] < found["warping_error"]["value"] < found["warping_error"]["high"]
    assert found["clips"] == 2 and calls == [1, 2] and 0.8 < found["visible"] < 1 and "DIS" in found["flow"]
    assert found["pumping"]["value"] == pytest.approx(expected / 2, rel=0.05)
    curve = by_name["pumping"]["over_time"]
    assert len(curve["translation"]) == len(curve["source"]) == 11 and np.mean(curve["translation"]) == pytest.approx(expected, rel=0.05)
    json.dumps(found, allow_nan=False)


def test_long_clips_have_short_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporal_module, "DRAWN", 4)
    one = clip(tmp_path / "a", moving(10))
    [found] = temporal([(one, one)])["per_clip"]
    assert len(found["over_time"]["source"]) == 3, "three steps each"
    assert np.mean(found["over_time"]["source"]) == pytest.approx(found["source_warping_error"])


def test_clips_are_folders_or_videos(tmp_path: Path) -> None:
    clip(tmp_path / "frames/b", moving(11))
    clip(tmp_path / "frames/sub/a", moving(3))
    found = {each.name: each for each in find_clips(tmp_path / "frames")}
    assert list(found) == ["b", "sub/a"]
    assert [file.name for file in found["b"].files] == [f"{i}.png" for i in range(11)], "2 before 10"
    assert all((a == b).all() for a, b in zip(found["b"].frames(), moving(11), strict=True))
    (alone,) = find_clips(tmp_path / "frames/sub/a")
    assert alone.name == "a" and len(alone.files) == 3, "the folder is the clip, and gives it its name"
    pytest.importorskip("av")
    from test_video import write

    for name in ("b.mkv", "sub/a.mkv"):
        write(tmp_path / "videos" / name, moving(3), pixels="yuv444p")
    pairs = paired(tmp_path / "videos", tmp_path / "frames")
    assert [(one.name, other.name) for one, other in pairs] == [("b", "b"), ("sub/a", "sub/a")]
    assert all(np.abs(a.astype(int) - b).mean() < 2 for a, b in zip(pairs[0][0].frames(), moving(3), strict=True))
    with pytest.raises(UserError, match="differ in the number of frames, b"):
        temporal(pairs[:1])
    assert temporal(pairs[1:])["warping_error"]["value"] < 1e-3
    write(tmp_path / "videos/b.mp4", moving(3))
    with pytest.raises(UserError, match="two clips of one name"):
        find_clips(tmp_path / "videos")


def test_clips_that_do_not_fit(tmp_path: Path) -> None:
    a, b, small = clip(tmp_path / "x/a", moving(3)), clip(tmp_path / "y/b", moving(2)), clip(tmp_path / "z", [f[:9] for f in moving(2)])
    clip(tmp_path / "x/c", moving(2))
    with pytest.raises(UserError, match="2 of 2 clips have no source, such as a"):
        paired(tmp_path / "x", tmp_path / "y")
    for one, other, said in ((a, b, "number of frames"), (b, small, "differ in size"), (small, small, "too small")):
        with pytest.raises(UserError, match=said):
            temporal([(one, other)])
    alone = clip(tmp_path / "alone", moving(1))
    with pytest.raises(UserError, match="no clip has two"):
        temporal([(alone, alone)])
    unlike = clip(tmp_path / "unlike", [np.zeros((64, 64, 3), np.uint8), texture(64, 64).astype(np.uint8)])
    assert temporal([(b, b), (unlike, unlike)])["clips"] == 2


# --- as a part of evaluate


def call(world: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("evaluate", "--translated", world / "faithful", "--labels", world / "labels", "--segmenter", "colors", "--out", out, *more)


def test_evaluate_tells_of_flicker(cli: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        clip(tmp_path / "sources" / name, moving(6))
        clip(tmp_path / "clips" / name, brighter(moving(6), 30 if name == "two" else 0))
    given = ("--clips", tmp_path / "clips", "--source-clips", tmp_path / "sources")
    result = cli(*call(world, tmp_path / "out", *given, "--require", "excess_warping_error=0.001"))
    assert result.code == 1 and "not reached: excess_warping_error is" in result.stderr, result.stderr
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    expected = 3 * (30 / 255) ** 2 / 2
    assert metrics["temporal"]["excess_warping_error"]["value"] == pytest.approx(expected, rel=0.05)
    assert "excess warping error" in result.stdout and metrics["made"]["clips"] == str(tmp_path / "clips")
    page = (tmp_path / "out/report.html").read_text()
    assert "Flicker" in page and "across: frames" in page and "two" in page and "of 255 gray values" in page


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--clips", "faithful"), "give both, --clips DIR and --source-clips DIR"),
        (("--clips", "nowhere", "--source-clips", "faithful"), "no such folder"),
        (("--clips", "faithful", "--source-clips", "one"), "differ in the number of frames"),
    ],
)
def test_wrong_calls(cli: Callable[..., Any], world: Path, tmp_path: Path, given: tuple[str, ...], said: str) -> None:
    words = [word if word.startswith("--") else world / word for word in given]
    result = cli(*call(world, tmp_path / "out", *words))
    assert result.code == 2 and result.stderr.splitlines()[-1].startswith("error: ") and said in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_opencv_it_says_what_to_install(
    cli: Callable[..., Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    result = cli(*call(world, tmp_path / "out", "--clips", world / "faithful", "--source-clips", world / "faithful"))
    assert result == (2, "", "error: opencv-python-headless is not installed; run: pip install 'unflip[video]'\n")
