"""The command line: options in, lines and an exit code out. Everything heavy is imported inside the commands."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deid_diffusion._version import __version__
from deid_diffusion.errors import DeidError, UsageError, one_line

if TYPE_CHECKING:
    from deid_diffusion.anonymizer import Anonymizer

app = typer.Typer(
    help="Replace every face in photos by a different, realistic face.",
    epilog="Exit codes: 0 every face replaced, 3 some faces covered by an opaque fill instead, 2 bad usage or an "
    "unreadable photo, 1 internal error, 130 interrupted.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class OutputFormat(str, Enum):
    """Names of `planning.FORMATS`, repeated here so that --help stays light."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"


Model = Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="The embedded model, a folder, or a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


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


@app.command()
def anonymize(
    context: typer.Context,
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Photos, and folders of photos.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="Output folder, or a file if there is one input file."),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME|PATH|HUB-ID", help="The embedded model, a folder, or a hub id.")
    ] = "builtin",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.", show_default="the model's")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Repeatable, and therefore linkable: omit it for fresh randomness.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Faces of a photo denoised at once.")] = 8,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Append one JSON line a photo to this file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Redo photos whose result exists.")] = False,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Replace the photos themselves, each in its own format. In a JPEG, pixels outside the faces change a "
            "little as well.",
        ),
    ] = False,
    recursive: Annotated[bool, typer.Option("--recursive", help="Search the folders in input folders, too.")] = False,
    file_format: Annotated[
        OutputFormat | None,
        typer.Option(
            "--format",
            show_default="png",
            help="Format of the results in a folder. PNG and WebP are lossless: pixels outside the faces stay "
            "bit-identical. JPEG is not.",
        ),
    ] = None,
    require_face: Annotated[
        bool, typer.Option("--require-face", help="A photo in which no face is found is an error, and not written.")
    ] = False,
) -> None:
    """Replace every face in the INPUT photos; a face that cannot be replaced is covered by an opaque fill.

    Results carry no metadata of the photo but its colour profile. A result that exists is not made again, so an
    interrupted run is resumed by the same command.
    """
    with _errors_as_exit_codes(context):
        from deid_diffusion.batch import Settings, Tally, run
        from deid_diffusion.console import Display, summary
        from deid_diffusion.planning import make_plan

        name = file_format.value if file_format else None
        plan = make_plan(inputs, out, file_format=name, overwrite=overwrite, in_place=in_place, recursive=recursive)
        if report is not None:
            _check_report(report)
        settings = Settings(steps, seed, batch_size, require_face)
        tally = Tally()
        with Display(len(plan.jobs)) as display:
            for outcome in run(plan, lambda: _load(model, device), settings, report):
                tally = tally.add(outcome)
                if outcome.message:
                    display.complain(outcome.message)
                if outcome.unexpected and context.obj:
                    display.complain("".join(traceback.format_exception(outcome.unexpected)))
                display.update(tally)
        typer.echo(summary(tally, plan))
        if in_place and tally.failed:
            typer.echo("the photos that failed are unchanged: they still show the original faces", err=True)
    raise typer.Exit(tally.exit_code)


@app.command()
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Gets three files.")] = Path("demo_output"),
) -> None:
    """De-identify a well-known photo: a side-by-side picture, the result, and its record. Needs no network."""
    with _errors_as_exit_codes(context):
        from deid_diffusion.batch import Outcome, Tally
        from deid_diffusion.console import faces
        from deid_diffusion.demo import NAMES, run_demo

        record = run_demo(_load("builtin", "auto"), out)
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
    with _errors_as_exit_codes(context):
        from deid_diffusion import images
        from deid_diffusion.preview import inspection

        images.output_format(out)
        if out.exists() and (not overwrite or (photo.exists() and out.samefile(photo))):
            raise UsageError(f"{out}: exists already: choose another name with -o, or pass --overwrite")
        pixels = images.read(photo).pixels
        found = _load("builtin", "auto").analyse(pixels)
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
    with _errors_as_exit_codes(context):
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
        typer.echo(
            f"error: {one_line(message())} (deid-diffusion --help, or COMMAND --help, lists what there is)", err=True
        )
        sys.exit(2)
    sys.exit(code)


def _load(model: str, device: str) -> Anonymizer:
    """The anonymizer, without the progress bars and remarks of the libraries that load it."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from deid_diffusion.anonymizer import Anonymizer

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return Anonymizer.from_pretrained(model, device=device)


def _check_report(path: Path) -> None:
    """Refuse a report file that cannot be appended to, before any photo is processed. Raises DeidError."""
    from deid_diffusion.files import refusal
    from deid_diffusion.images import READABLE

    if path.suffix.lower() in READABLE:
        raise UsageError(f"{path}: is a photo's name: name a .jsonl file for --report")
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise DeidError(refusal(path, error)) from error


@contextmanager
def _errors_as_exit_codes(context: typer.Context) -> Iterator[None]:
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
