"""``unflip serve``"""

from __future__ import annotations

from typing import Annotated

import typer

from unflip.cli.options import Device


def serve(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, model folders, or whatever else is a model.")],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; any but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0: any that is free.")] = 7860,
    token: Annotated[
        str | None, typer.Option(metavar="TEXT", envvar="UNFLIP_TOKEN", help="What clients must know; better in the environment.")
    ] = None,
    device: Device = "auto",
    max_mb: Annotated[int, typer.Option(metavar="N", min=1, help="Of an image as it is sent, in MiB.")] = 32,
    max_pixels: Annotated[int, typer.Option(metavar="N", min=1, help="Of an image.")] = 20_000_000,
    queue: Annotated[int, typer.Option(metavar="N", min=1, help="Images that wait or are translated; more are sent away (429).")] = 16,
    rate: Annotated[int, typer.Option(metavar="N", min=0, help="Requests a minute of one client; 0: any.")] = 600,
) -> None:
    """Translate in a browser, and for programs by HTTP: a page at /, the API at /api, its description at /docs."""
    from importlib.util import find_spec

    from unflip.errors import MissingExtra

    for needed in ("fastapi", "gradio", "python_multipart", "uvicorn"):
        if find_spec(needed) is None:  # not imported here: Gradio first has to be told to keep to itself
            raise MissingExtra(needed, "serve")
    from unflip.web.app import create_app
    from unflip.web.auth import check_token, hosts
    from unflip.web.limits import Limits
    from unflip.web.logs import Lines
    from unflip.web.server import address, bound, run
    from unflip.web.work import load_models

    check_token(host, token)
    limits = Limits(bytes=max_mb * 2**20, pixels=max_pixels, places=queue, rate=rate)
    with bound(host, port) as listening:
        models, log = load_models(runs, device), Lines()
        app = create_app(models, limits, token, hosts(host, token), log)
        typer.echo(address(host, listening.getsockname()[1]))
        run(app, listening, log)
