"""Control images: what ControlNets for faces were trained to see, drawn from a mesh."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from .landmarks import MESH_BROWS, MESH_EYES, MESH_LIPS, MESH_MOUTH, MESH_OVAL
from .semantic_map import control_image, draw_semantic_map

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
