"""A new face is kept from flickering: each frame's shape and colour take over part of those of the frame before."""

from __future__ import annotations

import numpy as np

_SHAPE = 0.35  # share of the shape so far: a mesh trembles by a pixel, and a mouth must not come late
_COLOUR = 0.6  # share of the colour so far
_MOST = 6.0  # of 255: what differs by more is a change of light, and passes


def steady_shape(mesh: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """A mesh drawn towards that of the frame before.

    Args:
        mesh: (478, 2) in pixels of the crop, in which the face is upright and of one size in all frames.
        before: the same of the frame before, as this returned it; None at the beginning.
    """
    return mesh if before is None else ((1 - _SHAPE) * mesh + _SHAPE * before).astype(mesh.dtype)


def steady_colour(crop: np.ndarray, mask: np.ndarray, before: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """A face's crop with its mean colour drawn towards that of the frames before.

    Args:
        crop: (S, S, 3) uint8 RGB, generated.
        mask: (S, S) bool, True where it is.
        before: (3,) mean colour so far, or None at the beginning.

    Returns:
        The crop, every value shifted by 6 at most, and the (3,) mean colour to hand on.
    """
    if not mask.any():
        return crop, np.full(3, 128.0) if before is None else before
    mean = crop[mask].mean(0)
    if before is None:
        return crop, mean
    shift = np.clip(_COLOUR * (before - mean), -_MOST, _MOST)
    return np.clip(crop + shift + 0.5, 0, 255).astype(np.uint8), mean + shift
