"""Training in a process of its own: its memory can be told, and what kills it does not kill a comparison."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import torch

import unflip
from unflip.devices import peak_memory
from unflip.errors import Interrupted, UserError
from unflip.files import write_json
from unflip.recipes.train import train
from unflip.runs import RunConfig, validate
from unflip.signals import EXIT_CODES, Stop
from unflip.streams import outlive_the_terminal

MEMORY = "memory.json"
"""In a run's folder: the most memory that its training took."""
RESIDENT, ON_DEVICE = (
    "resident memory, with Python, PyTorch and the images that are kept decoded",
    "memory of the GPU, as PyTorch allocated it",
)
"""Of what it is the peak."""


def train_apart(config: RunConfig, run: Path, *, progress: bool = True) -> None:
    """Train ``config`` into the run folder ``run`` in a new process; go on where an earlier one stopped.

    A signal to this process goes on to that one, which saves and ends; so it does when this process dies.

    Raises:
        UserError: what the training raised, or that its process died.
        Interrupted: SIGINT or SIGTERM came; the run has been saved.
    """
    resume = (run / "config.yaml").is_file()
    if not resume and run.exists():  # killed before it had begun
        shutil.rmtree(run)
    request = {"config": config.model_dump(mode="json"), "run": str(run), "resume": resume, "progress": progress}
    paths = [str(Path(unflip.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    told = False
    with (
        Stop() as stop,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "unflip.recipes.apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            start_new_session=True,  # a Ctrl-C reaches it once, from here, and not from the terminal too
        ) as child,
    ):
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()  # and left open: its end says that this process is gone
        while True:
            try:
                code = child.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                if stop.signal is not None and not told:
                    told = True
                    child.send_signal(stop.signal)
        answer = child.stdout.read().strip()
    if stop.signal is not None:
        raise Interrupted(f"stopped; {run} is saved", EXIT_CODES[stop.signal])
    if code != 0:
        died = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        raise UserError(answer or f"its process ended {died}, {run}; what it printed last says why")


def main() -> int:
    """The other process: one line of JSON in, an error's line out."""
    outlive_the_terminal()
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what others print is for people to read
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    run = Path(request["run"])
    try:
        config = validate(request["config"])
        train(config, run, resume=request["resume"], progress=request["progress"], say=lambda line: print(line, file=sys.stderr))
    except UserError as error:
        print(error, file=answer, flush=True)
        return 2
    except Interrupted as stopped:
        return stopped.exit_code
    finally:
        if run.is_dir():
            record_memory(run)
    return 0


def record_memory(run: Path) -> None:
    """Note the most memory that this process took so far, or that an earlier one took for the same run."""
    used = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
    now = {"bytes": peak_memory(torch.device("cuda" if used else "cpu")), "what": ON_DEVICE if used else RESIDENT}
    before = read_memory(run)
    if now["bytes"] is not None and (before is None or now["bytes"] > before["bytes"]):
        write_json(run / MEMORY, now)


def read_memory(run: Path) -> dict[str, Any] | None:
    """``{"bytes": ..., "what": ...}``; None where nobody measured it."""
    try:
        found = json.loads((run / MEMORY).read_text(encoding="utf-8"))
        return {"bytes": int(found["bytes"]), "what": str(found["what"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _end_with_the_caller() -> None:
    """Stop, as at a SIGTERM, when standard input ends."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
