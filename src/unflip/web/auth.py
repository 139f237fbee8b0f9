"""Who may use the server: whoever has the token, or, where there is none, whoever is on this machine."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from unflip.errors import UserError

COOKIE = "unflip"
SHORTEST = 16
"""Characters of a token."""
NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""What a browser on this machine calls it."""


class Keys:
    """The token, and what a browser gets in exchange for it. The latter is new with every start, and says nothing of the token."""

    def __init__(self, token: str | None) -> None:
        self.token, self.cookie = token, secrets.token_urlsafe(32)

    def opens(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers is let in."""
        if self.token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.fits(given.strip()):
            return True
        return _same(_cookie(headers), self.cookie)

    def fits(self, token: str) -> bool:
        """Whether it is the token."""
        return self.token is not None and _same(token, self.token)

    def set_cookie(self, secure: bool) -> str:
        """The header that makes a browser bring the cookie along."""
        return f"{COOKIE}={self.cookie}; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")


def check_token(host: str, token: str | None) -> None:
    """Raises ``UserError`` where a server on ``host`` would be open to others, or the token could be guessed."""
    if token is None:
        if not is_here(host):
            raise UserError(f"--host {host} lets other machines in; add --token (openssl rand -hex 16 makes one), or leave out --host")
    elif len(token) < SHORTEST or not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError(f"the token is too easy to guess; give at least {SHORTEST} letters and digits (openssl rand -hex 16 makes some)")


def is_here(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hosts(host: str, token: str | None) -> frozenset[str] | None:
    """The names under which the server may be called; None: any. A page elsewhere can give its own name this machine's address (DNS
    rebinding), and is then let in by a browser as if it had come from here; with a token that gains nothing, as it has none."""
    if token is not None:
        return None
    return NAMES | {f"[{host}]" if ":" in host else host}


def named(headers: Mapping[str, str], names: frozenset[str] | None) -> bool:
    """Whether a request calls the server by one of its names."""
    return names is None or _without_port(headers.get("host", "").lower()) in names


def from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a page of another server sends this."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    return origin.lower().partition("://")[2] != headers.get("host", "").lower()


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _cookie(headers: Mapping[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(), right.encode())
