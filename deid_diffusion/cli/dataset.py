"""The `dataset` command: a streaming, resumable run over a data set with any number of workers.

`anonymize` is separate: it plans all photos before it processes the first one, and takes boxes, clips and overrides.
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
    """Names of `planning.FORMATS`, and `tasks.KEEP`, repeated to keep --help fast."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    keep = "keep"


class EngineName(str, Enum):
    """Names of engines."""

    local = "local"
    ray = "ray"


@with_options()
def dataset(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Folders (searched recursively) and files: photos, tar shards, Parquet, saved `datasets`.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="For the results: new, empty, or of an earlier run.")
    ],
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes, each with its own model.", show_default="1; with ray, one per GPU"),
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="ray: on a Ray cluster.")] = EngineName.local,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Ray cluster.", show_default="a new one on this machine")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Records and SHA-256 hashes.", show_default="FOLDER.manifest.jsonl"),
    ] = None,
    file_format: Annotated[
        PictureFormat,
        typer.Option("--format", help="Of images. keep: each its own (a JPEG changes outside the faces, too)."),
    ] = PictureFormat.png,
    image_column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Table column of images as bytes; may be repeated.")
    ] = None,
    copy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Column or suffix (.npy) without images, to be copied; may be repeated."),
    ] = None,
    require_face: Annotated[bool, typer.Option("--require-face", help="Leave out images without a face.")] = False,
    model: Model = "builtin",
    device: Device = "auto",
    *,
    given: Mapping[str, Any],
) -> None:
    """Replace every face in a data set; names, keys, labels and all other columns stay. See docs/scale.md.

    Repeat the command to resume an interrupted run. What fails is left out and reported.
    """
    with errors_as_exit_codes(context):
        from ..batch.dataset import DatasetRun
        from ..batch.executors import make_engine, share_of_this_process
        from ..batch.journal import RunDirectory
        from ..batch.tasks import JobConfig
        from ..results import RunStats
        from .anonymize import load_anonymizer, warnings_of, with_people
        from .console import Counter

        if ray_address is not None and engine != EngineName.ray:
            raise UsageError("--ray-address: requires --engine ray")
        share = share_of_this_process(workers, engine.value, device)
        config = JobConfig(
            load_anonymizer,
            model,
            with_people(parse_options(given), given["key_file"], given["store"], given["keep_people"]),
            file_format.value,
            require_face,
            frozenset(name.lower() if name.startswith(".") else name for name in copy or ()),
            tuple(image_column or ()),
            share.device,
        )
        manifest = manifest or out.with_name(f"{out.name}.manifest.jsonl")
        stats = RunStats()
        with (
            share.in_turn(lambda leads: RunDirectory.open(out, config, leads=leads)) as directory,
            Counter() as counter,
        ):
            directory.check_manifest(manifest)
            for line in warnings_of(config.options):
                counter.complain(f"warning: {line}")
            run_tasks = make_engine(engine.value, config, workers, ray_address)
            run = DatasetRun(inputs, directory, config, run_tasks, share.has)
            for outcome in run:
                stats = stats.add(outcome)
                if outcome.message:
                    counter.complain(outcome.message)
                if outcome.unexpected and context.obj:
                    counter.complain("".join(traceback.format_exception(outcome.unexpected)))
                counter.show(stats)
            share.wait()
            if share.leads:
                if not stats.photos and not directory.picture_count():
                    raise UsageError(f"{', '.join(map(str, inputs))}: no photo, tar or table found: check the folder")
                directory.write_manifest(manifest)
        typer.echo(_summary(stats, run))
    raise typer.Exit(stats.exit_code)


def _summary(stats: RunStats, run: DatasetRun) -> str:
    """Return one line with the counts of images and faces."""
    from .console import faces

    counts = [
        (stats.done, "de-identified"),
        (stats.no_face, "without a face"),
        (stats.failed, "left out"),
        (run.known, "already done"),
        (run.skipped, "other files skipped"),
    ]
    listed = ", ".join(f"{count:,} {status}" for count, status in counts if count)
    return f"{listed or 'nothing left to do'}; {faces(stats)}"
