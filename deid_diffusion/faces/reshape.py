"""Another person's proportions for a mesh: where eyes, brows, nose and mouth sit and how large they are, drawn anew.

A semantic map shows the distances between a face's features, and by those people are told apart. What a picture was
collected for stays: pose, gaze, how far eyes and mouth are open, and the outline, which has to meet the photo.
"""

from __future__ import annotations

import numpy as np

from .landmarks import MESH_BROWS, MESH_EYES, MESH_IRISES, MESH_LIPS, MESH_MOUTH, MESH_NOSE
from .resting_face import frame

#: Standard deviations of the changes: shifts as shares of the distance between the eyes' outer corners, growth as the
#: logarithm of a factor.
_EYES_APART, _EYES_DOWN, _EYES_GROW = 0.04, 0.033, 0.13
_BROWS_DOWN, _BROWS_GROW = 0.045, 0.15
_NOSE_DOWN, _NOSE_WIDE, _NOSE_LONG = 0.027, 0.18, 0.08
_MOUTH_DOWN, _MOUTH_WIDE, _LIPS_FULL = 0.033, 0.11, 0.2
_MOST = 1.5  # standard deviations


def reshape_mesh(mesh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mesh with other proportions.

    Args:
        mesh: (478, 2) float32, in any pixels.
        rng: draws the proportions; the same state gives a person the same ones in every pose.

    Returns:
        (478, 2) float32, the same but for eyes, irises, brows, nose and lips.
    """
    draw = np.clip(rng.standard_normal(12), -_MOST, _MOST)
    right, left = mesh[33], mesh[263]  # the eyes' outer corners
    axes = frame(left - right)
    local = mesh @ axes.T
    unit = np.array([np.ptp(local[[33, 263], 0]), np.median(np.ptp(local, axis=0)) / 1.6])  # a turned face is narrower
    made = local.copy()

    def move(points: tuple[int, ...], shift: tuple[float, float], grow: tuple[float, float], about: np.ndarray) -> None:
        rows = list(points)
        made[rows] = (local[rows] - about) * np.exp(grow) + about + np.array(shift) * unit

    for side, (eye, iris, brow) in enumerate(zip(MESH_EYES, MESH_IRISES, MESH_BROWS, strict=True)):
        outwards = (-1.0, 1.0)[side] * draw[0] * _EYES_APART
        grown = draw[2] * _EYES_GROW
        move((*eye, *iris), (outwards, draw[1] * _EYES_DOWN), (grown, grown), local[list(eye)].mean(0))
        down = draw[1] * _EYES_DOWN + draw[3] * _BROWS_DOWN
        move(brow, (outwards, down), (draw[4] * _BROWS_GROW, draw[5] * _BROWS_GROW), local[list(brow)].mean(0))
    root = np.array([local[list(MESH_NOSE), 0].mean(), local[168, 1]])  # beside it a turned nose would turn further
    move(MESH_NOSE, (0.0, draw[6] * _NOSE_DOWN), (draw[7] * _NOSE_WIDE, draw[8] * _NOSE_LONG), root)
    middle = local[list(MESH_LIPS)].mean(0)
    shift = (0.0, draw[9] * _MOUTH_DOWN)
    wide, full = draw[10] * _MOUTH_WIDE, draw[11] * _LIPS_FULL
    move(MESH_MOUTH, shift, (wide, 0.0), middle)
    rows = [point for point in MESH_LIPS if point not in MESH_MOUTH]
    move(tuple(rows), shift, (wide, full), middle)
    return (made @ axes).astype(np.float32)
