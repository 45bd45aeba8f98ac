"""The command that everything else is there for: photos and clips in, de-identified photos and clips out."""

from __future__ import annotations

import os
import traceback
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DeidError, UsageError
from .options import (
    Attempts,
    BatchSize,
    Change,
    Device,
    FillColour,
    FillColourOption,
    Keep,
    KeepPeople,
    KeepRegions,
    KeyFile,
    MapPrivacy,
    Method,
    MethodOption,
    MinFace,
    Model,
    Prompt,
    Seed,
    Steps,
    Store,
    errors_as_exit_codes,
    generation_options,
)

if TYPE_CHECKING:
    from ..anonymizer import Anonymizer
    from ..batch.planning import Plan
    from ..options import Options


class OutputFormat(str, Enum):
    """Names of `planning.FORMATS`, repeated here so that --help stays light."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"


def anonymize(
    context: typer.Context,
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Photos, clips, and folders of them.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="Output folder, or a file if there is one input file."),
    ] = None,
    model: Model = "builtin",
    device: Device = "auto",
    method: MethodOption = Method.generate,
    attempts: Attempts = 6,
    steps: Steps = None,
    seed: Seed = None,
    key_file: KeyFile = None,
    store: Store = None,
    keep_people: KeepPeople = None,
    keep: Keep = None,
    change: Change = None,
    prompt: Prompt = "",
    wishes: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="What to keep and change of single faces; see docs/attributes.md."),
    ] = None,
    map_privacy: MapPrivacy = 0.0,
    keep_region: KeepRegions = None,
    boxes: Annotated[
        Path | None, typer.Option(metavar="COCO.json", help="Your own detections, instead of the detectors'.")
    ] = None,
    only: Annotated[
        Path | None, typer.Option(metavar="COCO.json", help="Leave faces outside these boxes untouched.")
    ] = None,
    min_face: MinFace = 0,
    fill_colour: FillColourOption = FillColour.surroundings,
    export_boxes: Annotated[
        Path | None, typer.Option(metavar="COCO.json", help="Write the boxes of all faces, and what was done to them.")
    ] = None,
    batch_size: BatchSize = 8,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Append one JSON line a photo or clip to this file.")
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
    """Replace every face in the INPUT photos and clips; a face that cannot be replaced is covered.

    A face recogniser compares every result with its original; a face too like it is not let out.
    Results carry no metadata of the photo but its colour profile. A result that exists is not made again, so an
    interrupted run is resumed by the same command.
    """
    with errors_as_exit_codes(context):
        from ..batch.photos import Settings, run
        from ..batch.planning import make_plan
        from ..identity.pseudonyms import default_store
        from ..io.annotations import read_boxes, read_overrides, write_boxes
        from ..results import ImageRecord, RunStats
        from .console import Display, summary

        name = file_format.value if file_format else None
        plan = make_plan(inputs, out, file_format=name, overwrite=overwrite, in_place=in_place, recursive=recursive)
        read = {"--key-file": key_file, "--boxes": boxes, "--only": only, "--store": store, "--wishes": wishes}
        if key_file is not None and store is None:
            read["--store"] = default_store(key_file)
        _check_written({"--report": report, "--export-boxes": export_boxes}, read, inputs)
        if report is not None:
            _check_report(report)
        _check_clips(plan, {"--boxes": boxes, "--only": only, "--wishes": wishes, "--export-boxes": export_boxes})
        plain = generation_options(context.params)
        if wishes is not None and method != Method.generate:
            raise UsageError(f"--wishes: --method {method.value} keeps and changes no attribute")
        wished = read_overrides(wishes, plain.keep, plain.change) if wishes else None
        if wished is not None:
            wished.check(plan.names)
        options = with_people(plain, key_file, store, keep_people)
        given = read_boxes(boxes) if boxes else None
        limits = read_boxes(only) if only else None
        for one in (given, limits):
            if one is not None:
                one.missing(job.input_name for job in plan.jobs)
        if export_boxes is not None:
            write_boxes(export_boxes, (), overwrite=overwrite)  # before the work: may it be written at all?
        settings = Settings(options, require_face, given, limits, wished)

        def load() -> Anonymizer:
            loaded = load_anonymizer(model, device)
            if options.method == "generate":
                loaded.check(options, wished.all() if wished else ())  # once, instead of at each photo
            return loaded

        tally, records = RunStats(), list[ImageRecord]()
        with Display(len(plan.jobs)) as display:
            for line in warnings_of(options):
                display.complain(f"warning: {line}")
            for outcome in run(plan, load, settings, report, display.on_frame):
                tally = tally.add(outcome)
                if export_boxes is not None and isinstance(outcome.report, ImageRecord):
                    records.append(outcome.report)
                if outcome.message:
                    display.complain(outcome.message)
                if outcome.unexpected and context.obj:
                    display.complain("".join(traceback.format_exception(outcome.unexpected)))
                display.update(tally)
        if export_boxes is not None:
            write_boxes(export_boxes, records, overwrite=True)
        typer.echo(summary(tally, plan))
        if in_place and tally.failed:
            typer.echo("the photos that failed are unchanged: they still show the original faces", err=True)
    raise typer.Exit(tally.exit_code)


def load_anonymizer(model: str, device: str) -> Anonymizer:
    """The anonymizer, without the progress bars and remarks of the libraries that load it."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from ..anonymizer import Anonymizer

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    return Anonymizer.from_pretrained(model, device=device)


