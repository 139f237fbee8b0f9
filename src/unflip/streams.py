"""Standard error that outlives its terminal."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any, TextIO, cast


def outlive_the_terminal() -> None:
    """From here on, what is written to standard error is lost where nobody can read it, and nothing fails for that."""
    sys.stderr = cast(TextIO, Lasting(sys.stderr))


class Lasting:
    """A stream whose writes never fail: where a terminal or a pipe is gone, nobody reads it, and work does not end for that."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write it, if it can be."""
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """The same."""
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
