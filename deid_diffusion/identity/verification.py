"""Verify that a generated face does not match the identity of the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from ..faces.alignment import extract, invert, resized, transform
from ..faces.analysis import FaceAnalysis
from ..faces.boxes import Detection, FaceDetector
from ..faces.compositing import fill_from_surroundings
from ..faces.detectors import CenterFaceDetector
from ..faces.landmarks import five_points
from .recognition import (
    ALIKE,
    ALIKE_MARGIN,
    FALSE_MATCH_RATE,
    SAME_MARGIN,
    DlibRecogniser,
    Recogniser,
    dlib_cohort,
    similarity_of_strangers,
)

_VIEW = 192  # side of the crop around a face in which it is verified, in pixels
_RESAMPLED = 7  # width, in pixels of the view, that one pixel of the photo may reach
_BARE = 0.985  # similarity to the original from which a view without its face still shows the original
_MAX_SHIFT, _MAX_GROWTH = 0.35, 1.8  # of a face, in its widths and as a factor, before it is misplaced


@dataclass(frozen=True, eq=False)
class FaceReference:
    """An original face as the verifier knows it.

    Attributes:
        embedding: (D,) unit vector; None where its five points are unknown.
        points: (5, 2) in the verifier's view; None likewise.
        box: x0, y0, x1, y1 in the view; None when the verifier's detector misses the face.
        faces: number of faces in its mask.
        strangers: cosine of the face and the strangers most similar to it; -1 where that is unknown.
        empty: (V, V, 3) uint8, the view with the mask filled from its surroundings; None where it is unknown.
    """

    embedding: np.ndarray | None
    points: np.ndarray | None
    box: tuple[float, float, float, float] | None
    faces: int
    strangers: float = -1.0
    empty: np.ndarray | None = None


@dataclass(frozen=True)
class VerificationResult:
    """Result of a verification.

    Attributes:
        similarity: cosine of the two faces' embeddings; None if there was nothing to compare.
        reason: why the face must not be shown; None if it passed.
        ambiguous: whether it passed, but another candidate should be tried: few strangers are so similar to the
            original, or no face was detected in its place.
        detected: whether a face is detected where one was in the original.
    """

    similarity: float | None
    reason: str | None
    ambiguous: bool = False
    detected: bool = True


class Verifier(Protocol):
    """Anything that verifies generated faces.

    Attributes:
        description: one line for the record: the recogniser and its threshold.
    """

    description: str

    def reference(self, photo: np.ndarray, face: FaceAnalysis) -> FaceReference:
        """Return the reference of an original face of a photo, (H, W, 3) uint8 RGB."""
        ...

    def verify(self, picture: np.ndarray, face: FaceAnalysis, original: FaceReference) -> VerificationResult:
        """Verify what stands in the face's place in an image, (H, W, 3) uint8 RGB."""
        ...


