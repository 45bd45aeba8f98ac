"""Finalise an image: cover what was not replaced, scan for residual faces, and record what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..options import Options
from ..results import FaceRecord
from .boxes import PART, Detection, FaceDetector, same_face
from .compositing import Canvas
from .detection import Box, DetectionResult, EnsembleDetector, confirm_by_mesh
from .face import Face, PreparedImage
from .landmarks import Landmarker
from .masks import box_mask, union_mask
from .selection import select_faces

_MAX_ROUNDS = 3  # covering a face can bring out another one that overlapped it
_MIN_SHARE_DONE = 0.5  # of the middle of a face, from which it counts as replaced or covered
REASON = "missed at first, found by the residual scan"


@dataclass(frozen=True)
class AnonymizedImage:
    """A finished image and what was done to its faces.

    Attributes:
        image: RGB, of the input's size; bit-identical to the input outside the faces' masks.
        faces: one record per face, in the order of detection; those that only the residual scan found come last.
    """

    image: Image.Image
    faces: tuple[FaceRecord, ...]

    @property
    def is_generated(self) -> bool:
        """Whether generative AI made a part of it, which the file's mark has to say."""
        return any(face.action == "replaced" for face in self.faces)


def finalize(
    image: PreparedImage,
    options: Options,
    *,
    detector: FaceDetector,
    landmarker: Landmarker,
    map_only: bool = False,
) -> AnonymizedImage:
    """Cover failed and missed faces of an image, and record what was done. Consumes the image.

    Args:
        image: after generation.
        options: that it was prepared with.
        detector: searches the finished image.
        landmarker: confirms weak detections.
        map_only: whether only what the semantic map carries could be kept.
    """
    for face in image.faces:
        if face.action is None:
            face.finish("covered", "no new face was generated")
        if face.action == "covered":
            image.canvas.fill(face.cover_mask, face.index)  # parts that were to be kept included
    records = [_record(face, map_only=map_only) for face in image.faces]
    records += cover_residual_faces(
        detector,
        image.canvas,
        union_mask(image.shape, [face.cover_mask for face in image.faces]),
        [face.detection for face in image.faces if face.action == "kept"],
        landmarker=landmarker,
        min_face=options.min_face,
        only=image.only,
        known=None if image.faces else image.detected,  # without faces the image is the one that was searched
        upright_only=image.detected is not None,
    )
    image.faces.clear()  # faces refer to their image: both would wait for the garbage collector
    return AnonymizedImage(Image.fromarray(image.canvas.pixels), tuple(records))


def _record(face: Face, *, map_only: bool) -> FaceRecord:
    """Return the record of a finished face."""
    assert face.action is not None
    selection = face.selection.restrict_to_map() if map_only else face.selection
    pseudonym = None if face.identity is None else face.identity.pseudonym
    result = face.chosen.result if face.chosen else face.candidates[-1].result if face.candidates else None
    similarity = None if result is None else result.similarity
    replaced = face.action == "replaced"
    return FaceRecord(
        box=face.detection.box,
        detector=face.detection.detector,
        score=face.detection.score,
        action=face.action,
        seed=face.chosen.seed if face.chosen and pseudonym is None else None,  # a pseudonym's follows from the key
        mesh=face.analysis is not None and face.analysis.mesh is not None,
        reason=face.reason,
        similarity=similarity if similarity is not None and np.isfinite(similarity) else None,
        attempts=len(face.candidates),
        pseudonym=pseudonym if replaced else None,
        kept_attributes=selection.keep if replaced else (),
        changed_attributes=selection.change if replaced else {},
    )


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
        faces += _confirmed(result.weak, faces, canvas, done_mask, kept, landmarker)
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
