"""Running the application: a socket, the web server, and a clean end."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING

from unflip.errors import Interrupted, UserError
from unflip.web.auth import is_here
from unflip.web.logs import Lines, only_lines

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

CONNECTIONS = 512
"""At once; further ones are answered 503. Page visitors keep one open."""


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ``UserError`` where that cannot be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
    except socket.gaierror:
        raise UserError(f"no address of this machine, --host {host}; give 127.0.0.1, or one that `ip address` lists") from None
    except OverflowError:
        raise UserError(f"no port, --port {port}; give a number up to 65535, or 0 for any that is free") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is in use; give another --port, or 0 for any that is free") from None
        if error.errno == errno.EACCES:
            raise UserError(f"no permission for port {port}; give a --port above 1023") from None
        raise UserError(f"cannot listen on {host}, port {port} ({error.strerror}); give another --host") from None


def address(host: str, port: int) -> str:
    """Where a browser finds it."""
    name = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def configured(app: FastAPI, listening: socket.socket) -> uvicorn.Server:
    """The web server."""
    import uvicorn

    proxied = is_here(listening.getsockname()[0])  # nobody but a proxy on this machine is believed who it forwards for
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=True,
            forwarded_allow_ips="127.0.0.1,::1" if proxied else "",
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=5,
        )
    )


def run(app: FastAPI, listening: socket.socket, log: Lines) -> None:
    """Serve until Ctrl-C or SIGTERM (``Interrupted``); what is being translated then is given a few seconds.

    Also where Ctrl-C is ignored, as a shell that starts it in the background would have it: whoever sends that signal means it.
    """
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with only_lines(log):
            configured(app, listening).run(sockets=[listening])
    except Interrupted as stopped:
        if app.state.gate.busy:  # an image that takes longer: Python can only wait for the thread, or die of it
            print(stopped, file=sys.stderr, flush=True)
            os._exit(stopped.exit_code)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()


def _stop(number: int, frame: FrameType | None) -> None:
    raise Interrupted("interrupted" if number == signal.SIGINT else "stopped", 128 + number)
