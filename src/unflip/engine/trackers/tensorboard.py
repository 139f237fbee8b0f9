"""TensorBoard: event files in RUN/tensorboard."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from unflip.data.limits import pillow
from unflip.engine.trackers.tracker import Outcome, Run, Tracker
from unflip.errors import MissingExtra
from unflip.runs import leaves


class TensorBoard(Tracker):
    """After a resume, readers drop what earlier files say of later steps."""

    kept: Mapping[str, str] = {}

    def __init__(self, run: Run) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
            from torch.utils.tensorboard.summary import hparams
        except ImportError:
            raise MissingExtra("tensorboard", "tensorboard") from None
        folder = run.folder / "tensorboard"
        new = not any(folder.glob("events.*"))
        self.where = f"tensorboard --logdir {shlex.quote(str(folder))}"
        board: Any = SummaryWriter(folder, purge_step=run.seen + 1)
        self.board = board
        if new:
            plain = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in leaves(run.config).items()}
            for summary in hparams(plain, {}):
                board.file_writer.add_summary(summary)
        self.board.add_text("config", f"```\n{yaml.safe_dump(dict(run.config), sort_keys=False)}```", run.seen)
        self.board.flush()

    def log(self, numbers: Mapping[str, float], seen: int) -> None:
        for name, value in numbers.items():
            self.board.add_scalar(name, value, seen)
        self.board.flush()  # else a killed run lacks its last two minutes

    def image(self, name: str, path: Path, seen: int) -> None:
        with open(path, "rb") as file, pillow(file, path) as picture:
            self.board.add_image(name, np.asarray(picture.convert("RGB")), seen, dataformats="HWC")

    def event(self, what: str, seen: int) -> None:
        self.board.add_text("events", what, seen)

    def rewind(self, seen: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        start = Event(step=seen + 1, session_log=SessionLog(status=SessionLog.START))  # what a new file would begin with
        self.board.file_writer.add_event(start, seen + 1)

    def close(self, outcome: Outcome) -> None:
        self.board.close()
