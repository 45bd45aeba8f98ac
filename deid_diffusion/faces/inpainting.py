"""Erased regions filled with the colours around them."""

from __future__ import annotations

import cv2
import numpy as np

_SOFT = 0.35  # standard deviation of the blur, as a share of the distance to what is known
_LEVELS = (1, 2, 4, 8, 16)  # standard deviations, in pixels, that are computed


def fill_from_surroundings(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill a hole from its rim; nothing inside it is read.

    Each pixel takes the colour of the nearest known one, the softer the farther away it is.

    Args:
        picture: (H, W, C) float32.
        hole: (H, W) bool.

    Returns:
        (H, W, C) float32, outside the hole as it was; the middle of the range where nothing is known at all.
    """
    if hole.all():
        return np.full_like(picture, 0.5 if picture.max(initial=0) <= 1 else 128)
    if not hole.any():
        return picture.astype(np.float32)
    distance, nearest = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(nearest.max()) + 1, picture.shape[2]), np.float32)
    colours[nearest[~hole]] = picture[~hole]
    filled = colours[nearest]
    soft, before = filled, 0.0
    for sigma in _LEVELS:
        wanted = _SOFT * distance
        if float(wanted.max()) <= before:
            break
        smooth = cv2.GaussianBlur(filled, (0, 0), sigma)
        share = ((wanted - before) / (sigma - before)).clip(0, 1)[..., None]
        soft, before = soft + share * (smooth - soft), sigma
    return np.where(hole[..., None], soft, picture).astype(np.float32)
