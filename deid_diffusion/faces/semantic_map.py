"""Semantic maps of faces, drawn from their meshes, and the control images of ControlNets."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from .alignment import transform
from .landmarks import MESH_BROWS, MESH_EYES, MESH_IRISES, MESH_LIPS, MESH_MOUTH, MESH_NOSE, MESH_OVAL, five_points

LABELS: tuple[str, ...] = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth", "iris",
)  # fmt: skip
LABEL: dict[str, int] = {name: index for index, name in enumerate(LABELS)}

#: (20, 3) uint8 RGB, one colour per label, far enough apart to decode a resized map.
PALETTE: np.ndarray = np.array(
    [
        (0, 0, 0), (204, 102, 76), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255),
        (255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204),
        (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0), (255, 255, 255),
    ],
    dtype=np.uint8,
)  # fmt: skip

#: Regions of the face -> their labels; the CLIP patch features of a region become an attribute token.
REGIONS: dict[str, tuple[str, ...]] = {
    "skin": ("skin",),
    "brows": ("l_brow", "r_brow"),
    "eyes": ("l_eye", "r_eye", "iris"),
    "nose": ("nose",),
    "mouth": ("mouth", "u_lip", "l_lip"),
}


_MIN_FIT_SCALE, _MAX_FIT_SCALE = 0.6, 1.6  # of a mean face fitted to five points
_SUBPIXEL_BITS = 4  # cv2 draws at a precision of 1 / 16 pixel


def _fill(canvas: np.ndarray, outline: np.ndarray, label: int) -> None:
    cv2.fillPoly(canvas, [np.round(outline * (1 << _SUBPIXEL_BITS)).astype(np.int32)], (label,), shift=_SUBPIXEL_BITS)


def draw_semantic_map(mesh: np.ndarray, size: int) -> np.ndarray:
    """Draw the semantic map of a face crop from its mesh.

    Args:
        mesh: (478, 2) crop pixels.
        size: side of the crop, in pixels.

    Returns:
        (size, size) uint8 labels, indices of `LABELS`; 0 outside the face.
    """
    labels = np.zeros((size, size), np.uint8)
    # the hull of all points, as the oval folds over itself in a profile
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
    half = len(MESH_LIPS) // 2
    outer, inner = mesh[list(MESH_LIPS)], mesh[list(MESH_MOUTH)]
    _fill(labels, np.concatenate([outer[: half + 1], inner[: half + 1][::-1]]), LABEL["u_lip"])
    _fill(labels, np.concatenate([outer[half:], outer[:1], inner[:1], inner[half:][::-1]]), LABEL["l_lip"])
    _fill(labels, inner, LABEL["mouth"])
    return labels


def _circle(points: np.ndarray) -> np.ndarray:
    """Return the (24, 2) outline of an iris from its (4, 2) points."""
    centre = points.mean(0)
    radius = np.linalg.norm(points - centre, axis=1).mean()
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1)


def control_image(labels: np.ndarray) -> np.ndarray:
    """Colour a map: (H, W) uint8 labels -> (H, W, 3) uint8 RGB of `PALETTE`."""
    return PALETTE[labels]


def map_in_photo(labels: np.ndarray, matrix: np.ndarray, photo_shape: tuple[int, int]) -> np.ndarray:
    """Resample a crop's map in the photo.

    Args:
        labels: (S, S) uint8.
        matrix: (2, 3) crop matrix, photo to crop.
        photo_shape: (height, width).

    Returns:
        (height, width) uint8 labels, 0 outside the crop.
    """
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(labels, matrix, photo_shape[::-1], flags=flags)


@cache
def mean_faces() -> np.ndarray:
    """Return (13, 478, 2) mean faces in crop sides, from left profile to right.

    The central seven are the median training faces in ranges of yaw. Outside these ranges no training face has a mesh,
    and the median frontal face is rotated by 55, 70 and 85 degrees with the landmarker's depth.
    """
    return np.load(Path(__file__).with_name("mean_faces.npy")).astype(np.float32)


def mean_mesh(size: int, points: np.ndarray | None = None) -> np.ndarray:
    """Return the mean face as the mesh of a face without one (profile, tiny or covered).

    Args:
        size: side of the crop, in pixels.
        points: (5, 2) crop pixels to fit the mean face of the best yaw to, by a similarity; None for the frontal one at
            the crop's centre.

    Returns:
        (478, 2) float32 crop pixels.
    """
    meshes = mean_faces() * size
    best, least_error = meshes[len(meshes) // 2], np.inf
    if points is None:
        return best
    for mesh in meshes:
        matrix, _ = cv2.estimateAffinePartial2D(five_points(mesh), points.astype(np.float32), method=cv2.LMEDS)
        if matrix is None or not _MIN_FIT_SCALE < np.sqrt(abs(np.linalg.det(matrix[:, :2]))) < _MAX_FIT_SCALE:
            continue
        fitted = transform(mesh, matrix)
        error = float(np.linalg.norm(five_points(fitted) - points, axis=1).mean())
        if error < least_error:
            best, least_error = fitted, error
    return best


#: Kinds of control images: the coloured map, and the line drawing of CrucibleAI's ControlNetMediaPipeFace.
CONTROLS: tuple[str, ...] = ("semantic_map", "mediapipe_face")

_LINE_WIDTH = 2  # pixels
_OVAL_COLOUR, _MOUTH_COLOUR = (10, 200, 10), (10, 180, 10)
# the subject's right and left
_BROW_COLOURS = ((180, 220, 10), (10, 220, 180))
_EYE_COLOURS = ((180, 200, 10), (10, 200, 180))
_PUPIL_COLOURS = ((250, 200, 10), (10, 200, 250))
_PUPILS = (468, 473)
_PUPIL_RADIUS = 2  # half the side of a pupil's square, in pixels


def draw_control(mesh: np.ndarray, size: int, kind: str = "semantic_map") -> np.ndarray:
    """Draw the control image of a face crop.

    Args:
        mesh: (478, 2) crop pixels.
        size: side of the crop, in pixels.
        kind: an entry of `CONTROLS`.

    Returns:
        (size, size, 3) uint8 RGB.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "semantic_map":
        return control_image(draw_semantic_map(mesh, size))
    if kind == "mediapipe_face":
        return draw_mediapipe_face(mesh, size)
    raise ValueError(f"kind: expected one of {', '.join(CONTROLS)}, got {kind!r}")


