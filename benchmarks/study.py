"""The study: which methods flip, how near they come to the target, and what networks learn from their translations.

    python benchmarks/study.py --scale cpu --data DATA --out DIR [--studies camvid_unmatched,streets,carla_camvid]
        [--methods cut,srunit,semst,...] [--seeds 3] [--jobs 2] [--budget N]

``--scale cpu``: 64 pixels, narrow networks, 6,000 images a run, 15 to 50 minutes each on one core. ``--scale gpu``: 256 pixels, the
published widths and lengths. ``--scale gpu-short``: the published networks, a tenth of the steps, crops of 128 pixels. DATA holds
``camvid`` and ``carla``; ``streets`` needs no data. DIR gets runs, translations and reports; for every run that is complete, a JSON file
goes to DIR/records (or ``--records``), from which benchmarks/results.py writes the pages.

Called again, it goes on where it stopped, and does nothing that has its file already. ``--jobs N``: N processes, each of which takes what
no other is at work on; more can be started elsewhere on the same DIR. First cut, srunit and semst, a seed of every study before the
next seed; then the other methods.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from study_plan import SCALES, VARIANTS, studies
from study_tasks import Place, Task, tasks

from unflip.config import unknown
from unflip.errors import Interrupted, UserError
from unflip.files import Busy, alone, make_folder
from unflip.signals import EXIT_CODES, Stop

NAMES = ("camvid_unmatched", "streets", "carla_camvid")


def main() -> int:
    """The study; what stops it is one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--studies", help="default: all of them; without --data, streets")
    parser.add_argument("--methods", default=",".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--budget", type=int, help="other than the scale's: the results are kept apart")
    parser.add_argument("--records", type=Path, help="default: DIR/records")
    asked = parser.parse_args()
    try:
        if asked.jobs > 1:
            return several(asked.jobs, sys.argv[1:])
        scale, name = SCALES[asked.scale], asked.scale
        if asked.budget is not None and asked.budget != scale.budget:
            scale, name = dataclasses.replace(scale, budget=asked.budget), f"{name}-{asked.budget}"
        place = Place((asked.out / name).absolute(), (asked.records or asked.out / "records").absolute(), scale, name)
        data, names = asked.data or Path("DATA"), chosen(asked.studies or (",".join(NAMES) if asked.data else "streets"), NAMES)
        for study in studies(data, place.out, scale).values():
            if study.name in names and not study.made and not study.source.is_dir():
                raise UserError(f"no images of {study.name}, {study.source}; give --data DATA, or --studies streets")
        return work(tasks(data, place, names, chosen(asked.methods, tuple(VARIANTS)), asked.seeds))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code


def chosen(text: str, known: Sequence[str]) -> list[str]:
    """Names out of a list, in its order."""
    for name in (names := text.split(",")):
        if name not in known:
            raise UserError(unknown("name", name, known))
    return [name for name in known if name in names]


def work(wanted: Sequence[Task]) -> int:
    """Do what can be done and nobody else is at work on, until all is done; 1 where something failed."""
    failed: dict[str, str] = {}
    while left := [task for task in wanted if not task.done and task.name not in failed]:
        for task in left:
            if missing := [need.name for need in task.needs if need.name in failed]:
                failed[task.name] = f"{missing[0]} failed"
                continue
            if not all(need.done for need in task.needs):
                continue
            make_folder(task.folder)
            try:
                with alone(task.folder):
                    if task.done:
                        break
                    number = sum(each.done for each in wanted) + 1
                    print(f"{task.name} ({number} of {len(wanted)})", file=sys.stderr, flush=True)
                    begin = time.monotonic()
                    task.do()
                    print(f"{task.name}: done in {(time.monotonic() - begin) / 60:.1f} min", file=sys.stderr, flush=True)
            except Busy:
                continue
            except UserError as error:
                failed[task.name] = str(error)
                print(f"failed: {task.name}: {error}", file=sys.stderr, flush=True)
            break
        else:
            if any(task.name not in failed for task in left):
                time.sleep(5)  # another process has it
    return 1 if failed else 0


def several(jobs: int, arguments: Sequence[str]) -> int:
    """The same command in so many processes, which share the cores."""
    cores = os.cpu_count() or 1
    environment = {"OMP_NUM_THREADS": str(max(1, cores // jobs)), **os.environ}
    command = [sys.executable, __file__, *arguments, "--jobs", "1"]
    with Stop() as stop:
        # in sessions of their own: a Ctrl-C reaches each once, from here, and not from the terminal besides
        children = [
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) for _ in range(jobs)
        ]
        readers = [threading.Thread(target=_tell, args=(child.stderr, f"{i}: ")) for i, child in enumerate(children, 1)]
        for reader in readers:
            reader.start()
        told = False
        while any(child.poll() is None for child in children):
            time.sleep(0.2)
            if stop.signal is not None and not told:
                told = True
                for child in children:
                    child.send_signal(stop.signal)
        for reader in readers:
            reader.join()
    if stop.signal is not None:
        return EXIT_CODES[stop.signal]
    return max(child.returncode if child.returncode >= 0 else 1 for child in children)


def _tell(lines: IO[str] | None, prefix: str) -> None:
    for line in lines or ():
        print(prefix + line, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
