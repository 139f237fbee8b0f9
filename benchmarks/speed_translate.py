"""Translating a folder of photos beside the published code's test loop, on one machine: A B A B in processes of their own, medians.

    python benchmarks/speed_translate.py --cut CHECKOUT --photos DIR [--count 40] [--rounds 2]

CHECKOUT is a copy of the published CUT; its test.py runs as it is (it needs the package dominate), and so does ``unflip translate``:
decoding, the network of width 64, encoding, all included. Both sides have the same weights, scaled so that the outputs are far from gray,
and the same photos, cropped to sides that are multiples of 4, because the published code resizes others. Times are of whole commands,
less those of the same commands on a single photo: neither is charged for starting Python. The outputs are compared pixel by pixel.

Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from unflip import modelfolder
from unflip.data.folders import find_images
from unflip.methods.passes import FORWARD
from unflip.networks import ResnetConfig


def prepare(root: Path, checkout: Path, photos: Path, count: int) -> int:
    """Photos, and one network in the forms of both sides; how many photos there are."""
    from parity import copy_weights, scatter

    for name, images in (("one", find_images(photos)[:1]), ("all", find_images(photos)[:count])):
        for side in ("testA", "testB", "trainA", "trainB"):
            (root / name / side).mkdir(parents=True)
        for path in images:
            image = Image.open(path).convert("RGB")
            image = image.crop((0, 0, image.width // 4 * 4, image.height // 4 * 4))
            for side in ("testA", "testB", "trainA", "trainB"):
                image.save(root / name / side / f"{path.stem}.png")
    sys.path.insert(0, str(checkout))
    define = importlib.import_module("models.networks").define_G
    theirs = define(3, 3, 64, "resnet_9blocks", "instance", False, "xavier", 0.02, False, False, [], None)
    scatter(theirs, 0)
    ours = ResnetConfig().build(3, 3, torch.Generator())
    copy_weights(theirs, ours)
    (root / "checkpoints/speed").mkdir(parents=True)
    torch.save(theirs.state_dict(), root / "checkpoints/speed/latest_net_G.pth")
    for name in ("F", "D"):
        torch.save({}, root / f"checkpoints/speed/latest_net_{name}.pth")
    modelfolder.save(root / "model", modelfolder.ModelConfig(generator=ResnetConfig()), nn.ModuleDict({FORWARD: ours}), None)
    return len(list((root / "all/testA").iterdir()))


def commands(root: Path, name: str, out: Path) -> dict[str, list[str]]:
    """Of both sides, for a set of photos."""
    options = f"--name speed --model cut --netF sample --gpu_ids -1 --preprocess none --num_test 100000 --dataroot {root / name}"
    published = [sys.executable, "test.py", *options.split(), "--checkpoints_dir", str(root / "checkpoints"), "--results_dir", str(out)]
    ours = [
        sys.executable,
        "-m",
        "unflip",
        "translate",
        str(root / "model"),
        str(root / name / "testA"),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    return {"published": published, "unflip": ours}


def timed(command: Sequence[str], where: Path) -> float:
    """Seconds of a command, which must end well."""
    began = time.perf_counter()
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def difference(root: Path, published: Path, ours: Path) -> tuple[int, float]:
    """The largest and the mean difference of the two sides' images, of 255, and that they are not gray."""
    largest, sums, spreads = 0, [], []
    for path in sorted(ours.glob("*.png")):
        a, b = (np.asarray(Image.open(file).convert("RGB"), dtype=int) for file in (path, published / path.name))
        largest = max(largest, int(np.abs(a - b).max()))
        sums.append(np.abs(a - b).mean())
        spreads.append(a.std() / 127.5)
    assert min(spreads) > 0.3, "nearly gray images: anything would agree"
    return largest, float(np.mean(sums))


def main() -> None:
    """Measure both sides ``--rounds`` times, in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cut", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    checkout = asked.cut.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        count = prepare(root, checkout, asked.photos, asked.count)
        times: dict[str, list[float]] = {"published": [], "unflip": []}
        for i in range(asked.rounds):
            for side in times:
                found = []
                for name in ("one", "all"):
                    out = root / f"{side}_{name}_{i}"
                    where = checkout if side == "published" else root
                    found.append(timed(commands(root, name, out)[side], where))
                times[side].append((found[1] - found[0]) / (count - 1))
                print(f"round {i + 1}, {side}: {times[side][-1]:.3f} s an image", file=sys.stderr)
        largest, mean = difference(root, root / "published_all_0/speed/test_latest/images/fake_B", root / "unflip_all_0")
    theirs, mine = (statistics.median(times[side]) for side in ("published", "unflip"))
    print("| published, s an image | unflip, s an image | images/s, ratio | largest difference, of 255 | mean |\n|---|---|---|---|---|")
    print(f"| {theirs:.3f} | {mine:.3f} | {theirs / mine:.2f} | {largest} | {mean:.4f} |")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {count} photos, {asked.rounds} rounds")


if __name__ == "__main__":
    main()
