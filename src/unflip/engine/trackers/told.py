"""A tracker in a thread of its own: neither a slow server nor a broken one holds up a training, or ends it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLong
from typing import Any

from unflip.engine.trackers.tracker import Run, Tracker
from unflip.errors import UserError, cut, one_line

PATIENCE = 60.0
"""Seconds in which a tracker must have begun."""
MANY = 2_000
"""Calls that may wait: of a run that logs every second, half an hour."""
LONGEST = 200
"""Of a reason, in characters."""


class Told:
    """What a tracker is told waits in a queue. ``trouble``: why nothing more is told it; None: all is well."""

    def __init__(self, name: str, start: Callable[[Run], Tracker], run: Run) -> None:
        self.name, self.trouble = name, None
        self.waiting: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(MANY)
        self.begun: Future[Tracker] = Future()
        self.thread = threading.Thread(target=self._work, args=(start, run), name=f"tracker {name}", daemon=True)
        self.thread.start()

    trouble: str | None

    def tracker(self) -> Tracker:
        """When it has begun. Raises ``UserError`` where it does not."""
        try:
            return self.begun.result(PATIENCE)
        except UserError:
            raise
        except TooLong:
            reason = f"no answer in {PATIENCE:.0f} seconds"
        except Exception as error:  # of libraries and servers: anything
            reason = cut(one_line(error), LONGEST)
        raise UserError(f"cannot track the run by {self.name} ({reason}); see that its settings are right, or leave it out")

    def tell(self, what: str, *given: Any) -> None:
        """Call the tracker's method ``what``, some time soon."""
        if self.trouble is None:
            try:
                self.waiting.put_nowait((what, given))
            except queue.Full:
                self.trouble = f"it is too slow, {MANY:,} calls wait"

    def ended(self, seconds: float) -> None:
        """Wait until it has been told all, at most so long."""
        self.thread.join(seconds)
        if self.thread.is_alive() and self.trouble is None:
            self.trouble = "it had not taken all in time when the run ended"

    def _work(self, start: Callable[[Run], Tracker], run: Run) -> None:
        try:
            tracker = start(run)
        except BaseException as error:
            self.begun.set_exception(error)
            return
        self.begun.set_result(tracker)
        what = ""
        try:
            while what != "close" and self.trouble is None:
                what, given = self.waiting.get()
                getattr(tracker, what)(*given)
        except BaseException as error:  # of libraries and servers: anything, and in a thread nobody else would say it
            self.trouble = cut(one_line(error), LONGEST)
