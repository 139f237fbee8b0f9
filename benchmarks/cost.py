"""What a training step of each method costs, beside CUT's: time and peak memory, A B A B in processes of their own, medians.

    python benchmarks/cost.py                                        all methods at 256x256, and semst at 512x256
    python benchmarks/cost.py cut@256 semst@512x256 --width 64       these two

An arm is METHOD[@SIZE][:KEY=VALUE...]; the first one is what the others are divided by. Prints a table in Markdown, then JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

STEPS = 2


def measure(arm: str, width: int, device: str) -> dict[str, float]:
    """Seconds per step and peak bytes of ``arm``, in this process, which must do nothing else."""
    import torch

    from unflip.engine.launch import launch
    from unflip.engine.trainer import assemble, play
    from unflip.methods import METHODS
    from unflip.runs import collect, validate
    from unflip.types import Batch

    head, *settings = arm.split(":")
    method, _, size = head.partition("@")
    recipe = METHODS[method].recipe
    widths = [f"generator.width={width}", *([f"discriminator.width={width}"] if recipe.discriminator.kind == "patchgan" else [])]
    looks = {**recipe.terms, "discriminator": recipe.discriminator}
    offline = [f"{name}.{of}.weights=random" for name, owner in looks.items() for of in ("features", "vectors") if hasattr(owner, of)]
    fields = {"source": "nowhere", "target": "nowhere too", "size": size or 256, "budget": 1_000, "device": device}
    # later terms have begun at 3/4 of the budget; learning rates play no part
    config = validate(collect(method, settings=[*widths, *offline, *settings], **fields))
    noise = {
        side: torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(k)) * 2 - 1 for k, side in enumerate(("source", "target"))
    }
    terms = {name: term.measure(noise) if term.unmeasured() else term for name, term in config.terms.items()}
    config = config.model_copy(update={"terms": terms})
    fabric = launch(config.device, config.precision)
    cuda = fabric.device.type == "cuda"
    before = peak(cuda)
    training = assemble(config, (3, 3), fabric)
    times = []
    for i in range(1 + STEPS):
        shape = (1, 3, config.size.height, config.size.width)
        source, target = (torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(i)) for _ in range(2))
        began = time.perf_counter()
        play(training, Batch(source, target, 750 + i, 750 + i))
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return {"seconds": statistics.median(times[1:]), "bytes": peak(cuda) - before}


def peak(cuda: bool) -> int:
    """The most memory this process has held so far, in bytes: on the GPU, or resident."""
    import torch

    return torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
