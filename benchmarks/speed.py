"""A training step beside the published code's, on one machine: A B A B in processes of their own, medians.

    python benchmarks/speed.py --cut CHECKOUT --srunit CHECKOUT [--size 128] [--width 64] [--rounds 3] [--steps 4]

CHECKOUT is a copy of the published repository; where only one is given, only that method is compared. Both sides play whole steps, batch 1,
on images that are in memory already: neither is charged for its data loading, nor for what it logs. SRUNIT is timed with its term active,
once at each of the taps of which it draws one in every step, since they cost differently: its figures are means over the five.
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from unflip.devices import peak_memory
from unflip.losses.draws import Stream, TapShape

CPU = torch.device("cpu")
TAPS = {"cut": (0,), "srunit": (0, 1, 2, 3, 4)}
"""At which SRUNIT's term is measured; CUT has none."""


def ours(method: str, size: int, width: int, steps: int) -> dict[str, Any]:
    """Of unflip, by what ``unflip bench`` does."""
    from unflip.heap import keep_freed_memory
    from unflip.recipes.bench import bench, configure

    keep_freed_memory()
    config = configure(method, size=size, device="cpu", settings=[f"generator.width={width}", f"discriminator.width={width}"])
    found = []
    for tap in TAPS[method]:
        with at_tap(tap):
            found.append(bench(config, steps=steps, progress=False)["training"])
    return {
        "seconds": statistics.fmean(each["seconds"] for each in found),
        "bytes": found[0]["peak_memory"],
        "flops": statistics.fmean(each["flops_per_image"] for each in found),
    }


@dataclass(frozen=True)
class AtTap(Stream):
    """Random numbers by which SRUNIT's term takes tap number ``tap``, where it would draw one."""

    tap: int = 0

    def once(self) -> Any:
        return SimpleNamespace(integers=lambda count: self.tap)


@contextmanager
def at_tap(tap: int) -> Iterator[None]:
    """SRUNIT's term takes tap number ``tap`` in every step."""
    from unflip.losses.robustness import Robustness

    draw = Robustness.draw

    def there(self: Robustness, stream: Stream, taps: tuple[TapShape, ...]) -> Any:
        return draw(self, AtTap(**vars(stream), tap=tap), taps)

    with mock.patch.object(Robustness, "draw", there):
        yield


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
    seconds, flops, memory = [], [], None
    for tap in TAPS[method]:
        model.opt.reg_layers = str(tap)
        times = []
        for _ in range(2 + steps):
            began = time.perf_counter()
            model.set_input(data)
            model.optimize_parameters(*code.epoch)
            times.append(time.perf_counter() - began)
        seconds.append(statistics.median(times[2:]))
        memory = memory or peak_memory(CPU)
        with FlopCounterMode(display=False) as counter:
            model.optimize_parameters(*code.epoch)
        flops.append(counter.get_total_flops())
    assert before is not None and memory is not None
    return {"seconds": statistics.fmean(seconds), "bytes": memory - before, "flops": statistics.fmean(flops)}


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
