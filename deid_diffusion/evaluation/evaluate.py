"""Evaluation of a folder of results against its originals: privacy and utility in one report."""

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
from .attacks import Curve, Reidentification, reidentify
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

_WORST = 8  # photos of every kind on the contact sheet


@dataclass(frozen=True)
class Group:
    """Photos with the same label, and their figures: re-identification first, then utility."""

    column: str
    value: str
    photos: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Scatter:
    """An attribute of N faces, in originals and results."""

    name: str
    unit: str
    originals: tuple[float, ...]
    results: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class WorstCase:
    """A photo to inspect: its name, the reason, and crops of original and result, (S, S, 3) uint8 RGB."""

    name: str
    reason: str
    original: np.ndarray
    result: np.ndarray


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All figures of an evaluation.

    Attributes:
        version: of this package.
        created: date and time, UTC, ISO 8601.
        photos, people: number of pairs, and of people in them.
        evaluators: role to name.
        notes: remarks that affect how to read the figures, one line each.
        headline: the most important figures.
        sections: all figures.
        curves: ROC curves, by recogniser.
        scatters: pose, and age if it was read.
        groups: by label.
        ceiling: the headline's re-identification of originals, 0 to 1.
        worst: for the contact sheet; empty unless crops were kept.
    """

    version: str
    created: str
    photos: int
    people: int
    evaluators: Mapping[str, str]
    notes: tuple[str, ...]
    headline: tuple[Figure, ...]
    sections: tuple[Section, ...]
    curves: Mapping[str, tuple[Curve, ...]]
    scatters: tuple[Scatter, ...]
    groups: tuple[Group, ...]
    ceiling: float
    worst: tuple[WorstCase, ...] = ()


def read_records(path: Path, names: Sequence[str]) -> dict[str, ImageRecord]:
    """Read the records of photos, by the original's name without suffix; the last one of a name counts.

    Lines are those of `anonymize --report`; clips are skipped. Raises UsageError if the file cannot be read, a line is
    not a record, or none belongs to the photos of these names.
    """
    records: dict[str, ImageRecord] = {}
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip() and '"tracks": ' not in line:  # inside a value, its quotes would be escaped
                    try:
                        record = ImageRecord.from_json(line)
                    except ValueError as error:
                        raise UsageError(
                            f"{path}, line {number}: not a record of anonymize --report ({one_line(error)})"
                        ) from error
                    records[Path(record.input).stem] = record
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({one_line(error)})") from error
    selected = {name: records[name] for name in names if name in records}
    if not selected:
        raise UsageError(f"{path}: no record of these photos: name the report of the run that produced the results")
    return selected


def has_pseudonyms(records: Mapping[str, ImageRecord]) -> bool:
    """Return whether faces were generated with a key, which makes them linkable on purpose."""
    return any(face.pseudonym is not None for record in records.values() for face in record.faces)


def record_section(records: Mapping[str, ImageRecord], people: Mapping[str, str]) -> Section:
    """Summarise actions and speed from the run's records, by photo, given each photo's person."""
    done = {name: record for name, record in records.items() if record.status != "failed"}
    with_faces = {name: record for name, record in done.items() if record.faces}
    actions = Counter(face.action for record in done.values() for face in record.faces)
    per_photo = [record.seconds for record in done.values()]
    per_face = [record.seconds / len(record.faces) for record in with_faces.values()]
    figures = [
        Figure("photos in the record", float(len(records)), ""),
        Figure("failed", float(len(records) - len(done)), "", better="lower"),
        *(Figure(f"faces {action}", float(count), "") for action, count in actions.most_common()),
        mean_of("time per photo", per_photo, [people[name] for name in done], "s", "lower"),
        mean_of("time per face", per_face, [people[name] for name in with_faces], "s", "lower"),
    ]
    gates = {record.gate for record in done.values() if record.gate}
    summary = f"From the run's report. Verified by: {'; '.join(sorted(gates)) or 'none'}."
    return Section("Record and speed", summary, tuple(figures))


def collect_scatters(faces: Sequence[FaceMeasurement]) -> list[Scatter]:
    """Collect age, yaw and pitch of originals and results."""
    poses = [(face.before.pose, face.after.pose) for face in faces if face.before and face.after]
    ages = [(face.readings[0].age, face.readings[1].age) for face in faces if face.readings]
    columns = [
        ("age", "years", ages),
        ("yaw", "degrees", [(before.yaw, after.yaw) for before, after in poses]),
        ("pitch", "degrees", [(before.pitch, after.pitch) for before, after in poses]),
    ]
    return [Scatter(name, unit, *zip(*points, strict=True)) for name, unit, points in columns if points]


def collect_groups(
    photos: Sequence[PairMeasurement],
    identity: Reidentification,
    labels: Labels,
    *,
    with_reader: bool,
    attacks_only: bool = False,
) -> list[Group]:
    """Compute the figures of every group of photos with a face; re-identification alone if `attacks_only`."""
    groups = []
    for column, value, mask in group_values([photo.pair.name for photo in photos], labels):
        members = [(photo.face, photo.pair.person) for photo, member in zip(photos, mask, strict=True) if member]
        faces, people = [face for face, _ in members if face], [person for face, person in members if face]
        if not faces:
            continue
        trials = mask[identity.photos]
        trial_people = [photos[k].pair.person for k in identity.photos[trials]]
        figure = (
            of_rate("re-identified", rate(identity.hits[trials], trial_people, identity.headline.chance or 0.0))
            if trials.any()
            else missing("re-identified", SHARE, "nobody in this group has two photos")
        )
        utility = () if attacks_only else group_figures(faces, people, with_reader=with_reader)
        groups.append(Group(column, value, len(faces), (replace(figure, note=identity.headline.note), *utility)))
    return groups


def collect_worst(
    photos: Sequence[PairMeasurement], identity: Reidentification, *, with_reader: bool
) -> list[WorstCase]:
    """Collect the results most similar to their originals, then those that kept least; none without crops."""
    cases = []
    for k in np.argsort(-identity.margins, kind="stable")[:_WORST]:
        margin = identity.margins[k]
        if margin == -np.inf:
            break
        side = "above the threshold: re-identified" if margin > 0 else "below the threshold"
        similar = f"most similar by {identity.recogniser}, {abs(margin):.3f} {side}"
        cases.append((k, "unchanged" if margin == np.inf else similar))
    shares = [
        (share, k)
        for k, photo in enumerate(photos)
        if photo.face and (share := share_kept(photo.face, with_reader=with_reader)) is not None
    ]
    listed = {k for k, _ in cases}
    cases += [(k, f"kept {share:.0%} of the attributes") for share, k in sorted(shares) if k not in listed][:_WORST]
    return [
        WorstCase(photos[k].pair.name, reason, *crops)
        for k, reason in cases
        if (face := photos[k].face) is not None and (crops := face.crops) is not None
    ]


def evaluate(
    matching: Matching,
    evaluators: Evaluators,
    names: Mapping[str, str],
    *,
    labels: Labels | None = None,
    records: Mapping[str, ImageRecord] | None = None,
    attacks_only: bool = False,
    keep_crops: bool = False,
    notes: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure all pairs and summarise them. One pair of photos is in memory at a time.

    Args:
        matching: the pairs.
        evaluators: networks to measure with.
        names: role to name of the evaluators, for the report.
        labels: to group the photos by.
        records: of the run that produced the results, by the original's name.
        attacks_only: report coverage and re-identification alone.
        keep_crops: keep crops of the worst cases, originals included.
        notes: put before the evaluation's own.
        progress: called with the number of photos done and in total, before the first photo and after every photo.

    Raises:
        ImageError: a photo cannot be read.
        UsageError: fewer than two people have a face in the originals, or no recogniser has a threshold.
    """
    records = records or {}
    photos = []
    total = len(matching.pairs)
    progress(0, total)
    for done, pair in enumerate(matching.pairs, 1):
        boxes = [face.box for face in records[pair.name].faces] if pair.name in records else []
        original, result = read(pair.original).pixels, read(pair.result).pixels
        photos.append(measure_pair(pair, original, result, evaluators, more_boxes=boxes, keep_crops=keep_crops))
        progress(done, total)
    people = {photo.pair.person for photo in photos if photo.face is not None}
    if len(people) < 2:
        raise UsageError(f"originals: faces of {len(people)} people detected, at least 2 are needed")
    attempts = [reidentify(photos, index, recogniser) for index, recogniser in enumerate(evaluators.recognisers)]
    identities = [identity for identity in attempts if identity is not None]
    if not identities:
        name = evaluators.recognisers[0].name
        raise UsageError(f"{name}: too few photos to set a threshold, and it has none of its own")
    return summarize(
        photos, identities, evaluators, matching, names,
        labels=labels, records=records, attacks_only=attacks_only, notes=notes,
    )  # fmt: skip


