"""The finished picture is searched for faces once more, and what was missed is covered."""

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

_ROUNDS = 3  # covering a face can bring out another one that overlapped it
_DONE = 0.5  # share of the middle of a face that has to be replaced already


def cover_residual_faces(
    detector: FaceDetector,
    canvas: Canvas,
    gone: np.ndarray,
    kept: Sequence[Detection],
    *,
    landmarker: Landmarker,
    min_face: int,
    only: Sequence[Detection] | None,
    seen: DetectionResult | None = None,
    upright_only: bool = False,
) -> list[FaceRecord]:
    """Cover the faces on a canvas that nobody dealt with, and what is hinted at and turns out to be one.

    Args:
        detector: searches the finished picture.
        canvas: of that picture.
        gone: (H, W) bool, every pixel that the mask of a face touches.
        kept: faces that were left untouched on purpose.
        landmarker: confirms hints.
        min_face, only: the user's wishes, which hold for missed faces as well; see `select_faces`.
        seen: what that search finds, if the picture is one that was searched already.
        upright_only: leave out heads that lie or hang, which the detector has sought in the photo itself.

    Returns:
        A record of each face that was covered.
    """
    gone = gone.copy()
    records: list[FaceRecord] = []
    shape = (gone.shape[0], gone.shape[1])
    for _ in range(_ROUNDS):
        seen = seen or detect(detector, canvas.pixels, upright_only=upright_only)
        found = [face for face in seen.faces if not _dealt_with(face.box, gone, kept)]
        found += _confirmed(seen.hints, found, canvas, gone, kept, landmarker)
        seen = None
        untouched = select_faces(found, min_face=min_face, only=only).kept
        missed = [face for k, face in enumerate(found) if k not in untouched]
        if not missed:
            break
        for face in missed:
            mask = box_mask(face.box, shape)
            canvas.fill(mask)
            gone[mask.window] |= mask.alpha > 0
            reason = "missed at first, found at the second look"
            records.append(FaceRecord(face.box, face.detector, face.score, "covered", None, False, reason))
    return records


def detect(detector: FaceDetector, picture: np.ndarray, *, upright_only: bool = False) -> DetectionResult:
    """What a detector finds in a picture, (H, W, 3) uint8 RGB; only a `EnsembleDetector` gives hints, too."""
    if isinstance(detector, EnsembleDetector):
        return detector.search(picture, upright_only=upright_only)
    return DetectionResult(detector(picture), [])


def _confirmed(
    hints: Sequence[Detection],
    found: Sequence[Detection],
    canvas: Canvas,
    gone: np.ndarray,
    kept: Sequence[Detection],
    landmarker: Landmarker,
) -> list[Detection]:
    """The hints that are faces, other than those found, and nobody dealt with."""
    faces: list[Detection] = []

    def known(box: Box) -> bool:
        return _dealt_with(box, gone, kept) or any(same_face(face.box, box) for face in (*found, *faces))

    for hint in hints:
        if not known(hint.box) and (face := confirm_by_mesh(canvas.pixels, hint, landmarker, known)) is not None:
            faces.append(face)
    return faces


def _dealt_with(box: Box, gone: np.ndarray, kept: Sequence[Detection]) -> bool:
    """Whether most of the middle of a face is replaced or covered, or the face is one that is kept."""
    x0, y0, x1, y1 = box
    width, height = (x1 - x0) / 4, (y1 - y0) / 4
    rows = slice(int(y0 + height), max(int(y0 + height) + 1, int(np.ceil(y1 - height))))
    columns = slice(int(x0 + width), max(int(x0 + width) + 1, int(np.ceil(x1 - width))))
    middle = gone[rows, columns]
    return bool(middle.size and middle.mean() >= _DONE) or any(_is_kept(box, other.box) for other in kept)


def _is_kept(face: Box, other: Box) -> bool:
    """Whether a face is one that is kept. A kept speck inside a face must not keep all of that face."""
    sizes = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (face, other)]
    return same_face(face, other) and sizes[1] >= PART * sizes[0]


def shows_face_through_alpha(
    detector: FaceDetector,
    pixels: np.ndarray,
    alpha: np.ndarray,
    known: Sequence[tuple[float, float, float, float]],
    *,
    min_face: int,
    only: Sequence[Detection] | None,
) -> bool:
    """Whether a finished picture, laid on white or on black, shows a face that its colours alone do not.

    Args:
        detector: searches the picture on both grounds.
        pixels: (H, W, 3) uint8 RGB, finished.
        alpha: (H, W) uint8, 0 transparent to 255 opaque, as in the photo.
        known: boxes of the faces that were dealt with or kept.
        min_face, only: the user's wishes; see `select_faces`.
    """
    if alpha.min() == alpha.max():
        return False
    picture, transparency = Image.fromarray(pixels), Image.fromarray(alpha)
    for ground in ("black", "white"):
        laid = Image.composite(picture, Image.new("RGB", picture.size, ground), transparency)
        found = detector(np.asarray(laid))
        new = [found[k] for k in select_faces(found, min_face=min_face, only=only).process]
        if any(not any(same_face(face.box, box) for box in known) for face in new):
            return True
    return False
