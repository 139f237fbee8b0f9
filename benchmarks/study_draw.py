"""A picture of made streets as the study's methods translated them: scenes of the test set, a row each.

    python benchmarks/study_draw.py --out DIR --file docs/images/study_streets.png [--scale cpu] [--rows 6]
        [--methods cut,srunit,...]

DIR is that of benchmarks/study.py. Columns: the render, a photo of the same scene, which no method has seen, and the translation of every
method's first run that is there. Of the real images there are no such pictures here: they are not ours to publish;
DIR/SCALE/STUDY/METHOD/seedK/evaluation/report.html shows them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from study_plan import SCALES, VARIANTS, studies

from unflip.data import streets
from unflip.data.folders import find_images
from unflip.data.images import read_rgb
from unflip.data.save import write


def main() -> None:
    """Draw it, and say what the columns are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--methods", default=",".join(VARIANTS))
    asked = parser.parse_args()
    out, scale = asked.out / asked.scale, SCALES[asked.scale]
    study = studies(Path("DATA"), out, scale)["streets"]
    made, (width, height) = study.made["test/source"], scale.scene
    there = [name for name in asked.methods.split(",") if (out / study.name / name / "seed0/translated").is_dir()]
    if not there:
        sys.exit(f"no translations of made streets below {out}; run benchmarks/study.py first")
    paths = find_images(study.test_source)
    rows = []
    for k in range(min(asked.rows, len(paths))):
        path = paths[k * len(paths) // asked.rows]
        photo, _ = streets.scene(int(path.stem), width=width, height=height, look="photo", shares=made.shares)
        translated = [read_rgb(out / study.name / name / "seed0/translated" / path.name) for name in there]
        rows.append(np.concatenate([read_rgb(path), photo, *translated], axis=1))
    write(asked.file, np.concatenate(rows))
    print(f"{asked.file}: render, photo, {', '.join(there)}")


if __name__ == "__main__":
    main()
