"""Commands `anonymize`, for photos and clips, and `dataset`, for resumable runs over data sets by several workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import DeidError, UsageError
from .options import Device, Model, parse_options, with_options

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..batch.planning import Plan
    from ..io.annotations import Boxes, FaceOverrides
    from ..options import Options


@with_options()
def anonymize(
    context: typer.Context,
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Photos, clips, and folders of them.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="Output folder, or a file if there is one input file."),
    ] = None,
    model: Model = "builtin",
    device: Device = "auto",
    *,
    given: Mapping[str, Any],
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="COCO.json",
            help="Faces of the photos, instead of the detectors'; `keep`, `change` and `ignore` of an annotation apply "
            "to its face alone. See docs/attributes.md.",
        ),
    ] = None,
    export_annotations: Annotated[
        Path | None, typer.Option(metavar="COCO.json", help="Write the boxes of all faces, and the action on each.")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(hidden=True)] = None,
    only: Annotated[Path | None, typer.Option(hidden=True)] = None,
    wishes: Annotated[Path | None, typer.Option(hidden=True)] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Append one JSON line per photo or clip to this file.")
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
        Literal["png", "jpeg", "webp"] | None,
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
    """Replace every face in the INPUT photos and clips; a face that cannot be replaced is covered.

    A face recogniser compares every result with its original; a face that is too similar is never written.
    Results carry no metadata of the photo but its colour profile. Finished results are skipped, so rerun the same
    command to resume an interrupted run.
    """
    from ..batch.photos import Settings, run
    from ..batch.planning import make_plan
    from ..identity.pseudonyms import default_store
    from ..io.annotations import write_annotations
    from ..io.files import image_errors
    from ..results import ImageRecord, RunStats
    from .console import Display, summary

    plan = make_plan(inputs, out, file_format=file_format, overwrite=overwrite, in_place=in_place, recursive=recursive)
    face_files = {"--annotations": annotations, "--boxes": boxes, "--only": only, "--wishes": wishes}
    key_file, store = given["key_file"], given["store"]
    sources = {**face_files, "--key-file": key_file, "--store": store}
    if key_file is not None and store is None:
        sources["--store"] = default_store(key_file)
    _check_outputs({"--report": report, "--export-annotations": export_annotations}, sources, inputs)
    if report is not None:
        with image_errors(report, DeidError), report.open("ab"):
            pass  # fail before the work, not after it
    _check_clips(plan, {**face_files, "--export-annotations": export_annotations})
    options = parse_options(given)
    faces = *_, overrides = _read_faces(face_files, options)
    _check_faces(plan, *faces)
    options = with_people(options, key_file, store, given["keep_people"])
    if export_annotations is not None:
        write_annotations(export_annotations, (), overwrite=overwrite)  # likewise
    settings = Settings(options, require_face, *faces)

    def load() -> Anonymizer:
        anonymizer = load_anonymizer(model, device)
        if options.method == "generate":
            anonymizer.check(options, overrides.all() if overrides else ())
        return anonymizer

    stats, records = RunStats(), list[ImageRecord]()
    with Display(len(plan.jobs)) as display:
        for line in warnings_of(options):
            display.complain(f"warning: {line}")
        for outcome in run(plan, load, settings, report, display.on_frame):
            stats = stats.add(outcome)
            if export_annotations is not None and isinstance(outcome.report, ImageRecord):
                records.append(outcome.report)
            display.report(outcome, debug=context.obj)
            display.count(stats)
    if export_annotations is not None:
        write_annotations(export_annotations, records, overwrite=True)
    typer.echo(summary(stats, plan))
    if in_place and stats.failed:
        typer.echo("the photos that failed are unchanged: they still show the original faces", err=True)
    raise typer.Exit(stats.exit_code)


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

    Repeat the command to resume an interrupted run. Failures are left out and reported.
    """
    from ..batch.dataset import DatasetRun
    from ..batch.executors import make_engine, share_of_this_process
    from ..batch.journal import RunDirectory
    from ..batch.tasks import JobConfig
    from ..results import RunStats
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


_Faces = tuple["Boxes | None", "Boxes | None", "FaceOverrides | None"]  # boxes, only and overrides of `Settings`


