"""Pictures for people: what was found in a photo (boxes, meshes, maps, masks), and panels side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deid_diffusion.faces.semantic_map import control_image, map_in_photo

if TYPE_CHECKING:
    from deid_diffusion.faces.analysis import FaceAnalysis

MAX_SIDE = 1_600
"""Panels are scaled down so that no side is longer, in pixels."""

_BOX = (255, 196, 0)
_MESH = (0, 230, 255)
_MASK = (255, 0, 110)
_GAP = 8


def inspection(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> np.ndarray:
    """Three panels: boxes and meshes, semantic maps, masks.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        faces: what `Anonymizer.analyse` found in it.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    return side_by_side(
        [
            (f"{len(faces)} face{'' if len(faces) == 1 else 's'}", draw_faces(pixels, faces)),
            ("semantic map", draw_maps(pixels, faces)),
            ("mask", draw_masks(pixels, faces)),
        ]
    )


def draw_faces(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> np.ndarray:
    """The photo, (H, W, 3) uint8 RGB, with each face's box, detector, score and mesh points, or five points."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    line = max(1, round(max(pixels.shape[:2]) / 400))
    font = ImageFont.load_default(12 + 2 * line)
    for analysis in faces:
        x0, y0, x1, y1 = analysis.face.box
        draw.rectangle((x0, y0, x1, y1), outline=_BOX, width=line)
        label = f"{analysis.face.detector} {analysis.face.score:.2f}{'' if analysis.mesh is not None else ', no mesh'}"
        draw.text((x0, y0 - line), label, fill=_BOX, font=font, anchor="lb", stroke_width=1, stroke_fill=(0, 0, 0))
        points = analysis.face.points
        radius = float(line)
        if analysis.mesh is not None:
            inverse = cv2.invertAffineTransform(analysis.matrix)
            points = analysis.mesh @ inverse[:, :2].T + inverse[:, 2]
            radius = line / 2
        for x, y in [] if points is None else points.tolist():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_MESH)
    return np.array(image)


def draw_maps(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> np.ndarray:
    """The photo, (H, W, 3) uint8 RGB, with the coloured semantic map of each face laid over it, in its place."""
    canvas = (pixels // 3).astype(np.uint8)
    for analysis in faces:
        labels = map_in_photo(analysis.semantic_map, analysis.matrix, (pixels.shape[0], pixels.shape[1]))
        canvas = np.where(labels[..., None] > 0, control_image(labels), canvas)
    return canvas


def draw_masks(pixels: np.ndarray, faces: Sequence[FaceAnalysis]) -> np.ndarray:
    """The photo, (H, W, 3) uint8 RGB, tinted where a paste would change it, by how much it would."""
    canvas = pixels.astype(np.float32)
    for analysis in faces:
        window, weight = analysis.mask.window, 0.6 * analysis.mask.alpha[..., None]
        canvas[window] = canvas[window] * (1 - weight) + weight * np.array(_MASK, np.float32)
    return np.rint(canvas).astype(np.uint8)


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Captioned panels in one row.

    Args:
        panels: caption and (H, W, 3) uint8 RGB, all of one size, at least one.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    height, width = panels[0][1].shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    strip = max(16, size[1] // 16)
    row = Image.new("RGB", (len(panels) * (size[0] + _GAP) - _GAP, size[1] + strip), (255, 255, 255))
    draw = ImageDraw.Draw(row)
    font = ImageFont.load_default(strip * 0.6)
    for index, (caption, picture) in enumerate(panels):
        left = index * (size[0] + _GAP)
        panel = Image.fromarray(picture)
        row.paste(panel if panel.size == size else panel.resize(size, Image.Resampling.LANCZOS), (left, strip))
        draw.text((left + size[0] / 2, strip / 2), caption, fill=(32, 32, 32), font=font, anchor="mm")
    return np.array(row)
