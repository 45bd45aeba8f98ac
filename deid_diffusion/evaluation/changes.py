"""What a result did to the pixels: was the face touched at all, is the rest as it was, does the rim show?

Every figure is of any tool: the only masks used are the boxes in which a detector sees faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Box = tuple[float, float, float, float]

LEFT_SSIM = 0.9
"""Structural similarity of a face over which it counts as left as it was. Of 30 faces in 20 photographs, JPEG at
quality 30 left each over 0.90, a replacement by the embedded model none over 0.71; a blur of a tenth of a face's width
leaves 0.54 in the median, and over 0.9 only faces that were blurred before."""

REACH = 0.6
"""How far, in box widths and heights, a face's box is grown on every side before the rest counts as outside."""

_SIDE = 64  # pixels to which a face is scaled before it is compared
_CHANGED = 2  # levels over which a value counts as changed, for the rim
_RIM = 3.0  # pixels on either side of the rim that are compared


@dataclass(frozen=True)
class Outside:
    """How pixels outside every face differ, in levels of 0 to 255.

    Attributes:
        largest: the largest difference of a value.
        mean: the mean absolute difference.
    """

    largest: float
    mean: float


def left_as_it_was(photo: np.ndarray, result: np.ndarray, box: Box) -> bool:
    """Whether the face in a box was left: its structural similarity (`ssim`) is over `LEFT_SSIM`.

    Args:
        photo: (H, W, 3) uint8 RGB.
        result: of the same shape.
        box: x0, y0, x1, y1 in pixels.
    """
    x0, y0, x1, y1 = (round(v) for v in box)
    rows, columns = slice(max(0, y0), max(y1, y0 + 1)), slice(max(0, x0), max(x1, x0 + 1))
    faces = [
        cv2.resize(image[rows, columns], (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) for image in (photo, result)
    ]
    return ssim(*faces) > LEFT_SSIM


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two pictures, Gaussian window of 1.5 pixels (Wang et al., "Image Quality Assessment:
    From Error Visibility to Structural Similarity", 2004).

    Args:
        first: (H, W, 3) uint8 RGB, both sides over 10.
        second: likewise, of the same shape.

    Returns:
        -1 to 1; 1 for equal pictures.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            first, second, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def outside_faces(photo: np.ndarray, result: np.ndarray, boxes: Sequence[Box]) -> Outside:
    """How a result differs outside all boxes, each grown by `REACH`; nothing where the boxes cover all.

    Args:
        photo: (H, W, 3) uint8 RGB.
        result: of the same shape.
        boxes: x0, y0, x1, y1 in pixels.
    """
    outside = np.ones(photo.shape[:2], bool)
    for x0, y0, x1, y1 in boxes:
        dx, dy = REACH * (x1 - x0), REACH * (y1 - y0)
        outside[max(0, int(y0 - dy)) : int(y1 + dy) + 1, max(0, int(x0 - dx)) : int(x1 + dx) + 1] = False
    away = cv2.absdiff(photo, result)[outside]
    return Outside(float(away.max(initial=0)), float(away.mean()) if away.size else 0.0)


def rim_step(photo: np.ndarray, result: np.ndarray) -> float | None:
    """How much more the colours jump across the rim of what was changed than they did in the photo.

    At every pixel of the contour of the changed region, the colour 3 pixels further in is compared with that 3 pixels
    further out, both averaged over 3 pixels.

    Args:
        photo: (H, W, 3) uint8 RGB.
        result: of the same shape.

    Returns:
        Mean difference in CIE Lab units (a trained eye sees about 2); below 0 where a real edge was smoothed. None
        where nothing, or next to nothing, was changed.
    """
    changed = (cv2.absdiff(photo, result).max(axis=2) > _CHANGED).astype(np.uint8)
    changed = cv2.morphologyEx(changed, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    inside, outside = (
        cv2.distanceTransform(np.pad(one, 1), cv2.DIST_L2, 5)[1:-1, 1:-1] for one in (changed, 1 - changed)
    )
    distance = (inside - outside).astype(np.float32)
    smooth = cv2.GaussianBlur(distance, (0, 0), 1)
    normal = np.stack([cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)], axis=-1)
    length = np.linalg.norm(normal, axis=-1)
    rows, columns = np.nonzero((changed > 0) & (distance <= 1) & (length > 1e-3))
    height, width = changed.shape
    margin = int(_RIM) + 1  # a region that the picture's edge cuts has no rim there
    inner = (rows >= margin) & (rows < height - margin) & (columns >= margin) & (columns < width - margin)
    rows, columns = rows[inner], columns[inner]
    if len(rows) < 16:
        return None
    towards = normal[rows, columns] / length[rows, columns, None] * _RIM
    at = np.stack([columns, rows], axis=-1).astype(np.float32)
    steps = []
    for image in (photo, result):
        lab = cv2.cvtColor(cv2.blur(image, (3, 3)).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        sides = [_sample(lab, at + sign * towards) for sign in (1, -1)]
        steps.append(float(np.linalg.norm(sides[0] - sides[1], axis=-1).mean()))
    return steps[1] - steps[0]


def sharpness(face: np.ndarray) -> float:
    """Variance of the Laplacian of a face crop, (S, S, 3) uint8 RGB, in grey levels: 0 for a flat picture."""
    return float(cv2.Laplacian(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def _sample(image: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(N, 3) values of a (H, W, 3) float32 image at (N, 2) x, y, interpolated."""
    points = at.astype(np.float32)[None]
    return cv2.remap(image, points[..., 0], points[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
