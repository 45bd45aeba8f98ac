"""What the attribute encoder reads of a photo's faces, before and after they are replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .anonymize import load_anonymizer
from .options import errors_as_exit_codes


def attributes(
    context: typer.Context,
    photo: Annotated[Path, typer.Argument(metavar="PHOTO")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT.png", help="Draw them, too; shows the original faces.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="NAMES", help="As for anonymize; phrases of your own are scored, too.")
    ] = None,
    change: Annotated[list[str] | None, typer.Option(metavar="NAME=WORD", help="As for anonymize.")] = None,
    model: Annotated[str, typer.Option(metavar="NAME|PATH|HUB-ID", help="As for anonymize.")] = "builtin",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    seed: Annotated[int | None, typer.Option(min=0, help="Of the new faces.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.png if it exists.")] = False,
) -> None:
    """Print what the attribute encoder sees in the faces of PHOTO, and in those that they are replaced by.

    For each attribute the word that suits best, and its share of 1 among the attribute's words. No face is written,
    but to OUT.png.
    """
    with errors_as_exit_codes(context):
        from ..attributes.selection import parse_change, parse_keep
        from ..evaluation.inspection import compare, draw_readings, table
        from ..io import images
        from ..options import Options

        options = Options(keep=parse_keep(keep or []), change=parse_change(change or []), seed=seed)
        if out is not None:
            images.output_format(out)
            if out.exists() and photo.exists() and out.samefile(photo):
                raise UsageError(f"{out}: is the photo itself: choose another name with -o")
            if out.exists() and not overwrite:
                raise UsageError(f"{out}: exists already: choose another name with -o, or pass --overwrite")
        pixels = images.read(photo).pixels
        found = compare(load_anonymizer(model, device), pixels, options)
        for number, face in enumerate(found, 1):
            typer.echo(f"face {number} of {len(found)}: {face.action}")
            for line in table(face.before, face.after):
                typer.echo(f"  {line}")
        if not found:
            typer.echo("no face found")
        elif out is not None:
            images.write(out, draw_readings(found), overwrite=overwrite, ai_edited=False)
            typer.echo(str(out))
