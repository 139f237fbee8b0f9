"""Translating on many machines by Ray Data: the images, or shards, in chunks, to workers that each hold the model."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from unflip import devices
from unflip.data import limits
from unflip.data.places import Place, is_remote, local
from unflip.devices import choose_device
from unflip.errors import MissingExtra, UserError
from unflip.inference.cluster import connected, stopped_by_sigterm
from unflip.inference.folders import How, here
from unflip.inference.jobs import Job, Line, Note
from unflip.inference.translator import Translator

CHUNK = {"cpu": 8, "cuda": 64}
"""The most images that a worker gets at once: few, as all of them are done again where it dies, yet enough to hand them out at no cost."""
ROUNDS = 8
"""Every worker gets at least so many chunks, where there are enough images, so that none waits long for another at the end."""
TRIES = 2
"""So many workers may die at an image, after the one that died of its chunk, before it is given up."""


def on_ray(workers: int | None = None, device: str = "auto") -> How:
    """How to translate with Ray: on the cluster that the environment's RAY_ADDRESS names, or that this process is connected to, else on
    all cores or GPUs of this machine.

    A worker is an actor of one GPU, or of one core where there are none. What a worker that dies had in hand is given to another; an image
    at which workers keep dying is noted as failed.

    Args:
        workers: how many at most; None: as many as the cluster has GPUs, or cores.
        device: auto, cpu or cuda, of the workers.

    Raises:
        MissingExtra: Ray is not installed.
    """
    try:
        import_module("ray.data")
    except ImportError as error:
        raise MissingExtra("ray", "scale") from error
    if workers is not None and workers < 1:
        raise UserError(f"{workers} workers cannot translate anything; use 1 or more")
    if device not in ("auto", "cpu", "cuda"):
        choose_device(device)  # says what is wrong

    def how(translator: Translator, jobs: Sequence[Job], out: Place, maps: Place | None, note: Note) -> None:
        if not jobs:
            return
        with connected(), stopped_by_sigterm():
            _spread(translator, jobs, out, maps, note, workers, device)
        for place in (out, maps):
            if place is not None:
                place.sweep(job.name for job in jobs)

    return how


def _spread(
    translator: Translator, jobs: Sequence[Job], out: Place, maps: Place | None, note: Note, workers: int | None, device: str
) -> None:
    """Hand out the jobs, and note what comes back."""
    import ray
    import ray.data

    available = ray.cluster_resources()
    gpus = 0 if device == "cpu" else int(available.get("GPU", 0))
    if device == "cuda" and not gpus:
        raise UserError("device cuda: Ray knows of no GPU; use --device cpu")
    workers = workers or gpus or max(1, int(available.get("CPU", 1)))
    kind = "cuda" if gpus else "cpu"

    translator.to("cpu")
    given = {
        "translator": ray.put(translator),  # once for each machine, which needs no model folder
        "device": kind,
        "out": _anywhere(out.where),
        "maps": None if maps is None else _anywhere(maps.where),
        "limit": os.environ.get(limits.NAME, ""),
        "workers": workers,
        "tally": ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tally).remote(),
    }
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    chunks = [{"jobs": json.dumps(chunk)} for chunk in _chunks(jobs, workers, CHUNK[kind])]
    lines = ray.data.from_items(chunks, override_num_blocks=len(chunks)).flat_map(
        _Worker,
        fn_constructor_kwargs=given,
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=workers, max_size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=None if gpus else 1,
        num_gpus=1 if gpus else None,
    )
    try:
        for row in lines.iter_rows():
            line = json.loads(row["line"])
            if "stop" in line:
                raise UserError(line["stop"])
            note(line)
    except ray.exceptions.RayTaskError:  # an error in our own code, with the worker's traceback
        raise
    except ray.exceptions.RayError as error:  # of workers that cannot start, or machines that are gone
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"Ray gave up ({reason}); what has been translated is kept: the same command goes on") from error


class _Tally:
    """An actor: knows for all workers together which chunks were begun before, and at which images workers died."""

    def __init__(self) -> None:
        self.begun: set[str] = set()
        self.at: dict[str, str] = {}
        self.deaths: Counter[str] = Counter()

    def begin(self, chunk: str) -> bool:
        """Whether a worker had this chunk before, and died."""
        again = chunk in self.begun
        self.begun.add(chunk)
        if chunk in self.at:
            self.deaths[self.at.pop(chunk)] += 1
        return again

    def come_to(self, chunk: str, image: str) -> int:
        """How many workers died at the image that this one is about to try."""
        self.at[chunk] = image
        return self.deaths[image]


class _Worker:
    """An actor: takes a chunk of jobs, and gives back what is to be noted of each, when all of them are written."""

    def __init__(self, translator: Any, device: str, out: str, maps: str | None, limit: str, workers: int, tally: Any) -> None:
        import ray

        os.environ[limits.NAME] = limit  # a worker on another machine has another environment
        devices.sharing = min(workers, _cores(ray.get_runtime_context().get_node_id()))
        self.translator: Translator = ray.get(translator)
        self.translator.to(device)
        self.out, self.maps, self.tally = Place(out), None if maps is None else Place(maps), tally

    def __call__(self, row: dict[str, Any]) -> list[dict[str, str]]:
        import ray

        jobs = [Job(*job) for job in json.loads(row["jobs"])]
        lines: list[Line] = []
        chunk = jobs[0].name

        def guard(image: str) -> None:
            if ray.get(self.tally.come_to.remote(chunk, image)) >= TRIES:
                raise UserError(f"workers keep dying of {image}; look at it, or give them more memory")

        careful = guard if ray.get(self.tally.begin.remote(chunk)) else None
        try:
            here(self.translator, jobs, self.out, self.maps, lines.append, careful)
        except UserError as error:
            lines.append({"stop": str(error)})
        return [{"line": json.dumps(line)} for line in lines]


def _cores(node: str) -> int:
    """Of a machine of the cluster, as Ray counts them: where there are no GPUs, it can have so many workers."""
    import ray

    resources = next(known["Resources"] for known in ray.nodes() if known["NodeID"] == node)
    return max(1, int(resources.get("CPU", 1)))


def _chunks(jobs: Sequence[Job], workers: int, most: int) -> Iterator[list[Job]]:
    """The jobs with paths that hold anywhere; a shard or a video is enough for a chunk."""
    size = 1 if jobs[0].shard or any(job.video for job in jobs) else max(1, min(most, len(jobs) // (ROUNDS * workers)))
    for start in range(0, len(jobs), size):
        yield [job._replace(source=_anywhere(job.source)) for job in jobs[start : start + size]]


def _anywhere(where: str) -> str:
    return where if is_remote(where) else str(local(where).absolute())
