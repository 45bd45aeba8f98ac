"""How well a generated face does what the map asked for; of several candidates, the best is kept."""

from __future__ import annotations

import cv2
import numpy as np

from .labels import LABEL
from .landmarks import Landmarker

_LOOK = 256  # side at which the mesh of a generated crop is sought, in pixels
_NO_FACE = 1.0  # misfit of a crop in which no face is found, in shares of the crop's side: worse than any mesh


def misfit(crop: np.ndarray, mesh: np.ndarray | None, semantic_map: np.ndarray, landmarker: Landmarker) -> float:
    """Distance between a generated face and what was asked for; 0 is perfect, 1 and more is no face.

    The mean distance of its mesh to the wanted one, in shares of the crop's side, which is pose, expression and shape;
    and how blotched its skin is, the mean absolute deviation of its blurred colour, in shares of the colour range.

    Args:
        crop: (S, S, 3) uint8 RGB.
        mesh: (478, 2) crop pixels, or None where the wanted face's mesh is only guessed: then any face will do.
        semantic_map: (S, S) uint8 labels, the map that was asked for.
        landmarker: finds the mesh of the generated face.
    """
    size = len(crop)
    found = landmarker(cv2.resize(crop, (_LOOK, _LOOK), interpolation=cv2.INTER_LINEAR))
    if found is None:
        off = _NO_FACE
    elif mesh is None:
        off = 0.0
    else:
        off = float(np.linalg.norm(found * (size / _LOOK) - mesh, axis=1).mean()) / size
    return off + blotches(crop, semantic_map)


def blotches(crop: np.ndarray, semantic_map: np.ndarray) -> float:
    """Mean absolute deviation of the skin's hue from its median, 0..1; light and shadow do not count.

    Args:
        crop: (S, S, 3) uint8 RGB.
        semantic_map: (S, S) uint8 labels.
    """
    skin = semantic_map == LABEL["skin"]
    if not skin.any():
        return 0.0
    lab = cv2.cvtColor(cv2.GaussianBlur(crop, (0, 0), 2).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[skin][:, 1:]
    return float(np.abs(lab - np.median(lab, axis=0)).sum(1).mean()) / 100
