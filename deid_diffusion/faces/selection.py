"""Select the faces to process, and the reason why others are left untouched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from .boxes import Detection, overlaps

_MIN_IOU = 0.2  # of a face's box and one of `only`, from which the face is selected


@dataclass(frozen=True)
class Selection:
    """Faces of a photo by what happens to them, as indices into the detections.

    Attributes:
        process: the faces to process, in order.
        kept: the faces to leave untouched, with the reason for the record.
    """

    process: tuple[int, ...]
    kept: dict[int, str]


def select_faces(
    faces: Sequence[Detection], *, min_face: float = 0.0, only: Sequence[Detection] | None = None
) -> Selection:
    """Split the faces of a photo into those to process and those to leave untouched.

    Either option leaves original faces in the image; without them every face is processed. A box that the photo's edge
    cuts counts with its part inside the photo, so that `min_face` may spare a large face there.

    Args:
        faces: detections.
        min_face: pixels of the photo; a face whose box has a shorter side below this is kept.
        only: places. A face is processed if its centre lies in one of their boxes, or if the IoU with one is above 0.2.
            None: every face is processed; empty: none is.

    Raises:
        UsageError: `min_face` is negative or not finite.
    """
    if not (math.isfinite(min_face) and min_face >= 0):
        raise UsageError(f"--min-face {min_face:g}: expected a size in pixels, 0 or more")
    kept: dict[int, str] = {}
    for index, face in enumerate(faces):
        x0, y0, x1, y1 = face.box
        if min(x1 - x0, y1 - y0) < min_face:
            kept[index] = f"smaller than --min-face {min_face:g}"
        elif only is not None and not lies_at(face, only):
            kept[index] = "excluded by --annotations or --only"
    return Selection(tuple(index for index in range(len(faces)) if index not in kept), kept)


def lies_at(face: Detection, places: Sequence[Detection]) -> bool:
    """Return whether a face is at one of some places: its centre lies in a box, or the IoU is above 0.2."""
    box, boxes = np.array(face.box), np.array([place.box for place in places]).reshape(-1, 4)
    centre = (box[:2] + box[2:]) / 2
    inside = ((boxes[:, :2] <= centre) & (centre <= boxes[:, 2:])).all(1)
    return bool((inside | (overlaps(box, boxes)[0] > _MIN_IOU)).any())
