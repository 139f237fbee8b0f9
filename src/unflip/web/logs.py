"""What the server does, as JSON lines: one for each request, and one for whatever else there is to say."""

from __future__ import annotations

import io
import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from typing import Any, TextIO

LONGEST = 300
"""Characters of a path or a message: who sends more need not fill the disk."""


class Lines:
    """Writes them to ``stream``; nothing that it is given has more than ``LONGEST`` characters, save for tracebacks."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    def __call__(self, **fields: Any) -> None:
        short = {name: value[:LONGEST] if isinstance(value, str) and name != "trace" else value for name, value in fields.items()}
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **short})
        stream = self.stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()

    def failure(self, error: BaseException, **fields: Any) -> None:
        """An error that is the server's."""
        trace = "".join(traceback.format_exception(error))
        self(**fields, level="error", message=f"{type(error).__name__}: {error}", trace=trace)


@contextmanager
def only_lines(log: Lines) -> Iterator[None]:
    """Within the block, whatever a library logs or prints is a line, too."""
    log.stream = log.stream or sys.stderr
    handler = _Handler(log)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    try:
        with redirect_stdout(_Printed(log)), redirect_stderr(_Printed(log)):
            yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, log: Lines) -> None:
        super().__init__()
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["trace"] = "".join(traceback.format_exception(*record.exc_info))
        self.log(**fields)


class _Printed(io.TextIOBase):
    def __init__(self, log: Lines) -> None:
        self.log, self.rest = log, ""

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            self.log(level="info", message=line)
        return len(text)
