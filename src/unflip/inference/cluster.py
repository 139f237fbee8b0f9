"""Reaching Ray: the cluster that the environment names, or this machine alone."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any

from unflip.errors import Interrupted, UserError

ANSWER = 10
"""Seconds in which a cluster must answer."""
STORE = 2**28
"""Bytes of shared memory for Ray on one machine: it holds the model and names, never images."""


@contextmanager
def connected() -> Iterator[None]:
    """Ray, as it is if this process is connected already, else until the block has ended.

    What Ray says of its workers goes to standard error: standard output belongs to the answer.
    """
    import ray

    if ray.is_initialized():
        with redirect_stdout(sys.stderr):
            yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    elif not _answers(address):
        raise UserError(f"nothing answers at RAY_ADDRESS={address}; start Ray there, or unset RAY_ADDRESS to use this machine")
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, object_store_memory=STORE, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Ray cannot be used, RAY_ADDRESS={address} ({reason}); start it, or unset RAY_ADDRESS to use this machine"
        ) from error
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        ray.shutdown()


def _answers(address: str) -> bool:
    """Whether somebody listens there, as far as that can be asked; Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except OSError:
        return False
    return True


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """End the block in order where SIGTERM comes; Ray's own handler would end the process, and tell of its stack."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped; what has been translated is kept: the same command goes on", 128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
