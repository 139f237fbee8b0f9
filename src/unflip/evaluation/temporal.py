"""Whether translated videos flicker: the warping error, along the motion of their sources.

Lai et al., "Learning blind video temporal consistency", ECCV 2018: what moved is laid back over the frame before, and compared where it can
be seen in both. The source's own error is beside it, as no motion is known exactly: docs/decisions/video.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unflip.data.clips import Clip
from unflip.data.images import Array
from unflip.errors import MissingExtra, UserError
from unflip.evaluation.confusion import Floats
from unflip.evaluation.realism import mean_figure

Flow = NDArray[np.float32]
"""``(H, W, 2)``: where each pixel of a frame is in the next one, in pixels to the right and down from where it was."""

DRAWN = 120
"""Points of a clip's curve, at most."""
SMALLEST = 16
"""The least side of a frame, in pixels: the motion of smaller ones is not found."""


class Step(NamedTuple):
    """From one frame to the next."""

    translation: float
    """The mean squared distance of colors in [0, 1], summed over channels, of what can be seen in both frames; NaN where nothing can."""
    source: float
    pumping: float
    """The part of the translation's that all pixels have in common: the squared change of their mean color."""
    visible: float
    """The share of the frame that can be seen in the next one."""


def need_opencv() -> None:
    """Raise ``MissingExtra`` where OpenCV is not installed."""
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise MissingExtra("opencv-python-headless", "video") from error


def temporal(clips: Sequence[tuple[Clip, Clip]], progress: Callable[[int], None] = lambda done: None, seed: int = 0) -> dict[str, Any]:
    """What metrics.json says of translated clips and their sources; ``progress(done)`` is called after each clip.

    Raises:
        UserError: a clip and its source differ in size or in the number of frames, or one cannot be read, or all are still.
        MissingExtra: OpenCV, or PyAV for videos, is not installed.
    """
    need_opencv()
    import cv2

    steps: list[Step] = []
    per_clip = []
    for done, (translated, source) in enumerate(clips, start=1):
        of_clip = list(clip_steps(translated, source))
        steps += of_clip
        per_clip.append({"clip": translated.name, "frames": len(of_clip) + 1, **_of_clip(of_clip)})
        progress(done)
    values = _seen(steps)
    if not len(values):
        raise UserError("no two frames show the same things, or no clip has two; give clips of neighboring frames")
    return {
        "warping_error": mean_figure(values[:, 0], seed).plain(),
        "source_warping_error": mean_figure(values[:, 1], seed).plain(),
        "excess_warping_error": mean_figure(values[:, 0] - values[:, 1], seed).plain(),
        "pumping": mean_figure(values[:, 2], seed).plain(),
        "visible": float(np.mean([step.visible for step in steps])),
        "clips": len(clips),
        "flow": f"DIS, OpenCV {cv2.__version__}",
        "per_clip": per_clip,
    }


def clip_steps(translated: Clip, source: Clip) -> Iterator[Step]:
    """The steps of a clip. Raises ``UserError`` where the two do not fit together."""
    for pair, source_pair in zip_longest(pairwise(translated.frames()), pairwise(source.frames())):
        if pair is None or source_pair is None:
            raise UserError(f"a source clip and its translation differ in the number of frames, {translated.name}; give all frames of both")
        for mine, theirs in zip(pair, source_pair, strict=True):
            if mine.shape != theirs.shape:
                sizes = " and ".join(f"{width}x{height}" for height, width in (theirs.shape[:2], mine.shape[:2]))
                raise UserError(f"a source clip and its translation differ in size ({sizes}), {translated.name}; give frames of one size")
        yield step(pair, source_pair)


def step(translation: tuple[Array, Array], source: tuple[Array, Array]) -> Step:
    """The step between two frames ``(H, W, 3)`` uint8."""
    flow, visible = motion(*source)
    if not visible.any():
        return Step(np.nan, np.nan, np.nan, 0.0)
    mine, own = (changes(before, after, flow, visible) for before, after in (translation, source))
    return Step(warping_error(mine), warping_error(own), float(np.square(mine.mean(0)).sum()), float(visible.mean()))


def changes(before: Array, after: Array, flow: Flow, visible: NDArray[np.bool_]) -> Floats:
    """What of the next frame, laid back over this one, differs from it, ``(visible pixels, 3)``, of colors in [0, 1]."""
    return ((warped(after, flow) - before)[visible] / 255).astype(np.float64)


def warping_error(changes: Floats) -> float:
    """The mean squared change ``(n, 3)``, summed over the channels."""
    return float(np.square(changes).sum(1).mean())


def motion(before: Array, after: Array) -> tuple[Flow, NDArray[np.bool_]]:
    """How a video moves from one frame to the next, and which pixels can be seen in both, ``(H, W)``.

    Dense inverse search (Kroeger et al., ECCV 2016). Not visible, as Ruder et al., GCPR 2016, have it: what does not come back when the
    motion is followed forth and back, and the borders of motion; and what leaves the frame.
    """
    import cv2

    if min(before.shape[:2]) < SMALLEST:
        raise UserError(
            f"frames of {before.shape[1]}x{before.shape[0]} pixels are too small for their motion to be found; leave out the clips"
        )
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    a, b = (cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in (before, after))
    forth: Flow = search.calc(a, b, None)  # type: ignore[call-overload]
    back: Flow = search.calc(b, a, None)  # type: ignore[call-overload]
    returned = warped(back, forth)
    squares = np.square(forth).sum(-1)
    occluded = np.square(forth + returned).sum(-1) > 0.01 * (squares + np.square(returned).sum(-1)) + 0.5
    slopes = sum(np.square(np.gradient(forth[..., i], axis=axis)) for i in (0, 1) for axis in (0, 1))
    border = slopes > 0.01 * squares + 0.002
    x, y = _places(forth)
    height, width = squares.shape
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return forth, ~occluded & ~border & inside


def warped(after: Any, flow: Flow) -> Any:
    """The next frame's values ``(H, W, C)`` float32 laid back to where they were, bilinearly."""
    import cv2

    x, y = _places(flow)
    return cv2.remap(np.asarray(after, dtype=np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _places(flow: Flow) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rows, columns = np.indices(flow.shape[:2], dtype=np.float32)
    return columns + flow[..., 0], rows + flow[..., 1]


def _seen(steps: Sequence[Step]) -> Floats:
    """The steps in which anything is visible, ``(n, 4)``."""
    return np.array([step for step in steps if step.visible]).reshape(-1, 4)


def _of_clip(steps: Sequence[Step]) -> dict[str, Any]:
    """The means of one clip, and its curves of at most DRAWN points, means of neighbors; None where nothing is visible."""
    parts = [_seen(steps[i : i + -(-len(steps) // DRAWN)]) for i in range(0, len(steps), -(-len(steps) // DRAWN) or 1)]
    curves = [[float(part[:, i].mean()) if len(part) else None for part in parts] for i in (0, 1)]
    means = _seen(steps)[:, :2].mean(0).tolist() if len(_seen(steps)) else [None, None]
    return {"warping_error": means[0], "source_warping_error": means[1], "over_time": {"translation": curves[0], "source": curves[1]}}
