"""What the API says of itself: its OpenAPI description where FastAPI cannot know it, and the pages made of plain HTML.

FastAPI's own pages load their scripts from other servers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from unflip.web.forms import FIELD, FORM
from unflip.web.work import TYPES, Models

STATUSES = {
    400: "The request cannot be understood, holds no image, or calls the server by a name that is not its own.",
    401: "The token is missing or wrong.",
    403: "A page of another server sends this.",
    404: "No such model, or none of that direction.",
    408: "It took too long to arrive.",
    413: "Too many bytes or pixels.",
    415: "Not a kind of image that is read here.",
    422: "Not an image, broken, or not one like the model's source; or a parameter is wrong.",
    429: "Too many requests of this client, or of all together. `Retry-After` says in how many seconds there may be room.",
}
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
TRANSLATION: dict[str, Any] = {
    "description": "The translation; with `trust=1` a ZIP of `translation.*` and `trust.png` (255 trust, 0 probably flipped).",
    "content": {kind: BINARY for kind in (*TYPES.values(), "application/zip")},
    "headers": {"Unflip-Trust": {"description": "With `trust=1`: the mean of the map, 0 to 1.", "schema": {"type": "string"}}},
}


def secured(token: str | None) -> dict[str, Any]:
    """What an endpoint that needs the token says."""
    return {"openapi_extra": {"security": [{"token": []}]}} if token is not None else {}


def translation(models: Models, token: str | None) -> dict[str, Any]:
    """What FastAPI cannot know of the body."""
    file = {"type": "object", "properties": {FIELD: BINARY["schema"]}, "required": [FIELD], "additionalProperties": False}
    form = {"schema": file, "encoding": {FIELD: {"contentType": ", ".join(TYPES.values())}}}
    content = {kind: BINARY for kind in TYPES.values()} | {FORM: form}
    extra = {"requestBody": {"required": True, "description": "The image, or a form with it.", "content": content}}
    return {"openapi_extra": extra | secured(token).get("openapi_extra", {})}


def add_token(schema: dict[str, Any]) -> None:
    """Say how the token is given."""
    schema.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}


def page(schema: dict[str, Any], address: str, model: str, token: bool) -> str:
    """The description for people to read."""
    return _templates().get_template("docs.html.j2").render(schema=schema, address=address, model=model, token=token)


def login(wrong: bool = False) -> str:
    """The page that asks for the token."""
    return _templates().get_template("login.html.j2").render(wrong=wrong)


@cache
def _templates() -> Environment:
    return Environment(loader=PackageLoader("unflip.web"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
