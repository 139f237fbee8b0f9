"""Who is told of a run while it goes on: TensorBoard where it is installed, MLflow and W&B where they are named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unflip.engine.trackers.mlflow import Mlflow
from unflip.engine.trackers.tensorboard import TensorBoard
from unflip.engine.trackers.told import Told
from unflip.engine.trackers.tracker import Outcome, Run, Tracker
from unflip.engine.trackers.wandb import Wandb
from unflip.errors import UserError
from unflip.files import write_json
from unflip.runs import RunConfig

TRACKERS: dict[str, Callable[[Run], Tracker]] = {"tensorboard": TensorBoard, "mlflow": Mlflow, "wandb": Wandb}

KEPT = "trackers.json"
"""In a run's folder: what each tracker calls the run."""
LAST = 30.0
"""Seconds that a run waits at its end for trackers to take what they were told."""


def wanted(config: RunConfig) -> dict[str, bool]:
    """The trackers of a run: whether each was asked for, and so must be there."""
    board = config.tensorboard
    asked = dict.fromkeys((*(["tensorboard"] if board is True else []), *config.trackers), True)
    return asked if board != "auto" or find_spec("tensorboard") is None else {"tensorboard": False} | asked


class Trackers:
    """All trackers of a run. One that fails is named once, by :meth:`lost`, and left out from then on.

    Raises ``UserError`` where one that was asked for does not begin with a new run; a ``resumed`` one goes on without it.
    """

    def __init__(self, config: RunConfig, folder: Path, seen: int, told: int, *, resumed: bool) -> None:
        self.all: list[Told] = []
        self.said: list[str] = []
        self.where: list[str] = []
        self.outcome: Outcome = "finished"
        kept = _kept(folder / KEPT)
        begun = {}
        for name, asked in wanted(config).items():
            begun[name] = Told(name, TRACKERS[name], Run(folder, seen, config.model_dump(mode="json"), kept.get(name, {}), told)), asked
        for name, (each, asked) in begun.items():
            try:
                tracker = each.tracker()
            except UserError as error:
                if asked and not resumed:
                    self.all = [each for each, _ in begun.values() if each.begun.done()]
                    self.close("failed")
                    raise
                self.said.append(f"not tracked by {name}: {error}")
                continue
            self.all.append(each)
            if tracker.kept:
                kept[name] = dict(tracker.kept)
            if asked:
                self.where.append(f"tracked by {name}: {tracker.where}")
        if kept:
            write_json(folder / KEPT, kept)

    def tell(self, what: str, *given: Any) -> None:
        """Call the method ``what`` of every tracker, some time soon."""
        for each in self.all:
            each.tell(what, *given)

    def lost(self) -> list[str]:
        """A line for each that has failed since this was last asked."""
        lines, self.said = self.said, []
        for each in self.all:
            if each.trouble is not None:
                lines.append(f"{each.name} no longer tracks the run: {each.trouble}")
        self.all = [each for each in self.all if each.trouble is None]
        return lines

    def close(self, outcome: Outcome) -> None:
        """Wait a little until all have been told all."""
        until = time.monotonic() + LAST
        self.tell("close", outcome)
        for each in self.all:
            each.ended(max(until - time.monotonic(), 0.1))


def _kept(path: Path) -> dict[str, dict[str, str]]:
    """What trackers kept of the run. Where the file is damaged, nothing: they begin anew, and the run goes on."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {name: {key: str(value) for key, value in each.items()} for name, each in values.items()}
    except (OSError, ValueError, AttributeError):
        return {}
