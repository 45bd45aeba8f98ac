"""Another person's shape in a face's pose and expression."""

from __future__ import annotations

from functools import cache

import numpy as np

from .chosen_mesh import moved
from .landmarks import MESH_BROWS, MESH_EYES, MESH_IRISES, MESH_OVAL
from .measures import measure
from .resting_face import EYE_CORNERS, MOUTH, MOUTH_CORNERS, frame, is_seen, shape_mouth
from .semantic_map import mean_mesh

_DOWN = 0.65  # of that, along the face: how high features sit tells the pitch of the head, too
_REACH = 0.12  # distance to the outline, in crop sides, from which a point goes all the way
_SMILE, _WIDEST = 1.4, 0.25  # how far smiles are overdone, as others' cheeks fold less, and the most of it
_SMILING, _OPEN = 0.12, 0.25  # `measures.FaceMeasures` from which the mouth stays as wide as it is
_AROUND_MOUTH = 0.09  # standard deviation, in crop sides, over which what is around it stays, too
_TURNED, _PROFILE = 0.5, 0.9  # `measures.FaceMeasures.yaw` over which less and less of the way is gone
_KEPT_IN_PROFILES = 0.6  # share of it: depth is measured badly, and noses become beaks
_SHUT, _NARROW = 0.13, 0.19  # `measures.FaceMeasures.eyes_open` of closed eyes, and of narrow ones that stay open
_IRIS_ACROSS, _IRIS_DOWN = 0.28, 0.12  # least distance of an iris to the corners, and most to their line, in eye widths
_MOST = 0.2  # length of the way, in crop sides


def reshape_mesh(
    mesh: np.ndarray, shape: np.ndarray, size: int, *, share: float = 1.0, own_eyes: bool = False
) -> np.ndarray:
    """Give a face another person's proportions; outline, pose, gaze and expression stay.

    Args:
        mesh: (478, 2) crop pixels.
        shape: (478, 3) frontal shape with depth, any units.
        size: of the crop, in pixels.
        share: of the way to the shape that points well inside the face go, less in profiles. The outline stays: it has
            to meet the photo, and recognisers hardly see it.
        own_eyes: whether lids and brows keep the shape's own form, as those behind glasses: frames must not bend.

    Returns:
        (478, 2) float32 crop pixels.
    """
    other = with_expression(mesh, project_shape(shape, mesh), eyes=not own_eyes)
    inner = _inner()[:, None]
    share *= 1 - _KEPT_IN_PROFILES * float(np.clip((abs(measure(mesh).yaw) - _TURNED) / (_PROFILE - _TURNED), 0, 1))
    step = share * inner * (other - mesh) * (1 - _stretched(mesh) * _around_mouth()[:, None])
    down = frame(mesh[EYE_CORNERS[1][1]] - mesh[EYE_CORNERS[0][0]])[1]
    step -= (1 - _DOWN) * (step @ down)[:, None] * down
    length = np.linalg.norm(step, axis=1, keepdims=True)
    step *= np.minimum(1, _MOST * inner * size / length.clip(1e-6))
    reshaped = (mesh + step).astype(np.float32)
    keep_irises_inside(reshaped)
    close_lids(reshaped)
    return reshaped


def close_lids(mesh: np.ndarray) -> None:
    """Bring the upper lids of eyes that are nearly closed down to the lower ones, in place.

    Landmarkers leave a gap between closed lids, through which another person's eyes would look.

    Args:
        mesh: (478, 2), in any pixels.
    """
    share = float(np.clip((measure(mesh).eyes_open - _SHUT) / (_NARROW - _SHUT), 0, 1))
    if share == 1:
        return
    for eye in MESH_EYES:
        half = len(eye) // 2
        upper, lower = list(eye[1:half]), list(eye[:half:-1])
        mesh[upper] = mesh[lower] + share * (mesh[upper] - mesh[lower])


