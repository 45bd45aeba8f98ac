"""Measure a folder of results against its originals: privacy and utility in one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from .._version import __version__
from ..errors import UsageError
from ..images import read
from ..report import ImageReport
from .breakdown import Group, Scatter, WorstCase, groups_of, scatters_of, worst_of
from .figures import Figure, Section
from .identity_figures import Curve, Identity, reidentify
from .look import Judges, PhotoLook, look
from .pairing import Labels, Matching
from .record import keyed, record_section
from .utility_figures import (
    attribute_section,
    coverage_section,
    mesh_section,
    quality_section,
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A finished report.

    Attributes:
        version: of this software.
        made: date and time, UTC, ISO 8601.
        photos: pairs that were measured.
        people: whose they are.
        judges: role to name.
        notes: what a reader must know before the figures, one line each.
        headline: the figures to look at first.
        sections: all figures.
        curves: ROC of each recogniser, by its name.
        scatters: of pose, and of age where it was read.
        groups: by label.
        ceiling: the headline's re-identification for originals that nothing was done to, 0 to 1.
        worst: for the contact sheet; empty unless pictures were kept.
    """

    version: str
    made: str
    photos: int
    people: int
    judges: Mapping[str, str]
    notes: tuple[str, ...]
    headline: tuple[Figure, ...]
    sections: tuple[Section, ...]
    curves: Mapping[str, tuple[Curve, ...]]
    scatters: tuple[Scatter, ...]
    groups: tuple[Group, ...]
    ceiling: float
    worst: tuple[WorstCase, ...] = ()


def evaluate(
    matching: Matching,
    judges: Judges,
    names: Mapping[str, str],
    *,
    labels: Labels | None = None,
    reports: Mapping[str, ImageReport] | None = None,
    keep_pictures: bool = False,
    notes: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Look at every pair and sum up. Photos are held in memory one pair at a time.

    Args:
        matching: the pairs.
        judges: who looks.
        names: role to name of the judges, for the reader.
        labels: to group the photos by.
        reports: records of the run that made the results, by name of the original.
        keep_pictures: keep the worst cases' crops, originals included.
        notes: put before the evaluation's own.
        progress: called with photos done and photos in all, before the first and after each.

    Raises:
        ImageError: a photo cannot be read.
        UsageError: faces of fewer than two people in the originals, or no recogniser with a threshold.
    """
    reports = reports or {}
    looks = []
    total = len(matching.pairs)
    progress(0, total)
    for done, pair in enumerate(matching.pairs, 1):
        record = reports.get(pair.name)
        boxes = [face.box for face in record.faces] if record else []
        photo, result = read(pair.original).pixels, read(pair.result).pixels
        looks.append(look(pair, photo, result, judges, more_boxes=boxes, keep_pictures=keep_pictures))
        progress(done, total)
    known = len({one.pair.person for one in looks if one.face is not None})
    if known < 2:
        raise UsageError(f"originals: faces of {known} people found, at least 2 are needed")
    found = [reidentify(looks, which, one) for which, one in enumerate(judges.recognisers)]
    identities = [one for one in found if one is not None]
    if not identities:
        raise UsageError(f"{judges.recognisers[0].name}: too few photos for a threshold, and it has none of its own")
    return _sum_up(looks, identities, judges, matching, names, labels, reports, notes)


def _sum_up(
    looks: Sequence[PhotoLook],
    identities: Sequence[Identity],
    judges: Judges,
    matching: Matching,
    names: Mapping[str, str],
    labels: Labels | None,
    reports: Mapping[str, ImageReport],
    notes: Sequence[str],
) -> Evaluation:
    at = [(one, one.face) for one in looks if one.face is not None]
    faces, people = [face for _, face in at], [one.pair.person for one, _ in at]
    photos = [one.pair.name for one, _ in at]
    reader = judges.reader
    strictest = max(identities, key=lambda one: one.headline.value or 0.0)
    coverage = coverage_section(looks)
    attributes = attribute_section(faces, photos, people, labels, None if reader is None else reader.name)
    record = record_section(reports, {one.pair.name: one.pair.person for one in looks}) if reports else None
    sections = [
        coverage,
        *(one.section for one in identities),
        attributes,
        mesh_section(faces, people),
        quality_section(looks, faces, people, judges),
        *([record] if record else []),
    ]
    return Evaluation(
        version=__version__,
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        photos=len(looks),
        people=len({one.pair.person for one in looks}),
        judges=names,
        notes=(*notes, *_remarks(looks, identities, judges, matching, reports)),
        headline=(
            coverage.figures[2],
            strictest.headline,
            *attributes.figures[:2],
            *(one for one in (record.figures if record else ()) if one.name == "time a face"),
        ),
        sections=tuple(sections),
        curves={one.recogniser: one.curves for one in identities},
        scatters=tuple(scatters_of(faces)),
        groups=tuple(groups_of(looks, strictest, labels, read=reader is not None)),
        ceiling=1.0 if strictest.ceiling is None or strictest.ceiling.value is None else strictest.ceiling.value,
        worst=tuple(worst_of(looks, strictest, read=reader is not None)),
    )


def _remarks(
    looks: Sequence[PhotoLook],
    identities: Sequence[Identity],
    judges: Judges,
    matching: Matching,
    reports: Mapping[str, ImageReport],
) -> list[str]:
    """What the run itself shows a reader must know."""
    remarks = []
    for group, what in ((matching.without_result, "original"), (matching.without_original, "result")):
        if group:
            few = ", ".join(group[:3]) + (", ..." if len(group) > 3 else "")
            partner = "result" if what == "original" else "original"
            remarks.append(f"{_count(group, what)} without {partner}, left out: {few}")
    silent = [one.pair.name for one in looks if one.face is None]
    if silent:
        remarks.append(f"{_count(silent, 'original')} in which no face was found, left out of all but the coverage")
    if not matching.people_known:
        remarks.append("names do not say whose photo it is: each photo counts as a person of its own")
    elif len({one.pair.person for one in looks}) == len(looks):
        remarks.append("nobody has two photos: results are compared with their own originals only")
    resized = sum(one.resized for one in looks)
    if resized:
        remarks.append(f"{resized:,} results have another size than their original, and were scaled to it")
    missed = sum(one.left for one in looks)
    if missed:
        remarks.append(f"{missed:,} faces are left as they were, and count as re-identified")
    if keyed(reports):
        remarks.append("made with a key: pseudonymised, so parrot and linkability are high on purpose")
    absent = {one.name for one in judges.recognisers} - {one.recogniser for one in identities}
    remarks += [f"{name}: too few photos for a threshold, and it has none of its own: left out" for name in absent]
    return remarks


def _count(names: Sequence[str], noun: str) -> str:
    return f"{len(names):,} {noun}{'' if len(names) == 1 else 's'}"
