"""Which of Gradio's many doors are open, and what is checked at each. All others are not there.

Gradio would fetch URLs, list what it does, keep histories, and read what files a request names. The page needs none of that. Its events
are plain requests: no queue of Gradio's, no event streams save the one that tells it when a visitor has gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from unflip.web.files import tidy
from unflip.web.limits import Gate, Limits, Refused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

OURS = {
    "/healthz": ("GET",),
    "/api/models": ("GET",),
    "/api/translate": ("POST",),
    "/login": ("GET", "POST"),
    "/docs": ("GET",),
    "/openapi.json": ("GET",),
}
"""Answered by FastAPI. With other methods, they would be taken for Gradio's."""
READ = re.compile(
    r"/|/(?:assets|static)/[\w./-]{1,200}|/theme\.css|/favicon\.ico"
    r"|/gradio_api/(?:startup-events|app_id)"
)
RUN = re.compile(r"/gradio_api/run/\w{1,40}/?")
FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
STREAMS = re.compile(r"/gradio_api/(?:heartbeat/\w{1,40}|upload_progress)")
"""A connection for as long as a page is open, or an upload lasts. The answer is that there is nothing, and browsers ask no more."""
EVENT_BYTES = 2**18
"""Of what the page sends where something is clicked."""
DEPTH = 12
"""Of the JSON in it."""
UNTRUSTED = {b"accept-encoding", b"x-forwarded-host", b"x-gradio-server", b"x-ip-token"}
"""Would make Gradio compress what is still to be looked at, or believe that it is somewhere else."""


class Rooms:
    """``folder``: all that the page's requests may read or write. ``events``: the page's; ``listed``: files that Gradio knows."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits, self.uploads = folder, limits, Gate(limits.uploads)
        self.events: frozenset[int] = frozenset()
        self.listed: Sequence[set[str]] = ()

    @asynccontextmanager
    async def entered(self, scope: Scope, receive: Receive) -> AsyncIterator[tuple[Scope, Receive]]:
        """The request as it is let through. Raises ``Refused``."""
        path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
        if path in OURS:
            if scope["method"] not in OURS[path]:
                raise Refused(405, "not a method of this address", headers={"Allow": ", ".join(OURS[path])})
            yield scope, receive
            return
        scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name not in UNTRUSTED]}
        if reads and path.startswith(FILE):
            self._own(path.removeprefix(FILE))
            yield scope, receive
        elif reads and STREAMS.fullmatch(path):
            raise Refused(204, "")
        elif reads and READ.fullmatch(path) and ".." not in path:
            yield scope, receive
        elif scope["method"] == "POST" and path == UPLOAD:
            async with self.uploads.place():
                await asyncio.to_thread(tidy, self.folder, self.limits)
                yield {**scope, "query_string": b""}, receive  # of uploads that have a number there, Gradio remembers it for ever
        elif scope["method"] == "POST" and RUN.fullmatch(path):
            body = await self._event(receive)
            yield {**scope, "headers": [*_without_length(scope), (b"content-length", str(len(body)).encode())]}, _given(body, receive)
        else:
            raise Refused(404, "there is nothing here")

    def _own(self, name: object) -> None:
        """Raises ``Refused`` for all but the page's own files."""
        try:
            inside = isinstance(name, str) and Path(os.path.realpath(name)).is_relative_to(self.folder) and os.path.isfile(name)
        except (OSError, ValueError):  # too long, or with a NUL
            inside = False
        if not inside:
            raise Refused(404, "there is no such file here")

    async def _event(self, receive: Receive) -> bytes:
        """What the page sends, after a look at it: an event of ours, and no files but ours."""
        data = b""
        while True:
            message = await receive()
            data += message.get("body", b"")
            if len(data) > EVENT_BYTES:
                raise Refused(413, "too many bytes for an event of the page")
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                break
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            raise Refused(400, "not an event of the page") from None
        known = isinstance(event, dict) and type(event.get("fn_index")) is int and event["fn_index"] in self.events
        session = event.get("session_hash") if known else None
        if not known or not isinstance(session, str) or not re.fullmatch(r"\w{1,40}", session) or not isinstance(event.get("data"), list):
            raise Refused(400, "not an event of the page")
        self._look(event, DEPTH)
        return json.dumps(event).encode()

    def _look(self, value: object, depth: int) -> None:
        if depth == 0:
            raise Refused(400, "not an event of the page")
        if isinstance(value, dict):
            if "path" in value:
                self._own(value["path"])
            value.pop("url", None)  # Gradio could fetch it; it has the path
            for each in value.values():
                self._look(each, depth - 1)
        elif isinstance(value, list):
            for each in value:
                self._look(each, depth - 1)


def _without_length(scope: Scope) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in scope["headers"] if name not in (b"content-length", b"transfer-encoding")]


def _given(body: bytes, receive: Receive) -> Receive:
    """A request whose body has been read."""
    waiting = [body]

    async def read() -> MutableMapping[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return read
