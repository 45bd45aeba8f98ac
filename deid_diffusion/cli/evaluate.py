"""The command `deid-diffusion evaluate`: privacy and utility of a folder of results, in one report."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .options import Originals, People, Results, check_out, errors_as_exit_codes

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.measure import Evaluators

_WIDTH = 140  # of tables that are not printed to a terminal
_ATTACKS_ONLY = "--attacks-only"


def evaluate(
    context: typer.Context,
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
    with errors_as_exit_codes(context):
        if attacks_only and (attributes is not None or show_originals):
            option = "--show-originals" if attributes is None else "--attributes"
            raise UsageError(f"{option}: has no effect with {_ATTACKS_ONLY}: leave out one of the two")
        page, figures = _targets(out, attacks_only)
        from ..evaluation import pairing
        from ..evaluation.evaluate import evaluate as run_evaluation
        from ..evaluation.evaluate import read_records
        from ..evaluation.report import load_template, render, tables

        if page is not None:
            load_template()  # a missing package is reported before the work
        matching = (
            pairing.match_folders(originals, results)
            if pairs is None
            else pairing.match_table(pairs, originals, results)
        )
        names = [pair.name for pair in matching.pairs]
        table = None if labels is None else pairing.read_labels(labels, names)
        matching = pairing.with_people(matching, people, table)
        records = None if reports is None else read_records(reports, names)
        evaluators = _evaluators(recogniser, attributes, attacks_only)

        from rich.console import Console

        from ..io.files import write_atomic
        from .console import Bar

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
        if figures is not None:
            write_atomic(figures, _as_json(evaluation), overwrite=False)
        if page is not None:
            title = f"{results.name} against {originals.name}"
            write_atomic(page, render(evaluation, title).encode(), overwrite=False)
        if out is not None:
            typer.echo(" and ".join(str(path) for path in (page, figures) if path is not None))


def attack(
    context: typer.Context,
    originals: Originals,
    results: Results,
    people: People = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE.json")] = None,
    parrot: bool = True,
    known_place: Annotated[bool, typer.Option("--known-place")] = False,
) -> None:
    """Run `evaluate --attacks-only`, the new name. It always includes the parrot attack and the known place."""
    typer.echo(f"attack is now evaluate {_ATTACKS_ONLY}", err=True)
    evaluate(context, originals, results, out=out, attacks_only=True, people=people)


def _targets(out: Path | None, attacks_only: bool) -> tuple[Path | None, Path | None]:
    """Return the page and the JSON file to write, neither of which may exist. Raises UsageError."""
    if out is None:
        if attacks_only:
            return None, None
        raise UsageError(f"-o: missing: name the report, or pass {_ATTACKS_ONLY}")
    base = out.with_suffix("") if out.suffix.lower() in (".html", ".json") else out
    page, figures = base.with_name(f"{base.name}.html"), base.with_name(f"{base.name}.json")
    check_out(base, [figures] if attacks_only else [page, figures])
    return None if attacks_only else page, figures


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


def _as_json(evaluation: Evaluation) -> bytes:
    """Serialise all figures, without images."""
    values: dict[str, Any] = asdict(replace(evaluation, worst=()))
    del values["worst"]
    return (json.dumps(_finite(values), indent=1, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    """Replace numbers that JSON lacks by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