def _read_faces(files: Mapping[str, Path | None], options: Options) -> _Faces:
    """Read `--annotations`, or the deprecated files that it replaces. Raises UsageError."""
    from ..io.annotations import read_annotations, read_boxes, read_overrides

    annotations, boxes, only, wishes = files.values()
    if annotations is None:
        if wishes is not None and options.method != "generate":
            raise UsageError(f"--wishes: --method {options.method} keeps and changes no attribute")
        return (
            read_boxes(boxes) if boxes else None,
            read_boxes(only) if only else None,
            read_overrides(wishes, options.keep, options.change) if wishes else None,
        )
    if old := next((flag for flag, path in files.items() if path is not None and path is not annotations), None):
        raise UsageError(f"{old}: is part of --annotations now: give one of them")
    content = read_annotations(annotations, options.keep, options.change)
    if content.overrides.all() and options.method != "generate":
        raise UsageError(
            f"{annotations}: --method {options.method} keeps and changes no attribute: remove keep and change"
        )
    return content.boxes, content.regions, content.overrides


def _check_faces(plan: Plan, boxes: Boxes | None, only: Boxes | None, overrides: FaceOverrides | None) -> None:
    """Raise UsageError if a photo of a file is ambiguous, or one with overrides is none of the run's."""
    if overrides is not None:
        overrides.check(plan.names)
    for file in (boxes, only):
        if file is not None:
            file.missing(job.input_name for job in plan.jobs)


def load_anonymizer(model: str, device: str) -> Anonymizer:
    """Load an anonymizer, without progress bars and log messages of diffusers and transformers."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from ..anonymizer import Anonymizer

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return Anonymizer.from_pretrained(model, device=device)


def with_people(options: Options, key_file: Path | None, store: Path | None, keep_people: Path | None) -> Options:
    """Return the options with people and pseudonyms. Raises DeidError for an unusable key, store or folder."""
    from ..faces.detection import EnsembleDetector
    from ..identity.keys import read_key
    from ..identity.known_people import ConsentList
    from ..identity.pseudonyms import Pseudonyms, default_store
    from ..identity.recognition import SAME_PSEUDONYM, DlibRecogniser

    if key_file is not None and options.seed is not None:
        raise UsageError("--seed, --key-file: both determine the new face of a person: give one of them")
    if store is not None and key_file is None:
        raise UsageError("--store: requires --key-file")
    if key_file is not None and options.method != "generate":
        raise UsageError(f"--key-file: --method {options.method} gives no pseudonyms: leave one of the two out")
    people = ConsentList.from_folder(keep_people, EnsembleDetector(), DlibRecogniser()) if keep_people else None
    pseudonyms = None
    if key_file is not None:
        pseudonyms = Pseudonyms(
            read_key(key_file),
            store or default_store(key_file),
            dimension=DlibRecogniser.dimension,
            threshold=SAME_PSEUDONYM,
            recogniser=DlibRecogniser.name,
        )
    return replace(options, keep_people=people, pseudonyms=pseudonyms)


def warnings_of(options: Options) -> list[str]:
    """Return warnings about the privacy of the options, one line each."""
    from ..faces.compositing import WARNINGS
    from ..faces.masks import REGION_WARNING
    from ..identity.known_people import CONSENT_WARNING

    lines = [WARNINGS[options.method]] if options.method in WARNINGS else []
    if options.keep_regions:
        lines.append(REGION_WARNING)
    return [*lines, CONSENT_WARNING] if options.keep_people is not None else lines


def _check_outputs(outputs: dict[str, Path | None], sources: dict[str, Path | None], inputs: list[Path]) -> None:
    """Raise UsageError for a record that would overwrite a photo, a key or another file of the command line."""
    from ..io.images import READABLE
    from ..io.video import is_clip

    owners = {os.path.realpath(path): option for option, path in sources.items() if path is not None}
    owners |= {os.path.realpath(path): "input" for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.suffix.lower() in READABLE or is_clip(path):
            raise UsageError(f"{path}: has the suffix of a photo or clip: name another file for {option}")
        if owner := owners.get(os.path.realpath(path)):
            raise UsageError(f"{path}: is also given as {owner}: name another file for {option}")
        owners[os.path.realpath(path)] = option


def _check_clips(plan: Plan, photo_files: Mapping[str, Path | None]) -> None:
    """Raise UsageError for files of face boxes where there are clips: they do not refer to frames."""
    from ..io.video import is_clip

    clip = next((job.input_name for job in plan.jobs if is_clip(job.source)), None)
    for option, path in photo_files.items():
        if clip is not None and path is not None:
            raise UsageError(f"{option}: is for photos, and {clip} is a clip: process clips in a separate run")
