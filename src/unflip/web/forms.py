"""The image in a request: its body, or a field of its form. In memory only, as the wall has seen to it that it fits."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from unflip.errors import short
from unflip.web.limits import Limits, Refused
from unflip.web.work import TYPES

FIELD = "image"
FORM = "multipart/form-data"


async def image_of(request: Request, limits: Limits) -> bytes:
    """The image's bytes. Raises ``Refused`` for another kind of request, and for one without an image."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind.decode("latin-1") not in (*TYPES.values(), FORM):
        raise Refused(
            415, f"not a kind of image that is read here; send one of {', '.join(TYPES.values())}, or {FORM} with a file, {FIELD}"
        )
    body = await request.body()
    if kind == FORM.encode():
        body = await _field(request, body, limits) if options.get(b"boundary") else b""
    if not body:
        raise Refused(400, f"no image; send it as the body, or as the file {FIELD} of a form")
    if len(body) > limits.bytes:
        raise Refused(413, f"too many bytes; the server takes {limits.bytes:,} of an image")
    return body


async def _field(request: Request, body: bytes, limits: Limits) -> bytes:
    async def once() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, once(), max_files=1, max_fields=8, max_part_size=2**12)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # or it would go to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"not a form that can be read: {error.message}") from None
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        raise Refused(400, f"no file in the form is called {FIELD}")
    if others := [name for name in form if name != FIELD]:
        raise Refused(400, f"the form holds {short(others[0])}, too; {FIELD} is all that is read of one, the rest is in the address")
    data = await file.read()
    await form.close()
    return data
