"""From exceptions to exit codes, for every command of the command line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from deid_diffusion.errors import DeidError, one_line


@contextmanager
def errors_as_exit_codes(context: typer.Context) -> Iterator[None]:
    """Turn any exception into one line and an exit code; with --debug, unexpected ones show their traceback."""
    try:
        yield
    except typer.Exit:
        raise
    except DeidError as error:
        typer.echo(f"error: {one_line(error)}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted: no file is half-written, and what was finished before is complete", err=True)
        raise typer.Exit(130) from None
    except Exception as error:
        if context.obj:
            traceback.print_exc()
        line = f"internal error: {type(error).__name__}: {one_line(error)} (please report; DEID_DEBUG=1 shows more)"
        typer.echo(line, err=True)
        raise typer.Exit(1) from None
