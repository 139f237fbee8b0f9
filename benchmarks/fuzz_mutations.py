"""How files are damaged: by bytes, by the fields of their headers, by the values of a JSON text. Nothing here knows of unflip."""

from __future__ import annotations

import copy
import io
import json
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

Rng = np.random.Generator
Mutation = Callable[[Rng, bytes], bytes]

NUMBERS = [0, 1, 2, 3, 7, 8, 16, 17, 32, 127, 128, 255, 256, 4096, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
"""Of fields; also all of them from the other end."""

ESCAPES = ["../../fuzz-escaped", "/tmp/unflip-fuzz-escaped", "..\\..\\fuzz-escaped", "a/../../../fuzz-escaped", "~/fuzz-escaped", "\0", "."]
"""Names that lead out of a folder."""

WORDS = ["", " ", "\x00", "\u202e", "\ud83d", "\uffff", "é" * 300, "x" * 100_000, "null", "NaN", "1e999", "{}", "<b onclick=f()>"]
TAGS = [254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 330, 338, 339]
CODES = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64, 32773, 34712, 34887, 34925, 34933, 50000, 50001, 50002, 65000, 42113]
"""Of TIFF: its tags, and what compressions, photometrics, predictors and depths can be."""


def pick(rng: Rng, things: Any) -> Any:
    """One of them."""
    return things[int(rng.integers(len(things)))]


def place(rng: Rng, data: bytes) -> int:
    """Somewhere; half of the time near the start, where headers are."""
    return int(rng.integers(max(1, min(len(data), 256) if rng.random() < 0.5 else len(data))))


def flip(rng: Rng, data: bytes) -> bytes:
    """A few bits."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if out:
            out[place(rng, data)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def number(rng: Rng, data: bytes) -> bytes:
    """A number of two, four or eight bytes becomes another one."""
    size = pick(rng, [2, 4, 8])
    value = int(pick(rng, NUMBERS)) * pick(rng, [1, 1, -1])
    at = place(rng, data)
    field = (value % 2 ** (8 * size)).to_bytes(size, pick(rng, ["little", "big"]))
    return data[:at] + field + data[at + size :]


def truncate(rng: Rng, data: bytes) -> bytes:
    """The end is gone."""
    return data[: int(rng.integers(len(data) + 1))]


def remove(rng: Rng, data: bytes) -> bytes:
    """A piece is gone."""
    at = place(rng, data)
    return data[:at] + data[at + int(rng.integers(1, 64)) :]


def insert(rng: Rng, data: bytes) -> bytes:
    """A piece of noise, zeros or the file itself comes in."""
    at, size = place(rng, data), int(rng.integers(1, 200))
    return data[:at] + pick(rng, [rng.bytes(size), bytes(size), b"\xff" * size, data[: 4 * size]]) + data[at:]


def swap(rng: Rng, data: bytes) -> bytes:
    """A piece is written over another."""
    a, b, size = place(rng, data), place(rng, data), int(rng.integers(1, 100))
    return data[:a] + data[b : b + size] + data[a + size :]


BYTES: list[Mutation] = [flip, number, truncate, remove, insert, swap]


def by_bytes(rng: Rng, data: bytes) -> bytes:
    """One to three of :data:`BYTES`."""
    for _ in range(int(rng.integers(1, 4))):
        data = pick(rng, BYTES)(rng, data)
    return data


def png(rng: Rng, data: bytes) -> bytes:
    """A chunk is changed, repeated, moved or added, with the right checksum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return by_bytes(rng, data)
    k = 0 if rng.random() < 0.4 else int(rng.integers(len(chunks)))
    kind, body = chunks[k]
    what = int(rng.integers(5))
    if what == 0 and kind == b"IHDR" and len(body) == 13:
        fields = list(struct.unpack(">IIBBBBB", body))
        j = int(rng.integers(7))
        fields[j] = int(pick(rng, NUMBERS)) % (2**32 if j < 2 else 256)
        chunks[k] = (kind, struct.pack(">IIBBBBB", *fields))
    elif what == 1:
        chunks[k] = (kind, by_bytes(rng, body) if body else rng.bytes(9))
    elif what == 2:
        chunks.insert(int(rng.integers(len(chunks) + 1)), chunks[k])
    elif what == 3:
        chunks.pop(k)
    else:
        added = [b"zTXt", b"iCCP", b"tEXt", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"sBIT"]
        bodies = [b"a\0\0" + _bomb(), b"a\0" + rng.bytes(40), rng.bytes(6), rng.bytes(26), b"Exif\0\0II*\0" + rng.bytes(60), b""]
        chunks.insert(1, (pick(rng, added), pick(rng, bodies)))
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@cache
def _bomb() -> bytes:
    """64 MiB of nothing."""
    return zlib.compress(bytes(2**26))


