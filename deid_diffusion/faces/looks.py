"""Looks: who of all the people with the same attributes is painted, as a texture in the semantic map's colours."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from .mesh_warp import POINTS, places_on
from .semantic_map import mean_mesh

LOOK_DIM = 32
"""Numbers of a look, each a draw of the standard normal distribution."""

_STRENGTH = 80.0  # levels that a texture of value 1 adds to the map's colours


@cache
def look_basis() -> dict[str, np.ndarray]:
    """What `training/fit_looks.py` found in training faces.

    Returns:
        textures: (LOOK_DIM, T, T) float32, what each number adds to a face's grey texture on the mean mesh, in units of
            that texture's own contrast; 0 outside the face.
        directions: (LOOK_DIM, P) float32, and middle: (P,), by which a texture's P texels inside the face are read.
    """
    with np.load(Path(__file__).with_name("looks.npz")) as file:
        return {name: file[name].astype(np.float32) for name in file.files}


def texture_corners() -> tuple[np.ndarray, np.ndarray]:
    """Upper left and lower right corner of the square of textures, in crop sides of the mean mesh."""
    mean = mean_mesh(1)[:POINTS]
    return mean.min(0), mean.max(0)


def paint_look(control: np.ndarray, mesh: np.ndarray, look: np.ndarray) -> np.ndarray:
    """A control image whose face is lighter and darker where the look's is.

    Args:
        control: (S, S, 3) uint8, a coloured semantic map.
        mesh: (478, 2) crop pixels that it was drawn from.
        look: (LOOK_DIM,) numbers.

    Returns:
        (S, S, 3) uint8.
    """
    texture = np.tensordot(look.astype(np.float32), look_basis()["textures"], 1)
    low, high = texture_corners()
    texels = (mean_mesh(1)[:POINTS] - low) / (high - low) * (np.array(texture.shape[::-1]) - 1)
    size = len(control)
    x, y = places_on(texels, mesh, size, step=2).transpose(2, 0, 1)  # textures are no finer
    light = cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    light = cv2.resize(light, (size, size))
    return np.clip(control + _STRENGTH * light[..., None] + 0.5, 0, 255).astype(np.uint8)
