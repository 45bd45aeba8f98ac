"""The semantic map of a face, drawn from its mesh, and the control image that the ControlNet sees."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np

from .crop import transform
from .labels import LABEL, PALETTE
from .landmarks import MESH_BROWS, MESH_EYES, MESH_IRISES, MESH_LIPS, MESH_MOUTH, MESH_NOSE, five_points

_SHIFT = 4  # cv2 draws with 1 / 16 pixel precision


def _fill(canvas: np.ndarray, outline: np.ndarray, label: int) -> None:
    cv2.fillPoly(canvas, [np.round(outline * (1 << _SHIFT)).astype(np.int32)], (label,), shift=_SHIFT)


def draw_semantic_map(mesh: np.ndarray, size: int) -> np.ndarray:
    """Label every pixel of a face crop by the part of the face that the mesh puts there.

    Args:
        mesh: (478, 2) crop pixels.
        size: of the crop, in pixels.

    Returns:
        (size, size) uint8 labels, see ``labels.LABELS``; 0 outside the face.
    """
    labels = np.zeros((size, size), np.uint8)
    # The hull of all points, not the oval alone: in a profile the oval folds over itself.
    _fill(labels, cv2.convexHull(mesh)[:, 0], LABEL["skin"])
    _fill(labels, cv2.convexHull(mesh[list(MESH_NOSE)])[:, 0], LABEL["nose"])
    for brow, name in zip(MESH_BROWS, ("r_brow", "l_brow"), strict=True):
        _fill(labels, mesh[list(brow)], LABEL[name])
    for eye, iris, name in zip(MESH_EYES, MESH_IRISES, ("r_eye", "l_eye"), strict=True):
        opening = np.zeros_like(labels)
        _fill(opening, mesh[list(eye)], 1)
        disc = np.zeros_like(labels)
        _fill(disc, _circle(mesh[list(iris)]), 1)
        labels[opening > 0] = LABEL[name]
        labels[(opening & disc) > 0] = LABEL["iris"]
    middle = len(MESH_LIPS) // 2
    outer, inner = mesh[list(MESH_LIPS)], mesh[list(MESH_MOUTH)]
    _fill(labels, np.concatenate([outer[: middle + 1], inner[: middle + 1][::-1]]), LABEL["u_lip"])
    _fill(labels, np.concatenate([outer[middle:], outer[:1], inner[:1], inner[middle:][::-1]]), LABEL["l_lip"])
    _fill(labels, inner, LABEL["mouth"])
    return labels


def _circle(points: np.ndarray) -> np.ndarray:
    """(4, 2) rim points of an iris -> (24, 2) outline."""
    centre = points.mean(0)
    radius = np.linalg.norm(points - centre, axis=1).mean()
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return centre + radius * np.stack([np.cos(turn), np.sin(turn)], 1)


def control_image(labels: np.ndarray) -> np.ndarray:
    """The coloured map: (H, W) uint8 labels -> (H, W, 3) uint8 RGB of ``labels.PALETTE``."""
    return PALETTE[labels]


def map_in_photo(labels: np.ndarray, matrix: np.ndarray, photo_shape: tuple[int, int]) -> np.ndarray:
    """A crop's map in the photo's pixels: (S, S) uint8 labels and a (2, 3) crop matrix -> (height, width) uint8.

    Labels are 0 outside the crop.
    """
    # the matrix maps photo to crop, so it is the inverse of the warp that is wanted
    nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(labels, matrix, photo_shape[::-1], flags=nearest)


@cache
def mean_faces() -> np.ndarray:
    """(13, 478, 2) in crop sides, from left profile to right.

    The middle seven are the median training faces in ranges of yaw. Beyond them there are none with a mesh: there it is
    the median frontal face, with the depth that the landmarker gives it, turned by 55, 70 and 85 degrees.
    """
    return np.load(Path(__file__).with_name("mean_faces.npy")).astype(np.float32)


def mean_mesh(size: int, points: np.ndarray | None = None) -> np.ndarray:
    """A mesh for a face that has none (profile, tiny, covered): the mean face of the training crops.

    Args:
        size: of the crop, in pixels.
        points: (5, 2) crop pixels that a mean face, of the yaw that suits them best, is fitted to by a similarity; or
            None for a frontal one in the crop's middle.

    Returns:
        (478, 2) float32 crop pixels.
    """
    meshes = mean_faces() * size
    best, error = meshes[len(meshes) // 2], np.inf
    if points is None:
        return best
    for mesh in meshes:
        matrix, _ = cv2.estimateAffinePartial2D(five_points(mesh), points.astype(np.float32), method=cv2.LMEDS)
        if matrix is None or not 0.6 < np.sqrt(abs(np.linalg.det(matrix[:, :2]))) < 1.6:
            continue
        fitted = transform(mesh, matrix)
        off = float(np.linalg.norm(five_points(fitted) - points, axis=1).mean())
        if off < error:
            best, error = fitted, off
    return best
