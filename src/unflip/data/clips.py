"""Clips to be judged: video files, or folders of frames in natural order; read frame after frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unflip.data.folders import find_files, relative_names, root
from unflip.data.formats import is_shard, is_video
from unflip.data.images import Array, read_rgb
from unflip.data.videos import frames, look, need_av, upright
from unflip.errors import UserError


class Clip(NamedTuple):
    """A clip by its name: the path of the video below the folder that was searched, without its ending, or of the folder of frames."""

    name: str
    files: list[Path]
    """One video, or the frames."""

    def frames(self) -> Iterator[Array]:
        """``(H, W, 3)`` uint8, one after the other. Raises ``UserError`` for what is broken."""
        for file in self.files:
            if is_video(file.name):
                turn = look(file).turn
                yield from (upright(frame, turn) for frame in frames(file))
            else:
                yield read_rgb(file)


def find_clips(where: Path) -> list[Clip]:
    """The clips of a folder, searched in depth: where it holds images, each folder of them is one; else each video.

    Raises ``UserError`` where there are none, or two of one name.
    """
    files = find_files(where, videos=True)
    if is_shard(files[0].name):
        raise UserError(f"shards, {where}; give videos, or a folder of frames for each clip")
    found: dict[str, list[Path]] = {}
    if any(is_video(file.name) for file in files):
        need_av()
    for file, name in zip(files, relative_names(files, where), strict=True):
        key = name.with_suffix("") if is_video(file.name) else name.parent
        of_this = found.setdefault(key.as_posix(), [])
        if of_this and (is_video(file.name) or is_video(of_this[0].name)):
            raise UserError(f"two clips of one name, {of_this[0]} and {file}; rename one of them")
        of_this.append(file)
    if list(found) == ["."]:  # the folder is the clip
        found = {root(files, where).resolve().name: files}
    return [Clip(name, files) for name, files in found.items()]


def paired(translated: Path, sources: Path) -> list[tuple[Clip, Clip]]:
    """Each translated clip and the source of its name; where there is one of each, whatever their names are.

    Raises ``UserError`` where one has none.
    """
    clips, others = find_clips(translated), find_clips(sources)
    if len(clips) == len(others) == 1:
        return [(clips[0], others[0])]
    by_name = {clip.name: clip for clip in others}
    missing = [clip.name for clip in clips if clip.name not in by_name]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(clips)} clips have no source, such as {missing[0]}, {sources}; give those of the same names"
        )
    return [(clip, by_name[clip.name]) for clip in clips]
