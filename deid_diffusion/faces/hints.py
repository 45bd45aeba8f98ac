"""Hints of faces: detections too faint to count, which are faces where a face mesh fits in several looks.

Halves of faces at the photo's edge and faces behind hands and scarves leave such hints; so do ears and fists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from .crop import extract_mirrored, similarity, transform
from .detected_face import DetectedFace
from .landmarks import Landmarker
from .merge import overlaps

Box = tuple[float, float, float, float]

_LEAST_SIDES = (5, 16)  # photo pixels, shorter and longer; what is smaller is hinted at everywhere
_LOOK = 192  # side of a look, in pixels
_WIDTHS = (2.0, 2.7, 1.5, 3.6)  # of a look, in longer sides of the hint
_ROLLS = (0.0, -0.35, 0.35)  # radians
_FEW = 4  # looks in which some mesh has to fit, or the others are not worth their time
_VOTES = 8  # looks of all 24 in which a mesh has to fit: halves of real faces get nearly all, hands and ears up to 7
_OVERLAP = 0.15  # of mesh and hint, over their union, where the hint's centre is not within the mesh


def confirm(
    photo: np.ndarray, hint: DetectedFace, landmarker: Landmarker, known: Callable[[Box], bool]
) -> DetectedFace | None:
    """The face that a hint hints at.

    On 180 FairFace photos 247 hints were not in a detected face. The mesh confirmed 29 of them, of which about a dozen
    were parts of real faces; the others were ears, hands and folds.

    Args:
        photo: (H, W, 3) uint8 RGB.
        hint: a detection in it.
        landmarker: looks for a mesh.
        known: whether the face in a box is dealt with already; hints beside a face lead to that face's mesh.

    Returns:
        The hint with a box that holds the meshes as well; None if too few of them fit.
    """
    x0, y0, x1, y1 = hint.box
    if any(side < least for side, least in zip(sorted((x1 - x0, y1 - y0)), _LEAST_SIDES, strict=True)):
        return None
    boxes: list[Box] = []
    looks = (mesh for roll in _ROLLS for mesh in _meshes(photo, hint.box, roll, landmarker))
    for number, box in enumerate(looks, 1):
        if box is not None and _fits(box, hint.box) and not known(box):
            boxes.append(box)
        if number >= _FEW and not boxes:
            return None
    if len(boxes) < _VOTES:
        return None
    low, high = np.median([box[:2] for box in boxes], axis=0), np.median([box[2:] for box in boxes], axis=0)
    left, top = np.minimum(low, (x0, y0)).tolist()
    right, bottom = np.maximum(high, (x1, y1)).tolist()
    return DetectedFace((left, top, right, bottom), hint.score, f"{hint.detector}+mesh")


def _meshes(photo: np.ndarray, box: Box, roll: float, landmarker: Landmarker) -> Iterator[Box | None]:
    """Boxes, in the photo, of the meshes in looks of several widths, each mirrored as well; None where none is seen."""
    height, width = photo.shape[:2]
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    for wider in _WIDTHS:
        matrix = similarity(centre, wider * max(box[2] - box[0], box[3] - box[1]), roll, _LOOK)
        look = extract_mirrored(photo, matrix, _LOOK)
        for mirror in (False, True):
            mesh = landmarker(look[:, ::-1] if mirror else look)
            if mesh is None:
                yield None
                continue
            flipped = np.column_stack([_LOOK - 1 - mesh[:, 0], mesh[:, 1]]) if mirror else mesh
            points = transform(flipped, cv2.invertAffineTransform(matrix))
            x0, y0, x1, y1 = np.concatenate([points.min(0), points.max(0)]).clip(0, (width, height) * 2).tolist()
            yield (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _fits(box: Box, hint: Box) -> bool:
    """Whether a mesh is of what the hint hints at."""
    x, y = (hint[0] + hint[2]) / 2, (hint[1] + hint[3]) / 2
    within = box[0] <= x <= box[2] and box[1] <= y <= box[3]
    return within or bool(overlaps(np.array(box), np.array([hint]))[0][0] > _OVERLAP)
