"""Which attributes of a face a result kept, within tolerances: one number for what the photos remain good for."""

from __future__ import annotations

from .look import FaceLook
from .onnx_judges import Reading

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


def kept(face: FaceLook, *, read: bool) -> dict[str, bool]:
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


def share_kept(face: FaceLook, *, read: bool) -> float | None:
    """Share of the attributes that were kept, 0 to 1; None for a face of which nothing was known before."""
    verdicts = kept(face, read=read)
    return sum(verdicts.values()) / len(verdicts) if verdicts else None
