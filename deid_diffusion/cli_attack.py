"""The command `deid-diffusion attack`: can a face recogniser still tell who is in a folder of results?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deid_diffusion.cli_errors import errors_as_exit_codes
from deid_diffusion.cli_results import Originals, People, Results, check_out
from deid_diffusion.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from deid_diffusion.console import Bar
    from deid_diffusion.evaluation.attacks import AttackReport, Collection
    from deid_diffusion.evaluation.pairing import Pair
    from deid_diffusion.evaluation.verification import Rate
    from deid_diffusion.identity.recognition import Recogniser


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
        from deid_diffusion.evaluation.pairing import match_people

        matching = match_people(originals, results, people)
        pairs, left_out = matching.pairs, len(matching.without_result) + len(matching.without_original)
        if out is not None:
            check_out(out, [out])

        from deid_diffusion.console import Bar
        from deid_diffusion.evaluation.attacks import embed_pairs
        from deid_diffusion.faces.detection import UnionDetector
        from deid_diffusion.faces.landmarks import FaceMesh
        from deid_diffusion.identity.recognition import DlibRecogniser

        recogniser: Recogniser = DlibRecogniser()
        with Bar() as bar:
            owners, photos = [pair.person for pair in pairs], _read(pairs, bar)
            collection = embed_pairs(owners, photos, UnionDetector(), recogniser, FaceMesh(), known_place=known_place)
        report = judge(collection, recogniser.threshold, parrot=parrot)
        if left_out:
            typer.echo(f"{left_out} {'photo is' if left_out == 1 else 'photos are'} in one folder only, and left out")
        for line in describe(report, recogniser.name, known_place=known_place):
            typer.echo(line)
        if out is not None:
            from deid_diffusion.files import write_atomic

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

    from deid_diffusion.evaluation.attacks import FMR, attack_collection
    from deid_diffusion.evaluation.verification import enough

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
    from deid_diffusion import images

    bar.show(0, len(pairs))
    for done, pair in enumerate(pairs, 1):
        yield images.read(pair.original).pixels, images.read(pair.result).pixels
        bar.show(done, len(pairs))