def keep_irises_inside(mesh: np.ndarray) -> None:
    """Move irises that lie in or past a corner of the eye back into its opening, in place; such eyes would be white.

    In profiles the landmarker does not know where they are.

    Args:
        mesh: (478, 2), in any pixels.
    """
    for corners, iris in zip(EYE_CORNERS, MESH_IRISES, strict=True):
        rows, start, across = list(iris), mesh[corners[0]], mesh[corners[1]] - mesh[corners[0]]
        width = max(float(np.linalg.norm(across)), 1e-6)
        place = (mesh[rows].mean(0) - start) @ frame(across).T / width
        inside = place.clip((_IRIS_ACROSS, -_IRIS_DOWN), (1 - _IRIS_ACROSS, _IRIS_DOWN))
        mesh[rows] += (inside - place) * width @ frame(across)


def project_shape(shape: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Project a shape with depth into a mesh's pose by the scaled orthographic camera that fits best.

    Args:
        shape: (478, 3).
        mesh: (478, 2) pixels.

    Returns:
        (478, 2) pixels.
    """
    rows = _rigid_points()
    known, seen = shape[rows] - shape[rows].mean(0), mesh[rows] - mesh[rows].mean(0)
    affine, *_ = np.linalg.lstsq(known, seen, rcond=None)
    u, sizes, vt = np.linalg.svd(affine.T, full_matrices=False)  # the nearest rotation times a scale
    camera = sizes.mean() * u @ vt
    return (shape - shape[rows].mean(0)) @ camera.T + mesh[rows].mean(0)


def with_expression(mesh: np.ndarray, target: np.ndarray, *, eyes: bool = True) -> np.ndarray:
    """Put a mesh's mouth, gaze and, with ``eyes``, lids and brows between the corners of another's mouth and eyes.

    Smiles are widened.
    """
    posed = target.copy()
    groups = [(list(MOUTH), MOUTH_CORNERS)]
    for corners, *points in zip(EYE_CORNERS, MESH_EYES, MESH_IRISES, strict=True):
        groups += [(list(rows), corners) for rows in points[0 if eyes else 1 :]]
    for rows, corners in groups:
        posed[rows] = moved(mesh, rows, corners, target, target)
    for corners, brow in zip(EYE_CORNERS, MESH_BROWS if eyes else ((), ()), strict=True):
        rows = list(brow)  # half the other person's: raised brows are expression, their place is not
        posed[rows] = (moved(mesh, rows, corners, target, target) + target[rows]) / 2
    smile = measure(mesh).smile
    if smile > 0 and is_seen(mesh, MOUTH_CORNERS) and is_seen(posed, MOUTH_CORNERS):
        shape_mouth(posed, min(_SMILE * smile, max(smile, _WIDEST)), None)
    return posed


def _stretched(mesh: np.ndarray) -> float:
    """Return how far, 0 to 1, a mouth is drawn wide or open: between a resting mouth's corners it would be round."""
    shown = measure(mesh)
    return float(np.clip(max(shown.smile / _SMILING, shown.mouth_open / _OPEN), 0, 1))


@cache
def _around_mouth() -> np.ndarray:
    """Return (478,) weights: 1 on the mouth, falling to 0 with the distance to it."""
    mean = mean_mesh(1)
    distance = np.linalg.norm(mean[:, None] - mean[None, list(MOUTH)], axis=2).min(1)
    return np.exp(-0.5 * (distance / _AROUND_MOUTH) ** 2)


@cache
def _rigid_points() -> np.ndarray:
    """Points that expressions move little: neither lips, eyes, irises nor chin."""
    moving = {*MOUTH, *(p for group in (*MESH_EYES, *MESH_IRISES, *MESH_BROWS) for p in group)}
    mean = mean_mesh(1)
    return np.array([k for k in range(468) if k not in moving and mean[k, 1] < mean[17, 1]])


@cache
def _inner() -> np.ndarray:
    """(478,) 0 on the outline to 1 well inside it."""
    mean = mean_mesh(1)
    distance = np.linalg.norm(mean[:, None] - mean[None, list(MESH_OVAL)], axis=2).min(1)
    inner = (distance / _REACH).clip(0, 1)
    return inner * inner * (3 - 2 * inner)