def summarize(
    photos: Sequence[PairMeasurement],
    identities: Sequence[Reidentification],
    evaluators: Evaluators,
    matching: Matching,
    names: Mapping[str, str],
    *,
    labels: Labels | None = None,
    records: Mapping[str, ImageRecord] | None = None,
    attacks_only: bool = False,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Summarise N measurements, of at least two people with a face, by one or more recognisers; see `evaluate`."""
    records, reader = records or {}, evaluators.reader
    with_reader = reader is not None
    strictest = max(identities, key=lambda identity: identity.headline.value or 0.0)
    coverage = coverage_section(photos)
    headline = [coverage.figures[2], strictest.headline]
    sections = [coverage, *(identity.section for identity in identities)]
    faces = [photo.face for photo in photos if photo.face is not None]
    if not attacks_only:
        people = [photo.pair.person for photo in photos if photo.face is not None]
        face_names = [photo.pair.name for photo in photos if photo.face is not None]
        attributes = attribute_section(faces, face_names, people, labels, None if reader is None else reader.name)
        headline += attributes.figures[:2]
        sections += [attributes, mesh_section(faces, people), quality_section(photos, faces, people, evaluators)]
    if records:
        record = record_section(records, {photo.pair.name: photo.pair.person for photo in photos})
        headline.append(record.figures[-1])
        sections.append(record)
    groups = (
        collect_groups(photos, strictest, labels, with_reader=with_reader, attacks_only=attacks_only) if labels else []
    )
    return Evaluation(
        version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        photos=len(photos),
        people=len({photo.pair.person for photo in photos}),
        evaluators=names,
        notes=(*notes, *_remarks(photos, identities, evaluators, matching, records)),
        headline=tuple(headline),
        sections=tuple(sections),
        curves={identity.recogniser: identity.curves for identity in identities},
        scatters=() if attacks_only else tuple(collect_scatters(faces)),
        groups=tuple(groups),
        ceiling=1.0 if strictest.ceiling is None or strictest.ceiling.value is None else strictest.ceiling.value,
        worst=tuple(collect_worst(photos, strictest, with_reader=with_reader)),
    )


def _remarks(
    photos: Sequence[PairMeasurement],
    identities: Sequence[Reidentification],
    evaluators: Evaluators,
    matching: Matching,
    records: Mapping[str, ImageRecord],
) -> list[str]:
    """Return the remarks that affect how to read the figures."""
    remarks = []
    for unmatched, kind, partner in (
        (matching.without_result, "original", "result"),
        (matching.without_original, "result", "original"),
    ):
        if unmatched:
            examples = ", ".join(unmatched[:3]) + (", ..." if len(unmatched) > 3 else "")
            remarks.append(f"{_count(len(unmatched), kind)} without {partner}, left out: {examples}")
    faceless = sum(photo.face is None for photo in photos)
    if faceless:
        remarks.append(f"{_count(faceless, 'original')} without a detected face, left out of all but the coverage")
    if not matching.people_known:
        remarks.append("file names do not identify people: every photo counts as another person")
    elif len({photo.pair.person for photo in photos}) == len(photos):
        remarks.append("nobody has two photos: results are compared with their own originals only")
    resized = sum(photo.resized for photo in photos)
    if resized:
        remarks.append(f"{_count(resized, 'result')} of another size than the original, scaled to it")
    unchanged = sum(photo.unchanged for photo in photos)
    if unchanged:
        remarks.append(f"unchanged faces: {unchanged:,}; they count as re-identified")
    if has_pseudonyms(records):
        remarks.append("generated with a key: pseudonymised, so parrot and linkability are high on purpose")
    absent = {recogniser.name for recogniser in evaluators.recognisers} - {i.recogniser for i in identities}
    remarks += [f"{name}: too few photos to set a threshold, and it has none of its own: left out" for name in absent]
    return remarks


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