def with_people(options: Options, key_file: Path | None, store: Path | None, keep_people: Path | None) -> Options:
    """The wishes with the people in them. Raises DeidError for a key, store or folder of people that cannot be used."""
    from ..faces.detection import EnsembleDetector
    from ..identity.keys import read_key
    from ..identity.known_people import ConsentList
    from ..identity.pseudonyms import Pseudonyms, default_store
    from ..identity.recognition import SAME_PSEUDONYM, DlibRecogniser

    if key_file is not None and options.seed is not None:
        raise UsageError("--seed and --key-file both say which face a person gets: give one of them")
    if store is not None and key_file is None:
        raise UsageError("--store: is of use with --key-file only")
    if key_file is not None and options.method != "generate":
        raise UsageError(f"--key-file: a face treated with --method {options.method} has no pseudonym")
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
    """What the user should know of the privacy of what was chosen, a line each."""
    from ..faces.compositing import WARNINGS
    from ..faces.masks import REGION_WARNING
    from ..identity.known_people import PEOPLE_WARNING

    lines = [WARNINGS[options.method]] if options.method in WARNINGS else []
    if options.keep_regions:
        lines.append(REGION_WARNING)
    return [*lines, PEOPLE_WARNING] if options.keep_people is not None else lines


def _check_written(written: dict[str, Path | None], read: dict[str, Path | None], inputs: list[Path]) -> None:
    """Refuse to write a record over a photo, a key, or another file that the user named. Raises UsageError."""
    from ..io.images import READABLE
    from ..io.video_reader import is_clip

    owners = {os.path.realpath(path): option for option, path in read.items() if path is not None}
    owners |= {os.path.realpath(path): "input" for path in inputs}
    for option, path in written.items():
        if path is None:
            continue
        for kind, is_one in (("photo", path.suffix.lower() in READABLE), ("clip", is_clip(path))):
            if is_one:
                raise UsageError(f"{path}: is a {kind}'s name: name another file for {option}")
        if owner := owners.get(os.path.realpath(path)):
            raise UsageError(f"{path}: is named as {owner}, too: name another file for {option}")
        owners[os.path.realpath(path)] = option


def _check_clips(plan: Plan, of_photos: dict[str, Path | None]) -> None:
    """Refuse files of boxes where there are clips: they say nothing of frames. Raises UsageError."""
    from ..io.video_reader import is_clip

    clip = next((job.input_name for job in plan.jobs if is_clip(job.source)), None)
    for option, path in of_photos.items():
        if clip is not None and path is not None:
            raise UsageError(f"{option}: is for photos, and {clip} is a clip: run the clips apart, without it")


def _check_report(path: Path) -> None:
    """Refuse a report file that cannot be appended to, before any photo is processed. Raises DeidError."""
    from ..io.files import refusal

    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise DeidError(refusal(path, error)) from error
