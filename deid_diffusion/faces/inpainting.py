"""Erased regions filled with the colours around them."""

from __future__ import annotations

import cv2
import numpy as np

_SOFT = 0.35  # standard deviation of the blur, as a share of the distance to what is known
_COARSE = 2.0  # standard deviation, in pixels of the smaller copy, that wide blurs have there
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
        smooth = blur(filled, sigma)
        share = ((wanted - before) / (sigma - before)).clip(0, 1)[..., None]
        soft, before = soft + share * (smooth - soft), sigma
    return np.where(hole[..., None], soft, picture).astype(np.float32)


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a (H, W, C) float32 picture by a Gaussian; a wide one on a smaller copy, which is far faster.

    Args:
        picture: to be blurred.
        sigma: standard deviation, in pixels.
    """
    shrink = int(sigma / _COARSE)
    height, width = picture.shape[:2]
    if shrink < 2 or min(height, width) < 4 * shrink:
        return cv2.GaussianBlur(picture, (0, 0), sigma)
    small = cv2.resize(picture, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
