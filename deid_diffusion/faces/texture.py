"""Faces as textures: pictures carried to the square around the mean mesh, and textures carried to a face's mesh.

The texture part of active appearance models (Cootes et al., ECCV 1998), by piecewise affine warps.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from .landmarks import MESH_EYES, MESH_IRISES
from .semantic_map import mean_mesh

POINTS = 468
"""Points of a mesh without the irises, which move."""

_NOSE_TIP = 1
_EDGE = 1e-5  # how far outside a triangle, in shares of its corners, a pixel still belongs to it


def dense_correspondence(other: np.ndarray, mesh: np.ndarray, size: int, step: int = 1) -> np.ndarray:
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


_FOLD = 0.05  # side of the largest hole in a silhouette that is a fold of lids or lips, as a share of the square's side
_EVEN, _UNEVEN = 0.4, 0.2  # texels of a pixel along one direction beside the other, from which a texture is stretched
_STREAK = 1 / 64  # standard deviation over which it is smoothed there, as detail would be streaks, in sides
_IRIS = 1.4  # radii of an iris over which its displacement fades out towards the eye's corners


@cache
def texture_corners() -> tuple[np.ndarray, np.ndarray]:
    """Return upper left and lower right corner of the square of textures, in crop sides of the mean mesh."""
    mean = mean_mesh(1)[:POINTS]
    return mean.min(0), mean.max(0)


@cache
def texture_mesh(size: int) -> np.ndarray:
    """Return the mean mesh, (478, 2), in the texels of a square of textures."""
    low, high = texture_corners()
    return ((mean_mesh(1) - low) / (high - low) * (size - 1) + 0.5).astype(np.float32)


@cache
def mirrored_points() -> np.ndarray:
    """Return (478,) the point of the mesh's other side for each of its points."""
    mean = mean_mesh(1).copy()
    mirrored = mean.copy()
    mirrored[:, 0] = mean[:, 0].min() + mean[:, 0].max() - mirrored[:, 0]
    return ((mean[:, None] - mirrored[None]) ** 2).sum(-1).argmin(1)


def face_coordinates(mesh: np.ndarray, size: int) -> np.ndarray:
    """Return (size, size, 2) positions on the mean face, 0..1, of a crop's pixels; -1 outside the silhouette.

    Args:
        mesh: (478, 2) crop pixels.
        size: of the crop, in pixels.
    """
    return fill_folds(dense_correspondence(texture_mesh(2) - 0.5, mesh, size))


@cache
def texture_coordinates(size: int) -> np.ndarray:
    """Return `face_coordinates` of the mean mesh in its own square; read-only."""
    coordinates = face_coordinates(texture_mesh(size), size)
    coordinates.setflags(write=False)
    return coordinates


