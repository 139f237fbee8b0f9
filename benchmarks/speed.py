"""A training step beside the published code's, on one machine: A B A B in processes of their own, medians.

    python benchmarks/speed.py --cut CHECKOUT --srunit CHECKOUT [--size 128] [--width 64] [--rounds 3] [--steps 4]

CHECKOUT is a copy of the published repository; where only one is given, only that method is compared. Both sides play whole steps, batch 1,
on images that are in memory already: neither is charged for its data loading, nor for what it logs. SRUNIT is timed with its term active.
Prints a table in Markdown, then JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from unflip.devices import peak_memory

CPU = torch.device("cpu")


def ours(method: str, size: int, width: int, steps: int) -> dict[str, Any]:
    """Of unflip, by ``unflip bench``."""
    from unflip.recipes.bench import bench, configure

    config = configure(method, size=size, device="cpu", settings=[f"generator.width={width}", f"discriminator.width={width}"])
    found = bench(config, steps=steps, progress=False)
    return {
        "seconds": found["training"]["seconds"],
        "bytes": found["training"]["peak_memory"],
        "flops": found["training"]["flops_per_image"],
    }


def published(method: str, checkout: Path, size: int, width: int, steps: int) -> dict[str, Any]:
    """Of the published code, with its defaults."""
    from parity import OPTIONS, Checkout
    from torch.utils.flop_counter import FlopCounterMode

    code = Checkout(method.upper(), checkout.resolve())
    before = peak_memory(CPU)
    name = {"cut": "CUTModel", "srunit": "SRUNITModel"}[method]
    options = SimpleNamespace(**{**OPTIONS, "ngf": width, "ndf": width, "num_patches": 256, "batch_size": 1})
    model = getattr(importlib.import_module(f"models.{method}_model"), name)(options)
    rng = torch.Generator().manual_seed(0)
    data = {side: torch.rand(1, 3, size, size, generator=rng) * 2 - 1 for side in ("A", "B")} | {"A_paths": [], "B_paths": []}
    model.data_dependent_initialize(data)
    times = []
    for _ in range(2 + steps):
        began = time.perf_counter()
        model.set_input(data)
        model.optimize_parameters(*code.epoch)
        times.append(time.perf_counter() - began)
    after = peak_memory(CPU)
    with FlopCounterMode(display=False) as counter:
        model.optimize_parameters(*code.epoch)
    assert before is not None and after is not None
    return {"seconds": statistics.median(times[2:]), "bytes": after - before, "flops": counter.get_total_flops()}


def main() -> None:
    """Measure every arm ``--rounds`` times, in turn, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cut", type=Path)
    parser.add_argument("--srunit", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    checkouts = {name: path for name in ("cut", "srunit") if (path := getattr(asked, name)) is not None}
    if asked.one:
        side, method = asked.one.split(":")
        arguments = (asked.size, asked.width, asked.steps)
        print(json.dumps(ours(method, *arguments) if side == "unflip" else published(method, checkouts[method], *arguments)))
        return
    if not checkouts:
        parser.error("name a checkout of the published code: --cut DIR, --srunit DIR, or both")
    found: dict[str, list[dict[str, Any]]] = {}
    for i in range(asked.rounds):
        for arm in (f"{side}:{method}" for method in checkouts for side in ("published", "unflip")):
            done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", arm], capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{arm}: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
            found.setdefault(arm, []).append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {i + 1}, {arm}: {found[arm][-1]['seconds']:.2f} s", file=sys.stderr)
    medians = {arm: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for arm, runs in found.items()}
    print("| step of | published, s | unflip, s | time | operations | peak memory |\n|---|---|---|---|---|---|")
    for method in checkouts:
        theirs, mine = medians[f"published:{method}"], medians[f"unflip:{method}"]
        ratios = " | ".join(f"{mine[key] / theirs[key]:.2f}" for key in ("seconds", "flops", "bytes"))
        print(f"| `{method}` | {theirs['seconds']:.2f} | {mine['seconds']:.2f} | {ratios} |")
    print(
        json.dumps(
            {"size": asked.size, "width": asked.width, "torch": torch.__version__, "threads": torch.get_num_threads(), "arms": found}
        )
    )


if __name__ == "__main__":
    main()
