"""A portrait, carried to a face in a photo: its features, in the light and the colours that were painted there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .landmarks import MESH_EYES, MESH_IRISES
from .mesh_warp import places_on

_LIGHT = 0.2  # standard deviation that parts light and colours from features, as a share of the crop's side
_SMALL = 64  # side of the picture, in pixels, that light is looked for in
_SOFT = 0.06  # depth in the face at which the portrait counts in full, as a share of the crop's side
_DARKEST = 0.02  # value under which light is none
_FEATURES = (0.2, 2.5)  # least and most that a feature darkens or lightens
_IRIS = 1.4  # radii of an iris over which its place makes way for the eye's corners


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
    """A face with a portrait's features, in its own pose, expression, gaze, light and colours.

    Args:
        portrait: of whom it shall be.
        picture: (S, S, 3) float32 RGB in 0..1, the face of anybody.
        mesh: (478, 2) pixels of it.

    Returns:
        (S, S, 3) float32 RGB in 0..1; outside the face as it was.
    """
    size = len(picture)
    places = places_on(portrait.mesh, mesh, size)
    inside = (places[..., 0] >= 0).astype(np.uint8)
    x, y = _follow_gaze(places, portrait.mesh, mesh).transpose(2, 0, 1)
    carried = cv2.remap(portrait.picture, x - 0.5, y - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    features = (carried / _light(carried, inside).clip(_DARKEST)).clip(*_FEATURES)
    weight = np.clip(cv2.distanceTransform(inside, cv2.DIST_L2, 3) / (_SOFT * size), 0, 1)[..., None]
    made = picture + weight * (_light(picture, inside) * features - picture)
    return np.clip(made, 0, 1).astype(np.float32)


def _light(picture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(S, S, 3), each pixel the mean of those around it that are inside."""
    weight = inside.astype(np.float32)[..., None]
    both = np.concatenate([picture * weight, weight], 2)
    small = cv2.resize(both, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)  # what is so smooth needs no more
    total = cv2.resize(cv2.GaussianBlur(small, (0, 0), _LIGHT * _SMALL), inside.shape[::-1])
    return total[..., :3] / (total[..., 3:] + 1e-3)


def _follow_gaze(places: np.ndarray, portrait: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Places on a portrait, (S, S, 2), the irises' moved to where a mesh has them; lids and corners stay.

    Args:
        places: as `places_on` gives them, for triangles that know no irises.
        portrait: (478, 2), the portrait's mesh.
        mesh: (478, 2) pixels of the picture.
    """
    made, size = places.copy(), len(places)
    for eye, iris in zip(MESH_EYES, MESH_IRISES, strict=True):
        opening = np.zeros((size, size), np.uint8)
        cv2.fillPoly(opening, [np.round(mesh[list(eye)]).astype(np.int32)], (1,))
        opening[places[..., 0] < 0] = 0
        middle = mesh[list(iris)].mean(0)
        column, row = np.round(middle - 0.5).astype(int).clip(0, size - 1)
        if not opening.any() or places[row, column, 0] < 0:
            continue
        radius = float(np.linalg.norm(mesh[list(iris)] - middle, axis=1).mean())
        rows, columns = np.nonzero(opening)
        far = np.hypot(columns + 0.5 - middle[0], rows + 0.5 - middle[1]) / max(_IRIS * radius, 1e-3)
        shift = portrait[list(iris)].mean(0) - places[row, column]
        made[rows, columns] += np.exp(-0.5 * far**2)[:, None] * shift
    return made
