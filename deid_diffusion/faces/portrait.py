"""The portrait of a pseudonym, carried to a person's face in a photo."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .mesh_warp import places_on

_LIGHT = 0.2  # standard deviation that parts light and colours from features, as a share of the crop's side
_SOFT = 0.06  # depth in the face at which the portrait counts in full, as a share of the crop's side


@dataclass(frozen=True, eq=False)
class Portrait:
    """A face seen from the front.

    Attributes:
        picture: (S, S, 3) float32 RGB in 0..1.
        mesh: (478, 2) pixels of it.
    """

    picture: np.ndarray
    mesh: np.ndarray


def carry_portrait(portrait: Portrait, picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """A face with a portrait's features, in its own pose, expression, light and colours.

    Args:
        portrait: of whom it shall be.
        picture: (S, S, 3) float32 RGB in 0..1, the face of anybody.
        mesh: (478, 2) pixels of it.

    Returns:
        (S, S, 3) float32 RGB in 0..1; outside the face as it was.
    """
    size = len(picture)
    x, y = places_on(portrait.mesh, mesh, size).transpose(2, 0, 1)
    inside = (x >= 0).astype(np.uint8)
    carried = cv2.remap(portrait.picture, x - 0.5, y - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    features = carried - _light(carried, inside)
    weight = np.clip(cv2.distanceTransform(inside, cv2.DIST_L2, 3) / (_SOFT * size), 0, 1)[..., None]
    made = picture + weight * (_light(picture, inside) + features - picture)
    return np.clip(made, 0, 1).astype(np.float32)


def _light(picture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(S, S, 3), each pixel the mean of those around it that are inside."""
    sigma, weight = _LIGHT * len(picture), inside.astype(np.float32)[..., None]
    total = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None] + 1e-3
    return cv2.GaussianBlur(picture * weight, (0, 0), sigma) / total
