"""What stands in front of everything that is served: who may ask for what, how much and how often; and what a browser may make of it.

One ASGI middleware, so that it holds for the page's own requests, which Gradio answers, as it does for the API's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect

from unflip.web.auth import Keys, from_elsewhere, named
from unflip.web.limits import Limits, Rate, Refused
from unflip.web.logs import Lines
from unflip.web.rooms import Rooms

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOKING = 0.02
"""What a GET costs of the rate, of which a translation costs 1: a page is a hundred small files."""
WRONG_TOKEN = 1 / 20
"""Of what a client may send in a minute: it has twenty guesses, and then one every three seconds."""
LINGER, LINGER_BYTES = 2.0, 2**25
"""Seconds, and bytes, for which somebody is listened to who has been refused."""
OPEN = ("/healthz", "/login")
"""Needs no token."""
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # without any, browsers do not say of a form where it comes from
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Of every answer. Nothing is loaded from elsewhere, whatever a page says."""


class Wall:
    """``app`` behind it."""

    def __init__(self, app: App, *, limits: Limits, keys: Keys, names: frozenset[str] | None, rooms: Rooms, log: Lines) -> None:
        self.app, self.limits, self.keys, self.names, self.rooms, self.log = app, limits, keys, names, rooms, log
        self.rate = Rate(limits.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(scope, receive, send)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        client = scope["client"][0] if scope.get("client") else "?"
        began = time.monotonic()
        try:
            self._admit(scope, headers, client)
            limited = answer.stopping(_limited(receive, headers, self.limits, scope["path"]))
            async with self.rooms.entered(scope, limited) as (room, read):
                await self.app(room, read, answer.send)
            if answer.stopped:
                raise answer.stopped
        except Refused as error:
            await answer.refuse(error)
        except ClientDisconnect:
            await answer.refuse(Refused(408, "the client is gone"))
        except asyncio.CancelledError:
            await answer.refuse(Refused(503, "the server is going down"))
        except Exception as error:
            self.log.failure(error, method=scope["method"], path=scope["path"])
            await answer.refuse(Refused(500, "an error of the server's; its log says which"))
        finally:
            if scope["path"] == "/login" and answer.status == 401:
                self.rate.fine(client, self.limits.rate * WRONG_TOKEN)
            self.log(
                method=scope["method"],
                path=scope["path"],
                status=answer.status,
                ms=round(1000 * (time.monotonic() - began), 1),
                bytes=answer.bytes,
                client=client,
            )

    def _admit(self, scope: Scope, headers: dict[str, str], client: str) -> None:
        """Raises ``Refused`` where the request is not to go further."""
        reads = scope["method"] in ("GET", "HEAD")
        self.rate.pay(client, LOOKING if reads else 1)
        if not named(headers, self.names):
            raise Refused(400, "this server is not called that; open http://localhost with its port, or start it with --token")
        if not reads and from_elsewhere(headers):
            raise Refused(403, "sent by a page of another server")
        if scope["path"] not in OPEN and not self.keys.opens(headers):
            if "authorization" in headers:
                self.rate.fine(client, self.limits.rate * WRONG_TOKEN)
            if scope["path"] == "/" and "text/html" in headers.get("accept", ""):
                raise Refused(303, "a token is needed", headers={"Location": "/login"})
            raise Refused(401, "a token is needed: the header `Authorization: Bearer TOKEN`, or open /login in a browser")


def _limited(receive: Receive, headers: dict[str, str], limits: Limits, path: str) -> Receive:
    """``receive``, which refuses what is too large, before it is read where its length is known, and what takes too long."""
    most = limits.bytes * (4 if path == "/gradio_api/upload" else 1) + 2**16  # what a form adds
    length, seen, whole = headers.get("content-length", "0"), 0, False
    deadline = time.monotonic() + limits.seconds
    too_much = Refused(413, f"too many bytes; the server takes {limits.bytes:,} of an image")

    async def read() -> Message:
        nonlocal seen, whole
        if length.isdecimal() and int(length) > most:
            raise too_much
        if whole:  # all that can come now is that the client is gone
            return await receive()
        try:
            message = await _arrived(receive, deadline - time.monotonic())
        except TimeoutError:
            raise Refused(408, f"not sent within {limits.seconds:.0f} seconds") from None
        seen += len(message.get("body", b""))
        if seen > most:
            raise too_much
        whole = not message.get("more_body", False)
        return message

    return read


async def _arrived(receive: Receive, seconds: float) -> Message:
    """What comes in that time, or has come when it is over: a server that was busy looks late, which is no fault of who has sent all.

    Raises ``TimeoutError``.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await receive()
    async with asyncio.timeout(0):
        return await receive()


class _Answer:
    """What goes out: with the headers that every answer has, and counted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send, self.status, self.bytes = scope, receive, send, 0, 0
        self.stopped: Refused | None = None

    def stopping(self, receive: Receive) -> Receive:
        """``receive``, whose refusal is the answer, whatever the application makes of it."""

        async def read() -> Message:
            try:
                return await receive()
            except Refused as error:
                self.stopped = error
                raise

        return read

    async def send(self, message: Message) -> None:
        if self.stopped is None or self.status:
            await self._sent(message)

    async def _sent(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            sent = [(name, value) for name, value in message.get("headers", []) if not _ours(name)]
            own = dict(message.get("headers", []))
            policy = {} if b"content-security-policy" not in own else {"content-security-policy": own[b"content-security-policy"].decode()}
            ours = [(name.encode(), value.encode()) for name, value in {**HEADERS, **policy}.items()]
            message = {**message, "headers": [*sent, *ours]}
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, error: Refused) -> None:
        """Nothing more can be said where an answer has begun."""
        if self.status:
            return
        body = json.dumps({"error": " ".join(str(error).split())}).encode() if error.status != 204 else b""
        more = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        headers = {"content-type": "application/json", "connection": "close", **more, **error.headers}
        if body:
            headers["content-length"] = str(len(body))
        start = {"type": "http.response.start", "status": error.status}
        await self._sent({**start, "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]})
        await self._sent({"type": "http.response.body", "body": body, "more_body": True})
        if self.scope["method"] not in ("GET", "HEAD") and error.status != 503:
            await self._linger()
        await self._sent({"type": "http.response.body", "body": b""})

    async def _linger(self) -> None:
        """Take what a client is still sending: many listen only when they have done so, and would find the connection broken."""
        taken = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while taken < LINGER_BYTES:
                    message = await self._receive()
                    taken += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break


def _ours(name: bytes) -> bool:
    """Whether a header is said for all answers alike. Gradio would let other servers' pages in (CORS)."""
    return name.decode("latin-1").lower() in HEADERS or name.lower().startswith(b"access-control-")
