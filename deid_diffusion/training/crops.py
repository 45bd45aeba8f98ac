"""One photograph in, aligned crops of its largest face out, each with its mesh: plain, mirrored, jittered, relit."""

from __future__ import annotations

import cv2
import numpy as np

from ..faces.crop import extract, frame_from_mesh, similarity, transform
from ..faces.landmarks import FaceMesh

_UPRIGHT_SIDE = 448  # the mesh is measured at one scale, whatever the photograph's


def face_crops(
    image: np.ndarray, landmarker: FaceMesh, *, size: int, variants: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Crops of the largest face, and their meshes; none if no face is found in the picture and in its mirror image.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarker: finds the faces.
        size: of a crop, in pixels.
        variants: number of crops; the first is plain, the others are mirrored, jittered and relit. A picture without
            colour gives half as many.
        rng: of the jitter.

    Returns:
        (size, size, 3) uint8 RGB and (478, 2) float32 crop pixels, as many of one as of the other.
    """
    sides = _both_sides(image, landmarker)
    crops, meshes = [], []
    grey = is_grey(image)
    for k in range((max(1, variants // 2) if grey else variants) if sides else 0):
        picture, mesh = sides[k % 2]
        frame = frame_from_mesh(mesh, size)
        frame = frame if k == 0 else jitter_frame(frame, size, rng)
        crop = extract(picture, frame, size)
        crops.append(crop if k == 0 else jitter_colour(crop, grey, rng))
        meshes.append(transform(mesh, frame))
    return crops, meshes


def jitter_frame(frame: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A crop matrix turned, scaled and shifted a little, as a detector's own uncertainty would do."""
    centre = (size - 1) / 2 + rng.normal(0, 0.02, 2) * size
    side = size / float(np.exp(rng.normal(0, 0.06)))
    move = similarity((float(centre[0]), float(centre[1])), side, float(rng.normal(0, 0.07)), size)
    return np.vstack([move, [0, 0, 1]])[:2].astype(np.float32) @ np.vstack([frame, [0, 0, 1]]).astype(np.float32)


def jitter_colour(crop: np.ndarray, grey: bool, rng: np.random.Generator) -> np.ndarray:
    """Another light: exposure, gamma, contrast and, for colour photographs, a tint. (H, W, 3) uint8 in and out.

    Portraits are lit well; the world's photographs are darker, by a third in the mean.
    """
    values = crop.astype(np.float32) / 255
    values = np.minimum(values * float(np.exp(rng.normal(-0.2, 0.3))), 1)
    values = values ** float(np.exp(rng.normal(0, 0.2)))
    values = (values - 0.5) * float(np.exp(rng.normal(0, 0.12))) + 0.5
    if not grey:
        values = values * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    return np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)


def is_grey(image: np.ndarray) -> bool:
    """Whether a (H, W, 3) uint8 picture has (nearly) no colour."""
    spread = image.max(2).astype(int) - image.min(2)
    return bool(spread.mean() < 6)


def _both_sides(image: np.ndarray, landmarker: FaceMesh) -> list[tuple[np.ndarray, np.ndarray]]:
    """The picture and its mirror image at one scale, each with the mesh of the same face; empty if one has none."""
    height, width = image.shape[:2]
    k = _UPRIGHT_SIDE / max(height, width)
    if min(height, width) * k < 1:
        return []
    upright = cv2.resize(image, None, fx=k, fy=k, interpolation=cv2.INTER_CUBIC if k > 1 else cv2.INTER_AREA)
    mirrored = np.ascontiguousarray(upright[:, ::-1])
    meshes, others = (
        [mesh for mesh in landmarker.meshes(picture) if np.isfinite(mesh).all()] for picture in (upright, mirrored)
    )
    if not meshes or not others:
        return []
    largest = max(meshes, key=lambda mesh: float(np.ptp(mesh, axis=0).max()))
    x, y = largest.mean(0)
    expected = np.array([upright.shape[1] - 1 - x, y])
    same = min(others, key=lambda mesh: float(np.linalg.norm(mesh.mean(0) - expected)))
    return [(upright, largest), (mirrored, same)]
