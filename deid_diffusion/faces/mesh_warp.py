"""From one mesh to another: where on another face each pixel of a face lies."""

from __future__ import annotations

from functools import cache

import numpy as np

from .semantic_map import mean_mesh

POINTS = 468
"""Points of a mesh without the irises, which move."""

_NOSE_TIP = 1
_EDGE = 1e-5  # how far outside a triangle, in shares of its corners, a pixel still belongs to it


def places_on(other: np.ndarray, mesh: np.ndarray, size: int, step: int = 1) -> np.ndarray:
    """Where on another face a crop's pixels lie, triangle by triangle (piecewise affine; Cootes et al., ECCV 1998).

    Triangles that a turned head shows from behind are left out, and what is nearer to the tip of the nose hides what is
    farther from it.

    Args:
        other: (468 or 478, 2), the other face's points, in any units from 0 up.
        mesh: (478, 2) crop pixels, the same points of the crop's face.
        size: S, side of the crop.
        step: pixels to a place, each way.

    Returns:
        (S / step, S / step, 2) float32 in the other face's units; -1 outside the face.
    """
    side = len(range(0, size, step))
    triangles = _triangles()
    corners = (mesh / step - 0.5)[triangles]
    across, down = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    hit, columns, rows = _boxes(corners, np.flatnonzero(area > 1e-6), side)
    x, y = (np.column_stack([columns, rows]) - corners[hit, 0]).T
    first = (x * down[hit, 1] - y * down[hit, 0]) / area[hit]
    second = (y * across[hit, 0] - x * across[hit, 1]) / area[hit]
    inside = (first > -_EDGE) & (second > -_EDGE) & (first + second < 1 + _EDGE)
    hit, columns, rows, first, second = (one[inside] for one in (hit, columns, rows, first, second))
    start, one, two = other[triangles[hit].T]
    found = np.full((side, side, 2), -1, np.float32)
    # where triangles overlap, the last one stays
    found[rows, columns] = start + first[:, None] * (one - start) + second[:, None] * (two - start)
    return found


def _boxes(corners: np.ndarray, seen: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which triangle, column and row: every pixel of a square that lies in the box around a seen triangle."""
    low = np.ceil(corners[seen].min(1)).clip(0, side).astype(int)
    spans = (np.floor(corners[seen].max(1)).clip(-1, side - 1).astype(int) - low + 1).clip(0)
    counts = spans.prod(1)
    row = np.repeat(np.arange(len(seen)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return seen[row], low[row, 0] + place % spans[row, 0], low[row, 1] + place // spans[row, 0]


@cache
def _triangles() -> np.ndarray:
    """(K, 3) triangles of the mean mesh, turned alike, those that lie farthest from the tip of the nose first."""
    from scipy.spatial import Delaunay  # takes half a second to import

    points = mean_mesh(1)[:POINTS].astype(float)
    found = Delaunay(points).simplices
    a, b, c = points[found].transpose(1, 0, 2)
    turned = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0] < 0
    found[turned] = found[turned][:, ::-1]
    depth = np.linalg.norm(points[found].mean(1) - points[_NOSE_TIP], axis=1)
    return found[np.argsort(-depth)]
