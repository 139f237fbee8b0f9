"""The files that unflip takes for images, for videos, and for shards."""

from __future__ import annotations

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""The endings that unflip reads and writes, and Pillow's names of the formats. Pillow knows more, but rare decoders are little tested."""

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""The endings of the videos that unflip reads and writes."""

SHARD = ".tar"
"""The ending of shards. Packed ones (.tar.gz) cannot be read from the middle."""


def is_image(name: str) -> bool:
    """Whether a file of that name (or path) is an image, by its ending."""
    return ending(name) in FORMATS


def is_video(name: str) -> bool:
    """Whether a file of that name (or path) is a video, by its ending."""
    return ending(name) in VIDEOS


def is_shard(name: str) -> bool:
    """Whether a file of that name (or path) is a shard, by its ending."""
    return ending(name) == SHARD


def is_photo(member: str) -> bool:
    """Whether a shard's member is its sample's image.

    As WebDataset has it, a sample's key ends at the first dot of the name, and the rest names the field: ``KEY.png`` is the image,
    ``KEY.seg.png`` is not.
    """
    name = member.rpartition("/")[2]
    return name.count(".") == 1 and not name.startswith(".") and is_image(name)


def ending(name: str) -> str:
    """The ending of a file's name (or path), with its dot, in lower case."""
    stem, dot, ending = name.rpartition("/")[2].rpartition(".")
    return (dot + ending).lower() if stem else ""  # a hidden file has no ending, as in pathlib
