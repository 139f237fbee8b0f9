"""Translating folders: the same relative names, a manifest line per file, and going on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from unflip.data.images import check
from unflip.data.places import Place, is_remote, local
from unflip.data.save import name_for
from unflip.data.videos import look
from unflip.errors import UserError
from unflip.files import disk_errors, make_folder
from unflip.inference.annotations import Annotations, Companion, Copies, beside
from unflip.inference.hf import translate_dataset
from unflip.inference.jobs import Job, Line, Note, find_jobs, identity, map_name
from unflip.inference.manifest import MANIFEST as MANIFEST
from unflip.inference.manifest import Manifest
from unflip.inference.moved import Moved
from unflip.inference.outcome import Outcome as Outcome
from unflip.inference.saved import is_dataset
from unflip.inference.tars import translate_shard
from unflip.inference.translator import Translator
from unflip.inference.trust import fitted, is_trust_png
from unflip.inference.video import refuse_videos, translate_video
from unflip.inference.windows import by_windows
from unflip.inference.work import Guard, translate_images
from unflip.progress import Bar

How = Callable[[Translator, Sequence[Job], Place, Place | None, Note], None]
"""Does jobs, writing to a place and, if there is one, trust maps to the other; each that is done, or failed, is noted."""


def here(translator: Translator, jobs: Sequence[Job], out: Place, maps: Place | None, note: Note, guard: Guard | None = None) -> None:
    """Do all jobs in this process. ``guard`` is as in :func:`unflip.inference.work.translate_images`."""
    if maps is not None:
        fitted()  # read before the first translation, and by one thread
    translate_images(translator, [job for job in jobs if not job.shard and not job.video], out, maps, note, guard)
    for job in jobs:
        if job.shard:
            translate_shard(translator, job, out, maps, note, guard)
        elif job.video:
            translate_video(translator, job, out, note, guard)


def trust_folder(out: Path) -> Path:
    """Where the trust maps of the translations in ``out`` are: beside it, since whoever reads ``out`` wants translations only."""
    return _beside(out, "trust")


def trust_place(out: Path | str) -> Place:
    """The same, also for a URL."""
    return _place_beside(out, "trust")


def labels_place(out: Path | str) -> Place:
    """Where the label maps are copied to that did not lie in the source."""
    return _place_beside(out, "labels")


def _place_beside(out: Path | str, what: str) -> Place:
    return Place(f"{str(out).rstrip('/')}_{what}" if is_remote(out) else _beside(local(out), what))


def _beside(out: Path, what: str) -> Path:
    out = out.resolve()
    if not out.name:
        raise UserError(f"no folder can stand beside --out {out}, for the {what} maps; choose another folder")
    return out.with_name(f"{out.name}_{what}")


def translate_folder(
    translator: Translator,
    source: Path | str,
    out: Path | str,
    *,
    trust: bool = False,
    labels: Path | str | None = None,
    annotations: Annotations = "copy",
    column: str | None = None,
    progress: bool = True,
    how: How = here,
) -> Outcome:
    """Translate an image, or all images of a folder searched in depth, into ``out``; both may be URLs.

    Every file keeps its relative name and its size. ``manifest.jsonl`` gets a line for each: what was done, with which model, the seconds
    that the network took, or why not. Files that the manifest says this model has done are not done again. A bad file is listed, and the
    rest is done. With ``trust`` every translation gets a trust map (:mod:`unflip.inference.trust`) in :func:`trust_folder`, a gray PNG: 255
    is trust; where only that is missing, or is of an earlier translation, only that is made. Tar shards become tar shards
    (:func:`unflip.inference.tars.translate_shard`), and are done again as a whole; videos become videos
    (:func:`unflip.inference.video.translate_video`), without trust maps. ``how``: :func:`here`, or :func:`unflip.inference.scale.on_ray`.

    The annotations, splits and label maps of a data set (:func:`unflip.inference.annotations.beside`) are copied to the same relative
    places when its images are done, or linked to; texts that name its folder then name ``out``. ``labels``: the folder of the label maps,
    if not one that is recognized; outside of ``source``, they are copied to :func:`labels_place`.

    Of a data set of Hugging Face (:func:`unflip.inference.saved.is_dataset`), its ``column`` of images is translated, the first by default.

    Raises:
        UserError: no images, or ``out`` is the source, or holds another model's translations or files that unflip did not write.
    """
    if is_dataset(source):
        if trust or labels is not None or annotations != "copy" or how is not here:
            raise UserError(
                f"{source} is a data set of Hugging Face, whose columns stay together; leave out --trust, --labels, --annotations and --ray"
            )
        return translate_dataset(translator, source, out, column=column, progress=progress)
    if column is not None:
        raise UserError(f"--column {column} is for data sets of Hugging Face, which {source} is not; leave it out")
    jobs = find_jobs(source)
    videos = [job for job in jobs if job.video]
    if videos:
        refuse_videos(translator, videos[0], trust)
    if not is_remote(source) and not jobs[0].shard and local(source) == Path(jobs[0].source):
        # one image that is bad is a wrong call, not a bad file among many
        if videos:
            look(local(source))
        elif trust or not by_windows(jobs[0].source, translator, jobs[0].name):
            check(local(source))
    data = beside(source, jobs, labels, annotations)
    jobs = _named(data.jobs, translator)
    place, maps = Place(out), trust_place(out) if trust else None
    copies = [Copies(_renamed(data.files, translator), place, annotations, Moved(source, place))]
    if data.outside:
        beside_it = labels_place(out)
        copies.append(Copies(_renamed(data.outside, translator), beside_it, annotations, prefix=f"../{str(beside_it).rpartition('/')[2]}/"))
    with disk_errors(Path(place.where)):
        manifest = Manifest(place, translator, bool(videos))
        there = place.having([job.name for job in jobs])
        _refuse_to_overwrite(place, source, jobs, there, manifest)
        mapped = set() if maps is None else maps.having([map_name(job.name) for job in jobs])
        if maps is not None:
            _refuse_maps(maps, mapped, source, jobs, manifest)
        for each in copies:
            each.plan(manifest)
    if not place.remote:
        make_folder(Path(place.where))

    def is_done(job: Job) -> bool:
        return job.name in there and job.name in manifest.done and not manifest.changed(job.name, job.source)

    def is_mapped(job: Job) -> bool:
        return maps is None or (map_name(job.name) in mapped and job.name in manifest.trusted)

    todo = [job._replace(translated=is_done(job)) for job in jobs]
    todo = [job for job in todo if not job.translated or not is_mapped(job)]
    left = {job.name for job in todo}
    outcome = Outcome(skipped=sum(manifest.images[job.name] for job in jobs if job.name not in left), labels=data.labels, left=data.left)
    bar = Bar("translating", len(jobs), len(jobs) - len(todo), quiet=not progress)
    noted: set[str] = set()

    def note(line: Line) -> None:
        if "status" not in line:  # of a video that is being done
            bar.show(len(jobs) - len(left), line["news"], line["share"])
            return
        name, known = line["file"], "shard" in line and line["file"] in manifest.done
        if name in noted:  # a worker that was lost had done it, too
            return
        noted.add(name)
        left.discard(name)
        if not known:  # of a shard that is done again, the manifest has most images
            manifest.add(line)
        if "error" in line:
            outcome.failed.append(line["error"])
        elif "images" not in line:
            outcome.done += "seconds" in line
            outcome.turned += "turned" in line
            outcome.skipped += "seconds" not in line  # only its trust map was made
            if "trust" in line:
                outcome.trust[name] = line["trust"]
        bar.show(len(jobs) - len(left))

    with disk_errors(Path(place.where)), manifest:
        if todo:
            manifest.begin(identity(str(source)))
        with bar, translator.telling(lambda step, steps: bar.show(len(jobs) - len(left), f"step {step:,} of {steps:,}", step / steps)):
            how(translator, todo, place, maps, note)
        for each in copies:
            for line in each.write(manifest, quiet=not progress):
                manifest.add(line)
                if "error" in line:
                    outcome.failed.append(line["error"])
                else:
                    outcome.copied += line["status"] == "copied"
                    outcome.linked += line["status"] == "linked"
    return outcome


def _named(jobs: Sequence[Job], translator: Translator) -> list[Job]:
    """With the names of files that can hold the target's images."""
    named = [job._replace(name=name_for(job.name, translator.target)) for job in jobs]
    taken: dict[str, Job] = {}
    for job, before in zip(named, jobs, strict=True):
        other = taken.setdefault(job.name, before)
        if other.name != before.name:
            raise UserError(f"{other.name} and {before.name} would both become {job.name}, as images are {translator.target}; rename one")
    return named


