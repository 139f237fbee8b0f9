"""What one client, and all of them together, may ask for: sizes, a rate, and a bounded queue in front of one worker."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from unflip.errors import UserError

Result = TypeVar("Result")

CLIENTS = 10_000
"""So many clients' rates are remembered; of those before, the one that has been silent for the longest is forgotten."""


@dataclass(frozen=True)
class Limits:
    """All of them; the command line raises the first four."""

    bytes: int = 32 * 2**20
    """Of an image as it is sent."""
    pixels: int = 20_000_000
    """Of an image, and of what the model's resize makes of it."""
    places: int = 16
    """Images that are received, waiting or being translated; a further one is sent away."""
    rate: int = 600
    """What a client may send in a minute; 0: as much as it wants."""
    seconds: float = 60.0
    """For sending one request."""
    patience: float = 20.0
    """For which the page waits where the queue is full, before it says so."""
    drop: int = 16
    """Images that are dropped on the page at once."""
    uploads: int = 4
    """That the page's visitors make at the same time."""
    folder: int = 2**30
    """Bytes that the page's files may take; the oldest go first."""
    files: int = 10_000
    """Likewise, in number."""
    age: float = 3600.0
    """Seconds after which they go anyway."""


class Refused(UserError):
    """What is answered with that status; ``retry``: after how many seconds it may be asked again."""

    def __init__(self, status: int, message: str, retry: float | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {}) | ({} if retry is None else {"Retry-After": str(max(1, math.ceil(retry)))})


class Gate:
    """A line with ``places`` in front of one worker thread: who finds it full is told when to come back, instead of filling the memory."""

    def __init__(self, places: int) -> None:
        self.places, self.taken, self.seconds = places, 0, 1.0
        self.turn = asyncio.Lock()  # it is fair
        self.tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread: Thread | None = None
        self.busy = False

    async def wait(self, seconds: float) -> None:
        """Until there is a place, but no longer than that."""
        until = time.monotonic() + seconds
        while self.taken >= self.places and time.monotonic() < until:
            await asyncio.sleep(0.1)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place within the block, from before the image is received until its translation has been made.

        Raises ``Refused`` where there is none.
        """
        if self.taken >= self.places:
            raise Refused(429, "all places in the queue are taken; try again later", retry=self.taken * self.seconds)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def work(self, function: Callable[[], Result]) -> Result:
        """What the worker makes of it, when its turn has come."""
        async with self.turn:
            began = time.monotonic()
            try:
                return await self._in_thread(function)
            finally:
                self.seconds += 0.2 * (time.monotonic() - began - self.seconds)

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        """Always the same one, as networks keep memory for each. It does not keep the process from ending, as an executor's would."""
        if self.thread is None:
            self.thread = Thread(target=self._work, name="unflip-translate", daemon=True)
            self.thread.start()
        future: Future[Result] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.tasks.put(task)
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            self.busy = True
            task()
            self.busy = False

    def close(self) -> None:
        """The thread ends when it has done what it is at."""
        self.tasks.put(None)


class Rate:
    """A bucket for each client, which holds what it may send in a minute, and fills up again within one."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.full, self.clock = float(per_minute), clock
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def pay(self, client: str, cost: float) -> None:
        """Raises ``Refused`` where the bucket holds less than ``cost``; nothing is taken then."""
        if not self.full:
            return
        cost = min(cost, self.full)
        left = self._left(client)
        if left < cost:
            raise Refused(429, f"more than {self.full:.0f} requests in a minute; slow down", retry=(cost - left) * 60 / self.full)
        self.fine(client, cost)

    def fine(self, client: str, cost: float) -> None:
        """Take ``cost`` out of the bucket, even if it does not hold that much; then it is owed."""
        if self.full:
            self.buckets[neighbors(client)] = (max(-self.full, self._left(client) - cost), self.clock())
            self.buckets.move_to_end(neighbors(client))
            if len(self.buckets) > CLIENTS:
                self.buckets.popitem(last=False)

    def _left(self, client: str) -> float:
        now = self.clock()
        left, then = self.buckets.get(neighbors(client), (self.full, now))
        return min(self.full, left + (now - then) * self.full / 60)


def neighbors(client: str) -> str:
    """Those that share a bucket: an address; of IPv6 its network, of which one client has as many addresses as it wants."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client[:64]
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else client
