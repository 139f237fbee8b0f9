"""The record of a run: log.jsonl, validation.jsonl, events.jsonl, progress, and what trackers are told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from unflip.engine.trackers import Trackers
from unflip.engine.trainer import Moment
from unflip.files import disk_errors, write_bytes
from unflip.progress import Bar
from unflip.runs import RunConfig

LOG, VALIDATION, EVENTS = "log.jsonl", "validation.jsonl", "events.jsonl"


class Record:
    """Writes what a run's moments say. ``seen``: images already seen; later lines of an earlier attempt are dropped."""

    def __init__(self, folder: Path, config: RunConfig, seen: int = 0, *, resumed: bool = False, progress: bool = True) -> None:
        self.log, self.validation, self.happened = folder / LOG, folder / VALIDATION, folder / EVENTS
        told = max((int(_seen(line)) for line in lines_until(self.log, config.budget)), default=-1)
        self.trackers = Trackers(config, folder, seen, told, resumed=resumed)
        if self.happened.is_file():
            _write(self.happened, lines_until(self.happened, seen))
        self.bar = Bar("training", config.budget, seen, quiet=not progress)
        self._cut(seen)

    def rewind(self, seen: int) -> None:
        """Go on from ``seen`` images: later lines are dropped. What happened stays: it is why."""
        self._cut(seen)
        self.trackers.tell("rewind", seen)

    def _cut(self, seen: int) -> None:
        lines = lines_until(self.log, seen)
        _write(self.log, lines)
        self.lines: list[dict[str, float]] = [json.loads(line) for line in lines]
        self.validations = lines_until(self.validation, seen)
        if self.validation.is_file():
            _write(self.validation, self.validations)
        self.shown = seen

    def __enter__(self) -> Record:
        self.bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.__exit__(kind, error, trace)
        if kind is not None:
            self.trackers.outcome = "failed"
        self.trackers.close(self.trackers.outcome)

    def add(self, moment: Moment) -> None:
        """Log the moment, and show it."""
        if "stop" in moment.due:
            self.trackers.outcome = "stopped"
        if "log" not in moment.due:
            return
        numbers = {**moment.parts, **moment.health, "lr": moment.rate, "images_per_second": round(moment.images_per_second, 3)}
        self.lines.append({"seen": moment.seen, **numbers})
        _append(self.log, self.lines[-1], flush="checkpoint" in moment.due)
        parts = "  ".join(f"{name} {value:.3g}" for name, value in moment.parts.items())
        self.bar.show(moment.seen, f"{moment.images_per_second:.1f} images/s  {parts}")
        self.shown = moment.seen
        self.trackers.tell("log", numbers, moment.seen)

    def event(self, seen: int, what: str) -> None:
        """Note, for good, what a user should know of the run, such as a file that has vanished."""
        _append(self.happened, {"seen": seen, "event": what}, flush=True)
        self.trackers.tell("event", what, seen)

    def sample(self, path: Path, seen: int) -> None:
        """Show a picture of samples, which lies there."""
        self.trackers.tell("image", "samples", path, seen)

    def news(self, text: str) -> None:
        """Show what is going on between two logs, on a terminal only."""
        self.bar.show(self.shown, text)

    def add_validation(self, numbers: dict[str, float | None], chosen: int) -> None:
        """Log what a validation found: its numbers and "seen", None for what is not defined; ``chosen``: the images seen by the checkpoint
        that is chosen with it. All lines are written at once and flushed: unlike those of the log, they decide what will be chosen."""
        self.validations.append(json.dumps({**numbers, "chosen": chosen}))
        _write(self.validation, self.validations)
        known = {f"validation/{name}": value for name, value in numbers.items() if name != "seen" and value is not None}
        self.trackers.tell("log", known, numbers["seen"])


def lines_until(path: Path, seen: float) -> list[str]:
    """The whole lines of a log up to those of ``seen`` images; none where there is no log."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in lines if _seen(line) <= seen]


def _append(path: Path, line: dict[str, Any], flush: bool) -> None:
    with disk_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        if flush:
            file.flush()
            os.fsync(file.fileno())


def _write(path: Path, lines: list[str]) -> None:
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def _seen(line: str) -> float:
    """The images seen at a line of the log; a line that a killed process cut short is never before anything, not even infinity."""
    try:
        return float(json.loads(line)["seen"])
    except (ValueError, KeyError, TypeError):
        return float("nan")