def _renamed(files: Sequence[Companion], translator: Translator) -> list[Companion]:
    """Label maps, with the names that their images have as translations."""
    return [file._replace(images=tuple(name_for(image, translator.target) for image in file.images)) for file in files]


def _refuse_to_overwrite(out: Place, source: Path | str, jobs: Sequence[Job], there: set[str], manifest: Manifest) -> None:
    """Nothing is written over an image that is not an earlier translation of the same source."""
    copied = sorted(job.name for job in jobs if job.name in there and job.name in manifest.copied)
    if copied:
        raise UserError(f"--out {out} holds {len(copied)} label maps that were copied, such as {copied[0]}; name their folder by --labels")
    if _is_folder(source) and _within(out, source):
        raise UserError(f"--out {out} lies in the folder of the source images, {source}; choose another folder")
    whole = identity(str(source))
    for job in jobs:
        given = identity(job.source)
        if identity(out.path(job.name)) == given:
            raise UserError(f"--out {out} is where the source images are; choose another folder")
        if manifest.done.get(job.name, given) != given:
            raise UserError(f"--out {out} holds translations of other images, such as {job.name}; choose another folder")
        if job.name in there and manifest.foreign(job.name, whole):
            raise UserError(f"--out {out} holds another {job.name}, which unflip did not write; choose another folder")


