"""What a face detector is called with and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class DetectedFace:
    """One face found in a photo.

    Args:
        box: x0, y0, x1, y1 in photo pixels, edges included up to but not counting x1 and y1, clipped to the photo.
        score: the detector's confidence, 0 to 1; the best of them where several detectors agree.
        detector: the detector's name; names are joined by "+" where several detectors agree.
        points: (5, 2) float32, x and y in photo pixels: the subject's right eye (left in an upright picture), left eye,
            nose tip, right mouth corner, left mouth corner. They may lie outside the photo. None if unknown.
    """

    box: tuple[float, float, float, float]
    score: float
    detector: str
    points: np.ndarray | None = None


class FaceDetector(Protocol):
    """Anything that finds faces in a photo."""

    def __call__(self, image: np.ndarray) -> list[DetectedFace]:
        """Faces in `image`, (H, W, 3) uint8 RGB, in any order; an empty list when there is none."""
        ...


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless `image` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image: expected a numpy array (H, W, 3) of uint8, RGB, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"image: expected an array (H, W, 3) of uint8, RGB, got {image.shape} of {image.dtype}")
