"""Expression and pose as plain numbers, measured on the face mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FaceMeasures:
    """Ratios of lengths on one mesh, free of scale and roll.

    Attributes:
        smile: how far the mouth's corners stand above its middle, in mouth widths; about 0 at rest, 0.15 in a smile.
        mouth_open: gap between the lips, in mouth widths; 0 when closed.
        eyes_open: height of the eyes' opening over their width; about 0.1 when closed, 0.3 at rest.
        yaw: -1 (subject looks to the picture's left) to 1 (right); 0 is frontal.
        pitch: nose tip between the eyes (0) and the mouth (1); about 0.6 when level, less when looking up.
    """

    smile: float
    mouth_open: float
    eyes_open: float
    yaw: float
    pitch: float


def measure(mesh: np.ndarray) -> FaceMeasures:
    """Measure a (478, 2) mesh, in any pixels."""
    eyes = mesh[263] - mesh[33]
    across = eyes / max(float(np.linalg.norm(eyes)), 1e-6)
    down = np.array([-across[1], across[0]])
    x, y = mesh @ across, mesh @ down
    width = max(float(x[291] - x[61]), 1e-6)
    openings = [
        (y[145] - y[159]) / max(float(x[133] - x[33]), 1e-6),
        (y[374] - y[386]) / max(float(x[263] - x[362]), 1e-6),
    ]
    eye_line, mouth_line = (y[33] + y[263]) / 2, (y[13] + y[14]) / 2
    return FaceMeasures(
        smile=float(((y[13] + y[14]) / 2 - (y[61] + y[291]) / 2) / width),
        mouth_open=max(0.0, float((y[14] - y[13]) / width)),
        eyes_open=float(max(openings)),  # in a profile the far eye is hidden
        yaw=float(np.clip(2 * (x[1] - x[234]) / max(float(x[454] - x[234]), 1e-6) - 1, -1, 1)),
        pitch=float((y[1] - eye_line) / max(float(mouth_line - eye_line), 1e-6)),
    )
