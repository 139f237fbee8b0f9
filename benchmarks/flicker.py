"""How much do translated clips flicker, with the statistics of the clip and with those of each frame? On made streets.

    python benchmarks/flicker.py --out DIR [--run RUN] [--method cut] [--budget 1800] [--clips 8]

A camera pans over wide scenes (384x64, a window of 96x64, two pixels a frame, 145 frames): things enter at the right and leave at the left,
and nothing else changes. The clips are written as H.264, translated by ``unflip translate`` as a clip and frame by frame, and judged as
``unflip evaluate --clips`` does. Beside it stands the error along the pan itself, which is known exactly. Without ``--run`` a model is
trained.

Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np

import unflip
from unflip.data import streets
from unflip.data.clips import Clip, paired
from unflip.data.video_writer import VideoWriter
from unflip.data.videos import Look, Turn
from unflip.evaluation.temporal import changes, temporal, warping_error
from unflip.inference.folders import translate_folder
from unflip.recipes.demo import SETTINGS

WIDTH, HEIGHT, WIDE, STEP = 96, 64, 384, 2
FIRST = 30_000
"""Scenes that no training sees."""


class Silent:
    """No sound."""

    streams: list = []


def write_clips(folder: Path, count: int) -> None:
    """Pans over ``count`` scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    look = Look(0, (WIDTH, HEIGHT), Fraction(1, 90_000), Fraction(25), None, "444", Turn())
    for i in range(count):
        image, _ = streets.scene(FIRST + i, width=WIDE, height=HEIGHT, look="render")
        path = folder / f"{i:02}.mkv"
        if path.exists():
            continue
        with open(path, "wb") as file, VideoWriter(file, path.name, look, Silent()) as writer:  # type: ignore[arg-type]
            for at, left in enumerate(range(0, WIDE - WIDTH + 1, STEP)):
                writer.add(np.ascontiguousarray(image[:, left : left + WIDTH]), at * 3600, 3600)


def along_the_pan(clips: list[tuple[Clip, Clip]]) -> float:
    """The warping error with the motion as it is, but for 8 pixels at each side, where a network sees the edge of the frame."""
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[..., 0] = -STEP
    visible = np.zeros((HEIGHT, WIDTH), bool)
    visible[8:-8, 8 + STEP : -8] = True
    errors = []
    for clip, _ in clips:
        errors += [warping_error(changes(before, after, flow, visible)) for before, after in pairwise(clip.frames())]
    return float(np.mean(errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--method", default="cut")
    parser.add_argument("--budget", type=int, default=1800)
    parser.add_argument("--clips", type=int, default=8)
    given = parser.parse_args()
    run = given.run or given.out / "run"
    if not (run / "model").is_dir():
        for look, first in (("render", 0), ("photo", 10_000)):
            streets.write(given.out / look, count=400, look=look, width=WIDTH, height=HEIGHT, first=first)
        settings = [setting for setting in SETTINGS if not setting.startswith("robustness.")]
        source, target = given.out / "render", given.out / "photo"
        config = unflip.configure(given.method, source=source, target=target, size=HEIGHT, budget=given.budget, settings=settings)
        unflip.train(config, out=run)
    write_clips(given.out / "clips", given.clips)
    found: dict[str, object] = {"run": str(run), "clips": given.clips}
    for name, statistics in (("clip", "exact"), ("frame", "frame")):
        translator = unflip.load(run, device="auto", statistics=statistics)  # type: ignore[arg-type]
        translate_folder(translator, given.out / "clips", given.out / name)
        clips = paired(given.out / name, given.out / "clips")
        result = temporal(clips)
        found[name] = {key: result[key] for key in ("warping_error", "source_warping_error", "excess_warping_error", "pumping", "visible")}
        found[name] |= {"along_the_pan": along_the_pan(clips)}  # type: ignore[operator]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
