"""The command for data sets: it holds no list of what there is to do, has many workers, and keeps a journal.

It is apart from `anonymize`, which makes a plan of all photos before it touches the first one, and whose options for
single photos (boxes, wishes, in place) say nothing of a shard.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .options import Device, Model, errors_as_exit_codes, parse_options, with_options

if TYPE_CHECKING:
    from ..batch.dataset import DatasetRun
    from ..results import RunStats


class PictureFormat(str, Enum):
    """Names of `planning.FORMATS`, and `kinds.KEEP`, repeated here so that --help stays light."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    keep = "keep"


class EngineName(str, Enum):
    """Who has the work done."""

    local = "local"
    ray = "ray"


@with_options()
def dataset(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Folders, with those below them, and files: photos, tar shards, Parquet, what `datasets` saves.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Gets the same files; empty, or of an earlier run.")
    ],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, each with its model.", show_default="1; with ray, its GPUs")
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="ray: on the machines of a Ray cluster.")] = EngineName.local,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Of the cluster.", show_default="a new one, here")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Records and SHA-256 hashes.", show_default="FOLDER.manifest.jsonl"),
    ] = None,
    file_format: Annotated[
        PictureFormat,
        typer.Option("--format", help="Of pictures. keep: each its own; in a JPEG, pixels outside the faces change."),
    ] = PictureFormat.png,
    image_column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A table's column of pictures as bytes; may be repeated.")
    ] = None,
    copy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A column or suffix (.npy) that holds no picture: copied; may be repeated."),
    ] = None,
    require_face: Annotated[bool, typer.Option("--require-face", help="Leave out pictures with no face.")] = False,
    model: Model = "builtin",
    device: Device = "auto",
    *,
    given: Mapping[str, Any],
) -> None:
    """Replace every face in a data set; names, keys, labels and all other columns stay. See docs/scale.md.

    What is finished is not made again: the same command goes on after a kill. What fails is left out and reported.
    """
    with errors_as_exit_codes(context):
        from ..batch.dataset import DatasetRun
        from ..batch.executors import make_engine, share_of_this_process
        from ..batch.journal import RunDirectory, check_manifest, write_manifest
        from ..batch.tasks import JobConfig
        from ..results import RunStats
        from .anonymize import load_anonymizer, warnings_of, with_people
        from .console import Counter

        if ray_address is not None and engine != EngineName.ray:
            raise UsageError("--ray-address: is of use with --engine ray only")
        share = share_of_this_process(workers, engine.value, device)
        recipe = JobConfig(
            load_anonymizer,
            model,
            with_people(parse_options(given), given["key_file"], given["store"], given["keep_people"]),
            file_format.value,
            require_face,
            frozenset(one.lower() if one.startswith(".") else one for one in copy or ()),
            tuple(image_column or ()),
            share.device,
        )
        lines = manifest or out.with_name(f"{out.name}.manifest.jsonl")
        tally = RunStats()
        with share.in_turn(lambda leads: RunDirectory.open(out, recipe, leads=leads)) as place, Counter() as counter:
            check_manifest(lines, place.journal)
            for line in warnings_of(recipe.options):
                counter.complain(f"warning: {line}")
            run = DatasetRun(inputs, place, recipe, make_engine(engine.value, recipe, workers, ray_address), share.has)
            for outcome in run:
                tally = tally.add(outcome)
                if outcome.message:
                    counter.complain(outcome.message)
                if outcome.unexpected and context.obj:
                    counter.complain("".join(traceback.format_exception(outcome.unexpected)))
                counter.show(tally)
            share.wait()
            if share.leads:
                if not tally.photos and not place.journal.pictures():
                    raise UsageError(f"{', '.join(map(str, inputs))}: no photo, tar or table found: check the folder")
                write_manifest(lines, place.journal)
        typer.echo(_summary(tally, run))
    raise typer.Exit(tally.exit_code)


def _summary(tally: RunStats, run: DatasetRun) -> str:
    """One line: what became of the pictures, and of their faces."""
    from .console import faces

    counts = [
        (tally.done, "de-identified"),
        (tally.no_face, "without a face"),
        (tally.failed, "left out"),
        (run.known, "already done"),
        (run.skipped, "other files skipped"),
    ]
    listed = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    return f"{listed or 'nothing left to do'}; {faces(tally)}"
