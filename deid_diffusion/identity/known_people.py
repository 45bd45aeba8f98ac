"""Consent list: people whose faces are recognised and kept, because they agreed to be shown.

A false match keeps a stranger's original face, so the threshold is stricter than the one by which results are verified.
A missed match is harmless: the face is replaced like all others.
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
"""Target share of strangers' faces that match any enrolled photo. It holds for unrelated adults, see
`MIN_THRESHOLD`."""

CALIBRATED = "dlib-resnet"
"""Name of the recogniser for which `MEASURED` and `MIN_THRESHOLD` were calibrated."""

MEASURED = ((1e-3, 0.9313), (1e-4, 0.9438))
"""(False match rate of one comparison, cosine threshold), from ``benchmarks/calibrate_recogniser.py`` on 600 grey LFW
photos (300 adults, 179,400 pairs of strangers; 90 and 82 % of the 300 genuine pairs pass). Rates under 1e-4 rest on too
few pairs and are extrapolated along the line through these two points, which is stricter than the sample's own 1e-5
(0.9563 against 0.9516)."""

MIN_THRESHOLD = 0.95
"""Lower bound of the threshold. `MEASURED` underestimates the rate across origins: on 120 adults of FairFace, 0.9438
has a false match rate of 3e-4, and no pair exceeds 0.95 (11,781 comparisons with photos that `FRONTAL` admits). 74 % of
LFW's genuine pairs pass. The recogniser is worse on children: in FairFace, 1 to 2 % of the comparisons between 60
people under 20 exceed 0.95, and 3 to 6 % of those between children under 3."""

FRONTAL = 0.6
"""Smallest distance between the eyes of an enrolled face, in units of the distance from eyes to mouth. The recogniser
confuses faces in profile: every pair of FairFace adults over 0.95 had one enrolled. It refuses at most one of 600 LFW
photos."""

CONSENT_WARNING = (
    "a stranger who resembles a person on the consent list is kept as well: rarely among adults (target: 1 in 10,000 "
    "faces), but often among children (1 in 100 or more) and relatives: review every kept face"
)


def threshold_for(photos: int) -> float:
    """Return the cosine threshold for a number of enrolled photos, at least one.

    A face is compared with each of them, so each comparison gets its share of `FALSE_MATCH_RATE`.
    """
    (high_rate, low), (low_rate, high) = MEASURED
    steps = math.log(FALSE_MATCH_RATE / photos / low_rate) / math.log(low_rate / high_rate)
    return min(1.0, max(MIN_THRESHOLD, high + steps * (high - low)))


@dataclass(frozen=True, eq=False)
class ConsentList:
    """Face embeddings of the people who consented.

    Attributes:
        embeddings: (N, D) float32, rows of length 1, one per photo.
        threshold: cosine over which a face matches.
    """

    embeddings: np.ndarray
    threshold: float

    @classmethod
    def from_folder(
        cls, folder: str | Path, detector: FaceDetector, recogniser: Recogniser, *, threshold: float | None = None
    ) -> ConsentList:
        """Enrol the people in the photos of a folder and its sub-folders.

        Hidden files and files without an image suffix are skipped. Nothing is written to disk.

        Args:
            folder: photos with one face each.
            detector: finds the face and its five points.
            recogniser: computes the embeddings; `matches` expects embeddings of the same one.
            threshold: cosine; `threshold_for` the number of photos by default. Required for a recogniser other than
                `CALIBRATED`.

        Raises:
            DeidError: there is no such folder or no photo in it, or a photo cannot be read or does not show exactly one
                frontal face. One line with the file's name.
            ValueError: the threshold is missing or over 1.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"{folder}: is not a folder: name one with photos of the people to keep")
        paths = sorted(path for path in folder.rglob("*") if _is_photo(path.relative_to(folder)) and path.is_file())
        if not paths:
            raise UsageError(f"{folder}: contains no photo: add one of each person to keep")
        if threshold is None:
            if recogniser.name != CALIBRATED:
                raise ValueError(f"threshold: required for the recogniser {recogniser.name}, which was not calibrated")
            threshold = threshold_for(len(paths))
        if not threshold <= 1:
            raise ValueError(f"threshold: expected a cosine, got {threshold}")
        embeddings = np.stack([_embed(path, detector, recogniser) for path in paths])
        return cls(embeddings, threshold)

    def matches(self, embedding: np.ndarray) -> bool:
        """Return whether the (D,) embedding of a face, of any length, matches an enrolled photo.

        An embedding that is zero or not finite matches nobody. Raises ValueError for another shape.
        """
        vector = np.asarray(embedding, np.float64)
        if vector.shape != self.embeddings.shape[1:]:
            raise ValueError(f"embedding: {vector.shape}, expected {self.embeddings.shape[1:]}")
        length = float(np.linalg.norm(vector))
        if not (math.isfinite(length) and length > 0):
            return False
        return bool((self.embeddings @ (vector / length) > self.threshold).any())


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in images.READABLE and not any(part.startswith(".") for part in path.parts)


def _is_frontal(points: np.ndarray) -> bool:
    eyes, eyes_to_mouth = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
    return bool(np.linalg.norm(eyes) >= FRONTAL * np.linalg.norm(eyes_to_mouth))


def _embed(path: Path, detector: FaceDetector, recogniser: Recogniser) -> np.ndarray:
    """Return the (D,) float32 embedding, of length 1, of the only face of a photo. Raises DeidError."""
    photo = images.read(path).pixels
    faces = detector(photo)
    if not faces:
        raise UsageError(f"{path}: no face was detected: use a frontal photo of the person")
    if len(faces) > 1:
        raise UsageError(f"{path}: {len(faces)} faces were detected: crop it to the person who consented")
    points = faces[0].points
    if points is None or not _is_frontal(points):
        raise UsageError(f"{path}: the face is not frontal: use a photo that shows both eyes and the mouth")
    try:
        vector = np.asarray(recogniser(photo, points), np.float32)
    except ValueError as error:
        raise UsageError(f"{path}: the face cannot be embedded ({one_line(error)[:120]}): use another photo") from error
    length = float(np.linalg.norm(vector))
    if not (math.isfinite(length) and length > 0):
        raise UsageError(f"{path}: the recogniser returned no valid embedding: use another photo")
    return vector / length
