"""Stopping cleanly: the first Ctrl-C or SIGTERM asks, the second insists."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

ASKING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Ctrl-C; a scheduler that takes the machine back; a terminal that is closed; ``sbatch --signal=USR1@120``. Not all systems have all."""
EXIT_CODES = {getattr(signal, name): 128 + getattr(signal, name) for name in ASKING if hasattr(signal, name)}


class Stop:
    """While active, ``signal`` is the signal that asked for a stop, if any. Handlers can only be set in the main thread."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Stop:
        self.old = {}
        if threading.current_thread() is threading.main_thread():
            hangup = getattr(signal, "SIGHUP", None)
            deaf = {hangup} if hangup and signal.getsignal(hangup) == signal.SIG_IGN else set()  # under nohup
            self.old = {number: signal.signal(number, self._ask) for number in EXIT_CODES if number not in deaf}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()  # the next one is not caught

    def _restore(self) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
