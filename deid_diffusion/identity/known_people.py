"""People who consented to be shown: their faces are recognised and left untouched.

A false match leaves a stranger's original face in the picture, so the threshold is stricter than the one that results
are judged by; a known person who is missed is merely replaced like everybody else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError, one_line
from ..faces.boxes import FaceDetector
from ..io import images
from .recognition import Recogniser

FALSE_MATCH_RATE = 1e-4
"""Share of strangers' faces that may be taken for any of the known ones, all enrolled photos together. Aimed at for
adults who are no relatives, see `MIN_THRESHOLD`."""

CALIBRATED = "dlib-resnet"
"""Name of the recogniser that `MEASURED` and `MIN_THRESHOLD` are of."""

MEASURED = ((1e-3, 0.9313), (1e-4, 0.9438))
"""False match rates of one comparison, and the cosines over which they are met: ``benchmarks/calibrate_recogniser.py``
on 600 grey LFW photos (300 adults, 179,400 pairs of strangers; of the 300 pairs of one person 90 and 82 % pass). Rates
under 1e-4 rest on too few pairs and are extrapolated along the line through these two, which lies above the sample's
own 1e-5 (0.9563 against 0.9516)."""

MIN_THRESHOLD = 0.95
"""The threshold is never lower, whatever `MEASURED` says: on 120 adults of FairFace, of all origins, 0.9438 has a rate
of 3e-4, and no pair is over 0.95 (11,781 comparisons with photos that `FRONTAL` admits). 74 % of LFW's pairs of one
person pass. Children are not told apart well enough: over 0.95 are 1 to 2 % of the comparisons between two of the 60
people under 20 in FairFace's 180, and 3 to 6 % of those between two under 3."""

FRONTAL = 0.6
"""Least distance between the eyes of a face to enrol, in units of that from the eyes to the mouth. Faces in profile
resemble each other to the recogniser: every pair of FairFace adults over 0.95 had one enrolled. Of 600 LFW photos at
most one is refused."""

PEOPLE_WARNING = (
    "a stranger who looks like a known person is left untouched as well: this is rare among adults (aim: 1 in 10,000 "
    "faces), but not among children (1 in 100 and more) and relatives: look at every face that was kept"
)


def threshold_for(photos: int) -> float:
    """Cosine over which a face counts as known, for a number of enrolled photos, at least one.

    A face is compared with each of them, so each comparison gets its share of `FALSE_MATCH_RATE`.
    """
    (often, low), (seldom, high) = MEASURED
    beyond = math.log(FALSE_MATCH_RATE / photos / seldom) / math.log(seldom / often)
    return min(1.0, max(MIN_THRESHOLD, high + beyond * (high - low)))


@dataclass(frozen=True, eq=False)
class ConsentList:
    """Faces of known people, as embeddings.

    Attributes:
        embeddings: (N, D) float32, rows of length 1, one a photo.
        threshold: cosine over which a face is one of them.
    """

    embeddings: np.ndarray
    threshold: float

    @classmethod
    def from_folder(
        cls, folder: str | Path, detector: FaceDetector, recogniser: Recogniser, *, threshold: float | None = None
    ) -> ConsentList:
        """Enrol the people in a folder's photos, and in those of its sub-folders (one a person, if that helps order).

        Hidden files, and files that are no photos by their suffix, are passed over. Nothing is written anywhere.

        Args:
            folder: of photos that show one face each.
            detector: finds the face and its five points.
            recogniser: makes the embeddings; the same must make those that `matches` is asked about.
            threshold: cosine, instead of `threshold_for` the number of photos; needed for a recogniser other than
                `CALIBRATED`.

        Raises:
            DeidError: there is no such folder or no photo in it, or a photo cannot be read or does not show exactly one
                face, from the front. One line with the file's name.
            ValueError: a threshold is needed, or is over 1.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"{folder}: is no folder: name one with photos of the people to keep")
        paths = sorted(path for path in folder.rglob("*") if _is_photo(path.relative_to(folder)) and path.is_file())
        if not paths:
            raise UsageError(f"{folder}: holds no photo: add one of each person to keep")
        if threshold is None:
            if recogniser.name != CALIBRATED:
                raise ValueError(f"threshold: nothing is measured for the recogniser {recogniser.name}: give one")
            threshold = threshold_for(len(paths))
        if not threshold <= 1:
            raise ValueError(f"threshold: expected a cosine, got {threshold}")
        vectors = np.stack([_embedding(path, detector, recogniser) for path in paths])
        return cls(vectors, threshold)

    def matches(self, embedding: np.ndarray) -> bool:
        """Whether a face, by its (D,) embedding of any length, is one of the known people's.

        An embedding that is not finite, or 0, is nobody's. Raises ValueError for another shape.
        """
        vector = np.asarray(embedding, np.float64)
        if vector.shape != self.embeddings.shape[1:]:
            raise ValueError(f"embedding: {vector.shape}, expected {self.embeddings.shape[1:]}")
        length = float(np.linalg.norm(vector))
        if not (math.isfinite(length) and length > 0):
            return False
        return bool((self.embeddings @ (vector / length) > self.threshold).any())


def _is_photo(place: Path) -> bool:
    return place.suffix.lower() in images.READABLE and not any(part.startswith(".") for part in place.parts)


def _is_frontal(points: np.ndarray) -> bool:
    apart, down = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
    return bool(np.linalg.norm(apart) >= FRONTAL * np.linalg.norm(down))


def _embedding(path: Path, detector: FaceDetector, recogniser: Recogniser) -> np.ndarray:
    """(D,) float32 of length 1: the only face of a photo. Raises DeidError."""
    photo = images.read(path).pixels
    faces = detector(photo)
    if not faces:
        raise UsageError(f"{path}: no face is found in it: give a photo that shows the person from the front")
    if len(faces) > 1:
        raise UsageError(f"{path}: {len(faces)} faces are found in it: crop it to the one person who consented")
    points = faces[0].points
    if points is None or not _is_frontal(points):
        raise UsageError(
            f"{path}: its face is not seen from the front: give a photo that shows both eyes and the mouth"
        )
    try:
        vector = np.asarray(recogniser(photo, points), np.float32)
    except ValueError as error:
        raise UsageError(f"{path}: its face cannot be used ({one_line(error)[:120]}): give another photo") from error
    length = float(np.linalg.norm(vector))
    if not (math.isfinite(length) and length > 0):
        raise UsageError(f"{path}: the recogniser makes nothing of its face: give another photo")
    return vector / length
