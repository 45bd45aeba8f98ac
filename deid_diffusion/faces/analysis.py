"""Analyse a detected face: crop, mesh, semantic map and paste mask."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .alignment import extract, extract_mirrored, frame_from_box, frame_from_mesh, invert, transform
from .boxes import Detection, overlaps
from .landmarks import FaceMesh, Landmarker, five_points
from .masks import DILATION, EDGE_MARGIN, PasteMask, box_outline, face_outline, limit_mask, paste_mask
from .semantic_map import draw_semantic_map, mean_mesh

_SIDE = 320  # of the crop in which the mesh is fitted, in pixels
_MIN_IOU = 0.35  # of the boxes of mesh and face, from which they are of one face
_ZOOMS = (1.0, 1.5, 0.75)  # of the crops in which a low-score mesh is sought
_MAX_DISTANCE = 0.17  # mean distance of a low-score mesh's five points from the detector's, in sides of the box
_MIN_LOW_SCORE_IOU, _IOU_WEIGHT = 0.25, 0.1  # of a low-score mesh's box; and its weight beside the distance
_MIN_MEAN_FACE_IOU = 0.4  # of box and mean face, from which the five points tell where the face ends
_GUESS_DILATION, _BOX_DILATION = 2 * DILATION, 1.4 * DILATION  # masks of guessed outlines reach further


@dataclass(frozen=True)
class FaceAnalysis:
    """Geometry of a face in a photo.

    Attributes:
        detection: box, score and five points.
        matrix: (2, 3) float32, photo pixels to crop pixels.
        mesh: (478, 2) float32 crop pixels; None if no mesh was fitted.
        map_mesh: (478, 2) float32 crop pixels that the map is drawn from: the mesh or, without one, the mean face's.
        semantic_map: (S, S) uint8 labels in the crop.
        mask: where in the photo the face is replaced.
    """

    detection: Detection
    matrix: np.ndarray
    mesh: np.ndarray | None
    map_mesh: np.ndarray
    semantic_map: np.ndarray
    mask: PasteMask

    @property
    def magnification(self) -> float:
        """Crop pixels per photo pixel, along a line."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))


def analyse_face(photo: np.ndarray, face: Detection, landmarker: Landmarker, size: int) -> FaceAnalysis:
    """Fit mesh, crop, map and mask to a detected face; without a mesh they come from its box and five points.

    Args:
        photo: (H, W, 3) uint8 RGB.
        face: a detection in that photo.
        landmarker: finds the mesh in a crop around the detection.
        size: side of the face crop, in pixels.
    """
    shape = (photo.shape[0], photo.shape[1])
    mesh, sure = _mesh_in_photo(photo, face, landmarker)
    if mesh is None:
        matrix = frame_from_box(face.box, face.points, size)
        points = None if face.points is None else transform(face.points, matrix)
        in_photo = transform(mean_mesh(size, points), invert(matrix))
        fits = face.points is not None and _overlap(in_photo, face.box, photo) > _MIN_MEAN_FACE_IOU
        matrix = frame_from_mesh(in_photo, size)  # as tight as for a face with a mesh
        guess = transform(in_photo, matrix)
        outlines = face_outline(guess, size)
        outlines.append(_hull(face, matrix) if fits else box_outline(face.box, matrix))
        mask = paste_mask(outlines, matrix, shape, size, _GUESS_DILATION if fits else _BOX_DILATION)
        mask = limit_mask(mask, face.box, matrix, size)
        return FaceAnalysis(face, matrix, None, guess, draw_semantic_map(guess, size), mask)
    matrix = frame_from_mesh(mesh, size)
    mesh = transform(mesh, matrix)
    outlines = face_outline(mesh, size)
    if face.points is not None:  # a mesh that misses what the detector saw must not leave it bare
        outlines.append(_hull(face, matrix))
    mask = paste_mask(outlines, matrix, shape, size, DILATION if sure else _BOX_DILATION)
    mask = mask if sure else limit_mask(mask, face.box, matrix, size)
    return FaceAnalysis(face, matrix, mesh, mesh, draw_semantic_map(mesh, size), mask)


