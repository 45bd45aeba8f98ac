"""The command `deid-diffusion web`: a page to try it on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .anonymize import load_anonymizer
from .options import Device, KeyFile, Model, Store, errors_as_exit_codes

if TYPE_CHECKING:
    from ..identity.pseudonyms import Pseudonyms
    from ..serving.queue import Limits


Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Where to listen; one that other machines reach needs an API key.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")]
MaxMb = Annotated[int, typer.Option("--max-mb", min=1, help="Largest file, in millions of bytes.")]
MaxMegapixels = Annotated[int, typer.Option(min=1, help="Largest photo, in millions of pixels.")]
Queue = Annotated[int, typer.Option(min=1, help="Photos taken in and not yet answered; more are turned away.")]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds that a photo may take, waiting included.")]


def serve(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A secret that callers must send.", show_default="DEID_API_KEY in the environment"
        ),
    ] = None,
    model: Model = "builtin",
    device: Device = "auto",
    key_file: KeyFile = None,
    store: Store = None,
    max_mb: MaxMb = 30,
    max_megapixels: MaxMegapixels = 50,
    queue: Queue = 16,
    timeout: Timeout = 300,
) -> None:
    """Answer POSTs of photos over HTTP: the picture with other faces, and its record. Nothing is kept on disk.

    curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/anonymize -o anonymous.png
    """
    with errors_as_exit_codes(context):
        from ..errors import needed_for
        from ..serving.access import check_reach, read_api_key

        api_key = read_api_key(api_key_file)
        check_reach(host, api_key)
        with needed_for("serve", "deid-diffusion[service]"):
            from ..serving.access import address_of, listen, run
            from ..serving.http import make_app
        limits = make_limits(max_mb, max_megapixels, queue, timeout)
        people = open_people(key_file, store)
        opened = listen(host, port)
        app = make_app(load_anonymizer(model, device), limits, api_key=api_key, people=people)
        typer.echo(f"listening on {address_of(opened)} (POST /v1/anonymize; /health, /metrics, /openapi.json)")
        run(app, opened)


def make_limits(max_mb: int, max_megapixels: int, queue: int, timeout: float) -> Limits:
    """The limits that the options say."""
    from ..serving.queue import Limits

    return Limits(max_bytes=max_mb * 1_000_000, max_pixels=max_megapixels * 1_000_000, queue=queue, seconds=timeout)


def open_people(key_file: Path | None, store: Path | None) -> Pseudonyms | None:
    """The store of pseudonyms, if a key is given. Raises DeidError as `anonymize` does."""
    from ..options import Options
    from .anonymize import with_people

    return with_people(Options(), key_file, store, None).pseudonyms


def web(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A password for the page.", show_default="DEID_API_KEY in the environment"),
    ] = None,
    model: Model = "builtin",
    device: Device = "auto",
    key_file: KeyFile = None,
    store: Store = None,
    max_mb: MaxMb = 30,
    max_megapixels: MaxMegapixels = 50,
    queue: Queue = 16,
    timeout: Timeout = 300,
) -> None:
    """Open a page in which photos are dropped, compared with their results, and downloaded.

    Photos stay in memory until their tab is closed. The page asks no other server for anything.
    """
    with errors_as_exit_codes(context):
        from ..errors import needed_for
        from ..serving.access import check_reach, read_api_key

        api_key = read_api_key(api_key_file)
        check_reach(host, api_key)
        with needed_for("web", "deid-diffusion[web]"):
            from ..serving.access import address_of, listen, run
            from ..serving.gradio_app import make_app, upload_dir
        people = open_people(key_file, store)
        opened = listen(host, port)
        limits = make_limits(max_mb, max_megapixels, queue, timeout)
        with upload_dir() as folder:
            app = make_app(load_anonymizer(model, device), limits, folder, api_key=api_key, people=people)
            typer.echo(f"open {address_of(opened)} in a browser; Ctrl+C ends it")
            run(app, opened)
