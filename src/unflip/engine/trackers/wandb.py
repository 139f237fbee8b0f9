"""Weights & Biases: a run where its own settings say (WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_DIR ...)."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unflip.engine.trackers.tracker import PROJECT, Outcome, Run, Tracker
from unflip.errors import MissingExtra, UserError

CODES = {"finished": 0, "stopped": 130, "failed": 1}
"""Exit codes, by which it tells how a run ended."""


class Wandb(Tracker):
    """Steps of W&B only go up. So a step that it has is not told again, after a resume or a step back."""

    def __init__(self, run: Run) -> None:
        try:
            import wandb
        except ImportError:
            raise MissingExtra("wandb", "wandb") from None
        settings = wandb.Settings(console="off", silent=True)  # our lines are ours, and go past a progress bar
        if (os.environ.get("WANDB_MODE") or "online") == "online" and not wandb.api.api_key:  # it would ask, in the midst of our output
            raise UserError("W&B knows no account; run `wandb login`, or set WANDB_MODE=offline")
        id = run.kept.get("run") or secrets.token_hex(4)
        self.picture = wandb.Image
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.name,
            id=id,
            resume="allow",
            reinit="create_new",
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            config=dict(run.config),
            settings=settings,
        )
        self.run.config.update(dict(run.config), allow_val_change=True)
        self.kept: Mapping[str, str] = {"run": id}
        self.where = f"wandb sync {shlex.quote(str(Path(self.run.dir).parent))}" if self.run.offline else str(self.run.url)
        self.events = str(self.run.summary.get("events") or "").splitlines()
        self.told = self.last = max(self.run.step - 1, run.told if run.kept else -1)

    def log(self, numbers: Mapping[str, float], seen: int) -> None:
        self._log(dict(numbers), seen)

    def image(self, name: str, path: Path, seen: int) -> None:
        self._log({name: self.picture(str(path))}, seen)

    def event(self, what: str, seen: int) -> None:
        self.events.append(f"{seen:,} images: {what}")
        self.run.summary["events"] = "\n".join(self.events)  # no curve: it can be of a step before the last

    def _log(self, values: dict[str, Any], seen: int) -> None:
        if seen > self.told:
            self.run.log(values, step=seen)
            self.last = seen

    def rewind(self, seen: int) -> None:
        self.told = self.last

    def close(self, outcome: Outcome) -> None:
        self.run.finish(exit_code=CODES[outcome])
