"""The command `deid-diffusion evaluate`: privacy and utility of a folder of results, in one report."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .options import Originals, People, Results, check_out, errors_as_exit_codes

if TYPE_CHECKING:
    import numpy as np

    from ..evaluation.attacks import AttackReport, Collection
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.measure import Evaluators
    from ..evaluation.pairing import Pair
    from ..evaluation.statistics import Rate
    from ..identity.recognition import Recogniser
    from .console import Bar


def attack(
    context: typer.Context,
    originals: Originals,
    results: Results,
    parrot: Annotated[
        bool,
        typer.Option(
            help="Also attack with a gallery that was de-identified the same way. Leave it out for results made with a "
            "key: they are pseudonymised, and linkable on purpose."
        ),
    ] = True,
    people: People = None,
    known_place: Annotated[
        bool,
        typer.Option(
            "--known-place",
            help="Where no face can be found in a result, look where it was in the original. Else such a result counts "
            "as not matched, though somebody who knows the place could still look there.",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE.json", help="All figures, as JSON.")] = None,
) -> None:
    """Try to re-identify the people in RESULTS, with a face recogniser and other photos of them from ORIGINALS.

    Of each photo the largest face counts. People need two photos or more; with one, only results and their own
    originals can be compared.
    """
    with errors_as_exit_codes(context):
        from ..evaluation.pairing import match_people

        matching = match_people(originals, results, people)
        pairs, left_out = matching.pairs, len(matching.without_result) + len(matching.without_original)
        if out is not None:
            check_out(out, [out])

        from ..evaluation.attacks import embed_pairs
        from ..faces.detection import EnsembleDetector
        from ..faces.landmarks import FaceMesh
        from ..identity.recognition import DlibRecogniser
        from .console import Bar

        recogniser: Recogniser = DlibRecogniser()
        with Bar() as bar:
            owners, photos = [pair.person for pair in pairs], _read(pairs, bar)
            collection = embed_pairs(
                owners, photos, EnsembleDetector(), recogniser, FaceMesh(), known_place=known_place
            )
        report = judge(collection, recogniser.threshold, parrot=parrot)
        if left_out:
            typer.echo(f"{left_out} {'photo is' if left_out == 1 else 'photos are'} in one folder only, and left out")
        for line in describe(report, recogniser.name, known_place=known_place):
            typer.echo(line)
        if out is not None:
            from ..io.files import write_atomic

            figures = {
                "recogniser": recogniser.name,
                "left_out": left_out,
                "known_place": known_place,
                **asdict(report),
            }
            write_atomic(out, (json.dumps(figures, indent=1) + "\n").encode(), overwrite=False)
            typer.echo(str(out))


def judge(collection: Collection, threshold: float, *, parrot: bool = True) -> AttackReport:
    """The attacks on a collection, with the recogniser's own threshold where there are too few pairs for another.

    Raises UsageError where faces of fewer than two people were found.
    """
    import numpy as np

    from ..evaluation.attacks import FMR, attack_collection
    from ..evaluation.statistics import enough

    found = np.isfinite(collection.originals).all(axis=1)
    counts = np.unique(np.asarray(collection.people)[found], return_counts=True)[1]
    if len(counts) < 2:
        raise UsageError(f"originals: faces of {len(counts)} people found, at least 2 are needed")
    strangers = int(found.sum() ** 2 - (counts**2).sum()) // 2
    return attack_collection(collection, threshold=None if enough(strangers, FMR) else threshold, parrot=parrot)


def describe(report: AttackReport, recogniser: str, *, known_place: bool = False) -> list[str]:
    """The report in lines for a terminal."""
    source = "its own" if report.threshold_given else "fixed on these originals"
    lines = [
        f"{report.photos:,} photos of {report.people:,} people, {report.people_with_two:,} of them with two or more",
        f"no face found in {report.originals_not_found:,} originals (left out) and {report.results_not_found:,} results"
        f" ({'judged at the place of the original' if known_place else 'not matched'})",
        f"{recogniser}, threshold {report.threshold:.4f}, {source}, for a false match rate of {report.fmr:.2%}"
        f" ({report.impostor_pairs:,} pairs of different people)",
    ]
    if report.results_not_found and not known_place:
        lines.append("a face that no detector finds is not safe for that: --known-place attacks it, too")
    if not report.people_with_two:
        lines.append("nobody has two photos: a result can only be compared with its own original")
    head = "{:>9}  95% interval    chance{:>9}"
    lines += ["", f"{'attack':<18}{head.format('TPR', 'pairs')}{head.format('rank-1', 'probes')}"]
    lines += [f"{one.name:<18}{_cells(one.tpr)}{_cells(one.rank1)}".rstrip() for one in report.attacks]
    return [
        *lines,
        "",
        "TPR: pairs of one person that match. rank-1: probes whose person comes first in a gallery of everybody.",
        f"{recogniser} also guards the gate when photos are de-identified, so these figures flatter. For a claim,",
        "attack with a recogniser that had no part in it: deid_diffusion.evaluation.attacks takes any.",
    ]


def _cells(rate: Rate | None) -> str:
    if rate is None:
        return f"{'-':>9}{'':33}"
    interval = f"{rate.interval[0]:.1%} to {rate.interval[1]:.1%}"
    return f"{rate.value:>9.1%}  {interval:<14}{rate.chance:>8.2%}{rate.trials:>9,}"


def _read(pairs: Sequence[Pair], bar: Bar) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pixels of each pair, telling the bar after each."""
    from ..io import images

    bar.show(0, len(pairs))
    for done, pair in enumerate(pairs, 1):
        yield images.read(pair.original).pixels, images.read(pair.result).pixels
        bar.show(done, len(pairs))


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
        from ..evaluation import pairing
        from ..evaluation.evaluate import read_reports

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

        from ..evaluation.evaluate import evaluate as measure
        from ..evaluation.report import render, tables
        from ..io.files import write_atomic
        from .console import Bar

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


def _judges(recogniser: Path | None, attributes: Path | None) -> Evaluators:
    """Who looks. Raises UsageError for files that do not do."""
    from ..evaluation.measure import Evaluators
    from ..evaluation.onnx import OnnxAgeGender, OnnxRecogniser
    from ..evaluation.perceptual import PerceptualMeter
    from ..faces.detection import EnsembleDetector
    from ..faces.landmarks import FaceMesh
    from ..identity.recognition import DlibRecogniser

    mine = () if recogniser is None else (OnnxRecogniser(recogniser),)
    reader = None if attributes is None else OnnxAgeGender(attributes)
    return Evaluators(EnsembleDetector(), FaceMesh(), (DlibRecogniser(), *mine), reader, PerceptualMeter())


def _names(judges: Evaluators) -> dict[str, str]:
    """Role to name."""
    return {
        "detector": "the product's own (CenterFace, MediaPipe)",
        "recognisers": ", ".join(one.name for one in judges.recognisers),
        "age and sex": "nobody" if judges.reader is None else judges.reader.name,
        "pose and expression": "MediaPipe face mesh",
    }


def _warnings(judges: Evaluators) -> list[str]:
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