def _hull(face: Detection, matrix: np.ndarray) -> np.ndarray:
    """(N, 2) crop pixels, the outline of the detector's five points."""
    assert face.points is not None
    return cv2.convexHull(transform(face.points, matrix))[:, 0]


def _mesh_in_photo(photo: np.ndarray, face: Detection, landmarker: Landmarker) -> tuple[np.ndarray | None, bool]:
    """Find a face's mesh, (478, 2) photo pixels, or None, and say whether its score is high."""
    frame = frame_from_box(face.box, face.points, _SIDE)
    mesh = landmarker(extract(photo, frame, _SIDE))
    if mesh is not None and _overlap(mesh := transform(mesh, invert(frame)), face.box, photo) > _MIN_IOU:
        return mesh, True
    mesh = _low_score_mesh(photo, face, landmarker) if isinstance(landmarker, FaceMesh) else None
    return _mirrored_mesh(photo, face, landmarker) if mesh is None else mesh, False


def _mirrored_mesh(photo: np.ndarray, face: Detection, landmarker: Landmarker) -> np.ndarray | None:
    """Find the mesh of a face that the photo's edge cuts off, on the photo and its mirror image, if any."""
    if not _is_cut(face.box, photo) or face.points is None:
        return None
    frame = frame_from_box(face.box, face.points, _SIDE)
    mesh = landmarker(extract_mirrored(photo, frame, _SIDE))
    if mesh is None:
        return None
    points = five_points(mesh := transform(mesh, invert(frame)))
    shown = ((points >= 0) & (points < (photo.shape[1], photo.shape[0]))).all(1)
    distance = np.linalg.norm(points - face.points, axis=1)[shown]
    side = float(np.sqrt((face.box[2] - face.box[0]) * (face.box[3] - face.box[1])))
    near = shown.any() and float(distance.mean()) < _MAX_DISTANCE * side
    return mesh if near and _overlap(mesh, face.box, photo) > _MIN_IOU else None


def _is_cut(box: tuple[float, float, float, float], photo: np.ndarray) -> bool:
    """Return whether the photo's edge cuts a face off."""
    height, width = photo.shape[:2]
    x0, y0, x1, y1 = box
    return x0 <= EDGE_MARGIN or y0 <= EDGE_MARGIN or x1 >= width - EDGE_MARGIN or y1 >= height - EDGE_MARGIN


def _low_score_mesh(photo: np.ndarray, face: Detection, landmarker: FaceMesh) -> np.ndarray | None:
    """Find the mesh with a low score, as of a profile, that agrees best with the detector's points and box, if any."""
    if face.points is None:
        return None
    side = float(np.sqrt((face.box[2] - face.box[0]) * (face.box[3] - face.box[1])))
    best, least = None, np.inf
    for zoom in _ZOOMS:
        frame = frame_from_box(face.box, face.points, round(zoom * _SIDE))
        frame[:, 2] += (_SIDE - round(zoom * _SIDE)) / 2
        for mesh in landmarker.low_score_meshes(extract(photo, frame, _SIDE)):
            mesh = transform(mesh, invert(frame))
            distance = float(np.linalg.norm(five_points(mesh) - face.points, axis=1).mean()) / side
            overlap = _overlap(mesh, face.box, photo)
            if distance < _MAX_DISTANCE and overlap > _MIN_LOW_SCORE_IOU and distance - _IOU_WEIGHT * overlap < least:
                best, least = mesh, distance - _IOU_WEIGHT * overlap
    return best


def _overlap(mesh: np.ndarray, box: tuple[float, float, float, float], photo: np.ndarray) -> float:
    """Return the overlap over the union of a mesh's box, (478, 2) photo pixels, clipped to the photo, and another."""
    corners = np.concatenate([mesh.min(0), mesh.max(0)]).clip(0, (photo.shape[1], photo.shape[0]) * 2)
    return float(overlaps(corners, np.array([box]))[0][0])
