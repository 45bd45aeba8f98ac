"""Measure a folder of results against its originals: privacy and utility in one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from .._version import __version__
from ..errors import UsageError, one_line
from ..io.images import read
from ..results import ImageRecord
from .attacks import Curve, Identity, reidentify
from .measure import Evaluators, FaceMeasurement, PairMeasurement, measure_pair
from .pairing import Labels, Matching
from .statistics import SHARE, Figure, Section, mean_of, missing, of_rate, rate
from .utility import (
    attribute_section,
    coverage_section,
    group_figures,
    group_values,
    mesh_section,
    quality_section,
    share_kept,
)


def read_reports(path: Path, names: Sequence[str]) -> dict[str, ImageRecord]:
    """Reports by the name, without suffix, of the original that they are about; the last one of a name counts.

    Args:
        path: JSON lines; those of clips are passed over.
        names: of the originals, without suffix.

    Raises:
        UsageError: the file cannot be read, a line is no report, or none is about these photos.
    """
    reports: dict[str, ImageRecord] = {}
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip() and '"tracks": ' not in line:  # no value can hold that: its quotes would be escaped
                    try:
                        report = ImageRecord.from_json(line)
                    except ValueError as error:
                        raise UsageError(
                            f"{path}, line {number}: is no report of anonymize ({one_line(error)})"
                        ) from error
                    reports[Path(report.input).stem] = report
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({one_line(error)})") from error
    wanted = set(names)
    found = {name: report for name, report in reports.items() if name in wanted}
    if not found:
        raise UsageError(f"{path}: is about none of these photos: name the report of the run that made the results")
    return found


def keyed(reports: Mapping[str, ImageRecord]) -> bool:
    """Whether faces were made with a key: pseudonymised, and linkable on purpose."""
    return any(face.pseudonym is not None for report in reports.values() for face in report.faces)


def record_section(reports: Mapping[str, ImageRecord], people: Mapping[str, str]) -> Section:
    """What was done, and how fast, by the tool's own record.

    Args:
        reports: by name.
        people: whose photo each name is.
    """
    done = {name: report for name, report in reports.items() if report.status != "failed"}
    actions = Counter(face.action for report in done.values() for face in report.faces)
    with_faces = {name: report for name, report in done.items() if report.faces}
    per_face = [report.seconds / len(report.faces) for report in with_faces.values()]
    figures = [
        Figure("photos in the record", float(len(reports)), ""),
        Figure("failed", float(len(reports) - len(done)), "", better="lower"),
        *(Figure(f"faces {action}", float(count), "") for action, count in actions.most_common()),
        mean_of("time a photo", [one.seconds for one in done.values()], [people[name] for name in done], "s", "lower"),
        mean_of("time a face", per_face, [people[name] for name in with_faces], "s", "lower"),
    ]
    gates = {report.gate for report in done.values() if report.gate}
    summary = f"By the report of the run. Gate: {'; '.join(sorted(gates)) or 'none'}."
    return Section("Record and speed", summary, tuple(figures))


_WORST = 8  # photos of each kind on the contact sheet


@dataclass(frozen=True)
class Group:
    """Photos of one label. Its figures: re-identified, attributes kept, and more."""

    column: str
    value: str
    photos: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Scatter:
    """One attribute of originals and results, a point a face."""

    name: str
    unit: str
    originals: tuple[float, ...]
    results: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class WorstCase:
    """A photo to look at: its name, why, and the crops, (S, S, 3) uint8 RGB, of original and result."""

    name: str
    why: str
    original: np.ndarray
    result: np.ndarray


def scatters_of(faces: Sequence[FaceMeasurement]) -> list[Scatter]:
    poses = [(one.before.pose, one.after.pose) for one in faces if one.before and one.after]
    ages = [(one.readings[0].age, one.readings[1].age) for one in faces if one.readings]
    columns = [
        ("age", "years", ages),
        ("yaw", "degrees", [(a.yaw, b.yaw) for a, b in poses]),
        ("pitch", "degrees", [(a.pitch, b.pitch) for a, b in poses]),
    ]
    return [Scatter(name, unit, *zip(*points, strict=True)) for name, unit, points in columns if points]


def groups_of(
    looks: Sequence[PairMeasurement], identity: Identity, labels: Labels | None, *, read: bool
) -> list[Group]:
    """The figures of every label with a face."""
    groups = []
    for column, value, mask in group_values([one.pair.name for one in looks], labels) if labels else ():
        members = [one for one, yes in zip(looks, mask, strict=True) if yes and one.face is not None]
        if not members:
            continue
        faces, people = [one.face for one in members if one.face], [one.pair.person for one in members]
        tried = mask[identity.photos]
        whose = [looks[k].pair.person for k in identity.photos[tried]]
        chance = identity.headline.chance or 0.0
        name = "re-identified"
        first = (
            of_rate(name, rate(identity.hits[tried], whose, chance))
            if tried.any()
            else missing(name, SHARE, "nobody of this group has two photos")
        )
        figures = (replace(first, note=identity.headline.note), *group_figures(faces, people, read=read))
        groups.append(Group(column, value, len(members), figures))
    return groups


def worst_of(looks: Sequence[PairMeasurement], identity: Identity, *, read: bool) -> list[WorstCase]:
    """The likest results, then those that kept least; none where no pictures were kept."""
    cases = []
    order = np.argsort(-identity.likeness, kind="stable")[:_WORST]
    for k in order:
        likeness = identity.likeness[k]
        if likeness == -np.inf:  # there was nothing to compare
            break
        side = "over the threshold: re-identified" if likeness > 0 else "under the threshold"
        why = "left as it was" if likeness == np.inf else f"likest by {identity.recogniser}, {abs(likeness):.3f} {side}"
        cases.append((k, why))
    least = [
        (share, k) for k, one in enumerate(looks) if one.face and (share := share_kept(one.face, read=read)) is not None
    ]
    listed = {k for k, _ in cases}
    cases += [(k, f"kept {share:.0%} of the attributes") for share, k in sorted(least) if k not in listed][:_WORST]
    return [
        WorstCase(looks[k].pair.name, why, *shown)
        for k, why in cases
        if (face := looks[k].face) is not None and (shown := face.shown) is not None
    ]


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
    judges: Evaluators,
    names: Mapping[str, str],
    *,
    labels: Labels | None = None,
    reports: Mapping[str, ImageRecord] | None = None,
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
        looks.append(measure_pair(pair, photo, result, judges, more_boxes=boxes, keep_pictures=keep_pictures))
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
    looks: Sequence[PairMeasurement],
    identities: Sequence[Identity],
    judges: Evaluators,
    matching: Matching,
    names: Mapping[str, str],
    labels: Labels | None,
    reports: Mapping[str, ImageRecord],
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
    looks: Sequence[PairMeasurement],
    identities: Sequence[Identity],
    judges: Evaluators,
    matching: Matching,
    reports: Mapping[str, ImageRecord],
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