def unwrap_face(picture: np.ndarray, mesh: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Carry a face to the mean mesh, gaze straight ahead.

    Args:
        picture: (H, W, C) uint8 or float32.
        mesh: (478, 2) its pixels.
        size: T, side of the texture, in texels.

    Returns:
        (T, T, C), and (T, T) float32 in 0..1, how squarely each texel was seen: 0 where it was hidden.
    """
    frame = texture_mesh(size)
    places = dense_correspondence(mesh, frame, size)
    coordinates = follow_gaze(places, mesh, frame)
    texture = cv2.remap(picture, *_maps(coordinates), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    dx, dy = np.gradient(places, axis=1), np.gradient(places, axis=0)
    area = dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]
    inside = places[..., 0] >= 0
    usual = max(float(np.median(area[inside])), 1e-6)
    seen = cv2.GaussianBlur((area / usual).clip(0, 1).astype(np.float32) * inside, (0, 0), size / 60)
    return texture, seen


def render_texture(texture: np.ndarray, mesh: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Carry a texture to a mesh, its irises to where the mesh has them.

    Args:
        texture: (T, T, C) float32.
        mesh: (478, 2) crop pixels.
        size: S, of the crop, in pixels.

    Returns:
        (S, S, C) float32, extrapolated outside the face; (S, S) bool, the silhouette.
    """
    frame = texture_mesh(len(texture))
    places = fill_folds(dense_correspondence(frame, mesh, size))
    inside = places[..., 0] >= 0
    maps = _maps(follow_gaze(places, frame, mesh))
    face = cv2.remap(texture, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    stretched = _stretch(places, inside)
    if stretched.any():
        smooth = cv2.GaussianBlur(texture, (0, 0), _STREAK * len(texture))
        smooth = cv2.remap(smooth, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        face = face + stretched[..., None] * (smooth - face)
    return face, inside


def _stretch(places: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return how far, (S, S) float32 in 0..1, a texture is stretched along one direction: in profiles, next to the ear.

    Args:
        places: (S, S, 2) texels; -1 outside.
        inside: (S, S) bool, the silhouette.
    """
    across, down = (np.linalg.norm(np.gradient(places, axis=axis), axis=2) for axis in (1, 0))
    steps = np.minimum(across, down) / np.maximum(np.maximum(across, down), 1e-6)
    within = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # at the edge steps are jumps
    amount = np.where(within, ((_EVEN - steps) / (_EVEN - _UNEVEN)).clip(0, 1), 0).astype(np.float32)
    soft = cv2.GaussianBlur(amount, (0, 0), len(places) / 60)
    return soft if float(soft.max(initial=0)) > 0.05 else np.zeros_like(soft)


def silhouette(mesh: np.ndarray, size: int) -> np.ndarray:
    """Return (size, size) bool, the union of the mesh's triangles; narrower than the convex hull in profiles."""
    return face_coordinates(mesh, size)[..., 0] >= 0


def fill_folds(places: np.ndarray) -> np.ndarray:
    """Fill small holes inside a silhouette, where lids or lips fold, from beside them; -1 marks the outside."""
    inside = (places[..., 0] >= 0).astype(np.uint8)
    reach = max(3, round(_FOLD * len(places)) | 1)
    holes = (cv2.morphologyEx(inside, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8)) > inside).nonzero()
    if not len(holes[0]):
        return places
    from scipy.ndimage import distance_transform_edt  # takes long to import

    rows, columns = distance_transform_edt(inside == 0, return_distances=False, return_indices=True)
    filled = places.copy()
    filled[holes] = places[rows[holes], columns[holes]]
    return filled


def follow_gaze(places: np.ndarray, source: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Move the irises' places on a source to where a mesh has them; lids and corners stay.

    Args:
        places: (S, S, 2) positions on the source, from triangles that know no irises; -1 outside.
        source: (478, 2) the source's mesh.
        mesh: (478, 2) pixels of the picture that the places belong to.
    """
    moved, size = places.copy(), len(places)
    for eye, iris in zip(MESH_EYES, MESH_IRISES, strict=True):
        opening = np.zeros((size, size), np.uint8)
        cv2.fillPoly(opening, [np.round(mesh[list(eye)]).astype(np.int32)], (1,))
        opening[places[..., 0] < 0] = 0
        middle = mesh[list(iris)].mean(0)
        column, row = np.round(middle - 0.5).astype(int).clip(0, size - 1)
        if not opening.any() or places[row, column, 0] < 0:
            continue
        radius = float(np.linalg.norm(mesh[list(iris)] - middle, axis=1).mean())
        rows, columns = np.nonzero(opening)
        distance = np.hypot(columns + 0.5 - middle[0], rows + 0.5 - middle[1]) / max(_IRIS * radius, 1e-3)
        shift = source[list(iris)].mean(0) - places[row, column]
        moved[rows, columns] += np.exp(-0.5 * distance**2)[:, None] * shift
    return moved


def _maps(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the x and y maps that `cv2.remap` takes."""
    return places[..., 0] - 0.5, places[..., 1] - 0.5
