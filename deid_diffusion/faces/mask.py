"""Where a face is replaced: the paste's alpha, from the mesh, in the crop and in the photo."""

from __future__ import annotations

import cv2
import numpy as np

from .crop import invert, transform

#: The mask grows past the face's oval by this share of the crop's side; the feather lies in that ring, so that no
#: pixel of the face itself is ever blended with its replacement.
DILATION = 0.055
FEATHER = 0.045


def face_outline(mesh: np.ndarray) -> np.ndarray:
    """(N, 2) convex outline, forehead to chin and cheek to cheek, of a (478, 2) mesh."""
    return cv2.convexHull(mesh.astype(np.float32))[:, 0]


def paste_alpha(
    outline: np.ndarray, matrix: np.ndarray, photo_shape: tuple[int, int], crop_size: int, dilation: float = DILATION
) -> np.ndarray:
    """How much of each photo pixel the replacement takes: 1 on the face, falling to 0 in a ring around it.

    Args:
        outline: (N, 2) closed outline of the face, crop pixels.
        matrix: (2, 3) crop matrix, photo to crop.
        photo_shape: (height, width).
        crop_size: side of the crop, in pixels.
        dilation: reach past the outline, as a share of the crop's side.

    Returns:
        (height, width) float32, 0..1; exactly 0 outside the ring and exactly 1 on the face.
    """
    height, width = photo_shape
    in_photo = transform(outline, invert(matrix))
    side = crop_size / float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    feather = max(1.0, FEATHER * side)
    reach = max(feather + 1.5, dilation * side)  # a small face needs a pixel and a half for the grid
    pad = int(np.ceil(reach)) + 2
    x0, y0 = (int(v) for v in np.floor(in_photo.min(0)) - pad)
    x1, y1 = (int(v) for v in np.ceil(in_photo.max(0)) + pad)
    # On a window that may reach past the photo, so that a face cut by the border is not feathered along it.
    window = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(window, [np.round((in_photo - (x0, y0)) * 16).astype(np.int32)], 1, shift=4)
    distance = cv2.distanceTransform(1 - window, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring = np.clip((reach - distance) / feather, 0, 1).astype(np.float32)
    ring = ring * ring * (3 - 2 * ring)
    alpha = np.zeros((height, width), np.float32)
    left, top, right, bottom = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    if left < right and top < bottom:
        alpha[top:bottom, left:right] = ring[top - y0 : bottom - y0, left - x0 : right - x0]
    return alpha


def box_outline(box: tuple[float, float, float, float], matrix: np.ndarray) -> np.ndarray:
    """(48, 2) ellipse, crop pixels, that covers a detector's box in photo pixels and a little more above the brows."""
    x0, y0, x1, y1 = box
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    # An ellipse through the box's corners would be sqrt(2) wider; 1.12 covers all of a face but not its corners.
    x = (x0 + x1) / 2 + 1.12 * (x1 - x0) / 2 * np.cos(turn)
    y = (y0 + y1) / 2 - 0.06 * (y1 - y0) + 1.18 * (y1 - y0) / 2 * np.sin(turn)
    return transform(np.stack([x, y], 1).astype(np.float32), matrix)


def union_outline(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Convex outline around two outlines."""
    return cv2.convexHull(np.concatenate([first, second]).astype(np.float32))[:, 0]
