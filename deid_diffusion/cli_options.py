"""The options of every command that de-identifies pictures: how, and which of a face's attributes stay."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_diffusion.errors import UsageError

if TYPE_CHECKING:
    from deid_diffusion.options import Options


class Method(str, Enum):
    """Names of `methods.METHODS`, repeated here so that --help stays light."""

    synth = "synth"
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
    Method, typer.Option(help="synth generates other faces; blurred and pixelated faces can be recognised again.")
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


def plain_options(given: Mapping[str, Any]) -> Options:
    """The wishes among a command's parameters (`context.params`), without people. Raises UsageError."""
    from deid_diffusion.attributes.choice import parse_change, parse_keep
    from deid_diffusion.options import Options

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
