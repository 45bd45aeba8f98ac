"""Entry point of the command line. Heavy packages are imported inside the commands, so that --help is fast."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .._version import __version__
from ..errors import DeidError, UsageError, one_line
from .anonymize import anonymize, dataset
from .evaluate import attack, evaluate
from .inspect import attributes, demo, inspect
from .keys import keys_app
from .options import DeprecatedFlags
from .serve import serve, web


class ErrorGroup(TyperGroup):
    """Group of commands that turns exceptions into one line and an exit code.

    With --debug, an unexpected exception also shows its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was parsed."""
        try:
            return super().invoke(ctx)
        except DeidError as error:
            code, line = 2, f"error: {one_line(error)}"
        except KeyboardInterrupt:
            code, line = 130, "interrupted: no file is half-written, and finished results are complete"
        except Exception as error:
            if isinstance(error, (typer.Exit, typer.Abort)) or hasattr(error, "format_message"):  # the parser's own
                raise
            if ctx.obj:
                traceback.print_exc()
            kind = f"internal error: {type(error).__name__}"
            code, line = 1, f"{kind}: {one_line(error)} (please report; DEID_DEBUG=1 shows more)"
        typer.echo(line, err=True)
        raise typer.Exit(code)


def prepare(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Image folders, tar files or WebDataset shards, folders saved by `datasets`, or names of data sets "
            "(NAME, or NAME:SPLIT).",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="CACHE", help="Folder of the crops and meshes.")],
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Table of further columns, with the photos' names in `file`."),
    ] = None,
    caption_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of captions.", show_default="text, or the .txt sidecar"),
    ] = None,
    resolution: Annotated[int, typer.Option(min=32, help="Side of the crops, in pixels.")] = 128,
    variants: Annotated[int, typer.Option(min=1, help="Crops per photo: one plain, the others augmented.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the augmentation.")] = 0,
) -> None:
    """Detect, align and mesh the largest face of each photo in DATA, and cache them for the training scripts.

    Rerun the same command to resume an interrupted run. Broken photos and photos without a face are listed in
    CACHE/skipped.jsonl.
    """
    from ..training.prepare import prepare as build_cache
    from .console import Bar, prepared

    with Bar() as bar:
        result = build_cache(
            data,
            out,
            size=resolution,
            variants=variants,
            manifest=manifest,
            caption_column=caption_column,
            seed=seed,
            progress=bar.show,
        )
    typer.echo(prepared(result, out))


def publish(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder written by save_pretrained, or builtin.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="New folder to write.")],
    license: Annotated[
        str | None,
        typer.Option(metavar="ID", help="License of the weights, by its hub id; required if MODEL has no README.md."),
    ] = None,
    repo_id: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload to this repository, with your stored login.")
    ] = None,
) -> None:
    """Write MODEL as a folder for the hub: its components, the code that loads them anywhere, and a model card.

    Pickled weights are left out. Review and complete the model card before you publish.
    """
    from ..pipelines.loading import BUILTIN
    from ..pipelines.publishing import reason, upload, write_publication

    if repo_id is not None:
        _check_name(repo_id)
    folder = BUILTIN if model == "builtin" else Path(model)
    write_publication(folder, out, license=license, name=repo_id)
    typer.echo(str(out))
    if repo_id is not None:
        try:
            typer.echo(f"uploaded to {upload(out, repo_id, 'A deid-diffusion pipeline')}")
        except Exception as error:  # the client passes on errors of the network
            raise DeidError(
                f"{out} is complete, but was not uploaded ({reason(error)}): hf upload {repo_id} {out}"
            ) from error


def _check_name(repo_id: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(
            f"--repo-id {one_line(repo_id)}: expected OWNER/NAME, of letters, digits, -, _ and ."
        ) from error


app = typer.Typer(
    cls=ErrorGroup,
    help="Replace every face in photos and clips by a different, realistic face.",
    epilog="Exit codes: 0 every face replaced, 3 some faces covered instead, 2 bad usage or an "
    "unreadable photo, 1 internal error, 130 interrupted.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(keys_app, name="keys")


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"deid-diffusion {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", envvar="DEID_DEBUG", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    context.obj = debug


app.command(cls=DeprecatedFlags)(anonymize)
app.command(cls=DeprecatedFlags)(dataset)
app.command(hidden=True)(attack)  # until the next release
for command in (evaluate, attributes, inspect, demo, prepare, publish, serve, web):
    app.command()(command)


def main() -> None:
    """Run the command line; a usage error is one line, like every other error."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="deid-diffusion", standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        message = getattr(error, "format_message", None)  # of click's errors, of which typer has its own copy
        if message is None:
            raise
        text = one_line(message()).replace("Value error, ", "")  # pydantic's prefix
        typer.echo(f"error: {text} (see deid-diffusion --help, or COMMAND --help)", err=True)
        sys.exit(2)
    sys.exit(code)
