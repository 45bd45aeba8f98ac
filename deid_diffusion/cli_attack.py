"""The command `deid-diffusion attack`: can a face recogniser still tell who is in a folder of results?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deid_diffusion.cli_errors import errors_as_exit_codes
from deid_diffusion.errors import UsageError, one_line

if TYPE_CHECKING:
    import numpy as np

    from deid_diffusion.console import Bar
    from deid_diffusion.evaluation.attacks import AttackReport, Collection
    from deid_diffusion.evaluation.verification import Rate
    from deid_diffusion.identity.recognition import Recogniser


@dataclass(frozen=True)
class PhotoPair:
    """A photo, its result, and whose they are."""

    person: str
    original: Path
    result: Path


def attack(
    context: typer.Context,
    originals: Annotated[Path, typer.Argument(metavar="ORIGINALS", help="Folder of photos.")],
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of their results, of the same names.")],
    parrot: Annotated[
        bool,
        typer.Option(
            help="Also attack with a gallery that was de-identified the same way. Leave it out for results made with a "
            "key: they are pseudonymised, and linkable on purpose."
        ),
    ] = True,
    people: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            show_default="the name before the last _",
            help="Whose photo it is: what the one group of this expression finds in the name (without suffix).",
        ),
    ] = None,
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
        pairs, left_out = pair_photos(originals, results, people)
        if out is not None:
            _check_out(out)

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


def pair_photos(originals: Path, results: Path, people: str | None = None) -> tuple[list[PhotoPair], int]:
    """Photos of one folder and their results in another, matched by their names without suffix, in order.

    Args:
        originals: folder of photos.
        results: folder of their results.
        people: regular expression with one group, which finds the person in a name; else a person is the name before
            its last underscore, or all of a name without one.

    Returns:
        The pairs, and the number of photos without a partner.

    Raises:
        UsageError: a folder without photos, no common name, an expression that does not do, or one person only.
    """
    before, after = _photos(originals), _photos(results)
    common = sorted(before.keys() & after.keys())
    if not common:
        raise UsageError(f"{originals} and {results}: no photo of one has the name of a photo of the other")
    pattern = None if people is None else _pattern(people)
    pairs = [PhotoPair(_person(name, pattern), before[name], after[name]) for name in common]
    if len({pair.person for pair in pairs}) < 2:
        raise UsageError(
            f"{originals}: all names say that the person is {pairs[0].person}: give --people, which finds it in a name"
        )
    return pairs, len(before.keys() ^ after.keys())


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


def _photos(folder: Path) -> dict[str, Path]:
    """Name without suffix -> photo, of every photo in a folder. Raises UsageError."""
    from deid_diffusion.images import READABLE

    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in READABLE and not p.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{folder}: is no folder that can be read ({one_line(error.strerror or error)})") from error
    if not files:
        raise UsageError(f"{folder}: holds no photo: name a folder of photos")
    photos = {path.stem: path for path in files}
    if len(photos) < len(files):
        double = next(path for path in files if photos[path.stem] != path)
        raise UsageError(f"{double} and {photos[double.stem].name}: two photos of one name: keep one of them")
    return photos


def _pattern(expression: str) -> re.Pattern[str]:
    """A regular expression with one group. Raises UsageError."""
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UsageError(f"--people {expression}: is no regular expression ({one_line(error)})") from error
    if pattern.groups != 1:
        raise UsageError(f"--people {expression}: has {pattern.groups} groups, but one group must find the person")
    return pattern


def _person(name: str, pattern: re.Pattern[str] | None) -> str:
    """Whose photo it is, by its name without suffix. Raises UsageError."""
    if pattern is None:
        return name.rpartition("_")[0] or name
    found = pattern.search(name)
    if found is None or not found[1]:
        raise UsageError(f"--people {pattern.pattern}: finds nobody in the name {name}")
    return found[1]


def _check_out(path: Path) -> None:
    """Refuse a report file before the work. Raises UsageError."""
    if path.exists():
        raise UsageError(f"{path}: exists already: choose another name with -o")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: its folder does not exist: create it, or choose another one")


def _read(pairs: list[PhotoPair], bar: Bar) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pixels of each pair, telling the bar after each."""
    from deid_diffusion import images

    bar.show(0, len(pairs))
    for done, pair in enumerate(pairs, 1):
        yield images.read(pair.original).pixels, images.read(pair.result).pixels
        bar.show(done, len(pairs))
