"""What happens to a training when something goes wrong: every fault is injected once, for real where that can be.

    python benchmarks/faults.py [--markdown FILE]          (as root, or under `unshare -rm`: it mounts a small file system of its own)

A tiny training (srunit, 9 images, a checkpoint every 2) meets the fault when it has logged 5 images; then what was broken is mended, and
it is resumed. The table says how it ended, what it said, from which image it went on, and whether it became the run that met no fault, bit
for bit. Exit code 1: more than a checkpoint interval was lost, a traceback was seen, or a run that ought to be the same is not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill import forked, images, left

from unflip.engine import checkpoint
from unflip.engine.record import Record
from unflip.engine.trainer import Moment
from unflip.errors import UserError
from unflip.losses import PatchNCE
from unflip.recipes.train import configure, train
from unflip.runs import RunConfig

AT, EVERY, BUDGET = 5, 2, 9


def nothing(*_: Any) -> None:
    """Where a fault is of another phase."""


@dataclass
class Fault:
    """One thing that goes wrong. ``before`` the run, ``during`` it (in its process, at image 5), or ``after`` it; then ``mend``."""

    name: str
    during: Callable[[Path, dict[str, Path]], None] = nothing
    after: Callable[[Path, dict[str, Path]], None] = nothing
    before: Callable[[Path, dict[str, Path]], None] = nothing
    mend: Callable[[Path, dict[str, Path]], None] = nothing
    same: bool = True
    """Whether the run becomes the one that met no fault."""
    settings: tuple[str, ...] = ()


def die(out: Path, domains: dict[str, Path]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill(out: Path, domains: dict[str, Path]) -> None:
    with contextlib.suppress(OSError), open(out.parent / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True, capture_output=True)


def read_only(out: Path, domains: dict[str, Path]) -> None:
    """Of the run's folder; over itself, as files in it are open."""
    mount("--bind", str(out), str(out))
    mount("-o", "remount,ro,bind", str(out))


def not_a_number(out: Path, domains: dict[str, Path]) -> None:
    compute = PatchNCE.__call__

    def once(term: PatchNCE, *given: Any) -> Any:
        PatchNCE.__call__ = compute  # type: ignore[method-assign]
        return compute(term, *given) * math.nan

    PatchNCE.__call__ = once  # type: ignore[method-assign]


def clock_back(out: Path, domains: dict[str, Path]) -> None:
    now = time.time()
    time.time = lambda: now - 86_400  # what the system would say; the run's own measure is another clock


def kill_worker(out: Path, domains: dict[str, Path]) -> None:
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def newest(out: Path) -> Path:
    return out / "checkpoints" / (out / "checkpoints/latest").read_text()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def vanish(out: Path, domains: dict[str, Path]) -> None:
    for name in ("0.png", "3.png"):
        (domains["source"] / name).rename(domains["source"] / f".{name}")


def come_back(out: Path, domains: dict[str, Path]) -> None:
    for path in domains["source"].glob(".*.png"):
        path.rename(path.with_name(path.name[1:]))


def change(out: Path, domains: dict[str, Path]) -> None:
    keep = domains["source"].parent / "small"
    shutil.rmtree(keep, ignore_errors=True)
    shutil.copy(images(keep, 1, 7, (33, 60)) / "0.png", domains["source"] / "2.png")


FAULTS = [
    Fault("killed (SIGKILL)", during=die),
    Fault("asked to stop (SIGTERM)", during=lambda *_: signal.raise_signal(signal.SIGTERM)),
    Fault("the disk is full", during=fill, mend=lambda out, _: (out.parent / "filler").unlink(missing_ok=True)),
    Fault(
        "the file system becomes read-only",
        during=read_only,
        mend=lambda out, _: subprocess.run(["umount", str(out)], check=True) and None,
    ),
    Fault("newest checkpoint cut short", during=die, after=lambda out, _: truncate(newest(out) / "state.safetensors")),
    Fault("newest checkpoint, a bit flipped", during=die, after=lambda out, _: flip(newest(out) / "state.safetensors")),
    Fault("newest checkpoint, a file missing", during=die, after=lambda out, _: (newest(out) / "state.json").unlink()),
    Fault("pointer to the newest checkpoint missing", during=die, after=lambda out, _: (out / "checkpoints/latest").unlink()),
    Fault("a loss is NaN in one step", during=not_a_number, same=False),
    Fault("a loader worker is killed", during=kill_worker, settings=("data.workers=1", "data.cache=none")),
    Fault("the clock goes back a day", during=clock_back),
    Fault("two of five images vanish", during=vanish, mend=come_back, same=False, settings=("data.cache=none",)),
    Fault("an image is replaced by a smaller one", during=change, same=False, settings=("data.cache=none",)),
    Fault("an image is broken from the start", before=lambda _, domains: truncate(domains["source"] / "4.png"), same=False),
]