def jpeg(rng: Rng, data: bytes) -> bytes:
    """A field of a segment, such as the size of the frame."""
    places, at = [], 2
    while at + 4 < len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        places.append((at, size))
        at += 2 + size
    if not places:
        return by_bytes(rng, data)
    frames = [spot for spot in places if 0xC0 <= data[spot[0] + 1] <= 0xC2]
    start, size = pick(rng, frames if frames and rng.random() < 0.5 else places)
    at = start + int(rng.integers(1, max(2, min(size + 2, 20))))
    return data[:at] + struct.pack(">H", int(pick(rng, NUMBERS)) % 65536)[: int(rng.integers(1, 3))] + data[at + 2 :]


def fields(first: int, last: int) -> Mutation:
    """Numbers of two or four bytes from ``first`` to ``last``, little-endian, as BMP and WebP have them."""

    def mutate(rng: Rng, data: bytes) -> bytes:
        size = pick(rng, [2, 4])
        at = int(rng.integers(first, last - size))
        value = int(pick(rng, NUMBERS)) * pick(rng, [1, -1])
        return data[:at] + (value % 2 ** (8 * size)).to_bytes(size, "little") + data[at + size :]

    return mutate


def tiff(rng: Rng, data: bytes) -> bytes:
    """A field of an entry of the first directory: tag, type, count or value; or where the next directory is; or a number of its text."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    if rng.random() < 0.3:
        return _tiff_text(rng, data)
    try:
        (start,) = struct.unpack(order + ("Q" if big else "I"), data[8:16] if big else data[4:8])
        (count,) = struct.unpack(order + ("Q" if big else "H"), data[start : start + (8 if big else 2)])
        first, size = start + (8 if big else 2), 20 if big else 12
        if count > 200:
            raise struct.error
        if rng.random() < 0.1:
            at, width = first + count * size, 8 if big else 4
            value = pick(rng, [start, 0, 8, len(data), first])
        else:
            at = first + int(rng.integers(count)) * size
            offset, width = pick(rng, [(0, 2), (2, 2), (4, 8 if big else 4), (12, 8) if big else (8, 4), (12, 8) if big else (8, 4)])
            at += offset
            value = int(pick(rng, NUMBERS)) * pick(rng, [1, 1, -1])
            if offset == 0:
                value = pick(
                    rng, [254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 338, 339, 330]
                )
            if offset > 4 and rng.random() < 0.4:
                value = pick(rng, CODES)
        return data[:at] + (int(value) % 2 ** (8 * width)).to_bytes(width, "little" if order == "<" else "big") + data[at + width :]
    except (struct.error, ValueError):
        return by_bytes(rng, data)


def _tiff_text(rng: Rng, data: bytes) -> bytes:
    """A number of the description (OME-XML, ImageJ's, tifffile's JSON) becomes another one of as many digits."""
    spots = [
        at
        for at in range(8, len(data) - 1)
        if data[at : at + 1].isdigit() and data[at - 1 : at] in b'="[, ' and data[at - 8 : at].isascii()
    ]
    if not spots:
        return by_bytes(rng, data)
    at = pick(rng, spots)
    end = at
    while end < len(data) and data[end : end + 1].isdigit():
        end += 1
    return data[:at] + b"9" * (end - at) + data[end:] if rng.random() < 0.5 else data[:at] + b"0" * (end - at) + data[end:]


def tar(rng: Rng, data: bytes) -> bytes:
    """A field of a header, with the right checksum."""
    headers = [at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return by_bytes(rng, data)
    at = pick(rng, headers)
    head = bytearray(data[at : at + 512])
    what = int(rng.integers(4))
    if what == 0:
        name = pick(
            rng, ["../../fuzz-escaped.png", "/tmp/unflip-fuzz-escaped.png", "a/../../b.png", "é.png", "x" * 99, ".png", "a.b.png"]
        ).encode()
        head[:100] = name[:100].ljust(100, b"\0")
    elif what == 1:
        sizes = [
            b"00000000000\0",
            b"77777777777\0",
            b"00000000001\0",
            b"-0000000001\0",
            b"\xff" * 12,
            b"\x80" + b"\0" * 3 + b"\xff" * 8,
            b"junk".ljust(12),
        ]
        head[124:136] = pick(rng, sizes)
    elif what == 2:
        head[156:157] = pick(rng, [b"0", b"1", b"2", b"3", b"5", b"6", b"S", b"L", b"K", b"x", b"g", b"V", b"\0"])
        head[157:257] = b"../../fuzz-escaped".ljust(100, b"\0")
    else:
        spot = int(rng.integers(512))
        head[spot] = int(rng.integers(256))
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return data[:at] + bytes(head) + data[at + 512 :]


EVIL = [b"cposix\nsystem\n(S'exit'\ntR0", b"cbuiltins\nexit\n(tR0", b"cos\nabort\n(tR0", b"cbuiltins\nexec\n(S'import os; os.abort()'\ntR0"]
"""Calls, at the start of a pickle: done, they would end the process, or more."""


def pickled(rng: Rng, data: bytes) -> bytes:
    """The pickle in a .pth file, or a member beside it, its archive's checksums right; sometimes packed, twice there, or with a call."""
    if not data.startswith(b"PK"):
        return pick(rng, EVIL) + data if rng.random() < 0.2 else by_bytes(rng, data)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as there, zipfile.ZipFile(out, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members with one name
        names = there.namelist()
        which = next(name for name in names if name.endswith("data.pkl")) if rng.random() < 0.7 else pick(rng, names)
        for name in names:
            content = there.read(name)
            if name == which:
                content = pick(rng, EVIL) + content if rng.random() < 0.2 else by_bytes(rng, content)
                if rng.random() < 0.1:
                    new.writestr(name, content)
            if name == which and rng.random() < 0.1:
                name = pick(rng, ["../../x", "/x", name + "\0", "é" * 300, name.upper()])
            new.writestr(name, content, zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED)
    return out.getvalue()


def tree(rng: Rng, value: Any) -> Any:
    """A JSON value with one to three of its parts changed: other types, sizes, depths, names, or missing."""
    value = copy.deepcopy(value)
    for _ in range(1 if rng.random() < 0.7 else 3):
        places = _places(value) if isinstance(value, dict | list) else []
        if not places:
            return odd(rng)
        inside, key = pick(rng, places)
        what = rng.random()
        if what < 0.15 and isinstance(inside, dict):
            del inside[key]
        elif what < 0.3 and isinstance(inside, dict):
            inside[pick(rng, [*ESCAPES, *WORDS, "kind", "auto_map", str(key).upper()])] = inside[key] if rng.random() < 0.5 else odd(rng)
        elif what < 0.5 and isinstance(inside[key], int | float):
            inside[key] = pick(rng, [0, -1, 10**9, 2**63, 10**400, 0.5, -1e308, float("nan"), float("inf"), not inside[key], 7, 1000])
        elif what < 0.6 and isinstance(inside[key], list):
            inside[key] = pick(rng, [inside[key] * 1000, inside[key] + [odd(rng)], inside[key][1:], [inside[key]]])
        else:
            inside[key] = odd(rng)
    return value


def odd(rng: Rng) -> Any:
    """A value that nobody expects."""
    nested: Any = []
    for _ in range(int(pick(rng, [2, 50, 300, 900]))):
        nested = [nested] if rng.random() < 0.9 else {"kind": nested}
    return pick(
        rng,
        [None, True, -1, 10**30, 1.5, float("nan"), [], {}, nested, list(range(5000)), pick(rng, WORDS), pick(rng, ESCAPES), {"kind": []}],
    )


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Where values are, from the outside in: not all of what is large or deep."""
    found: list[tuple[Any, Any]] = []
    level = [value]
    for _ in range(12):
        inner = [(each, key) for each in level for key in (each if isinstance(each, dict) else range(len(each)))]
        found += inner[: 2000 - len(found)]
        level = [each[key] for each, key in inner if isinstance(each[key], dict | list)][:200]
    return found


def json_text(rng: Rng, data: bytes) -> bytes:
    """JSON whose values are changed, or its bytes, or nested without end."""
    what = rng.random()
    if what < 0.15:
        return by_bytes(rng, data)
    if what < 0.2:
        return pick(rng, [b"[" * 200_000, b'{"a":' * 100_000, b"1" * 10_000, b"", b"\xff\xfe", b'"' + b"x" * 10**6, b"null", b"[]", b"0"])
    return _dumped(tree(rng, json.loads(data)))


def _dumped(value: Any) -> bytes:
    try:
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):  # deeper, or longer numbers, than Python writes
        return b'{"a": ' + b"[" * 900 + b"9" * 4400 + b"]" * 900 + b"}"
