"""The face that is meant in an original, the one in its place in the result, and what a recogniser says of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..faces.analysis import analyse_face
from ..faces.crop import invert, transform
from ..faces.detected_face import DetectedFace
from ..faces.landmarks import Landmarker, five_points
from ..identity.recognition import Recogniser

_NEAR = 0.4  # how far a result's face may lie from the original's, in widths of the original's box
_MESH_SIZE = 128  # side of the crop whose mesh is looked at, in pixels; the points are in photo pixels again


def stack(rows: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> tuple[np.ndarray, np.ndarray]:
    """N embeddings of originals and results as (N, D) and (N, D) float32; None becomes a row of NaN."""
    width = next((len(vector) for row in rows for vector in row if vector is not None), 1)
    nobody = np.full(width, np.nan, np.float32)
    table = np.array([[nobody if vector is None else vector for vector in row] for row in rows], np.float32)
    table = table.reshape(len(rows), 2, width)
    return table[:, 0], table[:, 1]


def largest(faces: Sequence[DetectedFace]) -> DetectedFace | None:
    """The face with the largest box, or None."""
    return max(faces, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]), default=None)


def nearest(faces: Sequence[DetectedFace], box: np.ndarray) -> DetectedFace | None:
    """The face whose centre is nearest to that of a box (4,), and within 0.4 of its widths; else None."""
    away = [float(np.linalg.norm(np.array(f.box)[:2] + np.array(f.box)[2:] - box[:2] - box[2:])) / 2 for f in faces]
    best = int(np.argmin(away)) if away else -1
    return faces[best] if away and away[best] < _NEAR * (box[2] - box[0]) else None


def face_points(photo: np.ndarray, face: DetectedFace, landmarker: Landmarker | None) -> np.ndarray | None:
    """(5, 2) photo pixels of a detected face, in `Recogniser`'s order: its mesh's, else the detector's, else None."""
    mesh = None if landmarker is None else face_mesh(photo, face, landmarker)
    return face.points if mesh is None else five_points(mesh)


def face_mesh(photo: np.ndarray, face: DetectedFace, landmarker: Landmarker) -> np.ndarray | None:
    """(478, 2) photo pixels: the mesh of a detected face, or None."""
    seen = analyse_face(photo, face, landmarker, _MESH_SIZE)
    return None if seen.mesh is None else transform(seen.mesh, invert(seen.matrix))


def embed(photo: np.ndarray, points: np.ndarray | None, recogniser: Recogniser) -> np.ndarray | None:
    """The recogniser's embedding, (D,), of the face at five points, or None where there are none."""
    return None if points is None else recogniser(photo, points)
