"""What a TIFF file may ask of its decoders: few of them, and none that makes more of a strip or tile than the file says that it holds."""

from __future__ import annotations

import math
import os
import struct
from typing import Any
from xml.etree import ElementTree

import tifffile

from unflip.errors import UserError

COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34887: "LERC",
    34925: "LZMA",
    34926: "Zstandard",
    50000: "Zstandard",
}
"""By TIFF's number. What everybody uses; tifffile knows twice as many, little tested. Those of everyday files are up to Pillow."""

_VENDORS = "lsm mmstack ndtiff fluoview stk sis svs scn qpi ndpi bif avs eer philips scanimage nih mdgel indica"
VENDORS = _VENDORS.split()
"""Dialects of microscopes that tifffile reads in ways of their own, some of which lead to other files."""

SUB = (b"\x4a\x01", b"\x01\x4a")
"""The tag of directories in a directory, in both orders of bytes."""
MOST_SUB = 64

MOST_PLANES = 1_000_000
"""That the XML of an OME-TIFF may count."""
_COUNTS = {"SizeZ", "SizeC", "SizeT", "NumPlanes", "PlaneCount", "IFD", "FirstZ", "FirstC", "FirstT"}


def open_tiff(file: Any) -> tifffile.TiffFile:
    """The file as tifffile parses it: TIFF, OME-TIFF or ImageJ's, and only this one, even where it names others as its parts."""
    _check_directories(file)
    others: Any = {f"is_{name}": False for name in VENDORS if name in tifffile.TIFF.FILE_FLAGS}
    tiff = tifffile.TiffFile(file, _multifile=False, **others)
    if tiff.is_ome and tiff.ome_metadata:
        _check_planes(tiff.ome_metadata)
    return tiff


def _check_directories(file: Any) -> None:
    """Raise ``ValueError`` where the directories of a file, one for each page, are more than it has room for.

    Then they overlap, or go in circles, and tifffile would read them again and again.
    """
    head, size = file.read(16), file.seek(0, os.SEEK_END)
    big = head[2:4] in (b"+\0", b"\0+")
    order, number, entry = "<" if head[:2] == b"II" else ">", "Q" if big else "I", 20 if big else 12
    counts = struct.Struct(order + ("Q" if big else "H"))
    offsets = struct.Struct(order + number)
    used = 0
    try:
        (at,) = offsets.unpack_from(head, 8 if big else 4)
        while at:
            file.seek(at)
            (count,) = counts.unpack(file.read(counts.size))
            used += counts.size + count * entry + offsets.size
            if used > size:
                raise ValueError("its directories are larger than the file")
            entries = file.read(count * entry)
            subs = [entries[k + 4 : k + 4 + offsets.size] for k in range(0, len(entries), entry) if entries[k : k + 2] in SUB]
            if any(offsets.unpack(each)[0] > MOST_SUB for each in subs):
                raise ValueError(f"more than {MOST_SUB} directories in one")
            (at,) = offsets.unpack(file.read(offsets.size))
    except struct.error:  # the file ends there, as tifffile will see, too
        pass
    file.seek(0)


def _check_planes(xml: str) -> None:
    """Raise where lists would be made of as many planes as the XML likes, or of what it calls a modulo."""
    try:
        elements = list(ElementTree.fromstring(xml).iter())
    except ElementTree.ParseError:
        return  # then tifffile does without it
    for element in elements:
        if element.tag[:-1].endswith("Along"):
            raise UserError("a stack of images (OME modulo)")
        counts = {key: int(value) for key, value in element.attrib.items() if key in _COUNTS}
        planes = math.prod(max(count, 1) for key, count in counts.items() if key.startswith("Size"))
        if max([planes, *counts.values()]) > MOST_PLANES:
            raise ValueError("more planes than can be")


def refuse_codec(page: Any) -> None:
    """Raise ``UserError`` for a compression that is not decoded."""
    if page.compression not in COMPRESSIONS:
        name = getattr(page.compression, "name", str(int(page.compression)))
        raise UserError(f"compressed as {name}, which is not decoded ({', '.join(dict.fromkeys(COMPRESSIONS.values()))} are)")


def refuse_bomb(data: bytes, page: Any) -> None:
    """Raise ``ValueError`` where a strip or tile holds an image of its own that is larger than the file says that strips or tiles are.

    Other compressions are decoded into memory of that size, and fail where it is too small.
    """
    high, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, page.imagelength), page.imagewidth)
    found = {7: _jpeg_size, 34887: _lerc_size}.get(int(page.compression), lambda data: None)(data)
    if found is not None and (found[0] > high or found[1] > wide or found[2] > page.samplesperpixel):
        raise ValueError(f"a strip or tile of {found[1]}x{found[0]} instead of {wide}x{high}")


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    """Height, width and components, as the first frame header has them."""
    at = 2
    while at + 10 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack(">HHB", data[at + 5 : at + 10])
            return height, width, components
        at += 1 if marker == 0xFF else 2 if marker in (0x01, *range(0xD0, 0xD9)) else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("a JPEG without a frame")


def _lerc_size(data: bytes) -> tuple[int, int, int]:
    """Height, width and values per pixel of LERC 2's one blob."""
    if data[:6] != b"Lerc2 " or len(data) < 46:
        raise ValueError("no LERC 2")
    (version,) = struct.unpack("<i", data[6:10])
    fields = struct.unpack("<8i", data[14:46] if version >= 3 else data[10:42])
    height, width = fields[:2]
    depth, blob = (fields[2], fields[5]) if version >= 4 else (1, fields[4])
    if blob < len(data) - 8 or min(height, width, depth) < 0:
        raise ValueError("several LERC blobs in one")
    return height, width, depth
