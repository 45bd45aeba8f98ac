"""Which of the faces that were found are processed, and why the others are left untouched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from .boxes import Detection, overlaps

_OVERLAP = 0.2  # intersection over union of a face's box with one of `only` over which the face is meant


@dataclass(frozen=True)
class Selection:
    """Every face of a photo on one of two sides, as indices into the faces given.

    Attributes:
        process: the faces to process, in order.
        kept: the faces to leave untouched, each with the reason for the report.
    """

    process: tuple[int, ...]
    kept: dict[int, str]


def select_faces(
    faces: Sequence[Detection], *, min_face: float = 0.0, only: Sequence[Detection] | None = None
) -> Selection:
    """Split the faces of a photo into those to process and those to leave untouched.

    Whoever narrows the choice leaves original faces in the picture; without either option every face is processed. A
    box that the photo's edge cuts counts with the part inside the photo, so `min_face` may spare a large face there.

    Args:
        faces: what the detector found.
        min_face: pixels of the photo; a face whose box has a shorter side below this is kept.
        only: places, as `Boxes.of` gives them. A face is processed if the centre of its box is in the box of one of
            them, or if the two overlap by over a fifth (intersection over union). None: every face is; none at all: no
            face is.

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
    """Whether a face is at one of some places: its centre in the place's box, or over a fifth of both in common."""
    box, boxes = np.array(face.box), np.array([place.box for place in places]).reshape(-1, 4)
    centre = (box[:2] + box[2:]) / 2
    inside = ((boxes[:, :2] <= centre) & (centre <= boxes[:, 2:])).all(1)
    return bool((inside | (overlaps(box, boxes)[0] > _OVERLAP)).any())
