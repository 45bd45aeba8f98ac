"""What the commands share that judge a folder of results: `attack` and `evaluate`."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DeidError, UsageError, one_line

if TYPE_CHECKING:
    from ..options import Options


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


class Method(str, Enum):
    """Names of `methods.METHODS`, repeated here so that --help stays light."""

    generate = "generate"
    fill = "fill"
    blur = "blur"
    pixelate = "pixelate"


class FillColour(str, Enum):
    """Names of `blend.COVER_COLOURS`, likewise."""

    surroundings = "surroundings"
    grey = "grey"


class Region(str, Enum):
    """Names of `labels.REGIONS`, likewise."""

    skin = "skin"
    brows = "brows"
    eyes = "eyes"
    nose = "nose"
    mouth = "mouth"


Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|PATH|HUB-ID",
        help="builtin, the embedded model; sd15, sd15-lcm or sd15-semantic=SOURCE; a folder; or a hub id. See "
        "docs/models.md.",
    ),
]

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]

MethodOption = Annotated[
    Method, typer.Option(help="generate makes other faces; blurred and pixelated faces can be recognised again.")
]

Attempts = Annotated[
    int, typer.Option(min=1, help="Candidates a face at most; one of which none passes the gate is covered.")
]

Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps.", show_default="the model's")]

Seed = Annotated[
    int | None, typer.Option(min=0, help="Repeatable, and therefore linkable: omit it for fresh randomness.")
]

KeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="KEY",
        help="One person, one pseudonym, in all photos and runs with this key and its store (pseudonymisation: "
        "still personal data). See `deid-diffusion keys --help`.",
    ),
]

Store = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The people seen so far.", show_default="beside the key")
]

KeepPeople = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Photos of people whose faces are left untouched.")
]

Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help="What the new face has of the old one: names with commas between them (expression, age, gender, "
        "ethnicity, skin, facial hair, glasses, makeup, gaze, pose, light), phrases of your own, or none.",
        show_default="all of these",
    ),
]

Change = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=WORD", help="What it has instead, as age=70 or gender=woman; may be repeated."),
]

Prompt = Annotated[
    str, typer.Option(metavar="TEXT", help="Steers the new faces, for models that were trained with prompts.")
]

MapPrivacy = Annotated[
    float,
    typer.Option(min=0, max=1, help="How far faces' proportions go towards the mean face's before they are drawn."),
]

KeepRegions = Annotated[
    list[Region] | None, typer.Option(help="Leave this part of every face untouched; may be repeated.")
]

MinFace = Annotated[
    int, typer.Option(min=0, metavar="PX", help="Leave faces untouched whose box has a shorter side under this.")
]

FillColourOption = Annotated[
    FillColour, typer.Option(help="What covers are made of: the colours around them, or grey, which is seen at once.")
]

BatchSize = Annotated[int, typer.Option(min=1, help="Faces of a photo denoised at once.")]


def generation_options(given: Mapping[str, Any]) -> Options:
    """The wishes among a command's parameters (`context.params`), without people. Raises UsageError."""
    from ..attributes.selection import parse_change, parse_keep
    from ..options import Options

    regions = frozenset(Region(one).value for one in given["keep_region"] or ())
    if regions == {one.value for one in Region}:
        raise UsageError("--keep-region: all regions together are the whole face: leave one out")
    same = ("steps", "seed", "batch_size", "attempts", "min_face", "prompt", "map_privacy")
    return Options(
        method=Method(given["method"]).value,
        fill_colour=FillColour(given["fill_colour"]).value,
        keep=parse_keep(given["keep"] or []),
        change=parse_change(given["change"] or []),
        keep_regions=regions,
        **{name: given[name] for name in same},
    )


Originals = Annotated[Path, typer.Argument(metavar="ORIGINALS", help="Folder of photos.")]

Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of their results, of the same names.")]

People = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        show_default="the name before the last _",
        help="Whose photo it is: what the one group of this expression finds in the name (without suffix).",
    ),
]


def check_out(named: Path, files: Sequence[Path]) -> None:
    """Refuse, before any work, an output that could not be written after it.

    Args:
        named: what the user calls it.
        files: which would be written, all in one folder.

    Raises:
        UsageError: a file exists, or the folder does not.
    """
    for path in files:
        if path.exists():
            raise UsageError(f"{path}: exists already: choose another name with -o")
    if not named.absolute().parent.is_dir():
        raise UsageError(f"{named}: its folder does not exist: create it, or choose another one")
