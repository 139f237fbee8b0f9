"""The application: the API's endpoints, and the page beside them."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import unflip
from unflip.errors import UserError, short
from unflip.web import describe
from unflip.web.auth import Keys
from unflip.web.files import keep_tidy, private_folder
from unflip.web.forms import image_of
from unflip.web.limits import Gate, Limits, Refused
from unflip.web.logs import Lines
from unflip.web.page import mount
from unflip.web.rooms import Rooms
from unflip.web.wall import Wall
from unflip.web.work import TYPES, Made, Models, translate


class Model(BaseModel):
    """A model that is served."""

    name: str
    directions: list[Literal["forward", "backward"]]
    source: str
    """What the images hold that it takes in the first direction, such as "uint8 with 3 bands"."""
    target: str
    resize: str
    """What is done to an image before it is translated, and undone after."""


class ModelList(BaseModel):
    """The first one is used where none is named."""

    models: list[Model]


class Health(BaseModel):
    """That the server answers is the news."""

    status: Literal["ok"]
    version: str
    waiting: int
    """Images that are being received, wait, or are being translated."""
    places: int
    """For how many there is room."""


class Problem(BaseModel):
    """What every refusal says."""

    error: str


def create_app(
    models: Models,
    limits: Limits | None = None,
    token: str | None = None,
    names: frozenset[str] | None = None,
    log: Lines | None = None,
) -> FastAPI:
    """The server of these models. ``names``: those under which it may be called; None: any."""
    limits, log, keys = limits or Limits(), log or Lines(), Keys(token)
    gate = Gate(limits.places)
    stack = AsyncExitStack()
    folder = stack.enter_context(private_folder())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(keep_tidy(folder, limits, rooms.listed))
        async with stack:
            yield
        tidying.cancel()
        gate.close()

    app = FastAPI(title="unflip", version=unflip.__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.gate = gate
    app.description = "Unpaired image-to-image translation that keeps semantics."
    rooms = Rooms(folder, limits)
    app.add_middleware(Wall, limits=limits, keys=keys, names=names, rooms=rooms, log=log)  # type: ignore[arg-type]
    app.add_exception_handler(Refused, _passed_on)
    app.add_exception_handler(UserError, _refusal)
    app.add_exception_handler(RequestValidationError, _refusal)
    app.add_exception_handler(HTTPException, _refusal)

    @app.get("/healthz", responses=_problems(400, 429))
    async def health() -> Health:
        """Is it alive, and how much is it asked for? Needs no token."""
        return Health(status="ok", version=unflip.__version__, waiting=gate.taken, places=gate.places)

    @app.get("/api/models", responses=_problems(400, 401, 429), **describe.secured(token))
    async def list_models() -> ModelList:
        """What can translate here."""
        return ModelList(models=[_model(name, sides) for name, sides in models.items()])

    which = Query(next(iter(models)), description="A name of /api/models.", json_schema_extra={"enum": [*models]})
    way: Any = Query(None, description="backward: target to source. Default: forward, if the model does that.")  # None cannot be sent

    @app.post(
        "/api/translate",
        response_class=Response,
        responses={200: describe.TRANSLATION, **_problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503)},
        **describe.translation(models, token),
    )
    async def translate_image(
        request: Request,
        model: str = which,
        direction: Literal["forward", "backward"] = way,
        trust: Annotated[bool, Query(description="1: a ZIP of the translation, and of the map of where to trust it.")] = False,
    ) -> Response:
        """Translate an image. Same size and format; TIFF where its format cannot hold the target's bands or depth."""
        if unknown := [*{*request.query_params} - {"model", "direction", "trust"}]:
            raise Refused(422, f"no parameter is called {short(unknown[0])}; there are model, direction and trust")
        sides = models.get(model)
        if sides is None:
            raise Refused(404, f"no model is called that; there are {', '.join(models)}")
        direction = direction or next(iter(sides))
        if direction not in sides:
            raise Refused(404, f"this model translates {next(iter(sides))} only")
        async with gate.place():
            data = await image_of(request, limits)
            if await request.is_disconnected():
                raise Refused(408, "the client is gone")
            made = await gate.work(partial(translate, sides[direction], data, limits, trust))
        if not trust:
            return Response(made.data, media_type=TYPES[made.ending])
        return Response(packed(made), media_type="application/zip", headers={"Unflip-Trust": str(made.mean)})

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(describe.page(app.openapi(), str(request.base_url).rstrip("/"), next(iter(models)), token is not None))

    @app.get("/login", include_in_schema=False)
    async def ask(request: Request) -> HTMLResponse:
        return HTMLResponse(describe.login())

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=1, max_part_size=2**12)
        if token is not None and not keys.fits(str(form.get("token", ""))):
            return HTMLResponse(describe.login(wrong=True), 401)
        return RedirectResponse("/", 303, {"Set-Cookie": keys.set_cookie(request.url.scheme == "https")})

    if token is not None:
        describe.add_token(app.openapi())
    mount(app, models, limits, gate, rooms, log)
    return app


def packed(made: Made) -> bytes:
    """The translation and its trust map as a ZIP; the same bytes for the same image."""
    assert made.trust_png is not None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in ((f"translation{made.ending}", made.data), ("trust.png", made.trust_png)):
            file.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _model(name: str, sides: Any) -> Model:
    first = next(iter(sides.values()))
    return Model(name=name, directions=[*sides], source=str(first.source), target=str(first.target), resize=str(first.resize))


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": describe.STATUSES[status]} for status in statuses}


async def _passed_on(request: Request, error: Exception) -> JSONResponse:
    """The wall answers, which listens on to whoever is still sending."""
    raise error


async def _refusal(request: Request, error: Exception) -> JSONResponse:
    """What is wrong, in one line; of everything that is refused, in the same form."""
    status, headers = 422, getattr(error, "headers", None)
    text = str(error)
    if isinstance(error, RequestValidationError):
        text = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    elif isinstance(error, HTTPException):
        status, text = error.status_code, str(error.detail)
    return JSONResponse({"error": " ".join(text.split())}, status, headers)
