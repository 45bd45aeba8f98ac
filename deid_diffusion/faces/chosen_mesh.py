"""The mesh that a semantic map is drawn from, with only what is to be kept of a face's pose, gaze and expression.

Shapes move between meshes by the corners of their eyes and mouths, so that a smile or a glance can be kept on another
face, and a resting mouth can be put on this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .landmarks import MESH_BROWS, MESH_EYES, MESH_IRISES
from .measures import measure
from .resting_face import (
    EYE_CORNERS,
    MOUTH,
    MOUTH_CORNERS,
    boxed_face,
    few_numbers,
    fitted_face,
    frame,
    is_seen,
    raise_brows,
    shape_lids,
    shape_mouth,
    tallness,
    turn_eyes,
)

_CLOSED = 0.16  # `measures.FaceMeasures.eyes_open` under which eyes are closed
_MOST_STRETCHED = 2.0
#: Word -> height of the mouth's corners and gap between the lips, both in mouth widths; None leaves it as it is.
_MOUTHS: Mapping[str, tuple[float | None, float | None]] = {
    "smiling": (0.15, None),
    "serious": (0.0, 0.0),
    "neutral": (0.06, 0.0),
    "mouth open": (None, 0.35),
    "teeth showing": (0.1, 0.2),
    "mouth closed": (None, 0.0),
}
_LIDS: Mapping[str, float] = {"eyes closed": 0.2, "eyes open": 1.0}  # word -> height of the opening, 1 at rest


def chosen_mesh(
    mesh: np.ndarray,
    keep: Sequence[str],
    change: Mapping[str, str],
    privacy: float = 0.0,
) -> np.ndarray:
    """A mesh that shows of a face what is kept, and of the rest what the mean face shows.

    Args:
        mesh: (478, 2) float32 crop pixels of an aligned crop: the eyes are level.
        keep: of "pose", "gaze" and "expression" those that stay; other names do not matter. Without the pose, it is a
            frontal face in the same place; without the gaze, the irises rest in the middle; without the expression,
            mouth, brows and eyelids are at rest (with the gaze, closed eyes stay closed).
        change: "expression" or "gaze" -> one of its words in `vocabulary.VOCABULARY`; other names do not matter.
        privacy: how far it goes towards the mean face of the same yaw, width and height, 0 (not) to 1 (all the way).
            What is kept of gaze and expression is put on that in a few numbers (`resting_face.FewNumbers`).

    Returns:
        (478, 2) float32 crop pixels.
    """
    pose, gaze, expression = (name in keep for name in ("pose", "gaze", "expression"))
    made = mesh
    if not (pose and gaze and expression):
        made = _composed(mesh, pose, gaze, expression)
    if privacy:
        made = (1 - privacy) * made + privacy * _told(mesh, pose, gaze, expression)
    if not change.keys() & {"expression", "gaze"}:
        return made if made is mesh else made.astype(np.float32)
    made = made.astype(np.float32)
    if word := change.get("expression"):
        shape_mouth(made, *_MOUTHS[word])
    if word := change.get("gaze"):
        shape_lids(made, _LIDS[word])
    return made


def _composed(mesh: np.ndarray, pose: bool, gaze: bool, expression: bool) -> np.ndarray:
    """(478, 2) the mesh's own shapes of what is kept, on the mesh or, without the pose, on the frontal mean face."""
    rest = fitted_face(mesh) if pose else boxed_face(mesh, frontal=True)
    target = mesh if pose else rest
    made, mouth = target.copy(), list(MOUTH)
    made[mouth] = moved(mesh, mouth, MOUTH_CORNERS, target, rest) if expression else rest[mouth]
    closed = gaze and measure(mesh).eyes_open < _CLOSED
    for corners, eye, brow, iris in zip(EYE_CORNERS, MESH_EYES, MESH_BROWS, MESH_IRISES, strict=True):
        for rows, stays in ((list(eye), expression or closed), (list(brow), expression), (list(iris), gaze)):
            made[rows] = moved(mesh if stays else rest, rows, corners, target, rest)
    return made


def _told(mesh: np.ndarray, pose: bool, gaze: bool, expression: bool) -> np.ndarray:
    """(478, 2) the mean face with what is kept of the mesh, as a few numbers tell it."""
    told, made = few_numbers(mesh, fitted_face(mesh)), boxed_face(mesh, frontal=not pose)
    if expression:
        shape_mouth(made, told.smile, told.gap)
        raise_brows(made, told.brows)
    if expression or (gaze and measure(mesh).eyes_open < _CLOSED):
        shape_lids(made, told.lids)
    if gaze:
        turn_eyes(made, told.glance)
    return made


def moved(
    source: np.ndarray, rows: list[int], corners: tuple[int, int], target: np.ndarray, rest: np.ndarray
) -> np.ndarray:
    """(K, 2) some points of one mesh, where they are on another between the same two corners.

    In a profile one eye is hidden, and its corners say nothing: there it is the resting face's, as it is.
    """
    if source is target:
        return target[rows]
    if not (is_seen(source, corners) and is_seen(target, corners)):
        return rest[rows]
    here, there = (mesh[corners[1]] - mesh[corners[0]] for mesh in (source, target))
    stretched = np.array([np.linalg.norm(there) / np.linalg.norm(here), tallness(target) / tallness(source)])
    scale = stretched.clip(1 / _MOST_STRETCHED, _MOST_STRETCHED)
    middles = [(mesh[corners[0]] + mesh[corners[1]]) / 2 for mesh in (source, target)]
    return (source[rows] - middles[0]) @ frame(here).T * scale @ frame(there) + middles[1]
