"""The semantic map of a face, drawn from its mesh, and the control image that the ControlNet sees."""

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

#: (20, 3) uint8 RGB, one colour a label; far apart, so that a resized map can still be read.
PALETTE: np.ndarray = np.array(
    [
        (0, 0, 0), (204, 102, 76), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255),
        (255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204),
        (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0), (255, 255, 255),
    ],
    dtype=np.uint8,
)  # fmt: skip

#: Regions whose CLIP patch features become attribute tokens, each a group of labels.
REGIONS: dict[str, tuple[str, ...]] = {
    "skin": ("skin",),
    "brows": ("l_brow", "r_brow"),
    "eyes": ("l_eye", "r_eye", "iris"),
    "nose": ("nose",),
    "mouth": ("mouth", "u_lip", "l_lip"),
}


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


#: Names of the kinds: our coloured map, and the line drawing of CrucibleAI's ControlNetMediaPipeFace.
CONTROLS: tuple[str, ...] = ("semantic_map", "mediapipe_face")

_LINE = 2  # pixels
_OVAL_COLOUR, _MOUTH_COLOUR = (10, 200, 10), (10, 180, 10)
# right, left; of the subject
_BROW_COLOURS = ((180, 220, 10), (10, 220, 180))
_EYE_COLOURS = ((180, 200, 10), (10, 200, 180))
_PUPIL_COLOURS = ((250, 200, 10), (10, 200, 250))
_PUPILS = (468, 473)
_PUPIL = 2  # half a pupil's side, in pixels


def draw_control(mesh: np.ndarray, size: int, kind: str = "semantic_map") -> np.ndarray:
    """The control image of a face crop.

    Args:
        mesh: (478, 2) crop pixels.
        size: of the crop, in pixels.
        kind: one of ``CONTROLS``.

    Returns:
        (size, size, 3) uint8 RGB.

    Raises:
        ValueError: for another kind.
    """
    if kind == "semantic_map":
        return control_image(draw_semantic_map(mesh, size))
    if kind == "mediapipe_face":
        return draw_mediapipe_face(mesh, size)
    raise ValueError(f"kind: expected one of {', '.join(CONTROLS)}, got {kind!r}")


def draw_mediapipe_face(mesh: np.ndarray, size: int) -> np.ndarray:
    """The drawing of ``controlnet_aux.MediapipeFaceDetector``, which CrucibleAI's ControlNet was trained with.

    Lines of two pixels for oval, brows, eyes and lips, a square for each pupil, on black. Points outside the picture
    are left out, with the lines that end in them, as there.

    Args:
        mesh: (478, 2) crop pixels.
        size: of the crop, in pixels; the ControlNet knows 512.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    picture = np.zeros((size, size, 3), np.uint8)
    _draw_lines(picture, mesh, _closed(MESH_OVAL), _OVAL_COLOUR)
    for side in (1, 0):  # the left one first: where the lines cross, the later one shows
        _draw_lines(picture, mesh, _closed(MESH_EYES[side]), _EYE_COLOURS[side])
        upper, lower = MESH_BROWS[side][:5], MESH_BROWS[side][5:]
        _draw_lines(picture, mesh, [*_open(upper), *_open(lower)], _BROW_COLOURS[side])
    _draw_lines(picture, mesh, [*_closed(MESH_LIPS), *_closed(MESH_MOUTH)], _MOUTH_COLOUR)
    for point, colour in zip(_PUPILS, _PUPIL_COLOURS, strict=True):
        x, y = (int(value) for value in mesh[point])
        if (mesh[point] >= 0).all() and (mesh[point] < size).all():
            picture[y - _PUPIL : y + _PUPIL, x - _PUPIL : x + _PUPIL] = colour
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
            cv2.line(picture, pixels[start].tolist(), pixels[end].tolist(), colour, _LINE)
