"""The `dataset` command: a streaming, resumable run over a data set with any number of workers.

`anonymize` is separate: it plans all photos before it processes the first one, and takes boxes, clips and overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import UsageError
from .options import Device, Model, parse_options, with_options


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
    engine: Annotated[Literal["local", "ray"], typer.Option(help="ray: on a Ray cluster.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Ray cluster.", show_default="a new one on this machine")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="Records and SHA-256 hashes.", show_default="FOLDER.manifest.jsonl"),
    ] = None,
    file_format: Annotated[
        Literal["png", "jpeg", "webp", "keep"],
        typer.Option("--format", help="Of images. keep: each its own (a JPEG changes outside the faces, too)."),
    ] = "png",
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
    from ..batch.dataset import DatasetRun
    from ..batch.executors import make_engine, share_of_this_process
    from ..batch.journal import RunDirectory
    from ..batch.tasks import JobConfig
    from ..results import RunStats
    from .anonymize import load_anonymizer, warnings_of, with_people
    from .console import Counter, dataset_summary

    if ray_address is not None and engine != "ray":
        raise UsageError("--ray-address: requires --engine ray")
    share = share_of_this_process(workers, engine, device)
    config = JobConfig(
        load_anonymizer,
        model,
        with_people(parse_options(given), given["key_file"], given["store"], given["keep_people"]),
        file_format,
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
        run_tasks = make_engine(engine, config, workers, ray_address)
        run = DatasetRun(inputs, directory, config, run_tasks, share.has)
        for outcome in run:
            stats = stats.add(outcome)
            counter.report(outcome, debug=context.obj)
            counter.show(stats)
        share.wait()
        if share.leads:
            if not stats.photos and not directory.picture_count():
                raise UsageError(f"{', '.join(map(str, inputs))}: no photo, tar or table found: check the folder")
            directory.write_manifest(manifest)
    typer.echo(dataset_summary(stats, run))
    raise typer.Exit(stats.exit_code)
