"""The aligned face crop and its exact inverse: one similarity transform a face, applied in both directions."""

from __future__ import annotations

import cv2
import numpy as np

from .landmarks import MESH_EYES, MESH_OVAL

CROP_MARGIN = 1.5
"""Side of the crop in units of the face's larger extent (forehead to chin, or cheek to cheek)."""

_BOX_MARGIN = 1.75  # a detector's box reaches from the brows to the chin only


def similarity(centre: tuple[float, float], side: float, angle: float, size: int) -> np.ndarray:
    """The (2, 3) float32 matrix that maps a turned square of the photo to the pixels of a size x size crop.

    Args:
        centre: of the square, x and y in photo pixels.
        side: of the square, in photo pixels, over 0.
        angle: of the eye line against the horizontal, in radians; the crop makes it level.
        size: of the crop, in pixels.
    """
    scale = size / side
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x, y = centre
    half = (size - 1) / 2
    return np.array([[cos, sin, half - cos * x - sin * y], [-sin, cos, half + sin * x - cos * y]], np.float32)


def frame_from_mesh(mesh: np.ndarray, size: int) -> np.ndarray:
    """Crop matrix of a face whose mesh is known: level eyes, the face's larger extent filling 1 / CROP_MARGIN.

    Args:
        mesh: (478, 2) photo pixels.
        size: of the crop, in pixels.
    """
    right, left = (mesh[list(eye)].mean(0) for eye in MESH_EYES)
    angle = float(np.arctan2(*(left - right)[::-1]))
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    turned = mesh[list(MESH_OVAL)] @ axes.T
    low, high = turned.min(0), turned.max(0)
    x, y = (low + high) / 2 @ axes
    return similarity((float(x), float(y)), CROP_MARGIN * max(1.0, float((high - low).max())), angle, size)


def frame_from_box(box: tuple[float, float, float, float], points: np.ndarray | None, size: int) -> np.ndarray:
    """Crop matrix of a face without a mesh, from its box and, for the roll, its five points if there are any.

    Args:
        box: x0, y0, x1, y1 in photo pixels.
        points: (5, 2) photo pixels (right eye, left eye, nose tip, right and left mouth corner) or None.
        size: of the crop, in pixels.
    """
    x0, y0, x1, y1 = box
    angle = 0.0
    if points is not None:
        eyes = points[1] - points[0]
        if np.linalg.norm(eyes) > 0.15 * (
            x1 - x0
        ):  # in a profile the two eyes lie together and say nothing of the roll
            angle = float(np.arctan2(eyes[1], eyes[0]))
    side = max(1.0, x1 - x0, y1 - y0)
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    up = np.array([np.sin(angle), -np.cos(angle)])
    x, y = centre + 0.08 * side * up  # the box stops at the brows: look a little higher
    return similarity((float(x), float(y)), _BOX_MARGIN * side, angle, size)


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample an image by an affine matrix without aliasing when it shrinks; the border is repeated outwards.

    Args:
        image: (H, W, C) or (H, W), uint8 or float32.
        matrix: (2, 3), source pixels to target pixels.
        size: (width, height) of the target.

    Returns:
        Array of the target's height and width, same channels and dtype.
    """
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    matrix = matrix.astype(np.float64)
    if scale < 0.8:
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
    """The size x size face crop of a photo.

    Args:
        image: (H, W, 3) uint8 photo.
        matrix: (2, 3) crop matrix.
        size: of the crop, in pixels.
    """
    # Only the crop's surroundings are resampled, so that a large photo with many faces stays cheap.
    corners = transform(np.array([(0, 0), (size, 0), (0, size), (size, size)], np.float32), invert(matrix))
    height, width = image.shape[:2]
    x0, y0 = (int(v) for v in np.clip(np.floor(corners.min(0)) - 4, 0, (width - 1, height - 1)))
    x1, y1 = (int(v) for v in np.clip(np.ceil(corners.max(0)) + 4, (x0 + 1, y0 + 1), (width, height)))
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([x0, y0], np.float32)
    return warp(image[y0:y1, x0:x1], shifted, (size, size))


def extract_mirrored(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Extract a crop as `extract` does, of a photo that goes on past its edge as its mirror image."""
    square = np.array([(0, 0), (size, 0), (0, size), (size, size)], np.float32)
    corners = transform(square, invert(matrix))
    low, high = np.floor(corners.min(0)).astype(int) - 4, np.ceil(corners.max(0)).astype(int) + 4
    height, width = image.shape[:2]
    columns, rows = (_mirrored(np.arange(low[k], high[k]), side) for k, side in enumerate((width, height)))
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ low.astype(np.float32)
    return warp(image[np.ix_(rows, columns)], shifted, (size, size))


def _mirrored(places: np.ndarray, side: int) -> np.ndarray:
    """Map places along a side that goes on as its mirror image to places 0 to side - 1."""
    return np.where((folded := places % (2 * side)) < side, folded, 2 * side - 1 - folded)


def resized(matrix: np.ndarray, factor: float) -> np.ndarray:
    """The (2, 3) matrix of a crop with so many times as many pixels a side."""
    moved = factor * matrix
    moved[:, 2] += (factor - 1) / 2  # pixel centres
    return moved.astype(np.float32)


def invert(matrix: np.ndarray) -> np.ndarray:
    """The (2, 3) inverse of a (2, 3) affine matrix."""
    return cv2.invertAffineTransform(matrix.astype(np.float64)).astype(np.float32)


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 2) points mapped by a (2, 3) matrix, as (N, 2) float32."""
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
