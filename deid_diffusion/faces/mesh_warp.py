"""From one mesh to another: where on another face each pixel of a face lies."""

from __future__ import annotations

import numpy as np

POINTS = 468
"""Points of a mesh without the irises, which move."""


def places_on(other: np.ndarray, mesh: np.ndarray, size: int, step: int = 1) -> np.ndarray:
    """Where on another face a crop's pixels lie, triangle by triangle (piecewise affine; Cootes et al., ECCV 1998).

    Args:
        other: (468 or 478, 2), the other face's points, in any units from 0 up.
        mesh: (478, 2) crop pixels, the same points of the crop's face.
        size: S, side of the crop.
        step: pixels to a place, each way.

    Returns:
        (S / step, S / step, 2) float32 in the other face's units; -1 outside the face.
    """
    from scipy.interpolate import LinearNDInterpolator  # takes half a second to import

    middles = np.arange(step / 2, size, step)
    found = LinearNDInterpolator(mesh[:POINTS], other[:POINTS], fill_value=-1)(*np.meshgrid(middles, middles))
    return found.astype(np.float32)
