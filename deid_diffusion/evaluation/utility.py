"""Utility metrics as sections of the report: coverage, attributes, pose, expression, image quality."""

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
"""Largest error of a `MeshErrors` field at which the attribute counts as kept, and its unit."""

AGE_TOLERANCE = 10.0  # largest error of the age, in years: the accuracy of age estimators

_UNITS = {name: unit for name, (_, unit) in TOLERANCES.items()} | {"roll": "degrees"}
_MIN_DISTRIBUTION = 30  # faces for a distance between distributions
_ADULT = 18.0
_FEMALE, _MALE = ("f", "w"), ("m",)  # first letters of labels of sex


def kept(face: FaceMeasurement, *, with_reader: bool) -> dict[str, bool]:
    """Tell for every attribute whether it was kept. Attributes that the original does not show are left out.

    If no face or mesh is detected in the result, nothing was kept. The gaze is also left out if the result shows none
    (closed eyes, large yaw). Age and sex need a reader.
    """
    verdicts: dict[str, bool] = {}
    if face.before is not None:
        for name, (tolerance, _) in TOLERANCES.items():
            if name == "gaze" and (face.before.gaze is None or (face.errors and face.errors.gaze is None)):
                continue
            verdicts[name] = face.errors is not None and getattr(face.errors, name) <= tolerance
    if with_reader:
        verdicts["sex"] = face.readings is not None and same_sex(*face.readings)
        verdicts["age"] = face.readings is not None and age_error(*face.readings) <= AGE_TOLERANCE
    return verdicts


def same_sex(before: Reading, after: Reading) -> bool:
    """Return whether both readings agree on the sex."""
    return (before.female > 0.5) == (after.female > 0.5)


def age_error(before: Reading, after: Reading) -> float:
    """Return the absolute difference of two readings of the age, in years."""
    return abs(before.age - after.age)


def share_kept(face: FaceMeasurement, *, with_reader: bool) -> float | None:
    """Return the share of attributes kept, 0 to 1; None if the original shows none."""
    verdicts = kept(face, with_reader=with_reader)
    return sum(verdicts.values()) / len(verdicts) if verdicts else None


def coverage_section(photos: Sequence[PairMeasurement]) -> Section:
    """Count the faces that the results still show."""
    people = [photo.pair.person for photo in photos]
    unchanged = [float(k < photo.unchanged) for photo in photos for k in range(photo.faces)]
    face_people = [photo.pair.person for photo in photos for _ in range(photo.faces)]
    affected = [float(photo.unchanged > 0) for photo in photos]
    faceless = float(sum(photo.faces == 0 for photo in photos))
    examples = ", ".join([photo.pair.name for photo in photos if photo.unchanged][:5])
    figures = (
        Figure("faces in originals", float(len(unchanged)), ""),
        Figure("unchanged faces", sum(unchanged), "", better="lower", note=examples),
        mean_of("share of unchanged faces", unchanged, face_people, SHARE, "lower"),
        mean_of("photos with an unchanged face", affected, people, SHARE, "lower"),
        Figure("photos without a face", faceless, "", note="in no figure below"),
    )
    summary = (
        "An unchanged face counts as re-identified in every figure below. Faces that the detector misses are in none."
    )
    return Section("Coverage", summary, figures)


