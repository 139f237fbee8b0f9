"""Loader workers that are killed, as by a machine that runs out of memory: all are started anew, where they were."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from unflip.errors import UserError, one_line

T = TypeVar("T")

TRIES = 3
"""Starts in a row that may come to nothing."""

GONE = EOFError, ConnectionError
"""Of a worker that was killed after it had made a batch and before its tensors were fetched."""

ADVICE = "give fewer data.workers, set data.cache=none, or enlarge /dev/shm"


def outliving(start: Callable[[int], Iterable[T]]) -> Iterator[tuple[T, str | None]]:
    """What ``start(0)``, a ``DataLoader``, gives, each with what is to be told of it; ``start(k)`` must give the same from number ``k`` on.

    Raises ``UserError`` where workers are killed again and again and nothing comes between.
    """
    done = failed = 0
    told: str | None = None
    while True:
        found: Iterator[T] | None = None
        try:
            found = _started(start(done))
            for each in found:
                yield each, told
                done, failed, told = done + 1, 0, None
            return
        except (RuntimeError, OSError, EOFError) as error:
            if not _killed(error):
                raise
            del found  # and with it those workers that are left
            failed, reason = failed + 1, "its batch is lost" if isinstance(error, GONE) else one_line(error).rstrip(".")
        if failed > TRIES:
            raise UserError(f"loader workers are killed again and again, with no batch between ({reason}); {ADVICE}")
        told = f"a loader worker was killed, and all were started anew ({reason}); if this comes often, {ADVICE}"


def _started(batches: Iterable[T]) -> Iterator[T]:
    """Its iterator, which notices within seconds, when it is waited for, that a worker is gone.

    Torch would also raise that from a handler of SIGCHLD, wherever the process just is, as in the middle of a step.
    """
    before = _handler()
    found = iter(batches)
    now = _handler()
    theirs = getattr(now, "__module__", None) == "torch.utils.data._utils.signal_handling"
    if theirs and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is now or before is None else before)
    return found


def _handler() -> Any:
    return signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None


def _killed(error: Exception) -> bool:
    """Whether that is how a loader says that a worker was killed, or could not be started for want of memory."""
    if str(error).startswith("Caught "):  # raised by a worker, of whatever type
        return False
    if isinstance(error, GONE):
        return True
    if isinstance(error, OSError):
        return error.errno in {errno.ENOMEM, errno.EAGAIN}
    return str(error).startswith(("DataLoader worker (pid", "Pin memory thread exited"))