def _refuse_maps(maps: Place, mapped: set[str], source: Path | str, jobs: Sequence[Job], manifest: Manifest) -> None:
    """Trust maps are named as label maps are, by the path without its ending; none lies among the source images or over another file."""
    if _is_folder(source) and _within(maps, source):
        raise UserError(f"the trust maps' folder, {maps}, lies in that of the source images, {source}; choose another --out")
    taken: dict[str, str] = {}
    whole = identity(str(source))
    for job in jobs:
        name = map_name(job.name)
        other = taken.setdefault(PurePosixPath(name).with_suffix("").as_posix(), job.name)
        if other != job.name:
            raise UserError(f"{other} and {job.name} would have one trust map; rename one of them, or leave out --trust")
        if name in mapped and (manifest.foreign(job.name, whole) or not _is_map(maps, name, job, manifest)):
            raise UserError(f"{maps} holds another {name}, which unflip did not write; choose another --out")


def _is_map(maps: Place, name: str, job: Job, manifest: Manifest) -> bool:
    """Whether a file that is where the trust map of ``job`` belongs is one; of shards, nothing tells."""
    return job.shard or job.name in manifest.trusted or is_trust_png(maps.read(name))


def _is_folder(source: Path | str) -> bool:
    return is_remote(source) or local(source).is_dir()


def _within(place: Place, source: Path | str) -> bool:
    """Whether ``place`` is the folder ``source``, or lies in it."""
    if place.remote or is_remote(source):
        return f"{place}/".startswith(f"{str(source).rstrip('/')}/")
    return Path(place.where).resolve().is_relative_to(local(source).resolve())
