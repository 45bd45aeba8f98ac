"""What the detectors found in a stretch of frames: a few numbers a face, small enough to be kept for a whole clip."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..faces.detected_face import DetectedFace
from ..files import write_atomic

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class Found:
    """M faces in some frames, in the order of the frames.

    Attributes:
        frames: (M,) int64, number of the frame in the clip.
        boxes: (M, 4) float32, x0, y0, x1, y1 in pixels of the upright frame.
        scores: (M,) float32.
        points: (M, 5, 2) float32, as `DetectedFace.points`; NaN where they are unknown.
        names: (M,) str, the detectors.
    """

    frames: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray
    names: np.ndarray

    @classmethod
    def of(cls, frames: Sequence[int], faces: Sequence[DetectedFace]) -> Self:
        """Faces and the numbers of their frames, ascending."""
        unknown = np.full((5, 2), np.nan)
        points = [unknown if face.points is None else face.points for face in faces]
        return cls(
            np.array(frames, np.int64),
            np.array([face.box for face in faces], np.float32).reshape(-1, 4),
            np.array([face.score for face in faces], np.float32),
            np.array(points, np.float32).reshape(-1, 5, 2),
            np.array([face.detector for face in faces], np.str_),
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The faces of successive stretches, of which there is at least one."""
        return cls(*(np.concatenate(columns) for columns in zip(*(part.columns() for part in parts), strict=True)))

    def columns(self) -> tuple[np.ndarray, ...]:
        """The arrays, in the order of the attributes."""
        return self.frames, self.boxes, self.scores, self.points, self.names

    def face(self, row: int) -> DetectedFace:
        """One of the faces."""
        points = self.points[row]
        return DetectedFace(
            tuple(self.boxes[row].tolist()),
            float(self.scores[row]),
            str(self.names[row]),
            None if np.isnan(points).any() else points,
        )


@dataclass(frozen=True, eq=False)
class Stretch:
    """Everything that the first pass learns of a stretch of N frames.

    Attributes:
        found: the faces.
        times: (N,) float64, when each frame is shown, in units of the clip's time base; NaN if the file does not say.
        unsearched: (K,) int64, numbers of the frames in which the search itself failed.
    """

    found: Found
    times: np.ndarray
    unsearched: np.ndarray

    def save(self, path: Path) -> None:
        """Write it atomically. Raises ImageError if the disk refuses."""
        buffer = io.BytesIO()
        np.savez(buffer, *self.found.columns(), self.times, self.unsearched)
        write_atomic(path, buffer.getvalue(), overwrite=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            columns = [file[f"arr_{k}"] for k in range(7)]
        return cls(Found(*columns[:5]), *columns[5:])