def attribute_section(
    faces: Sequence[FaceMeasurement],
    names: Sequence[str],
    people: Sequence[str],
    labels: Labels | None,
    reader: str | None,
) -> Section:
    """Summarise the attributes kept and the readings of age and sex of N faces, given their photos and people.

    With `labels`, the accuracy of the `reader`, None for no reader, is measured on originals.
    """
    with_reader = reader is not None
    tolerances = ", ".join(f"{name.replace('_', ' ')} {value:g} {unit}" for name, (value, unit) in TOLERANCES.items())
    rule = f"within: {tolerances}" + (f"; same sex, age {AGE_TOLERANCE:g} years" if with_reader else "")
    figures = _kept_figures(faces, people, with_reader, rule)
    if not with_reader:
        reason = "needs a reader: --attributes FILE.onnx"
        figures += [missing("sex agrees", SHARE, reason), missing("age error", "years", reason)]
        return Section("Attributes", "Largest face of every photo.", tuple(figures))
    pairs = [(*face.readings, person) for face, person in zip(faces, people, strict=True) if face.readings is not None]
    read_people = [person for *_, person in pairs]
    agrees = [float(same_sex(before, after)) for before, after, _ in pairs]
    adults = [value if before.age >= _ADULT else None for value, (before, *_) in zip(agrees, pairs, strict=True)]
    age_errors = [age_error(before, after) for before, after, _ in pairs]
    drifts = [after.age - before.age for before, after, _ in pairs]
    adult_note = f"read as {_ADULT:g} or older in the original"
    figures += [
        mean_of("sex agrees, adults", adults, read_people, SHARE, "higher", adult_note),
        mean_of("sex agrees, all", agrees, read_people, SHARE, "higher"),
        mean_of("age error", age_errors, read_people, "years", "lower"),
        mean_of("age drift", drifts, read_people, "years", "zero", "result minus original"),
    ]
    correct = [
        None if female is None or face.readings is None else float((face.readings[0].female > 0.5) == female)
        for face, female in zip(faces, _female_labels(labels, names), strict=True)
    ]
    if any(value is not None for value in correct):
        figures.append(mean_of("reader's accuracy on originals, sex", correct, people, SHARE))
    summary = f"Largest face of every photo; age and sex of original and result as read by {reader}."
    return Section("Attributes", summary, tuple(figures))


def mesh_section(faces: Sequence[FaceMeasurement], people: Sequence[str]) -> Section:
    """Average the errors of pose, gaze, expression and landmarks."""

    def error(title: str, field: str, unit: str, scale: float = 1.0, note: str = "") -> Figure:
        values = [None if face.errors is None else getattr(face.errors, field) for face in faces]
        scaled = [None if value is None else scale * value for value in values]
        return mean_of(title, scaled, people, unit, "lower", note)

    names = ("yaw", "pitch", "roll", "gaze", "smile", "mouth_open", "eyes_open")
    figures = [error(f"{name.replace('_', ' ')} error", name, _UNITS[name]) for name in names]
    figures.append(error("landmark error", "landmarks", "% of eye span", 100.0, "span of the outer corners"))
    summary = "Mean absolute differences of the 478-point meshes of original and result."
    return Section("Pose, gaze and expression", summary, tuple(figures))


def quality_section(
    photos: Sequence[PairMeasurement], faces: Sequence[FaceMeasurement], people: Sequence[str], evaluators: Evaluators
) -> Section:
    """Summarise the image quality of faces, and the changes outside them."""
    photo_people = [photo.pair.person for photo in photos]
    logs = [float(np.log(face.sharpness_ratio)) if face.sharpness_ratio else None for face in faces]
    intact = [float(photo.outside.largest == 0) for photo in photos]
    differences = [photo.outside.mean for photo in photos]
    figures = [
        _exp(mean_of("sharpness ratio", logs, people, "", "", "result over original, geometric mean; 1 is equal")),
        mean_of("detector score ratio", [face.score_ratio for face in faces], people, "", "higher"),
        mean_of("rim step", [photo.rim for photo in photos], photo_people, "Lab units", "lower", "0 is seamless"),
        mean_of("SSIM of the face", [face.ssim for face in faces], people, "", "", "offline substitute for LPIPS"),
        *_perceptual(faces, people, evaluators),
        *_distribution_distances(faces, people, evaluators.recognisers[0].name),
        mean_of("photos unchanged outside faces", intact, photo_people, SHARE, "higher"),
        mean_of("mean difference outside faces", differences, photo_people, "levels", "lower"),
        Figure(
            "largest difference outside faces", max(photo.outside.largest for photo in photos), "levels", better="lower"
        ),
    ]
    summary = "Largest face of every photo; outside are all pixels but the grown boxes of all faces."
    return Section("Image quality", summary, tuple(figures))


def group_values(names: Sequence[str], labels: Labels) -> list[tuple[str, str, np.ndarray]]:
    """Return column, value and (N,) bool mask of every group of N photos, in natural order."""
    groups = []
    for column in labels.columns:
        cells = np.array([labels.rows.get(name, {}).get(column, "") for name in names])
        values = sorted(set(cells) - {""}, key=_natural_order)
        groups += [(column, str(value), cells == value) for value in values]
    return groups


