"""Everything that is known of one detected face before it is replaced: crop, mesh, map and mask."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .crop import extract, frame_from_box, frame_from_mesh, invert, transform
from .detected_face import DetectedFace
from .landmarks import Landmarker
from .mask import DILATION, PasteMask, box_outline, face_outline, paste_mask
from .semantic_map import draw_semantic_map, mean_mesh

_LOOK = 320  # side of the crop in which the mesh is sought, in pixels
_NO_MESH_DILATION = 1.4 * DILATION  # the mask of a face whose outline is guessed reaches further


@dataclass(frozen=True)
class FaceAnalysis:
    """One face of one photo.

    Attributes:
        face: what the detector said.
        matrix: (2, 3) float32, photo pixels to crop pixels.
        mesh: (478, 2) float32 crop pixels, or None when the landmarker found none.
        drawn: (478, 2) float32 crop pixels that the map is drawn from: the mesh or, without one, the mean face's.
        semantic_map: (S, S) uint8 labels in the crop.
        mask: where in the photo the face is replaced.
    """

    face: DetectedFace
    matrix: np.ndarray
    mesh: np.ndarray | None
    drawn: np.ndarray
    semantic_map: np.ndarray
    mask: PasteMask

    @property
    def magnification(self) -> float:
        """Crop pixels to one of the photo's, along a line."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))


def analyse_face(photo: np.ndarray, face: DetectedFace, landmarker: Landmarker, size: int) -> FaceAnalysis:
    """Fit mesh, crop, map and mask to a detected face; without a mesh they come from its box and five points.

    Args:
        photo: (H, W, 3) uint8 RGB.
        face: a detection in that photo.
        landmarker: finds the mesh in a crop around the detection.
        size: side of the face crop, in pixels.
    """
    shape = (photo.shape[0], photo.shape[1])
    mesh = _mesh_in_photo(photo, face, landmarker)
    if mesh is None:
        matrix = frame_from_box(face.box, face.points, size)
        points = None if face.points is None else transform(face.points, matrix)
        in_photo = transform(mean_mesh(size, points), invert(matrix))
        matrix = frame_from_mesh(in_photo, size)  # as tight as for a face with a mesh
        guess = transform(in_photo, matrix)
        outlines = [*face_outline(guess, size), box_outline(face.box, matrix)]
        mask = paste_mask(outlines, matrix, shape, size, _NO_MESH_DILATION)
        return FaceAnalysis(face, matrix, None, guess, draw_semantic_map(guess, size), mask)
    matrix = frame_from_mesh(mesh, size)
    mesh = transform(mesh, matrix)
    outlines = face_outline(mesh, size)
    if face.points is not None:  # a mesh that misses what the detector saw must not leave it bare
        outlines.append(cv2.convexHull(transform(face.points, matrix))[:, 0])
    mask = paste_mask(outlines, matrix, shape, size)
    return FaceAnalysis(face, matrix, mesh, mesh, draw_semantic_map(mesh, size), mask)


def _mesh_in_photo(photo: np.ndarray, face: DetectedFace, landmarker: Landmarker) -> np.ndarray | None:
    """(478, 2) photo pixels; None when there is no mesh, or the mesh belongs to another face nearby."""
    look = frame_from_box(face.box, face.points, _LOOK)
    mesh = landmarker(extract(photo, look, _LOOK))
    if mesh is None:
        return None
    mesh = transform(mesh, invert(look))
    low, high = mesh.min(0), mesh.max(0)
    x0, y0, x1, y1 = face.box
    inside = np.maximum(0, np.minimum(high, (x1, y1)) - np.maximum(low, (x0, y0))).prod()
    both = (high - low).prod() + (x1 - x0) * (y1 - y0) - inside
    return mesh if inside > 0.35 * both else None
