"""The command line: options in, lines and an exit code out. Everything heavy is imported inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from deid_diffusion._version import __version__
from deid_diffusion.cli_anonymize import anonymize, load_anonymizer
from deid_diffusion.cli_attack import attack
from deid_diffusion.cli_attributes import attributes
from deid_diffusion.cli_dataset import dataset
from deid_diffusion.cli_errors import errors_as_exit_codes
from deid_diffusion.cli_evaluate import evaluate
from deid_diffusion.cli_keys import keys_app
from deid_diffusion.cli_publish import publish
from deid_diffusion.cli_serve import serve
from deid_diffusion.cli_web import web
from deid_diffusion.errors import UsageError, one_line

app = typer.Typer(
    help="Replace every face in photos and clips by a different, realistic face.",
    epilog="Exit codes: 0 every face replaced, 3 some faces covered instead, 2 bad usage or an "
    "unreadable photo, 1 internal error, 130 interrupted.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(keys_app, name="keys")


def _show_version(wanted: bool) -> None:
    if wanted:
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


app.command()(anonymize)
app.command()(dataset)
app.command()(attack)
app.command()(evaluate)
app.command()(attributes)
app.command()(publish)
app.command()(serve)
app.command()(web)


@app.command()
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Gets three files.")] = Path("demo_output"),
) -> None:
    """De-identify a well-known photo: a side-by-side picture, the result, and its record. Needs no network."""
    with errors_as_exit_codes(context):
        from deid_diffusion.console import faces
        from deid_diffusion.demo import NAMES, run_demo
        from deid_diffusion.outcomes import Outcome, Tally

        record = run_demo(load_anonymizer("builtin", "auto"), out)
        tally = Tally().add(Outcome(record))
        typer.echo(f"{faces(tally)} in {record.seconds:.1f} s")
        for name in NAMES:
            typer.echo(str(out / name))
    raise typer.Exit(tally.exit_code)


@app.command()
def inspect(
    context: typer.Context,
    photo: Annotated[Path, typer.Argument(metavar="PHOTO")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT.png")] = Path("inspect.png"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.png if it exists.")] = False,
) -> None:
    """Draw what is found in PHOTO: boxes, meshes, semantic maps and masks. The picture shows the original faces."""
    with errors_as_exit_codes(context):
        from deid_diffusion import images
        from deid_diffusion.preview import inspection

        images.output_format(out)
        if out.exists() and (not overwrite or (photo.exists() and out.samefile(photo))):
            raise UsageError(f"{out}: exists already: choose another name with -o, or pass --overwrite")
        pixels = images.read(photo).pixels
        found = load_anonymizer("builtin", "auto").analyse(pixels)
        images.write(out, inspection(pixels, found), overwrite=overwrite, ai_edited=False)
        typer.echo(f"{len(found)} face{'' if len(found) == 1 else 's'} drawn: {out}")


@app.command()
def prepare(
    context: typer.Context,
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
        Path | None, typer.Option(metavar="FILE.csv", help="More columns for photos, by their name in column `file`.")
    ] = None,
    caption_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column of the captions.", show_default="text, or the .txt sidecar"),
    ] = None,
    resolution: Annotated[int, typer.Option(min=32, help="Side of a crop, in pixels.")] = 128,
    variants: Annotated[int, typer.Option(min=1, help="Crops of a photo: the first is plain, the others vary.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the variation.")] = 0,
) -> None:
    """Find, align and mesh the largest face of each photo in DATA: the cache that the training scripts read.

    An interrupted run is resumed by the same command. Photos that are broken or without a face are listed in
    CACHE/skipped.jsonl.
    """
    with errors_as_exit_codes(context):
        from deid_diffusion.console import Bar, prepared
        from deid_diffusion.training.prepare import prepare as make_cache

        with Bar() as bar:
            done = make_cache(
                data,
                out,
                size=resolution,
                variants=variants,
                manifest=manifest,
                caption_column=caption_column,
                seed=seed,
                progress=bar.show,
            )
        typer.echo(prepared(done, out))


def main() -> None:
    """The entry point `deid-diffusion`: a usage error is one line, like every other error."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="deid-diffusion", standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        message = getattr(
            error, "format_message", None
        )  # the mark of click's errors, which typer carries its own copy of
        if message is None:
            raise
        said = one_line(message()).replace("Value error, ", "")  # pydantic's way to begin
        typer.echo(f"error: {said} (deid-diffusion --help, or COMMAND --help, lists what there is)", err=True)
        sys.exit(2)
    sys.exit(code)
