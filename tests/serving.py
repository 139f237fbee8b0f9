"""A server for tests: the application on a port of loopback, in a thread of this process."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from PIL import Image

from unflip.inference.translator import Translator
from unflip.web.app import create_app
from unflip.web.limits import Limits
from unflip.web.logs import Lines
from unflip.web.server import bound, configured

TOKEN = "a-token-that-nobody-guesses"


class Server(NamedTuple):
    """Where it is, and what it said."""

    url: str
    said: io.StringIO
    app: Any

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said.getvalue().splitlines()]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, trust_env=False, **options)


@contextmanager
def serving(models: dict[str, dict[str, Translator]], limits: Limits | None = None, **options: Any) -> Iterator[Server]:
    said = io.StringIO()
    listening = bound("127.0.0.1", 0)
    app = create_app(models, limits or Limits(rate=0), log=Lines(said), **options)
    server = configured(app, listening)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}", said, app)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 24), seed: int = 0) -> bytes:
    """An image file of random colors."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def started(model: Path, said: Path, *options: str, **environment: str) -> tuple[Any, str]:
    """The command in a process of its own, when it has said where it is; its log goes to a file."""
    sources = str(Path(__file__).parents[1] / "src")
    env = {**os.environ, "PYTHONPATH": sources, "OMP_NUM_THREADS": "1", **environment}
    words = [sys.executable, "-m", "unflip", "serve", str(model), "--port", "0", "--device", "cpu", *options]
    with open(said, "w") as log:
        process = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()
