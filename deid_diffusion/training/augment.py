"""Random views of a face crop: what a few thousand clean portraits lack of the world's photographs."""

from __future__ import annotations

import cv2
import numpy as np


def random_view(
    crop: np.ndarray, mesh: np.ndarray, rng: np.random.Generator, turn: float = 0.15, zoom: float = 0.12
) -> tuple[np.ndarray, np.ndarray]:
    """The crop turned, scaled and shifted, and its mesh with it.

    Args:
        crop: (S, S, 3) uint8.
        mesh: (K, 2) float32 crop pixels.
        rng: draws the view.
        turn: standard deviation of the rotation, in radians.
        zoom: standard deviation of the scale's logarithm.
    """
    size = len(crop)
    centre, angle = (size - 1) / 2, float(rng.normal(0, turn))
    matrix = cv2.getRotationMatrix2D((centre, centre), np.degrees(angle), float(np.exp(rng.normal(0, zoom))))
    matrix = matrix + np.array([[0, 0, 1], [0, 0, 1]]) * rng.normal(0, 0.03, (2, 1)) * size
    view = cv2.warpAffine(crop, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return view, (mesh @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


def random_mesh(mesh: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A mesh of (K, 2) crop pixels that fits as badly as they do on worse photos; size is the crop's side."""
    middle = mesh.mean(0)
    scaled = (mesh - middle) * np.exp(rng.normal(0, 0.03, 2)) + middle
    return (scaled + rng.normal(0, 0.012 * size, 2)).astype(np.float32)


def random_look(crop: np.ndarray, rng: np.random.Generator, *, grey: bool) -> np.ndarray:
    """Another light, camera and obstacle: gamma, contrast, tint, a light from one side, blur, noise, a covered patch,
    and the blocks of a small JPEG file.

    Args:
        crop: (S, S, 3) uint8.
        rng: draws all of it.
        grey: whether the colour is taken out.
    """
    size = len(crop)
    values: np.ndarray = crop.astype(np.float32) / 255
    if grey:
        values = np.repeat(values.mean(2, keepdims=True), 3, 2)
    values = values ** np.float32(np.exp(rng.normal(0, 0.3)))
    values = (values - 0.5) * np.float32(np.exp(rng.normal(0, 0.25))) + 0.5
    if not grey:
        values *= np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
    if rng.random() < 0.4:  # light that falls off from one side to the other
        direction = rng.normal(0, 0.6, 2)
        line = np.linspace(-1, 1, size, dtype=np.float32)
        values *= np.exp(direction[0] * line[None, :] + direction[1] * line[:, None])[..., None].astype(np.float32)
    if rng.random() < 0.4:
        small = int(size * rng.uniform(0.2, 0.7))
        values = cv2.resize(cv2.resize(values, (small, small), interpolation=cv2.INTER_AREA), (size, size))
    values = values + rng.normal(0, 1, values.shape).astype(np.float32) * np.float32(rng.uniform(0, 0.05))
    if rng.random() < 0.5:
        width, height = (int(size * side) for side in rng.uniform(0.1, 0.4, 2))
        x, y = rng.integers(0, size - width), rng.integers(0, size - height)
        values[y : y + height, x : x + width] = rng.random(3)
    seen: np.ndarray = np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, data = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 60))])
        seen = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return seen
