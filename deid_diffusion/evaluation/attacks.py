"""Attacks on a collection of de-identified photos: can a face recogniser still tell who is in them?

The attacker knows the collection was de-identified and has other photos of the people. What is compared with what:

- ``originals``: original with original. No attack but the ceiling: what the recogniser does on these people's photos.
- ``naive, same photo``: each result with its own original.
- ``naive``: a result with another original photo of the person, one to one (TPR) and as a probe among all (rank-1).
- ``reverse``: an original photo is the probe, the gallery holds results of the other photos.
- ``parrot``: a result is the probe, the gallery holds results of the other photos: the attacker de-identified his
  gallery with the same tool and settings (Newton, Sweeney and Malin, "Preserving Privacy by De-identifying Face
  Images", 2005). Tools that keep the face and blur it fail here.
- ``linkability``: two results of one person, one to one.

Every threshold is fixed on pairs of *originals* of different people; chance is measured beside each figure as the share
of strangers' pairs of the same make that match, so faces that all look alike do not pass for linked people. Results
made with a key are pseudonymised: they are linkable, and fall to the parrot, on purpose.

Faces that the detector does not see in the originals are in none of these figures. A result in which no face is found
counts as not matched, and is counted: a tool that destroys faces, such as a strong blur, passes for that reason alone.
An attacker who knows where the face was still reads it (``known_place`` of `embed_pairs`). An independent recogniser,
one that did not judge the results when they were made, is needed for any claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..faces.analysis import analyse_face
from ..faces.crop import invert, transform
from ..faces.detected_face import DetectedFace, FaceDetector
from ..faces.landmarks import Landmarker, five_points
from ..identity.recognition import Recogniser
from .verification import Rate, genuine_pairs, identification, impostor_scores, rate, similarities, threshold_at

FMR = 1e-3
"""False match rate of the verification figures."""

_NEAR = 0.4  # how far a result's face may lie from the original's, in widths of the original's box
_MESH_SIZE = 128  # side of the crop whose mesh is looked at, in pixels; the points are in photo pixels again


@dataclass(frozen=True, eq=False)
class Collection:
    """Embeddings of N photos and of their results.

    Attributes:
        people: N names: whose photo it is.
        originals: (N, D) unit rows; NaN rows where no face was found.
        results: (N, D) likewise, of the same photos.
        seen: (N,) bool, where the result shows a face that can be found; None for all rows of results but NaN.

    Raises:
        ValueError: the shapes do not fit together.
    """

    people: Sequence[str]
    originals: np.ndarray
    results: np.ndarray
    seen: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = self.originals.shape, self.results.shape
        if len(shapes[0]) != 2 or shapes[0] != shapes[1] or len(self.people) != shapes[0][0]:
            raise ValueError(
                f"originals and results: expected two arrays ({len(self.people)}, D), one row a name, got {shapes}"
            )


@dataclass(frozen=True)
class Attack:
    """What one attack achieves.

    Attributes:
        name: as in this module's description.
        tpr: share of the genuine pairs over the threshold; its chance is that of strangers' pairs of the same make.
            None where the attack is no one-to-one comparison.
        rank1: share of the probes whose most similar gallery entry is the same person. None likewise.
    """

    name: str
    tpr: Rate | None = None
    rank1: Rate | None = None


@dataclass(frozen=True)
class AttackReport:
    """All attacks on one collection.

    Attributes:
        attacks: in the order of this module's description; without anybody who has two photos, the second alone.
        fmr: false match rate that the threshold promises among originals.
        threshold: cosine over which two faces count as one person.
        threshold_given: it was fixed on other photos; else on this collection's originals.
        impostor_pairs: pairs of originals of different people.
        photos: with a face in the original. All other counts are of these.
        people: in these photos.
        people_with_two: of whom there are two photos or more.
        originals_not_found: further photos, left out because no face was found in the original.
        results_not_found: photos with no face in the result, which count as not matched unless its place is known.
    """

    attacks: tuple[Attack, ...]
    fmr: float
    threshold: float
    threshold_given: bool
    impostor_pairs: int
    photos: int
    people: int
    people_with_two: int
    originals_not_found: int
    results_not_found: int


def attack_collection(
    collection: Collection, *, threshold: float | None = None, fmr: float = FMR, parrot: bool = True, seed: int = 0
) -> AttackReport:
    """Carry out every attack that the collection allows. Memory: some 40 bytes for each pair of photos.

    Args:
        collection: the photos.
        threshold: cosine for `fmr` from other originals and the same recogniser, for a collection with too few pairs
            for one of its own.
        fmr: false match rate.
        parrot: include the parrot attack.
        seed: of the intervals.

    Raises:
        ValueError: faces of fewer than two people, or no threshold and too few pairs.
    """
    found = np.isfinite(collection.originals).all(axis=1)
    people = np.asarray(collection.people)[found]
    names, photos = np.unique(people, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"people: expected originals with a face of at least two people, got {len(names)}")
    originals, results = collection.originals[found], collection.results[found]
    own, cross = similarities(originals, originals), similarities(results, originals)
    among = similarities(results, results)
    strangers = impostor_scores(own, people)
    seen = np.isfinite(results).all(axis=1) if collection.seen is None else collection.seen[found]
    cut = threshold_at(strangers, fmr) if threshold is None else threshold
    own_chance, cross_chance, among_chance = (
        float(np.mean(impostor_scores(scores, people, symmetric=scores is not cross) > cut))
        for scores in (own, cross, among)
    )
    rank1 = partial(identification, people=people, seed=seed)

    same = Attack("naive, same photo", rate(np.diag(cross) > cut, people, cross_chance, seed=seed))
    attacks = [same]
    first, second = genuine_pairs(people)
    if len(first):
        whose, twice = people[first], np.tile(people[first], 2)
        others = np.concatenate([cross[first, second], cross[second, first]])
        attacks = [
            Attack("originals", rate(own[first, second] > cut, whose, own_chance, seed=seed), rank1(own)),
            same,
            Attack("naive", rate(others > cut, twice, cross_chance, seed=seed), rank1(cross)),
            Attack("reverse", rank1=rank1(cross.T)),
            *([Attack("parrot", rank1=rank1(among))] if parrot else []),
            Attack("linkability", rate(among[first, second] > cut, whose, among_chance, seed=seed)),
        ]
    return AttackReport(
        attacks=tuple(attacks),
        fmr=fmr,
        threshold=cut,
        threshold_given=threshold is not None,
        impostor_pairs=len(strangers),
        photos=len(people),
        people=len(names),
        people_with_two=int((photos > 1).sum()),
        originals_not_found=int((~found).sum()),
        results_not_found=int((~seen).sum()),
    )


def embed_pairs(
    people: Sequence[str],
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    detector: FaceDetector,
    recogniser: Recogniser,
    landmarker: Landmarker | None = None,
    *,
    known_place: bool = False,
) -> Collection:
    """Embeddings of the largest face of each original, and of the result's face in its place.

    Args:
        people: N names: whose photo it is.
        pairs: N originals and their results, (H, W, 3) uint8 RGB each; a result may have another size.
        detector: finds faces, with five points unless the landmarker supplies them.
        recogniser: what the attacker uses.
        landmarker: points come from its mesh, where it finds one; None to take the detector's.
        known_place: where no face is found in a result, look at the original's points.
    """
    rows: list[tuple[np.ndarray | None, np.ndarray | None]] = []
    seen = []
    for photo, result in pairs:
        scale = np.array(result.shape[1::-1]) / photo.shape[1::-1]
        before, there = largest(detector(photo)), None
        points = None if before is None else face_points(photo, before, landmarker)
        if before is not None and points is not None:
            after = nearest(detector(result), np.array(before.box) * np.tile(scale, 2))
            there = None if after is None else face_points(result, after, landmarker)
        seen.append(there is not None)
        if there is None and points is not None and known_place:
            there = points * scale
        rows.append((_embed(photo, points, recogniser), _embed(result, there, recogniser)))
    width = next((len(vector) for row in rows for vector in row if vector is not None), 1)
    nobody = np.full(width, np.nan, np.float32)
    table = np.array([[nobody if vector is None else vector for vector in row] for row in rows], np.float32)
    table = table.reshape(len(rows), 2, width)
    return Collection(people, table[:, 0], table[:, 1], np.array(seen, bool))


def largest(faces: Sequence[DetectedFace]) -> DetectedFace | None:
    """The face with the largest box, or None."""
    return max(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), default=None)


def nearest(faces: Sequence[DetectedFace], box: np.ndarray) -> DetectedFace | None:
    """The face whose centre is nearest to that of a box (4,), and within 0.4 of its widths; else None."""
    away = [float(np.linalg.norm(np.array(f.box)[:2] + np.array(f.box)[2:] - box[:2] - box[2:])) / 2 for f in faces]
    best = int(np.argmin(away)) if away else -1
    return faces[best] if away and away[best] < _NEAR * (box[2] - box[0]) else None


def face_points(photo: np.ndarray, face: DetectedFace, landmarker: Landmarker | None) -> np.ndarray | None:
    """(5, 2) photo pixels of a detected face, in `Recogniser`'s order: its mesh's, else the detector's, else None."""
    if landmarker is not None:
        seen = analyse_face(photo, face, landmarker, _MESH_SIZE)
        if seen.mesh is not None:
            return five_points(transform(seen.mesh, invert(seen.matrix)))
    return face.points


def _embed(photo: np.ndarray, points: np.ndarray | None, recogniser: Recogniser) -> np.ndarray | None:
    return None if points is None else recogniser(photo, points)
