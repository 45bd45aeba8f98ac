"""Commands `serve` (HTTP service) and `web` (web page)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import needed_for
from ..options import Options
from .anonymize import load_anonymizer, with_people
from .options import Device, KeyFile, Model, Store

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    OpenApp = Callable[..., AbstractContextManager[ASGIApp]]

Host = Annotated[
    str,
    typer.Option(metavar="ADDRESS", help="Address to listen on; if other machines can reach it, a key is required."),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free port.")]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="API key that callers must send; for `web`, the password.",
        show_default="DEID_API_KEY in the environment",
    ),
]
MaxMb = Annotated[int, typer.Option("--max-mb", min=1, help="Maximum file size, in millions of bytes.")]
MaxMegapixels = Annotated[int, typer.Option(min=1, help="Maximum photo size, in millions of pixels.")]
Queue = Annotated[int, typer.Option(min=1, help="Photos accepted and not yet answered; further ones are refused.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds per photo, including the wait.")]


def _server(extra: str, default_port: int) -> Callable[[Callable[[], tuple[OpenApp, str]]], Callable[..., None]]:
    """Return a decorator that makes a command of a function that imports an application, which needs an extra.

    The function returns the application's context manager and the line to print, with a place for the address.
    """

    def decorate(import_app: Callable[[], tuple[OpenApp, str]]) -> Callable[..., None]:
        def command(
            host: Host = "127.0.0.1",
            port: Port = default_port,
            api_key_file: ApiKeyFile = None,
            model: Model = "builtin",
            device: Device = "auto",
            key_file: KeyFile = None,
            store: Store = None,
            max_mb: MaxMb = 30,
            max_megapixels: MaxMegapixels = 50,
            queue: Queue = 16,
            timeout: Timeout = 300,
        ) -> None:
            with needed_for(import_app.__name__, f"deid-diffusion[{extra}]"):
                from ..serving.server import Limits, address_of, check_reach, listen, read_api_key, run

                open_app, announcement = import_app()
            api_key = read_api_key(api_key_file)
            check_reach(host, api_key)
            pseudonyms = with_people(Options(), key_file, store, None).pseudonyms
            limits = Limits(max_mb * 1_000_000, max_megapixels * 1_000_000, queue, timeout)
            server_socket = listen(host, port)
            anonymizer = load_anonymizer(model, device)
            with open_app(anonymizer, limits, api_key=api_key, pseudonyms=pseudonyms) as app:
                typer.echo(announcement.format(address_of(server_socket)))
                run(app, server_socket)

        command.__name__, command.__doc__ = import_app.__name__, import_app.__doc__
        return command

    return decorate


@_server(extra="service", default_port=8000)
def serve() -> tuple[OpenApp, str]:
    """Run an HTTP service that replaces the faces of photos. It stores no photo on disk.

    curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/anonymize -o anonymous.png
    """
    from ..serving.http import make_app

    announcement = "listening on {} (POST /v1/anonymize; /health, /metrics, /openapi.json)"
    return lambda *args, **secrets: nullcontext(make_app(*args, **secrets)), announcement


@_server(extra="web", default_port=7860)
def web() -> tuple[OpenApp, str]:
    """Run a web page on which photos are uploaded, compared with their results, and downloaded.

    Photos stay in memory until their tab is closed. The page loads nothing from other servers.
    """
    from ..serving.gradio_app import open_app

    return open_app, "open {} in a browser; stop with Ctrl+C"
