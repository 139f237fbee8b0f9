"""Gradio's page as it leaves here: its scripts may run and no others, nothing in it points elsewhere, what it refuses is no error."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from unflip.web.wall import HEADERS

Message = MutableMapping[str, Any]
App = Callable[[MutableMapping[str, Any], Any, Callable[[Message], Awaitable[None]]], Awaitable[None]]

ELSEWHERE = re.compile(
    r"<meta\s[^>]*(?:og:|twitter:)[^>]*>|<link\s[^>]*(?:manifest|preconnect|dns-prefetch|https?://)[^>]*>", re.IGNORECASE
)
"""What Gradio says to other sites' robots; its installable page; addresses of fonts."""


def dressed(app: App) -> App:
    """Gradio's application, with its answers so changed. It must not compress them."""

    async def answer(scope: MutableMapping[str, Any], receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        change = {"/": _page}.get(scope["path"]) or (_event if "/run/" in scope["path"] else None)
        if scope["type"] != "http" or change is None:
            await app(scope, receive, send)
            return
        started: Message = {}
        body = b""

        async def held(message: Message) -> None:
            nonlocal started, body
            if message["type"] == "http.response.start":
                started = message
                return
            body += message.get("body", b"")
            if not message.get("more_body", False):
                start, whole = change(started, body)
                kept = [(name, value) for name, value in start["headers"] if name != b"content-length"]
                await send({**start, "headers": [*kept, (b"content-length", str(len(whole)).encode())]})
                await send({"type": "http.response.body", "body": whole if scope["method"] != "HEAD" else b""})

        await app(scope, receive, held)

    return answer


def _page(start: Message, body: bytes) -> tuple[Message, bytes]:
    nonce = secrets.token_urlsafe(16)
    html = ELSEWHERE.sub("", body.decode())
    html = html.replace("<script", f'<script nonce="{nonce}"')
    policy = HEADERS["content-security-policy"].replace("script-src 'self'", f"script-src 'self' 'nonce-{nonce}'")
    added = [(b"content-security-policy", policy.encode()), (b"cache-control", b"no-store")]
    return {**start, "headers": [*start["headers"], *added]}, html.encode()


def _event(start: Message, body: bytes) -> tuple[Message, bytes]:
    """All that our own functions can meet they answer themselves; what is left is a request that the page would not make."""
    if start["status"] < 400:
        return start, body
    kept = [(name, value) for name, value in start["headers"] if name != b"content-type"]
    headers = [*kept, (b"content-type", b"application/json")]
    return {**start, "status": 400, "headers": headers}, json.dumps({"error": "not an event of the page"}).encode()
