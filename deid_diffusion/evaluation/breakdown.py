"""The evaluation photo by photo and group by group: what plots and the contact sheet show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .figures import SHARE, Figure, missing, of_rate
from .identity_figures import Identity
from .kept import share_kept
from .look import FaceLook, PhotoLook
from .pairing import Labels
from .utility_figures import group_figures, group_values
from .verification import rate

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


def scatters_of(faces: Sequence[FaceLook]) -> list[Scatter]:
    poses = [(one.before.pose, one.after.pose) for one in faces if one.before and one.after]
    ages = [(one.readings[0].age, one.readings[1].age) for one in faces if one.readings]
    columns = [
        ("age", "years", ages),
        ("yaw", "degrees", [(a.yaw, b.yaw) for a, b in poses]),
        ("pitch", "degrees", [(a.pitch, b.pitch) for a, b in poses]),
    ]
    return [Scatter(name, unit, *zip(*points, strict=True)) for name, unit, points in columns if points]


def groups_of(looks: Sequence[PhotoLook], identity: Identity, labels: Labels | None, *, read: bool) -> list[Group]:
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


def worst_of(looks: Sequence[PhotoLook], identity: Identity, *, read: bool) -> list[WorstCase]:
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
