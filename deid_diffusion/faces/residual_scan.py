"""Residual scan: search a finished image once more, and cover the faces that were missed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..results import FaceRecord
from .boxes import PART, Detection, FaceDetector, same_face
from .compositing import Canvas
from .detection import Box, DetectionResult, EnsembleDetector, confirm_by_mesh
from .landmarks import Landmarker
from .masks import box_mask
from .selection import select_faces

_MAX_ROUNDS = 3  # covering a face can bring out another one that overlapped it
_MIN_SHARE_DONE = 0.5  # of the middle of a face, from which it counts as replaced or covered
REASON = "missed at first, found at the second look"


def cover_residual_faces(
    detector: FaceDetector,
    canvas: Canvas,
    done_mask: np.ndarray,
    kept: Sequence[Detection],
    *,
    landmarker: Landmarker,
    min_face: int,
    only: Sequence[Detection] | None,
    known: DetectionResult | None = None,
    upright_only: bool = False,
) -> list[FaceRecord]:
    """Cover the faces on a canvas that were not dealt with, and weak detections that a mesh confirms.

    Args:
        detector: searches the finished image.
        canvas: of that image.
        done_mask: (H, W) bool, every pixel that the mask of a face touches.
        kept: faces that were left untouched on purpose.
        landmarker: confirms weak detections.
        min_face, only: options that hold for missed faces as well; see `select_faces`.
        known: the result of that search, if the image was searched already.
        upright_only: leave out heads that lie or hang, which the detector has sought in the photo itself.

    Returns:
        One record per face that was covered.
    """
    done_mask = done_mask.copy()
    records: list[FaceRecord] = []
    shape = (done_mask.shape[0], done_mask.shape[1])
    for _ in range(_MAX_ROUNDS):
        result = known or detect(detector, canvas.pixels, upright_only=upright_only)
        known = None
        faces = [face for face in result.faces if not _is_done(face.box, done_mask, kept)]
        faces += _confirmed(result.hints, faces, canvas, done_mask, kept, landmarker)
        untouched = select_faces(faces, min_face=min_face, only=only).kept
        missed = [face for index, face in enumerate(faces) if index not in untouched]
        if not missed:
            break
        for face in missed:
            mask = box_mask(face.box, shape)
            canvas.fill(mask)
            done_mask[mask.window] |= mask.alpha > 0
            records.append(FaceRecord(face.box, face.detector, face.score, "covered", None, False, REASON))
    return records


def detect(detector: FaceDetector, picture: np.ndarray, *, upright_only: bool = False) -> DetectionResult:
    """Detect the faces of a picture, (H, W, 3) uint8 RGB; only an `EnsembleDetector` gives weak detections, too."""
    if isinstance(detector, EnsembleDetector):
        return detector.search(picture, upright_only=upright_only)
    return DetectionResult(detector(picture), [])


def _confirmed(
    weak: Sequence[Detection],
    known: Sequence[Detection],
    canvas: Canvas,
    done_mask: np.ndarray,
    kept: Sequence[Detection],
    landmarker: Landmarker,
) -> list[Detection]:
    """Return the weak detections that are faces, other than those known or dealt with."""
    faces: list[Detection] = []

    def is_known(box: Box) -> bool:
        return _is_done(box, done_mask, kept) or any(same_face(face.box, box) for face in (*known, *faces))

    for detection in weak:
        if is_known(detection.box):
            continue
        face = confirm_by_mesh(canvas.pixels, detection, landmarker, is_known)
        if face is not None:
            faces.append(face)
    return faces


def _is_done(box: Box, done_mask: np.ndarray, kept: Sequence[Detection]) -> bool:
    """Return whether most of the middle of a face is replaced or covered, or the face is one that is kept."""
    x0, y0, x1, y1 = box
    width, height = (x1 - x0) / 4, (y1 - y0) / 4
    rows = slice(int(y0 + height), max(int(y0 + height) + 1, int(np.ceil(y1 - height))))
    columns = slice(int(x0 + width), max(int(x0 + width) + 1, int(np.ceil(x1 - width))))
    middle = done_mask[rows, columns]
    done = bool(middle.size and middle.mean() >= _MIN_SHARE_DONE)
    return done or any(_is_kept(box, face.box) for face in kept)


def _is_kept(face: Box, other: Box) -> bool:
    """Return whether a face is one that is kept. A kept speck inside a face must not keep all of that face."""
    sizes = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (face, other)]
    return same_face(face, other) and sizes[1] >= PART * sizes[0]


def shows_face_through_alpha(
    detector: FaceDetector,
    pixels: np.ndarray,
    alpha: np.ndarray,
    known: Sequence[Box],
    *,
    min_face: int,
    only: Sequence[Detection] | None,
) -> bool:
    """Return whether a finished image, laid on white or on black, shows a face that its colours alone do not.

    Args:
        detector: searches the image on both backgrounds.
        pixels: (H, W, 3) uint8 RGB, finished.
        alpha: (H, W) uint8, 0 transparent to 255 opaque, as in the photo.
        known: boxes of the faces that were dealt with or kept.
        min_face, only: see `select_faces`.
    """
    if alpha.min() == alpha.max():
        return False
    picture, transparency = Image.fromarray(pixels), Image.fromarray(alpha)
    for background in ("black", "white"):
        composite = Image.composite(picture, Image.new("RGB", picture.size, background), transparency)
        faces = detector(np.asarray(composite))
        processed = [faces[index] for index in select_faces(faces, min_face=min_face, only=only).process]
        if any(not any(same_face(face.box, box) for box in known) for face in processed):
            return True
    return False