class FaceVerifier:
    """Compares a generated face with the original, in the image as it would be written.

    A face fails when the recogniser matches it with the original's person, or when it shows two faces. Where no face is
    detected in the original's place, the original's five points say where to compare, beside any that is detected. For
    faces that the recogniser hardly tells from strangers' the thresholds rise, see `similarity_of_strangers`. Nor does
    it fail where the recogniser says the same of the image without any face there: of a face cut by the photo's edge,
    say, it sees mostly the surroundings.
    """

    def __init__(
        self,
        recogniser: Recogniser | None = None,
        detector: FaceDetector | None = None,
        ambiguous: float | None = None,
    ) -> None:
        """Use networks other than dlib's and CenterFace.

        Args:
            recogniser: that had no part in generation.
            detector: that gives five points.
            ambiguous: cosine over which a result is `VerificationResult.ambiguous`; None is `recognition.ALIKE` for
                dlib's recogniser and, for another one, its threshold, so that none is.
        """
        self._cohort = dlib_cohort() if recogniser is None else None
        self.recogniser = recogniser or DlibRecogniser()
        self.detector = detector or CenterFaceDetector()
        default = ALIKE if recogniser is None else self.recogniser.threshold
        self.ambiguous = default if ambiguous is None else ambiguous
        rate = f" (FMR {FALSE_MATCH_RATE:g})" if recogniser is None else ""
        self.description = f"{self.recogniser.name}: cosine at most {self.recogniser.threshold:g}{rate}"

    def reference(self, photo: np.ndarray, face: FaceAnalysis) -> FaceReference:
        """Return the reference of an original face of a photo, (H, W, 3) uint8 RGB."""
        view, faces = self._see(photo, face)
        best = _nearest(faces)
        points = _points_in_view(face) if best is None or best.points is None else best.points
        embedding = None if points is None else self.recogniser(view, points)
        strangers = -1.0
        if embedding is not None and self._cohort is not None:
            strangers = similarity_of_strangers(embedding, self._cohort)
        mask = extract(face.mask.full(), _view_matrix(face), _VIEW) > 0
        mask = cv2.dilate(mask.astype(np.uint8), np.ones((_RESAMPLED, _RESAMPLED), np.uint8)) > 0
        empty = fill_from_surroundings(view.astype(np.float32) / 255, mask)
        box = None if best is None else best.box
        return FaceReference(embedding, points, box, len(faces), strangers, np.round(empty * 255).astype(np.uint8))

    def verify(self, picture: np.ndarray, face: FaceAnalysis, original: FaceReference) -> VerificationResult:
        """Verify what stands in the face's place in an image, (H, W, 3) uint8 RGB."""
        view, faces = self._see(picture, face)
        best = _nearest(faces)
        if len(faces) > max(1, original.faces):
            return VerificationResult(None, "the result shows two faces")
        there = best is not None and (original.box is None or _same_place(best.box, original.box))
        own = None if best is None else best.points
        places = [own] if there and own is not None else [part for part in (own, original.points) if part is not None]
        if original.embedding is None or not places:
            return VerificationResult(None, None)
        similarity = float(np.max([original.embedding @ self.recogniser(view, points) for points in places]))
        same = max(self.recogniser.threshold, original.strangers + SAME_MARGIN)
        alike = max(self.ambiguous, original.strangers + ALIKE_MARGIN)
        if not similarity <= max(same, self._without_face(original, same, similarity)):  # NaN fails, too
            return VerificationResult(similarity, f"too like the original (cosine {similarity:.3f})")
        detected = there or original.box is None
        return VerificationResult(similarity, None, not detected or similarity > alike, detected)

    def _without_face(self, original: FaceReference, same: float, similarity: float) -> float:
        """Return the similarity of a face's place without it, where that may excuse a match; else -1.

        A view that still shows a face, or nearly the original, comes from a mask that left the face bare: no excuse.
        """
        if not similarity > same or original.empty is None or original.embedding is None or original.points is None:
            return -1.0
        if self.detector(original.empty):
            return -1.0
        without = float(original.embedding @ self.recogniser(original.empty, original.points))
        return without if without <= _BARE else -1.0

    def _see(self, picture: np.ndarray, face: FaceAnalysis) -> tuple[np.ndarray, list[Detection]]:
        """Return the view around a face, (V, V, 3) uint8, and the faces in it whose centre lies in the face's mask."""
        matrix = _view_matrix(face)
        view = extract(picture, matrix, _VIEW)
        faces = self.detector(view)
        centres = np.array([((f.box[0] + f.box[2]) / 2, (f.box[1] + f.box[3]) / 2) for f in faces]).reshape(-1, 2)
        x, y = (transform(centres, invert(matrix)) - (face.mask.left, face.mask.top)).round().astype(int).T
        height, width = face.mask.alpha.shape
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        return view, [f for f, a, b, yes in zip(faces, x, y, inside, strict=True) if yes and face.mask.alpha[b, a] > 0]


def shows_one_face_there(face: FaceAnalysis, original: FaceReference) -> bool:
    """Return whether a reference is surely of that face, and not of another one that overlaps it."""
    if original.faces > 1:
        return False
    if original.box is None:
        return True
    x0, y0, x1, y1 = face.detection.box
    corners = transform(np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)], np.float32), _view_matrix(face))
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    return _same_place(original.box, (left, top, right, bottom))


def _view_matrix(face: FaceAnalysis) -> np.ndarray:
    """Return the (2, 3) matrix from photo to view: the face crop at another size."""
    return resized(face.matrix, _VIEW / len(face.semantic_map))


def _points_in_view(face: FaceAnalysis) -> np.ndarray | None:
    """Return the (5, 2) points of the mesh or, without one, of the detector."""
    to_view = _view_matrix(face)
    if face.mesh is not None:
        return transform(transform(five_points(face.mesh), invert(face.matrix)), to_view)
    return None if face.detection.points is None else transform(face.detection.points, to_view)


def _nearest(faces: list[Detection]) -> Detection | None:
    """Return the face nearest to the view's centre."""
    return min(faces, key=lambda f: np.hypot(f.box[0] + f.box[2] - _VIEW, f.box[1] + f.box[3] - _VIEW), default=None)


def _same_place(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Return whether two boxes are of one face."""
    a, b = np.array(box), np.array(other)
    sides_a, sides_b = a[2:] - a[:2], b[2:] - b[:2]
    width = float(np.sqrt(sides_b.prod()))
    growth = float(np.sqrt(sides_a.prod())) / max(width, 1e-6)
    shift = np.hypot(*((a[:2] + a[2:] - b[:2] - b[2:]) / 2))
    return bool(shift <= _MAX_SHIFT * width and 1 / _MAX_GROWTH <= growth <= _MAX_GROWTH)
