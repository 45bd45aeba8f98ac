"""Commands on a single photo: `attributes`, `inspect` and `demo`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DeidError, UsageError, needed_for
from ..options import Options
from .anonymize import load_anonymizer
from .options import Device, Model, parse_options, with_options

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT.png if it exists.")]

_DEMO_FILES = ("demo.png", "astronaut.png", "demo.json")  # side by side; the result; its record
_DEMO_INPUT = "skimage.data.astronaut()"
_DEMO_SEED = 0  # the same demonstration for everybody; the record holds it


@with_options("keep", "change", "seed")
def attributes(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT.png", help="Draw them, too; shows the original faces.")
    ] = None,
    model: Model = "builtin",
    device: Device = "auto",
    *,
    given: Mapping[str, Any],
    overwrite: Overwrite = False,
) -> None:
    """Print the attributes that the encoder reads in the faces of PHOTO and in their replacements.

    Each attribute has its most likely word, with a probability among the attribute's words; phrases of your own in
    --keep are scored, too. Faces are written to OUT.png only.
    """
    from ..evaluation.inspection import compare, draw_readings, table
    from ..io import images

    options = parse_options(given)
    if out is not None:
        _check_picture(out, photo, overwrite=overwrite)
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


def inspect(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT.png")] = Path("inspect.png"),
    overwrite: Overwrite = False,
) -> None:
    """Draw boxes, meshes, semantic maps and masks of the faces in PHOTO. The picture shows the original faces."""
    from ..evaluation.inspection import draw_inspection
    from ..io import images

    _check_picture(out, photo, overwrite=overwrite)
    pixels = images.read(photo).pixels
    faces = load_anonymizer("builtin", "auto").analyse(pixels)
    images.write(out, draw_inspection(pixels, faces), overwrite=overwrite, ai_edited=False)
    typer.echo(f"{len(faces)} face{'' if len(faces) == 1 else 's'} drawn: {out}")


def _check_picture(out: Path, photo: Path, *, overwrite: bool) -> None:
    """Raise DeidError for a picture that cannot be written or would replace the photo or an unnamed file."""
    from ..io import images

    images.output_format(out)
    if out.exists() and photo.exists() and out.samefile(photo):
        raise UsageError(f"{out}: is the photo itself: choose another name with -o")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists already: choose another name with -o, or pass --overwrite")


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="Output folder.")] = Path("demo_output"),
) -> None:
    """De-identify a sample photo, and write a side-by-side picture, the result and its record. Needs no network."""
    import numpy as np

    from ..evaluation.inspection import draw_maps, side_by_side
    from ..io import images
    from ..io.files import prepare_folder, write_atomic
    from ..results import JobResult, RunStats
    from .console import faces

    picture, photo, record_file = paths = [out / name for name in _DEMO_FILES]
    prepare_folder(out)
    _check_demo(paths)
    with needed_for("demo", "scikit-image"):
        from skimage import data
    anonymizer = load_anonymizer("builtin", "auto")
    pixels = np.ascontiguousarray(data.astronaut())
    encoded, record = anonymizer.anonymize_bytes(
        images.encode(photo.name, pixels, ai_edited=False), Options(seed=_DEMO_SEED), name=_DEMO_INPUT, output=photo
    )
    maps, result = draw_maps(pixels, anonymizer.analyse(pixels)), images.decode(encoded, photo).pixels
    write_atomic(photo, encoded, overwrite=True)
    panels = [("original", pixels), ("semantic map", maps), ("result", result)]
    images.write(picture, side_by_side(panels), overwrite=True)
    text = json.dumps(json.loads(record.to_json()), indent=2) + "\n"
    write_atomic(record_file, text.encode(), overwrite=True)
    stats = RunStats().add(JobResult(record))
    typer.echo(f"{faces(stats)} in {record.seconds:.1f} s")
    for path in paths:
        typer.echo(str(path))
    raise typer.Exit(stats.exit_code)


def _check_demo(paths: list[Path]) -> None:
    """Raise DeidError if files would be replaced that no demo wrote."""
    from ..results import ImageRecord

    existing = [path for path in paths if path.exists()]
    if not existing:
        return
    try:
        ours = ImageRecord.from_json(paths[-1].read_text()).input == _DEMO_INPUT
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise DeidError(f"{existing[0]}: exists already, and was not written by demo: choose another folder with -o")
