"""Command `deid-diffusion anonymize`: de-identify photos and clips."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    from ..io.coco import write_annotations
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
        _check_report(report)
    _check_clips(plan, {**face_files, "--export-annotations": export_annotations})
    options = parse_options(given)
    faces = _read_faces(face_files, options)
    faces.check(plan)
    options = with_people(options, key_file, store, given["keep_people"])
    if export_annotations is not None:
        write_annotations(export_annotations, (), overwrite=overwrite)  # fail before the work, not after it
    settings = Settings(options, require_face, faces.boxes, faces.only, faces.overrides)

    def load() -> Anonymizer:
        anonymizer = load_anonymizer(model, device)
        if options.method == "generate":
            anonymizer.check(options, faces.overrides.all() if faces.overrides else ())
        return anonymizer

    tally, records = RunStats(), list[ImageRecord]()
    with Display(len(plan.jobs)) as display:
        for line in warnings_of(options):
            display.complain(f"warning: {line}")
        for outcome in run(plan, load, settings, report, display.on_frame):
            tally = tally.add(outcome)
            if export_annotations is not None and isinstance(outcome.report, ImageRecord):
                records.append(outcome.report)
            display.report(outcome, debug=context.obj)
            display.count(tally)
    if export_annotations is not None:
        write_annotations(export_annotations, records, overwrite=True)
    typer.echo(summary(tally, plan))
    if in_place and tally.failed:
        typer.echo("the photos that failed are unchanged: they still show the original faces", err=True)
    raise typer.Exit(tally.exit_code)


@dataclass(frozen=True, eq=False)
class _FaceFiles:
    """Faces of a run's photos that its files describe; see `Settings`."""

    boxes: Boxes | None = None
    only: Boxes | None = None
    overrides: FaceOverrides | None = None

    def check(self, plan: Plan) -> None:
        """Raise UsageError if a photo of a file is ambiguous, or one with overrides is none of the run's."""
        if self.overrides is not None:
            self.overrides.check(plan.names)
        for boxes in (self.boxes, self.only):
            if boxes is not None:
                boxes.missing(job.input_name for job in plan.jobs)


def _read_faces(files: Mapping[str, Path | None], options: Options) -> _FaceFiles:
    """Read `--annotations`, or the deprecated files that it replaces. Raises UsageError."""
    from ..io.annotations import read_annotations, read_boxes, read_overrides

    annotations, boxes, only, wishes = files.values()
    if annotations is None:
        if wishes is not None and options.method != "generate":
            raise UsageError(f"--wishes: --method {options.method} keeps and changes no attribute")
        return _FaceFiles(
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
    return _FaceFiles(content.boxes, content.regions, content.overrides)


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


def _check_report(path: Path) -> None:
    """Raise DeidError, before any photo is processed, for a report file that cannot be appended to."""
    from ..io.files import write_error

    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise DeidError(write_error(path, error)) from error