def draw_mediapipe_face(mesh: np.ndarray, size: int) -> np.ndarray:
    """Draw a face as `controlnet_aux.MediapipeFaceDetector` does, on whose images CrucibleAI's ControlNet was trained.

    Oval, brows, eyes and lips are lines of two pixels and pupils are squares, on black. As in the original, points
    outside the picture are omitted with their lines.

    Args:
        mesh: (478, 2) crop pixels.
        size: side of the crop, in pixels; the ControlNet was trained at 512.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    picture = np.zeros((size, size, 3), np.uint8)
    _draw_lines(picture, mesh, _closed(MESH_OVAL), _OVAL_COLOUR)
    for side in (1, 0):  # the left first: where lines cross, the last is visible
        _draw_lines(picture, mesh, _closed(MESH_EYES[side]), _EYE_COLOURS[side])
        upper, lower = MESH_BROWS[side][:5], MESH_BROWS[side][5:]
        _draw_lines(picture, mesh, [*_open(upper), *_open(lower)], _BROW_COLOURS[side])
    _draw_lines(picture, mesh, [*_closed(MESH_LIPS), *_closed(MESH_MOUTH)], _MOUTH_COLOUR)
    for point, colour in zip(_PUPILS, _PUPIL_COLOURS, strict=True):
        x, y = (int(value) for value in mesh[point])
        if (mesh[point] >= 0).all() and (mesh[point] < size).all():
            picture[y - _PUPIL_RADIUS : y + _PUPIL_RADIUS, x - _PUPIL_RADIUS : x + _PUPIL_RADIUS] = colour
    return picture


def _open(points: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(pairwise(points))


def _closed(points: tuple[int, ...]) -> list[tuple[int, int]]:
    return _open((*points, points[0]))


def _draw_lines(
    picture: np.ndarray, mesh: np.ndarray, edges: list[tuple[int, int]], colour: tuple[int, int, int]
) -> None:
    last = len(picture) - 1
    pixels = np.minimum(np.floor(mesh), last).astype(int)
    inside = ((mesh >= 0) & (mesh <= len(picture))).all(1)
    for start, end in edges:
        if inside[start] and inside[end]:
            cv2.line(picture, pixels[start].tolist(), pixels[end].tolist(), colour, _LINE_WIDTH)
