"""Command `deid-diffusion attributes`: attributes of faces as the encoder reads them, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .anonymize import load_anonymizer
from .options import Device, Model, errors_as_exit_codes, parse_options, with_options


@with_options("keep", "change", "seed")
def attributes(
    context: typer.Context,
    photo: Annotated[Path, typer.Argument(metavar="PHOTO")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT.png", help="Draw them, too; shows the original faces.")
    ] = None,
    model: Model = "builtin",
    device: Device = "auto",
    *,
    given: Mapping[str, Any],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.png if it exists.")] = False,
) -> None:
    """Print the attributes that the encoder reads in the faces of PHOTO and in their replacements.

    Each attribute has its most likely word, with a probability among the attribute's words; phrases of your own in
    --keep are scored, too. Faces are written to OUT.png only.
    """
    with errors_as_exit_codes(context):
        from ..evaluation.inspection import compare, draw_readings, table
        from ..io import images

        options = parse_options(given)
        if out is not None:
            images.output_format(out)
            if out.exists() and photo.exists() and out.samefile(photo):
                raise UsageError(f"{out}: is the photo itself: choose another name with -o")
            if out.exists() and not overwrite:
                raise UsageError(f"{out}: exists already: choose another name with -o, or pass --overwrite")
        pixels = images.read(photo).pixels
        faces = compare(load_anonymizer(model, device), pixels, options)
        for number, face in enumerate(faces, 1):
            typer.echo(f"face {number} of {len(faces)}: {face.action}")
            for line in table(face.before, face.after):
                typer.echo(f"  {line}")
        if not faces:
            typer.echo("no face found")
        elif out is not None:
            images.write(out, draw_readings(faces), overwrite=overwrite, ai_edited=False)
            typer.echo(str(out))
