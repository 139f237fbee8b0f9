"""Damaged files, by the thousand: whatever unflip is sent, it answers with one line, soon, in little memory, and writes nowhere else.

    python benchmarks/fuzz.py --count 1000 --seed 0 --what images|models|segmenters|configs|videos|shards|all|TARGET --json FILE
    python benchmarks/fuzz.py --what tiff_deep --only 17 [--keep FOLDER]

A case is a target and a seed: a whole file is damaged, put into an empty folder, and used. It fails where anything but ``UserError`` is
raised, a ``UserError`` has more than one line, it takes longer than 10 seconds or 2 GiB more than before, the process dies, or a file
appears outside of the folder that it was to write to. Cases run one after the other in a child process; after a failure, in a new one.
``--keep`` writes the damaged file of one case, to look at. Images may have 4 million pixels here (``UNFLIP_MAX_PIXELS``), so that what
takes memory is not what images of the allowed size take. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SECONDS = 10
MEMORY = 2**31
"""Bytes of address space beyond what the libraries take."""
GROWTH = 2**30
"""Bytes by which a case may raise the peak of the memory that is really used."""
ESCAPED = [Path("/tmp/unflip-fuzz-escaped"), Path("/tmp/unflip-fuzz-escaped.png")]


class Hang(BaseException):
    """No ``Exception``: nothing that is tested may catch it."""


def run_case(name: str, seed: int, sandbox: Path) -> dict[str, Any]:
    """Damage, use, and look around. ``sandbox`` is emptied first."""
    import numpy as np
    from fuzz_targets import TARGETS

    target = TARGETS[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    bases = target.make()
    damaged = target.damage(rng, bases[int(rng.integers(len(bases)))])
    shutil.rmtree(sandbox, ignore_errors=True)
    given, out = sandbox / "a" / "b" / "in", sandbox / "a" / "b" / "out"
    given.mkdir(parents=True)
    write(given / target.name, damaged)
    found: dict[str, Any] = {"seed": seed, "failed": None}
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    old = signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        said = target.call(given / target.name, out, rng)
        long = [text for text in said if text is not None and ("\n" in text or not text or len(text) > 3000)]
        found |= {
            "used": None in said,
            "said": [text for text in said if text][:1],
            "failed": f"not one line: {long[0][:300]!r}" if long else None,
        }
    except Hang:
        found["failed"] = f"hang: {SECONDS} s"
    except BaseException as error:
        found["failed"] = f"{type(error).__name__}: {str(error)[:300]}"
        found["trace"] = traceback.format_exc()[-3000:]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    found |= {"seconds": round(time.perf_counter() - start, 3), "grown": grown}
    strays = [
        str(path.relative_to(sandbox)) for path in sandbox.rglob("*") if not path.is_relative_to(out) and not path.is_relative_to(given)
    ]
    strays = [path for path in strays if path not in ("a", "a/b")] + [str(path) for path in ESCAPED if path.exists()]
    if found["failed"] is None and (strays or grown > GROWTH):
        found["failed"] = f"written outside: {strays}" if strays else f"memory: {grown / 2**20:.0f} MiB"
    return found


def write(path: Path, damaged: Any) -> None:
    """A file, or a folder of files."""
    if isinstance(damaged, bytes):
        path.write_bytes(damaged)
        return
    path.mkdir(parents=True)
    for name, data in damaged.items():
        (path / name).write_bytes(data)


def _hang(number: int, frame: Any) -> None:
    raise Hang


def child(name: str) -> None:
    """Answer every seed that comes in with a line."""
    import fuzz_targets
    import torch

    torch.set_num_threads(1)
    sandbox = Path(tempfile.mkdtemp(prefix="unflip-fuzz-case-"))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    fuzz_targets.TARGETS[name].make()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", file=answers, flush=True)
    try:
        for line in sys.stdin:
            print(json.dumps(run_case(name, int(line), sandbox / "s")), file=answers, flush=True)
    finally:
        shutil.rmtree(sandbox, ignore_errors=True)


class Child:
    """A process that runs cases."""

    def __init__(self, name: str) -> None:
        source = str(HERE.parents[1] / "src")
        paths = os.pathsep.join(filter(None, [source, str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
        quiet = {"OMP_NUM_THREADS": "1", "UNFLIP_MAX_PIXELS": "4000000", "HF_HUB_OFFLINE": "1", "MALLOC_ARENA_MAX": "2"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE), "--child", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, **quiet},
            text=True,
        )
        if self._answer(120) != "ready":
            raise SystemExit(f"the child process for {name} does not start; run: python {HERE} --child {name}")

    def _answer(self, seconds: float) -> str | None:
        """Its next line; None where it has died or says nothing."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        return self.process.stdout.readline().strip() or None

    def case(self, seed: int) -> dict[str, Any]:
        """One case; a process that dies or hangs beyond its alarm is that case's failure."""
        assert self.process.stdin is not None
        print(seed, file=self.process.stdin, flush=True)
        line = self._answer(SECONDS + 10)
        if line is not None:
            found: dict[str, Any] = json.loads(line)
            return found
        code = self.process.poll()
        return {
            "seed": seed,
            "failed": f"hang: {SECONDS + 10} s in a library" if code is None else f"process died: {code}",
            "seconds": 0.0 if code else SECONDS + 10,
        }

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


def cases(name: str, seeds: range) -> Iterator[dict[str, Any]]:
    """Every case, each in a process that no failure came before."""
    running: Child | None = None
    try:
        for seed in seeds:
            running = running or Child(name)
            found = running.case(seed)
            yield found
            if found["failed"]:
                running.end()
                running = None
    finally:
        if running is not None:
            running.end()


def main() -> None:
    """Run, print a line per target and failure, and write all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--what", default="all")
    parser.add_argument("--only", type=int, help="one seed")
    parser.add_argument("--keep", type=Path, help="write the damaged file of --only there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given.child)
    sys.path[:0] = [str(HERE.parents[1] / "src"), str(HERE.parent)]
    from fuzz_targets import TARGETS

    names = [name for name, target in TARGETS.items() if given.what in ("all", name, target.group)]
    seeds = range(given.seed, given.seed + given.count) if given.only is None else range(given.only, given.only + 1)
    if given.keep:
        os.environ["UNFLIP_MAX_PIXELS"] = "4000000"
        print(json.dumps(run_case(names[0], given.only, given.keep), indent=2))
        return None
    results = {}
    for name in names:
        start, failures, used, slowest = time.perf_counter(), [], 0, 0.0
        for found in cases(name, seeds):
            used += bool(found.get("used"))
            slowest = max(slowest, found["seconds"])
            if found["failed"]:
                failures.append(found)
                print(f"  {name} --only {found['seed']}: {found['failed'].splitlines()[0][:200]}", flush=True)
        seconds = time.perf_counter() - start
        kinds = Counter(found["failed"].partition(":")[0] for found in failures)
        results[name] = {"cases": len(seeds), "seeds": [seeds[0], seeds[-1]], "used": used, "seconds": round(seconds, 1)}
        results[name] |= {"slowest": slowest, "failed": len(failures), "failures": failures}
        what = f"{len(seeds)} cases, {used} of some use all the same, {len(failures)} failed {dict(kinds) or ''}"
        print(f"{name}: {what} in {seconds:.0f} s, slowest {slowest} s", flush=True)
        if given.json:
            given.json.write_text(json.dumps(results, indent=2) + "\n")
    if any(result["failed"] for result in results.values()):
        raise SystemExit(1)
    return None


if __name__ == "__main__":
    main()
