"""The command `deid-diffusion evaluate`: privacy and utility of a folder of results, in one report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..evaluation.measure import Evaluators

Originals = Annotated[Path, typer.Argument(metavar="ORIGINALS", help="Folder of photos.")]
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of their results, of the same names.")]
People = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        show_default="the name before the last _",
        help="Person in a photo: the match of the expression's one group in the file name, without its suffix.",
    ),
]

_WIDTH = 140  # of tables that are not printed to a terminal
_ATTACKS_ONLY = "--attacks-only"


def evaluate(
    originals: Originals,
    results: Results,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="REPORT",
            help=f"Write REPORT.html and REPORT.json; with {_ATTACKS_ONLY}, REPORT.json alone, and optional.",
        ),
    ] = None,
    attacks_only: Annotated[
        bool, typer.Option(_ATTACKS_ONLY, help="Only try to re-identify people: no attributes, no image quality.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Labels of the photos: column `file`, columns to group by, and, if known, `person`.",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Pairs whose names differ: columns `original`, `result` and, if known, `person`.",
        ),
    ] = None,
    reports: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Output of `anonymize --report`: adds speed and actions.")
    ] = None,
    people: People = None,
    recogniser: Annotated[
        Path | None,
        typer.Option(metavar="FILE.onnx", help="A further face recogniser that was not used to verify the results."),
    ] = None,
    attributes: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="A network that estimates age and sex.")
    ] = None,
    show_originals: Annotated[
        bool, typer.Option("--show-originals", help="Show the worst cases in the report, beside their original faces.")
    ] = False,
) -> None:
    """Evaluate RESULTS against ORIGINALS: coverage, re-identification, kept attributes and image quality.

    Coverage is of all faces, everything else of the largest face of every photo. Nothing is downloaded, and nothing
    leaves this machine.
    """
    if attacks_only and (attributes is not None or show_originals):
        option = "--show-originals" if attributes is None else "--attributes"
        raise UsageError(f"{option}: has no effect with {_ATTACKS_ONLY}: leave out one of the two")
    files = _report_files(out, attacks_only)
    from pydantic_core import to_json
    from rich.console import Console

    from ..evaluation import pairing
    from ..evaluation.evaluate import evaluate as run_evaluation
    from ..evaluation.evaluate import read_records
    from ..evaluation.report import load_template, render, tables
    from ..io.files import write_atomic
    from .console import Bar

    if not attacks_only:
        load_template()  # a missing package is reported before the work
    matching = (
        pairing.match_folders(originals, results) if pairs is None else pairing.match_table(pairs, originals, results)
    )
    names = [pair.name for pair in matching.pairs]
    table = None if labels is None else pairing.read_labels(labels, names)
    matching = pairing.with_people(matching, people, table)
    records = None if reports is None else read_records(reports, names)
    evaluators = _evaluators(recogniser, attributes, attacks_only)
    with Bar() as bar:
        evaluation = run_evaluation(
            matching,
            evaluators,
            _names(evaluators),
            labels=table,
            records=records,
            attacks_only=attacks_only,
            keep_crops=show_originals,
            notes=_warnings(evaluators),
            progress=bar.show,
        )
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_WIDTH)
    for section in tables(evaluation):
        console.print(section)
    for note in evaluation.notes:
        typer.echo(f"note: {note}")
    for path in files:
        if path.suffix == ".html":
            data = render(evaluation, f"{results.name} against {originals.name}").encode()
        else:
            data = to_json(evaluation, indent=1, exclude={"worst"}, inf_nan_mode="null") + b"\n"
        write_atomic(path, data, overwrite=False)
    if files:
        typer.echo(" and ".join(map(str, files)))


def attack(
    originals: Originals,
    results: Results,
    people: People = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE.json")] = None,
    parrot: bool = True,
    known_place: Annotated[bool, typer.Option("--known-place")] = False,
) -> None:
    """Run `evaluate --attacks-only`, the new name. It always includes the parrot attack and the known place."""
    typer.echo(f"attack is now evaluate {_ATTACKS_ONLY}", err=True)
    evaluate(originals, results, out=out, attacks_only=True, people=people)


def _report_files(out: Path | None, attacks_only: bool) -> list[Path]:
    """Return the files to write, none of which may exist, in a folder that does. Raises UsageError."""
    if out is None:
        if attacks_only:
            return []
        raise UsageError(f"-o: missing: name the report, or pass {_ATTACKS_ONLY}")
    base = out.with_suffix("") if out.suffix.lower() in (".html", ".json") else out
    files = [base.with_name(f"{base.name}{suffix}") for suffix in ((".json",) if attacks_only else (".html", ".json"))]
    for path in files:
        if path.exists():
            raise UsageError(f"{path}: exists already: choose another name with -o")
    if not base.absolute().parent.is_dir():
        raise UsageError(f"{base}: its folder does not exist: create it, or choose another one")
    return files


def _evaluators(recogniser: Path | None, attributes: Path | None, attacks_only: bool) -> Evaluators:
    """Load the networks to evaluate with. Raises UsageError for files that cannot be used."""
    from ..evaluation.measure import Evaluators, PerceptualMeter
    from ..evaluation.onnx import OnnxAgeGender, OnnxRecogniser
    from ..faces.detection import EnsembleDetector
    from ..faces.landmarks import FaceMesh
    from ..identity.recognition import DlibRecogniser

    independent = () if recogniser is None else (OnnxRecogniser(recogniser),)
    reader = None if attributes is None else OnnxAgeGender(attributes)
    meter = None if attacks_only else PerceptualMeter()
    return Evaluators(EnsembleDetector(), FaceMesh(), (DlibRecogniser(), *independent), reader, meter)


def _names(evaluators: Evaluators) -> dict[str, str]:
    """Return role to name."""
    return {
        "detector": "built-in (CenterFace, MediaPipe)",
        "recognisers": ", ".join(recogniser.name for recogniser in evaluators.recognisers),
        "age and sex": "none" if evaluators.reader is None else evaluators.reader.name,
        "pose and expression": "MediaPipe face mesh",
    }


def _warnings(evaluators: Evaluators) -> list[str]:
    """Return the ways in which the built-in networks flatter this package's results."""
    builtin, *others = (recogniser.name for recogniser in evaluators.recognisers)
    independent = f"; {others[0]} is independent" if others else ": for a claim, add another one with --recogniser"
    return [
        f"{builtin} also verifies this package's results, so its figures are optimistic for them{independent}",
        "faces are detected by this package's own detector: a face that it misses is in no figure",
    ]
