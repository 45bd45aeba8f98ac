"""Commands `serve` (HTTP service) and `web` (web page)."""

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


def serve(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8000,
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
    """Run an HTTP service that replaces the faces of photos. It stores no photo on disk.

    curl --data-binary @photo.jpg http://127.0.0.1:8000/v1/anonymize -o anonymous.png
    """
    with errors_as_exit_codes(context):
        from ..errors import needed_for

        with needed_for("serve", "deid-diffusion[service]"):
            from ..serving.access import address_of, check_reach, listen, read_api_key, run
            from ..serving.http import make_app
        api_key = read_api_key(api_key_file)
        check_reach(host, api_key)
        limits = make_limits(max_mb, max_megapixels, queue, timeout)
        pseudonyms = open_pseudonyms(key_file, store)
        server_socket = listen(host, port)
        app = make_app(load_anonymizer(model, device), limits, api_key=api_key, pseudonyms=pseudonyms)
        typer.echo(f"listening on {address_of(server_socket)} (POST /v1/anonymize; /health, /metrics, /openapi.json)")
        run(app, server_socket)


def make_limits(max_mb: int, max_megapixels: int, queue: int, timeout: float) -> Limits:
    """Return the limits given by the options."""
    from ..serving.queue import Limits

    return Limits(max_bytes=max_mb * 1_000_000, max_pixels=max_megapixels * 1_000_000, queue=queue, seconds=timeout)


def open_pseudonyms(key_file: Path | None, store: Path | None) -> Pseudonyms | None:
    """Open the store of pseudonyms if a key is given. Raises DeidError, as `anonymize` does."""
    from ..options import Options
    from .anonymize import with_people

    return with_people(Options(), key_file, store, None).pseudonyms


def web(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 7860,
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
    """Run a web page on which photos are uploaded, compared with their results, and downloaded.

    Photos stay in memory until their tab is closed. The page loads nothing from other servers.
    """
    with errors_as_exit_codes(context):
        from ..errors import needed_for

        with needed_for("web", "deid-diffusion[web]"):
            from ..serving.access import address_of, check_reach, listen, read_api_key, run
            from ..serving.gradio_app import make_app, upload_dir
        api_key = read_api_key(api_key_file)
        check_reach(host, api_key)
        pseudonyms = open_pseudonyms(key_file, store)
        server_socket = listen(host, port)
        limits = make_limits(max_mb, max_megapixels, queue, timeout)
        with upload_dir() as folder:
            app = make_app(load_anonymizer(model, device), limits, folder, api_key=api_key, pseudonyms=pseudonyms)
            typer.echo(f"open {address_of(server_socket)} in a browser; stop with Ctrl+C")
            run(app, server_socket)
