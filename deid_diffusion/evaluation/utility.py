"""What is left of the faces' attributes and quality, as sections of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .measure import Evaluators, FaceMeasurement, PairMeasurement
from .onnx import Reading
from .pairing import Labels
from .statistics import (
    SHARE,
    Figure,
    Section,
    frechet_distance,
    jackknife_interval,
    kernel_distance,
    mean_of,
    missing,
)

TOLERANCES = {
    "yaw": (10.0, "degrees"),
    "pitch": (10.0, "degrees"),
    "gaze": (0.1, "eye widths"),
    "smile": (0.1, "mouth widths"),
    "mouth_open": (0.1, "mouth widths"),
    "eyes_open": (0.1, "eye widths"),
}
"""Largest error of each measure of the mesh at which it counts as kept, and its unit (see `MeshErrors`)."""

AGE_TOLERANCE = 10.0
"""Likewise of the age, in years: the networks that read it are that coarse."""


def kept(face: FaceMeasurement, *, read: bool) -> dict[str, bool]:
    """Attribute to whether it was kept; those that the original does not show are left out.

    Where no face or no mesh is found in the result, none of what the original showed was kept. The gaze is left out
    also where the result's mesh shows none: closed eyes and a turned head count as that.

    Args:
        face: original and result.
        read: whether somebody read age and sex.
    """
    verdicts: dict[str, bool] = {}
    if face.before is not None:
        for name, (tolerance, _) in TOLERANCES.items():
            if name == "gaze" and (face.before.gaze is None or (face.errors and face.errors.gaze is None)):
                continue
            verdicts[name] = face.errors is not None and getattr(face.errors, name) <= tolerance
    if read:
        verdicts["sex"] = face.readings is not None and same_sex(*face.readings)
        verdicts["age"] = face.readings is not None and age_error(*face.readings) <= AGE_TOLERANCE
    return verdicts


def same_sex(before: Reading, after: Reading) -> bool:
    """Whether both readings say the same."""
    return (before.female > 0.5) == (after.female > 0.5)


def age_error(before: Reading, after: Reading) -> float:
    """Years between two readings, 0 or more."""
    return abs(before.age - after.age)


def share_kept(face: FaceMeasurement, *, read: bool) -> float | None:
    """Share of the attributes that were kept, 0 to 1; None for a face of which nothing was known before."""
    verdicts = kept(face, read=read)
    return sum(verdicts.values()) / len(verdicts) if verdicts else None


_FEWEST_FACES = 30  # for a distance of distributions
_ADULT = 18.0
_FEMALE, _MALE = ("f", "w"), ("m",)  # first letters of labels of sex


def coverage_section(looks: Sequence[PairMeasurement]) -> Section:
    """Was every face touched?"""
    people = [one.pair.person for one in looks]
    faces = sum(one.faces for one in looks)
    left = sum(one.left for one in looks)
    per_face = [(one, k < one.left) for one in looks for k in range(one.faces)]
    bare = [one.pair.name for one in looks if one.left]
    figures = (
        Figure("faces found in originals", float(faces), ""),
        Figure("faces left as they were", float(left), "", better="lower", note=", ".join(bare[:5])),
        mean_of(
            "share of faces left",
            [float(was) for _, was in per_face],
            [o.pair.person for o, _ in per_face],
            SHARE,
            "lower",
        ),
        mean_of("photos with a face left", [float(one.left > 0) for one in looks], people, SHARE, "lower"),
        Figure("photos without any face", float(sum(one.faces == 0 for one in looks)), "", note="in no figure below"),
    )
    summary = (
        "A face that is left as it was counts as re-identified in every figure below. Faces that the detector "
        "does not see are in none."
    )
    return Section("Coverage", summary, figures)


def attribute_section(
    faces: Sequence[FaceMeasurement],
    names: Sequence[str],
    people: Sequence[str],
    labels: Labels | None,
    reader: str | None,
) -> Section:
    """Age and sex, by a reader's word; and the one number of `kept`.

    Args:
        faces: N faces.
        names: N names of their photos.
        people: N names of people.
        labels: to say how good the reader is on originals.
        reader: its name; None without one.
    """
    read = reader is not None
    tolerances = ", ".join(f"{name.replace('_', ' ')} {value:g} {unit}" for name, (value, unit) in TOLERANCES.items())
    rule = f"kept within: {tolerances}" + (f"; same sex, age {AGE_TOLERANCE:g} years" if read else "")
    figures = [
        mean_of("attributes kept", [share_kept(one, read=read) for one in faces], people, SHARE, "higher", rule),
        mean_of("face found again", [float(one.found) for one in faces], people, SHARE, "higher"),
    ]
    if not read:
        why = "no reader: name one with --attributes FILE.onnx"
        figures += [missing("sex agrees", SHARE, why), missing("age error", "years", why)]
        return Section("Attributes", "Of the largest face of each photo.", tuple(figures))
    pairs = [(one.readings, who) for one, who in zip(faces, people, strict=True) if one.readings is not None]
    whose = [who for _, who in pairs]
    agrees = [float(same_sex(*both)) for both, _ in pairs]
    adults = [agrees[k] if both[0].age >= _ADULT else None for k, (both, _) in enumerate(pairs)]
    figures += [
        mean_of("sex agrees, adults", adults, whose, SHARE, "higher", f"read as {_ADULT:g} or older in the original"),
        mean_of("sex agrees, everybody", agrees, whose, SHARE, "higher"),
        mean_of("age error", [age_error(*both) for both, _ in pairs], whose, "years", "lower"),
        mean_of("age drift", [b.age - a.age for (a, b), _ in pairs], whose, "years", "zero", "result less original"),
    ]
    told = _label_of_sex(labels, names)
    checks = [
        None if label is None or one.readings is None else float((one.readings[0].female > 0.5) == label)
        for one, label in zip(faces, told, strict=True)
    ]
    if any(check is not None for check in checks):
        figures.append(mean_of("reader agrees with the labels, originals", checks, people, SHARE))
    summary = f"Of the largest face of each photo; age and sex by {reader}, from original and result alike."
    return Section("Attributes", summary, tuple(figures))


def mesh_section(faces: Sequence[FaceMeasurement], people: Sequence[str]) -> Section:
    """Errors of pose, gaze, expression and landmarks."""
    units = {"yaw": "degrees", "pitch": "degrees", "roll": "degrees", "gaze": "eye widths", "smile": "mouth widths",
             "mouth_open": "mouth widths", "eyes_open": "eye widths"}  # fmt: skip
    figures = [
        mean_of(
            f"{name.replace('_', ' ')} error",
            [None if one.errors is None else getattr(one.errors, name) for one in faces],
            people,
            unit,
            "lower",
        )
        for name, unit in units.items()
    ]
    landmarks = [None if one.errors is None else 100 * one.errors.landmarks for one in faces]
    figures.append(mean_of("landmark error", landmarks, people, "% of eye span", "lower", "span of the outer corners"))
    summary = "Mean absolute differences of the 478-point meshes of original and result, where both have one."
    return Section("Pose, gaze and expression", summary, tuple(figures))


def quality_section(
    looks: Sequence[PairMeasurement], faces: Sequence[FaceMeasurement], people: Sequence[str], judges: Evaluators
) -> Section:
    """How real the faces look, and what happened around them."""
    everyone = [one.pair.person for one in looks]
    logs = [None if not one.sharpness_ratio else float(np.log(one.sharpness_ratio)) for one in faces]
    figures = [
        _exp(mean_of("sharpness ratio", logs, people, "", "", "result over original, geometric mean; 1 is as sharp")),
        mean_of("detector score ratio", [one.score_ratio for one in faces], people, "", "higher"),
        mean_of("rim step", [one.rim for one in looks], everyone, "Lab units", "lower", "0 is seamless"),
        mean_of("SSIM of the face", [one.ssim for one in faces], people, "", "", "stands in where LPIPS cannot be had"),
        *_perceptual(faces, people, judges),
        *_distances(faces, people, judges.recognisers[0].name),
        mean_of(
            "photos unchanged outside faces",
            [float(one.outside.largest == 0) for one in looks],
            everyone,
            SHARE,
            "higher",
        ),
        mean_of("mean difference outside faces", [one.outside.mean for one in looks], everyone, "levels", "lower"),
        Figure("largest difference outside faces", max(one.outside.largest for one in looks), "levels", better="lower"),
    ]
    summary = "Of the largest face of each photo; outside is everything but the grown boxes of all faces."
    return Section("Picture quality", summary, tuple(figures))


def group_values(names: Sequence[str], labels: Labels) -> list[tuple[str, str, np.ndarray]]:
    """Column, value and (N,) bool mask of each group of N photos, in order."""
    groups = []
    for column in labels.columns:
        cells = np.array([labels.rows.get(name, {}).get(column, "") for name in names])
        values = sorted(set(cells) - {""}, key=_natural)
        groups += [(column, str(value), cells == value) for value in values]
    return groups


def group_figures(faces: Sequence[FaceMeasurement], people: Sequence[str], *, read: bool) -> tuple[Figure, ...]:
    """What a group shows beside its re-identification."""
    figures = [
        mean_of("attributes kept", [share_kept(one, read=read) for one in faces], people, SHARE, "higher"),
        mean_of("face found again", [float(one.found) for one in faces], people, SHARE, "higher"),
        mean_of(
            "yaw error", [None if one.errors is None else one.errors.yaw for one in faces], people, "degrees", "lower"
        ),
    ]
    if read:
        sexes = [float(kept(one, read=True)["sex"]) for one in faces]
        ages = [None if one.readings is None else age_error(*one.readings) for one in faces]
        figures.append(mean_of("sex agrees", sexes, people, SHARE, "higher"))
        figures.append(mean_of("age error", ages, people, "years", "lower"))
    return tuple(figures)


def _perceptual(faces: Sequence[FaceMeasurement], people: Sequence[str], judges: Evaluators) -> list[Figure]:
    meter = judges.meter
    lpips = mean_of("LPIPS", [one.lpips for one in faces], people, "")
    figures = [
        Figure("FID", meter.fid(), "", better="lower", note="no interval: rests on all faces at once"),
        Figure("KID", meter.kid(), "", better="lower", note="mean over subsets of up to 100 faces"),
        lpips,
    ]
    return [replace(one, note=meter.missing.get(one.name, one.note)) for one in figures]


def _distances(faces: Sequence[FaceMeasurement], people: Sequence[str], name: str) -> list[Figure]:
    """The offline stand-ins for FID and KID, in the embeddings of the first recogniser."""
    whole = [
        (before, after, who)
        for one, who in zip(faces, people, strict=True)
        for before, after in one.embeddings[:1]
        if one.found and before is not None and after is not None
    ]
    titles = f"Fréchet distance, {name}", f"kernel distance, {name}"
    if len(whole) < _FEWEST_FACES:
        why = f"takes {_FEWEST_FACES} faces, there are {len(whole)}"
        return [missing(title, "", why) for title in titles]
    rows = np.array([(before, after) for before, after, _ in whole], np.float64)
    rows *= np.sqrt(rows.shape[2])  # so that a feature is of size 1, as Inception's are
    first, second, whose = rows[:, 0], rows[:, 1], [who for _, _, who in whole]
    note = "stands in for {}: another network's features, not to be compared with published ones; 95 % by jackknife"
    return [
        Figure(
            title,
            distance(first, second),
            "",
            jackknife_interval(distance, first, second, whose),
            trials=len(whole),
            better="lower",
            note=note.format(of),
        )
        for title, distance, of in zip(titles, (frechet_distance, kernel_distance), ("FID", "KID"), strict=True)
    ]


def _exp(figure: Figure) -> Figure:
    """A mean of logarithms as a geometric mean."""
    if figure.value is None or figure.interval is None:
        return figure
    low, high = np.exp(figure.interval)
    return replace(figure, value=float(np.exp(figure.value)), interval=(float(low), float(high)))


def _label_of_sex(labels: Labels | None, names: Sequence[str]) -> list[bool | None]:
    """Whether each photo is labelled as of a woman; None where the labels do not say."""
    column = next((c for c in (labels.columns if labels else ()) if c.lower() in ("gender", "sex")), None)
    if labels is None or column is None:
        return [None] * len(names)
    first = [labels.rows.get(name, {}).get(column, "")[:1].lower() for name in names]
    return [letter in _FEMALE if letter in (*_FEMALE, *_MALE) else None for letter in first]


def _natural(value: str) -> tuple[float, str]:
    """Order of groups: by the number they begin with, then by their letters."""
    digits = "".join(letter if letter.isdigit() else " " for letter in value).split()
    return (float(digits[0]) if digits and value[0].isdigit() else np.inf, value)