def group_figures(faces: Sequence[FaceMeasurement], people: Sequence[str], *, with_reader: bool) -> tuple[Figure, ...]:
    """Compute the utility figures of a group."""
    yaw = [None if face.errors is None else face.errors.yaw for face in faces]
    figures = [*_kept_figures(faces, people, with_reader), mean_of("yaw error", yaw, people, "degrees", "lower")]
    if with_reader:
        sexes = [float(kept(face, with_reader=True)["sex"]) for face in faces]
        ages = [None if face.readings is None else age_error(*face.readings) for face in faces]
        figures.append(mean_of("sex agrees", sexes, people, SHARE, "higher"))
        figures.append(mean_of("age error", ages, people, "years", "lower"))
    return tuple(figures)


def _kept_figures(
    faces: Sequence[FaceMeasurement], people: Sequence[str], with_reader: bool, note: str = ""
) -> list[Figure]:
    shares = [share_kept(face, with_reader=with_reader) for face in faces]
    detected = [float(face.detected) for face in faces]
    return [
        mean_of("attributes kept", shares, people, SHARE, "higher", note),
        mean_of("face detected in the result", detected, people, SHARE, "higher"),
    ]


def _perceptual(faces: Sequence[FaceMeasurement], people: Sequence[str], evaluators: Evaluators) -> list[Figure]:
    meter = evaluators.meter
    if meter is None:
        return []
    figures = [
        Figure("FID", meter.fid(), "", better="lower", note="of all faces at once: no interval"),
        Figure("KID", meter.kid(), "", better="lower", note="mean over subsets of up to 100 faces"),
        mean_of("LPIPS", [face.lpips for face in faces], people, ""),
    ]
    return [replace(figure, note=meter.missing.get(figure.name, figure.note)) for figure in figures]


def _distribution_distances(faces: Sequence[FaceMeasurement], people: Sequence[str], recogniser: str) -> list[Figure]:
    """Compute the offline substitutes for FID and KID, on the embeddings of the first recogniser."""
    pairs = [
        (before, after, person)
        for face, person in zip(faces, people, strict=True)
        for before, after in face.embeddings[:1]
        if face.detected and before is not None and after is not None
    ]
    titles = f"Fréchet distance, {recogniser}", f"kernel distance, {recogniser}"
    if len(pairs) < _MIN_DISTRIBUTION:
        return [missing(title, "", f"needs {_MIN_DISTRIBUTION} faces, there are {len(pairs)}") for title in titles]
    features = np.array([(before, after) for before, after, _ in pairs], np.float64)
    features *= np.sqrt(features.shape[2])  # unit variance per feature, like Inception's
    first, second, pair_people = features[:, 0], features[:, 1], [person for *_, person in pairs]
    return [
        Figure(
            title,
            distance(first, second),
            "",
            jackknife_interval(distance, first, second, pair_people),
            trials=len(pairs),
            better="lower",
            note=f"substitute for {metric} on other features, not comparable with published ones; jackknife interval",
        )
        for title, distance, metric in zip(titles, (frechet_distance, kernel_distance), ("FID", "KID"), strict=True)
    ]


def _exp(figure: Figure) -> Figure:
    """Convert a mean of logarithms to a geometric mean."""
    if figure.value is None or figure.interval is None:
        return figure
    low, high = np.exp(figure.interval)
    return replace(figure, value=float(np.exp(figure.value)), interval=(float(low), float(high)))


def _female_labels(labels: Labels | None, names: Sequence[str]) -> list[bool | None]:
    """Return for N photos whether they are labelled as female; None if not labelled."""
    column = next((c for c in (labels.columns if labels else ()) if c.lower() in ("gender", "sex")), None)
    if labels is None or column is None:
        return [None] * len(names)
    letters = [labels.rows.get(name, {}).get(column, "")[:1].lower() for name in names]
    return [letter in _FEMALE if letter in (*_FEMALE, *_MALE) else None for letter in letters]


def _natural_order(value: str) -> tuple[float, str]:
    """Sort groups by their leading number, then by name."""
    digits = "".join(letter if letter.isdigit() else " " for letter in value).split()
    return (float(digits[0]) if digits and value[0].isdigit() else np.inf, value)