def configured(domains: dict[str, Path], fault: Fault) -> RunConfig:
    settings = ["generator.width=4", "generator.blocks=1", "discriminator.width=4", "projector.width=8", "nce.patches=8", "data.workers=0"]
    settings += [f"checkpoint_every={EVERY}", "log_every=1", "sample_every=100", *fault.settings]
    return configure("srunit", **domains, size=32, budget=BUDGET, device="cpu", settings=settings)


def attempt(config: RunConfig, out: Path, during: Callable[[], None]) -> tuple[int, list[str]]:
    """Train, or go on, in a process of its own; its exit code and what it said."""

    def work(tell: Callable[[str], None]) -> int:
        add = Record.add

        def added(record: Record, moment: Moment) -> None:
            add(record, moment)
            if moment.seen == AT:
                during()

        Record.add = added  # type: ignore[method-assign]
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                train(config, out, resume=True, progress=False, say=tell)
            return 0
        except UserError as error:
            tell(f"error: {error}")
            return 2
        except BaseException as error:
            code = getattr(error, "exit_code", 1)
            tell(f"{'' if code != 1 else 'traceback: '}{error}")
            return code
        finally:
            for worker in multiprocessing.active_children():
                worker.kill()

    return forked(work)


NEWS = ("error:", "warning:", "traceback:", "stopped after", "resumed with")


def tell(lines: list[str], root: Path) -> str:
    """What matters of what was said, without the paths of this machine."""
    told = [line for line in lines if line.startswith(NEWS) or "goes on from" in line or "set aside" in line or "gone or changed" in line]
    return "<br>".join(line.replace(f"{root}/", "") for line in told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    rows, fine = [], True
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", str(root))
        try:
            for k, fault in enumerate(FAULTS):
                row, held = inject(fault, root / f"{k}")
                rows.append(row)
                fine &= held
                print(" | ".join(row) + ("" if held else "   <- NOT AS IT OUGHT TO BE"), flush=True)
                shutil.rmtree(root / f"{k}")
        finally:
            subprocess.run(["umount", str(root)], check=False)
    head = ["fault", "ended", "what it said", "went on from", "what it said then", "the run is then"]
    table = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    if given.markdown:
        given.markdown.write_text("\n".join(table) + "\n")
    return 0 if fine else 1


def inject(fault: Fault, root: Path) -> tuple[list[str], bool]:
    """The fault's row of the table, and whether all is as it ought to be."""
    domains = {side: images(root / side, count, i) for i, (side, count) in enumerate((("source", 5), ("target", 4)))}
    config, out = configured(domains, fault), root / "run"
    code, said = attempt(config, root / "whole", lambda: None)
    assert code == 0, said
    fault.before(out, domains)
    code, said = attempt(config, out, lambda: fault.during(out, domains))
    fault.after(out, domains)
    fault.mend(out, domains)
    before = checkpoint.latest(out / "checkpoints")
    went_on = int(before.name) if before else 0
    again, then = (0, []) if code == 0 else attempt(config, out, lambda: None)
    reference, found = left(root / "whole"), left(out)
    names = (reference.keys() | found.keys()) - {"events.jsonl", "set_aside.jsonl", "config.yaml"}
    same = all(reference.get(name, "missing") == found.get(name, "missing") for name in names)
    ended = "ran through" if code == 0 else f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    damaged = 1 if "newest checkpoint" in fault.name else 0
    near = went_on >= AT - EVERY * (1 + damaged)
    held = again == 0 and same == fault.same and near and not any("traceback" in line for line in said + then)
    where = "-" if code == 0 else f"image {went_on}"
    return [fault.name, ended, tell(said, root), where, tell(then, root), "the same, bit for bit" if same else "another"], held


if __name__ == "__main__":
    sys.exit(main())
