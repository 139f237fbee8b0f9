"""The memory and time that a large TIFF takes to translate, from disk to disk.

    python benchmarks/large.py --out DIR [--sides 8192,16384] [--tile 512] [--statistics estimated] [--width 16] [--blocks 9]

For every side a square TIFF of three uint16 bands is made (waves, noise and a corner of nodata), and translated by ``unflip translate`` in
a process of its own. A JSON line for each: seconds, peak resident memory of that process, and sizes of files. The network has random
weights, as many as a trained one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from unflip import modelfolder
from unflip.data.bands import Bands, Pixels
from unflip.data.tiff import write_tiff
from unflip.modelfolder import ModelConfig
from unflip.networks import ResnetConfig

BANDS = Bands(count=3, depth="uint16", ranges=((0, 10_000),), nodata=0, masked=True)
ROWS = 256


def main() -> None:
    """Make, translate, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sides", default="8192,16384")
    parser.add_argument("--tile", default="512")
    parser.add_argument("--statistics", default="estimated")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=9)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    config = ResnetConfig(width=given.width, blocks=given.blocks)
    network = config.build(3, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # at the usual first weights every output is nearly gray
    modelfolder.save(
        given.out / "model", ModelConfig(generator=config, source=BANDS, target=BANDS), nn.ModuleDict({"to_target": network}), None
    )
    for side in map(int, given.sides.split(",")):
        source = given.out / f"{side}.tif"
        if not source.exists():
            with open(source, "wb") as file:
                write_tiff(file, waves(side), (side, side, 3), np.uint16, nodata=0)
        out = given.out / f"translated_{side}"
        command = [sys.executable, "-m", "unflip", "translate", given.out / "model", source, "--out", out, "--device", "cpu"]
        began = time.monotonic()
        subprocess.run([*map(str, command), "--tile", given.tile, "--statistics", given.statistics], check=True)
        seconds = time.monotonic() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # of the largest so far: sides rise
        sizes = {"source_bytes": source.stat().st_size, "translation_bytes": (out / source.name).stat().st_size}
        facts = {"side": side, "tile": given.tile, "statistics": given.statistics, "width": given.width, "blocks": given.blocks}
        cores = {"cores": os.cpu_count(), "torch": torch.__version__}
        print(json.dumps(facts | {"seconds": round(seconds, 1), "peak_resident_bytes": peak, **sizes, **cores}), flush=True)


def waves(side: int) -> Iterator[Pixels]:
    """Bands of rows, so that making the image takes no memory either."""
    x = np.arange(side, dtype=np.float32)
    for top in range(0, side, ROWS):
        rng = np.random.default_rng([side, top])
        y = np.arange(top, min(top + ROWS, side), dtype=np.float32)[:, None]
        bands = [np.sin(x / (31 + 7 * c)) * np.cos(y / (47 - 5 * c)) + rng.normal(0, 0.1, (len(y), side)) for c in range(3)]
        rows = BANDS.stored(np.stack(bands, axis=2).astype(np.float32) * 0.8).clip(1)
        if top < side // 8:
            rows[:, : side // 8] = 0
        yield rows


if __name__ == "__main__":
    main()
