"""The command `deid-diffusion web`: a page to try it on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deid_diffusion.cli_anonymize import load_anonymizer
from deid_diffusion.cli_errors import errors_as_exit_codes
from deid_diffusion.cli_options import Device, KeyFile, Model, Store
from deid_diffusion.cli_serve import Host, MaxMb, MaxMegapixels, Port, Queue, Timeout, make_limits, open_people


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
        from deid_diffusion.requirements import needed_for
        from deid_diffusion.service.access import check_reach, read_api_key

        api_key = read_api_key(api_key_file)
        check_reach(host, api_key)
        with needed_for("web", "deid-diffusion[web]"):
            from deid_diffusion.service.running import address_of, listen, run
            from deid_diffusion.web.app import make_app
            from deid_diffusion.web.workplace import workplace
        people = open_people(key_file, store)
        opened = listen(host, port)
        limits = make_limits(max_mb, max_megapixels, queue, timeout)
        with workplace() as folder:
            app = make_app(load_anonymizer(model, device), limits, folder, api_key=api_key, people=people)
            typer.echo(f"open {address_of(opened)} in a browser; Ctrl+C ends it")
            run(app, opened)
