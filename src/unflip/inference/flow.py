"""The stream of a translation: the next images are decoded, and the last ones written, while one is in the network."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from unflip.errors import UserError

Job = TypeVar("Job")
Image = TypeVar("Image")
Translation = TypeVar("Translation")
Found = TypeVar("Found")


class Stages(ABC, Generic[Job, Image, Translation, Found]):
    """What is done with a job, one method after the other."""

    @abstractmethod
    def decode(self, job: Job) -> Image:
        """Called in threads, before the job's turn. A ``UserError`` is noted, and the rest goes on."""

    @abstractmethod
    def translate(self, job: Job, image: Image) -> Translation:
        """Called in the thread of :func:`flow`. The same holds of its ``UserError``."""

    @abstractmethod
    def save(self, job: Job, image: Image, translation: Translation, seconds: float) -> Found | UserError:
        """Gives back what is to be noted; ``seconds`` is what the translation took. Called in threads. What it raises ends the whole."""

    @abstractmethod
    def note(self, job: Job, found: Found | UserError) -> None:
        """Called in the thread of :func:`flow`, in the order of the jobs."""


def flow(stages: Stages[Job, Image, Translation, Found], jobs: Iterable[Job], at_once: int) -> None:
    """Take all jobs through ``stages``. Whatever ends it, what has been saved is noted.

    ``at_once``: how many are decoded ahead and saved behind; 0: one thing after the other.
    """
    behind: deque[tuple[Job, Future[Found | UserError]]] = deque()

    def finish() -> None:
        job, found = behind.popleft()
        stages.note(job, found.result())

    with ThreadPoolExecutor(max(1, at_once)) as writers:
        try:
            for job, decoded in _ahead(stages, jobs, at_once):
                save: Callable[[], Found | UserError]
                began = time.monotonic()
                try:
                    image = decoded.result()
                    translation = stages.translate(job, image)
                    save = partial(stages.save, job, image, translation, round(time.monotonic() - began, 4))
                except UserError as error:
                    save = partial(_refused, error)
                while len(behind) >= max(1, at_once):  # first: where that cannot be saved, this is not to be
                    finish()
                behind.append((job, writers.submit(save)))
                if at_once == 0:
                    finish()
            while behind:
                finish()
        except BaseException:
            while behind:
                with suppress(UserError):
                    finish()
            raise


def _refused(error: UserError) -> UserError:
    return error


def _ahead(stages: Stages[Job, Image, Translation, Found], jobs: Iterable[Job], count: int) -> Iterator[tuple[Job, Future[Image]]]:
    """Every job with its image, decoded or refused, while the next ``count`` are on their way."""
    with ThreadPoolExecutor(max(1, count)) as pool:
        waiting: deque[tuple[Job, Future[Image]]] = deque()
        for job in jobs:
            waiting.append((job, pool.submit(stages.decode, job)))
            if len(waiting) > count:
                yield _waited(waiting.popleft())
        while waiting:
            yield _waited(waiting.popleft())


def _waited(entry: tuple[Job, Future[Image]]) -> tuple[Job, Future[Image]]:
    entry[1].exception()  # waits: decoding is no part of the time that a translation takes
    return entry
