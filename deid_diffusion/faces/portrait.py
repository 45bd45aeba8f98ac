"""A portrait, carried to a face in a photo: its features, in the light and the colours that were painted there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .landmarks import MESH_BROWS, MESH_EYES, MESH_IRISES, MESH_MOUTH
from .mesh_warp import places_on

_LIGHT = 0.14  # standard deviation that parts light and colours from features, as a share of the crop's side
_SMALL = 64  # side of the picture, in pixels, that light is looked for in
_SOFT = 0.06  # depth in the face at which the portrait counts in full, as a share of the crop's side
_DARKEST = 0.02  # value under which light is none
_FEATURES = (0.2, 2.5)  # least and most that a feature darkens or lightens
_FOLD = 0.05  # side of the largest hole in a face that is a fold, as a share of the crop's side
_OPEN, _LIP = 0.02, 0.006  # gap between open lips, and softness of their edge, as shares of the crop's side
_LIPS = (13, 14)  # the middle of the upper lip's inner edge, and the lower's
_KNEE = 0.85  # value over which what is light grows less than in proportion
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
    places = _without_holes(places_on(portrait.mesh, mesh, size))
    inside = (places[..., 0] >= 0).astype(np.uint8)
    x, y = _follow_gaze(places, portrait.mesh, mesh).transpose(2, 0, 1)
    carried = cv2.remap(portrait.picture, x - 0.5, y - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    features = (carried / smooth_inside(carried, inside, _LIGHT).clip(_DARKEST)).clip(*_FEATURES)
    light = smooth_inside(picture, inside, _LIGHT)
    lit = _within_white(light * features)
    weight = _weight(portrait, places, mesh)[..., None]
    return np.clip(picture + weight * (lit - picture), 0, 1).astype(np.float32)


def _within_white(lit: np.ndarray) -> np.ndarray:
    """Colours, (S, S, 3), whose brightest channel bends towards 1 instead of being cut there. Hues stay."""
    brightest = lit.max(2, keepdims=True).clip(_DARKEST)
    over = (brightest - _KNEE).clip(0) / (1 - _KNEE)
    return lit * np.where(over > 0, (1 - (1 - _KNEE) * np.exp(-over)) / brightest, 1)


def smooth_inside(picture: np.ndarray, inside: np.ndarray, share: float) -> np.ndarray:
    """(S, S, C), each pixel the weighted mean of those around it that are inside.

    Args:
        picture: (S, S, C) float32.
        inside: (S, S) bool, or 0 and 1.
        share: standard deviation of the weights, as a share of S.
    """
    weight = inside.astype(np.float32)[..., None]
    both = np.concatenate([picture * weight, weight], 2)
    small = cv2.resize(both, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)  # what is so smooth needs no more
    total = cv2.resize(cv2.GaussianBlur(small, (0, 0), share * _SMALL), inside.shape[::-1])
    return total[..., :-1] / (total[..., -1:] + 1e-3)


def _without_holes(places: np.ndarray) -> np.ndarray:
    """Places on a portrait, those missing amid the face, where lids or lips fold, taken from beside them."""
    inside = (places[..., 0] >= 0).astype(np.uint8)
    reach = max(3, round(_FOLD * len(places)) | 1)
    holes = (cv2.morphologyEx(inside, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8)) > inside).nonzero()
    if not len(holes[0]):
        return places
    from scipy.ndimage import distance_transform_edt  # takes long to import

    rows, columns = distance_transform_edt(inside == 0, return_distances=False, return_indices=True)
    made = places.copy()
    made[holes] = places[rows[holes], columns[holes]]
    return made


def _weight(portrait: Portrait, places: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """(S, S) in 0..1, how far the portrait counts.

    Less towards its edges, and above its brows, where the faces it was made from wear fringes. Between open lips what
    was painted counts, since no mean of teeth and tongues is a mouth.
    """
    size = len(places)
    weight = cv2.distanceTransform((places[..., 0] >= 0).astype(np.uint8), cv2.DIST_L2, 3) / (_SOFT * size)
    high = (places[..., 1] / portrait.mesh[np.array(MESH_BROWS), 1].min()).clip(0, 1)
    weight = weight.clip(0, 1) * high**2 * (3 - 2 * high)
    if np.linalg.norm(mesh[_LIPS[0]] - mesh[_LIPS[1]]) < _OPEN * size:
        return weight
    mouth = np.zeros((size, size), np.float32)
    cv2.fillPoly(mouth, [np.round(mesh[list(MESH_MOUTH)]).astype(np.int32)], (1.0,))
    return weight * (1 - cv2.GaussianBlur(mouth, (0, 0), _LIP * size))


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
