"""The command `deid-diffusion evaluate`: privacy and utility of a folder of results, in one report."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deid_diffusion.cli_errors import errors_as_exit_codes
from deid_diffusion.cli_results import Originals, People, Results, check_out

if TYPE_CHECKING:
    from deid_diffusion.evaluation.evaluation import Evaluation
    from deid_diffusion.evaluation.look import Judges

_WIDTH = 140  # of tables that go to no terminal


def evaluate(
    context: typer.Context,
    originals: Originals,
    results: Results,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="REPORT", help="Name of the report: gets REPORT.html and REPORT.json."),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="What is known of the photos: column `file`, and columns to group by; `person`, if there, says whose "
            "photo it is.",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Which result belongs to which photo, where names differ: columns `original`, `result` and, if known, "
            "`person`.",
        ),
    ] = None,
    reports: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="What `anonymize --report` wrote: adds speed and actions.")
    ] = None,
    people: People = None,
    recogniser: Annotated[
        Path | None,
        typer.Option(metavar="FILE.onnx", help="One more attacker: a face recogniser that did not guard the results."),
    ] = None,
    attributes: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="A network that reads age and sex off a face.")
    ] = None,
    show_originals: Annotated[
        bool, typer.Option("--show-originals", help="Show the worst cases in the report, beside their original faces.")
    ] = False,
) -> None:
    """Measure RESULTS against ORIGINALS: was every face changed, can people be recognised, what is left of the faces?

    Of each photo the largest face counts, but for the coverage. Nothing is downloaded, and nothing leaves this machine.
    """
    with errors_as_exit_codes(context):
        page, figures = _targets(out)
        from deid_diffusion.evaluation import pairing
        from deid_diffusion.evaluation.record import read_reports

        matching = (
            pairing.match_folders(originals, results)
            if pairs is None
            else pairing.match_table(pairs, originals, results)
        )
        names = [pair.name for pair in matching.pairs]
        table = None if labels is None else pairing.read_labels(labels, names)
        matching = pairing.with_people(matching, people, table)
        records = None if reports is None else read_reports(reports, names)
        judges = _judges(recogniser, attributes)

        from rich.console import Console

        from deid_diffusion.console import Bar
        from deid_diffusion.evaluation.evaluation import evaluate as measure
        from deid_diffusion.evaluation.page import render
        from deid_diffusion.evaluation.table import tables
        from deid_diffusion.files import write_atomic

        with Bar() as bar:
            found = measure(
                matching,
                judges,
                _names(judges),
                labels=table,
                reports=records,
                keep_pictures=show_originals,
                notes=_warnings(judges),
                progress=bar.show,
            )
        console = Console(highlight=False)
        console = console if console.is_terminal else Console(highlight=False, width=_WIDTH)
        for one in tables(found):
            console.print(one)
        for note in found.notes:
            typer.echo(f"note: {note}")
        write_atomic(figures, _as_json(found), overwrite=False)
        write_atomic(page, render(found, f"{results.name} against {originals.name}").encode(), overwrite=False)
        typer.echo(f"{page} and {figures}")


def _targets(out: Path) -> tuple[Path, Path]:
    """The two files of a report, both free. Raises UsageError."""
    base = out.with_suffix("") if out.suffix.lower() in (".html", ".json") else out
    files = base.with_name(f"{base.name}.html"), base.with_name(f"{base.name}.json")
    check_out(base, files)
    return files


def _judges(recogniser: Path | None, attributes: Path | None) -> Judges:
    """Who looks. Raises UsageError for files that do not do."""
    from deid_diffusion.evaluation.look import Judges
    from deid_diffusion.evaluation.onnx_judges import OnnxAgeGender, OnnxRecogniser
    from deid_diffusion.evaluation.perceptual import PerceptualMeter
    from deid_diffusion.faces.detection import UnionDetector
    from deid_diffusion.faces.landmarks import FaceMesh
    from deid_diffusion.identity.recognition import DlibRecogniser

    mine = () if recogniser is None else (OnnxRecogniser(recogniser),)
    reader = None if attributes is None else OnnxAgeGender(attributes)
    return Judges(UnionDetector(), FaceMesh(), (DlibRecogniser(), *mine), reader, PerceptualMeter())


def _names(judges: Judges) -> dict[str, str]:
    """Role to name."""
    return {
        "detector": "the product's own (CenterFace, MediaPipe)",
        "recognisers": ", ".join(one.name for one in judges.recognisers),
        "age and sex": "nobody" if judges.reader is None else judges.reader.name,
        "pose and expression": "MediaPipe face mesh",
    }


def _warnings(judges: Judges) -> list[str]:
    """What flatters, whatever the photos."""
    own, *others = (one.name for one in judges.recognisers)
    independent = (
        f"; {others[0]} is independent of it" if others else ": for a claim, name another one with --recogniser"
    )
    return [
        f"{own} also guards the gate of this product, so its figures flatter this product's results{independent}",
        "faces are found by the detector that this product also uses: a face that it does not see is in no figure",
    ]


def _as_json(found: Evaluation) -> bytes:
    """All figures; pictures stay out."""
    values: dict[str, Any] = asdict(replace(found, worst=()))
    del values["worst"]
    return (json.dumps(_finite(values), indent=1, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    """The same values with None for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
