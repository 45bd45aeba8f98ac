"""Random masks for training: every shape that a face, a guess or a box leaves when it is erased."""

from __future__ import annotations

import cv2
import numpy as np

from ..faces.mask import face_outline

_BOXES, _ELLIPSES, _EVERYTHING = 0.07, 0.08, 0.04  # shares of the shapes that are not the face's own outline


def random_mask(mesh: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size) bool mask around a face, its reach and roundness drawn anew.

    Mostly the face's outline, sometimes an ellipse or a box around it. Now and then all of the crop is masked: a model
    that has to invent a whole head learns what heads are, and can make people who never lived for documentation.

    Args:
        mesh: (478, 2) float32 crop pixels.
        size: side of the crop, in pixels.
        rng: draws the shape.
    """
    kind = rng.random()
    if kind < _EVERYTHING:
        return np.ones((size, size), bool)
    outline = max(face_outline(mesh, size), key=len)
    x, y, width, height = cv2.boundingRect(outline)
    if kind < _EVERYTHING + _BOXES:
        outline = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], np.float32)
    elif kind < _EVERYTHING + _BOXES + _ELLIPSES:
        turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        rim = np.stack([width * np.cos(turn), height * np.sin(turn)], 1)
        outline = (1.15 / 2 * rim + np.array([x + width / 2, y + height / 2])).astype(np.float32)
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], (1,))
    reach = int(rng.uniform(0.03, 0.13) * size)
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)) > 0
