"""What a training step of each method costs, beside CUT's: time and peak memory, A B A B in processes of their own, medians.

    python benchmarks/cost.py                                        all methods at 256x256, and semst at 512x256
    python benchmarks/cost.py cut@256 semst@512x256 --width 64       these two

An arm is METHOD[@SIZE][:KEY=VALUE...]; the first one is what the others are divided by. Prints a table in Markdown, then JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from typing import Any

STEPS = 3


def measure(arm: str, width: int, device: str) -> dict[str, float]:
    """Seconds per step and peak bytes of ``arm``, in this process, which must do nothing else."""
    from unflip.methods import METHODS
    from unflip.recipes.bench import bench, configure

    head, *settings = arm.split(":")
    method, _, size = head.partition("@")
    judged = METHODS[method].recipe.discriminator.kind == "patchgan"
    widths = [f"generator.width={width}", *([f"discriminator.width={width}"] if judged else [])]
    found = bench(configure(method, size=size or 256, device=device, settings=[*widths, *settings]), steps=STEPS, progress=False)
    return {"seconds": found["training"]["seconds"], "bytes": found["training"]["peak_memory"]}


def main() -> None:
    """Measure every arm ``--rounds`` times, in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.arms[0], asked.width, asked.device)))
        return

    from unflip.methods import METHODS

    arms = asked.arms or [*METHODS, "semst@512x256"]
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for i in range(asked.rounds):
        for arm in arms:
            command = [sys.executable, __file__, arm, "--one", "--width", str(asked.width), "--device", asked.device]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{arm}: {done.stderr.strip().splitlines()[-1]}")
            found[arm].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {i + 1}, {arm}: {found[arm][-1]['seconds']:.2f} s", file=sys.stderr)
    medians = {arm: {key: statistics.median(run[key] for run in runs) for key in ("seconds", "bytes")} for arm, runs in found.items()}
    first = medians[arms[0]]
    print("| arm | s per step | time | peak memory | memory |\n|---|---|---|---|---|")
    for arm, value in medians.items():
        times, memory = value["seconds"] / first["seconds"], value["bytes"] / first["bytes"]
        print(f"| {arm} | {value['seconds']:.2f} | {times:.2f} | {value['bytes'] / 2**30:.2f} GiB | {memory:.2f} |")
    print(json.dumps({"width": asked.width, "rounds": asked.rounds, "machine": platform.processor() or platform.machine(), "arms": found}))


if __name__ == "__main__":
    main()
