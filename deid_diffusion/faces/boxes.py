"""Detected faces: overlap of boxes, non-maximum suppression, merging across detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Detection:
    """A face detected in a photo.

    Args:
        box: x0, y0, x1, y1 in photo pixels, without the column x1 and the row y1, clipped to the photo.
        score: the detector's confidence, 0 to 1; the highest where several detectors agree.
        detector: the detector's name; names are joined by "+" where several detectors agree.
        points: (5, 2) float32, x and y in photo pixels: the subject's right eye (left in an upright picture), left eye,
            nose tip, right mouth corner, left mouth corner. They may lie outside the photo. None if unknown.
    """

    box: tuple[float, float, float, float]
    score: float
    detector: str
    points: np.ndarray | None = None


class FaceDetector(Protocol):
    """A callable that detects faces in a photo."""

    def __call__(self, image: np.ndarray) -> list[Detection]:
        """Return the faces in `image`, (H, W, 3) uint8 RGB, in any order; an empty list for none."""
        ...


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless `image` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image: expected a numpy array (H, W, 3) of uint8, RGB, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image: expected an array (H, W, 3) of uint8, RGB, got {image.shape} of {image.dtype}")


MERGE_IOU = 0.3
CONTAINED = 0.7  # share of the smaller box inside the larger one
CORE = 0.6  # half-axes of the larger box's core ellipse, relative to half its sides
PART = 0.25  # area of a part of a face, as a tile's border leaves it, relative to the whole


def suppress(boxes: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """Return the indices of the boxes that non-maximum suppression keeps, best score first.

    ``torchvision.ops.nms`` keeps boxes of exactly the threshold, and needs tensors.

    Args:
        boxes: (N, 4) float, x0, y0, x1, y1.
        scores: (N,) float.
        iou: intersection over union, 0 to 1, from which a box with the lower score is dropped.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[overlaps(boxes[best], boxes[rest])[0] < iou]
    return np.array(kept, dtype=np.int64)


def overlaps(box: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the intersections of `box` (4,) with `others` (N, 4): (N,) over the union, (N,) over the smaller area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    intersection = np.prod(np.clip(sides, 0, None), axis=1)
    area = np.prod(box[2:] - box[:2])
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    union, smaller = np.maximum(area + areas - intersection, 1e-9), np.maximum(np.minimum(area, areas), 1e-9)
    return intersection / union, intersection / smaller


def same_face(best: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Return True if two boxes (x0, y0, x1, y1) frame the same face; `best` has the higher score.

    They do if they overlap enough, or if the smaller box lies inside the larger one with its centre in the larger's
    core, where no second face fits. A small box in a corner of a large one (a child in front of a parent) is a face of
    its own. So is a small box with a higher score than the large one around it, which may be a false detection and must
    not swallow the face.
    """
    iou, contained = (float(value[0]) for value in overlaps(np.array(best), np.array([other])))
    if iou >= MERGE_IOU:
        return True
    if contained < CONTAINED:
        return False
    inner, outer = np.array(best), np.array(other)
    if np.prod(inner[2:] - inner[:2]) > np.prod(outer[2:] - outer[:2]):
        inner, outer = outer, inner
    elif np.prod(inner[2:] - inner[:2]) < PART * np.prod(outer[2:] - outer[:2]):
        return False
    from_centre = ((inner[:2] + inner[2:]) - (outer[:2] + outer[2:])) / np.maximum(outer[2:] - outer[:2], 1e-9)
    return bool(np.hypot(*from_centre) <= CORE)


def merge_faces(faces: Sequence[Detection]) -> list[Detection]:
    """Merge the detections of one or more detectors into one per face, best score first.

    The merged box covers all detections of the face, the score is the highest, names are joined, and the points are
    those of the detection with points and the highest score, CenterFace's first, because its mouth corners are
    measured.
    """
    waiting = sorted(faces, key=lambda face: -face.score)
    merged: list[Detection] = []
    while waiting:
        best, *others = waiting
        same = [same_face(best.box, other.box) for other in others]
        merged.append(_merge([best, *(other for other, yes in zip(others, same, strict=True) if yes)]))
        waiting = [other for other, yes in zip(others, same, strict=True) if not yes]
    return merged


def _merge(group: Sequence[Detection]) -> Detection:
    """Return the merged detection of a face; the group is sorted, best score first."""
    boxes = np.array([face.box for face in group])
    x0, y0 = boxes[:, :2].min(axis=0).tolist()
    x1, y1 = boxes[:, 2:].max(axis=0).tolist()
    names = sorted({name for face in group for name in face.detector.split("+")})
    with_points = [face for face in group if face.points is not None]
    with_points.sort(key=lambda face: "centerface" not in face.detector.split("+"))
    points = with_points[0].points if with_points else None
    return Detection((x0, y0, x1, y1), max(face.score for face in group), "+".join(names), points)
