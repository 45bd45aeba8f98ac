"""Aligned face crops: one similarity transform per face, applied in both directions."""

from __future__ import annotations

import cv2
import numpy as np

from .landmarks import MESH_EYES, MESH_OVAL

#: Side of the crop over the face's larger extent, forehead to chin or cheek to cheek.
CROP_MARGIN = 1.5

_BOX_MARGIN = 1.75  # the same for a detector's box, which reaches from the brows to the chin only
_BOX_SHIFT = 0.08  # of the crop's centre towards the forehead, in sides of the box
_MIN_EYE_DISTANCE = 0.15  # in box widths; in profiles the eyes coincide and say nothing about the roll
_MIN_SCALE = 0.8  # target pixels per source pixel; below, the source is averaged first
_PADDING = 4  # photo pixels around a crop that resampling may read


def similarity(centre: tuple[float, float], side: float, angle: float, size: int) -> np.ndarray:
    """Return the (2, 3) float32 matrix that maps a rotated square of the photo to a crop.

    Args:
        centre: x and y of the square's centre, in photo pixels.
        side: side of the square, in photo pixels, over 0.
        angle: of the eye line against the horizontal, in radians; level in the crop.
        size: side of the crop, in pixels.
    """
    scale = size / side
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x, y = centre
    half = (size - 1) / 2
    return np.array([[cos, sin, half - cos * x - sin * y], [-sin, cos, half + sin * x - cos * y]], np.float32)


def frame_from_mesh(mesh: np.ndarray, size: int) -> np.ndarray:
    """Return the crop matrix of a mesh: level eyes, the face's larger extent filling 1 / CROP_MARGIN.

    Args:
        mesh: (478, 2) photo pixels.
        size: side of the crop, in pixels.
    """
    right, left = (mesh[list(eye)].mean(0) for eye in MESH_EYES)
    angle = float(np.arctan2(*(left - right)[::-1]))
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    oval = mesh[list(MESH_OVAL)] @ axes.T
    low, high = oval.min(0), oval.max(0)
    x, y = (low + high) / 2 @ axes
    return similarity((float(x), float(y)), CROP_MARGIN * max(1.0, float((high - low).max())), angle, size)


def frame_from_box(box: tuple[float, float, float, float], points: np.ndarray | None, size: int) -> np.ndarray:
    """Return the crop matrix of a face without a mesh, from its box and, for the roll, its five points.

    Args:
        box: x0, y0, x1, y1 in photo pixels.
        points: (5, 2) photo pixels (right eye, left eye, nose tip, right and left mouth corner) or None.
        size: side of the crop, in pixels.
    """
    x0, y0, x1, y1 = box
    angle = 0.0
    if points is not None:
        eyes = points[1] - points[0]
        if np.linalg.norm(eyes) > _MIN_EYE_DISTANCE * (x1 - x0):
            angle = float(np.arctan2(eyes[1], eyes[0]))
    side = max(1.0, x1 - x0, y1 - y0)
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    up = np.array([np.sin(angle), -np.cos(angle)])
    x, y = centre + _BOX_SHIFT * side * up
    return similarity((float(x), float(y)), _BOX_MARGIN * side, angle, size)


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample an image by an affine matrix, antialiased when shrinking, with replicated borders.

    Args:
        image: (H, W, C) or (H, W), uint8 or float32.
        matrix: (2, 3), source pixels to target pixels.
        size: (width, height) of the target.

    Returns:
        Array of the target's size, with the channels and dtype of `image`.
    """
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    matrix = matrix.astype(np.float64)
    if scale < _MIN_SCALE:
        height, width = image.shape[:2]
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        kx, ky = small[0] / width, small[1] / height
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        # pixel centres: x_small = (x + 0.5) * k - 0.5
        shrink = np.array([[1 / kx, 0, 0.5 / kx - 0.5], [0, 1 / ky, 0.5 / ky - 0.5], [0, 0, 1]])
        matrix = matrix @ shrink
    flags = cv2.INTER_CUBIC if image.dtype == np.uint8 else cv2.INTER_LINEAR
    return cv2.warpAffine(image, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def extract(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Return the (size, size, 3) face crop of a photo.

    Args:
        image: (H, W, 3) uint8 photo.
        matrix: (2, 3) crop matrix.
        size: side of the crop, in pixels.
    """
    # resampling only the crop's surroundings keeps large photos with many faces cheap
    corners = _crop_corners(matrix, size)
    height, width = image.shape[:2]
    x0, y0 = (int(v) for v in np.clip(np.floor(corners.min(0)) - _PADDING, 0, (width - 1, height - 1)))
    x1, y1 = (int(v) for v in np.clip(np.ceil(corners.max(0)) + _PADDING, (x0 + 1, y0 + 1), (width, height)))
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([x0, y0], np.float32)
    return warp(image[y0:y1, x0:x1], shifted, (size, size))


def extract_mirrored(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Return the crop as `extract` does, of the photo continued past its edges by its mirror image."""
    corners = _crop_corners(matrix, size)
    low, high = np.floor(corners.min(0)).astype(int) - _PADDING, np.ceil(corners.max(0)).astype(int) + _PADDING
    height, width = image.shape[:2]
    columns, rows = (_reflect(np.arange(low[k], high[k]), side) for k, side in enumerate((width, height)))
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ low.astype(np.float32)
    return warp(image[np.ix_(rows, columns)], shifted, (size, size))


def _crop_corners(matrix: np.ndarray, size: int) -> np.ndarray:
    """Return the (4, 2) corners of a crop, in photo pixels."""
    return transform(np.array([(0, 0), (size, 0), (0, size), (size, size)], np.float32), invert(matrix))


def _reflect(indices: np.ndarray, side: int) -> np.ndarray:
    """Map indices past the ends of a side to those of its mirror image, 0 to side - 1."""
    return np.where((folded := indices % (2 * side)) < side, folded, 2 * side - 1 - folded)


def resized(matrix: np.ndarray, factor: float) -> np.ndarray:
    """Return the (2, 3) matrix of a crop whose side is scaled by a factor."""
    scaled = factor * matrix
    scaled[:, 2] += (factor - 1) / 2  # pixel centres
    return scaled.astype(np.float32)


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the (2, 3) float32 inverse of a (2, 3) affine matrix."""
    return cv2.invertAffineTransform(matrix.astype(np.float64)).astype(np.float32)


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Map (N, 2) points by a (2, 3) matrix to (N, 2) float32."""
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
