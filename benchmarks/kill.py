"""Is a training that is killed at any moment, and resumed, the same bit for bit as one that was not?

    python benchmarks/kill.py [--moments 25] [--seed 0] [--json FILE]

Tiny trainings on images of noise (srunit and cyclegan with an image pool, in turn; a loader worker in every second) are killed, most of
them at a random file operation of theirs, so that many die within the writing of a checkpoint, a model, a log or a sample; the others at a
random time. Each is then resumed, by the same call that began it, and compared with a training that ran through: the model, the last
checkpoint (networks, optimizers, average, pools, what is added up for the next line of the log), the samples, the log but for its speeds,
and which files there are. Exit code 1: something differs.

Killed is by SIGKILL, as by the kernel when memory runs out, or by a scheduler that does not ask.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unflip.recipes.train import configure, train
from unflip.runs import RunConfig

WRITING = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}
"""Audit events of Python that are file operations; ``open`` for reading is left out."""
METHODS = ("srunit", "cyclegan")


def images(folder: Path, count: int, seed: int, size: tuple[int, int] = (44, 40)) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def configured(domains: dict[str, Path], method: str, workers: int) -> RunConfig:
    """Everything is due often, and not together."""
    settings = ["generator.width=4", "generator.blocks=1", "discriminator.width=4", "pool=2", f"data.workers={workers}"]
    settings += ["log_every=3", "checkpoint_every=2", "sample_every=5", "keep=2"]
    settings += ["projector.width=8", "nce.patches=8"] if method == "srunit" else []
    return configure(method, **domains, size=32, budget=9, device="cpu", settings=settings)


def forked(work: Callable[[Callable[[str], None]], int]) -> tuple[int, list[str]]:
    """What ``work`` returns, in a process of its own, negative where it was killed; and the lines that it told."""
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        with os.fdopen(told) as pipe:
            lines = pipe.read().splitlines()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lines

    def say(line: str) -> None:
        os.write(tell, f"{line}\n".encode())

    code = 1
    try:
        code = work(say)
    except BaseException as error:
        say(f"{type(error).__name__}: {error}")
    os._exit(code)


def run(config: RunConfig, out: Path, operation: int = 0, seconds: float = 0.0) -> tuple[int, list[str]]:
    """Train in a process of its own, which kills itself before its file operation number ``operation``, or after ``seconds``; 0: never.

    Its exit code, negative where it was killed, and its file operations.
    """

    def work(tell: Callable[[str], None]) -> int:
        me, done = os.getpid(), 0

        def watch(event: str, given: tuple[Any, ...]) -> None:
            nonlocal done
            if event not in WRITING or os.getpid() != me or not str(given[0]).startswith(str(out)):
                return
            if event == "open" and not (isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            done += 1
            tell(f"{event} {Path(str(given[0])).relative_to(out)}")
            if done == operation:
                os.kill(me, signal.SIGKILL)

        sys.addaudithook(watch)
        if seconds:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(me, signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, seconds)
        train(config, out, resume=True, progress=False, say=lambda line: None)
        return 0

    return forked(work)


def left(out: Path) -> dict[str, Any]:
    """What a finished run consists of, but for what tells the time."""
    files: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if name.startswith("tensorboard/"):  # a file for each attempt, named by the second
            continue
        if path.is_dir() or name in {"report.html", "model/README.md", "model/config.json"}:
            files[name] = None
        elif name == "log.jsonl":
            files[name] = [json.loads(line) | {"images_per_second": 0} for line in path.read_text().splitlines()]
        else:
            files[name] = path.read_bytes()
    return files


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    rng = np.random.default_rng(given.seed)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        domains = {side: images(root / side, count, i) for i, (side, count) in enumerate((("source", 5), ("target", 4)))}
        references: dict[tuple[str, int], tuple[dict[str, Any], list[str], float]] = {}
        for k in range(given.moments):
            kind = METHODS[k % len(METHODS)], k // 2 % 2
            config = configured(domains, *kind)
            if kind not in references:
                start = time.monotonic()
                whole = root / f"whole_{'_'.join(map(str, kind))}"
                code, operations = run(config, whole)
                assert code == 0, operations
                references[kind] = left(whole), operations, time.monotonic() - start
            reference, operations, duration = references[kind]
            out = root / f"run{k}"
            if k % 3 < 2:
                operation = int(rng.integers(1, len(operations) + 1))
                code, done = run(config, out, operation=operation)
                moment = f"before {done[-1]}" if done else "before anything"
            else:
                seconds = float(rng.uniform(0, duration))
                code, done = run(config, out, seconds=seconds)
                moment = f"after {seconds:.2f} of {duration:.2f} s" + (f", after {done[-1]}" if done else "")
            again, said = run(config, out)
            found = left(out) if again == 0 else {}
            differs = sorted(
                name for name in reference.keys() | found.keys() if reference.get(name, "missing") != found.get(name, "missing")
            )
            results.append(
                {"run": f"{kind[0]}, {kind[1]} workers", "moment": moment, "killed": code == -signal.SIGKILL, "same": not differs}
            )
            print(
                f"{k + 1}/{given.moments} {results[-1]['run']}: killed {moment}: {'the same' if not differs else f'differs in {differs}'}"
            )
            if again:
                print(f"   it could not be resumed: {said[-1]}")
    killed = sum(result["killed"] for result in results)
    print(f"{killed} of {len(results)} were killed before their end; {sum(result['same'] for result in results)} are the same bit for bit")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if all(result["same"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
