"""Face textures: piecewise affine warps between photos and the bounding square of the mean mesh.

This is the texture part of active appearance models (Cootes et al., ECCV 1998).
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from .landmarks import MESH_EYES, MESH_IRISES, MESH_MOUTH
from .semantic_map import mean_mesh

POINTS = 468  # of a mesh without the irises
_NOSE_TIP = 1
_OPENING = 0.3  # height of the mouth in textures, in its widths, added to the mean mesh's
_TRIANGLE_TOLERANCE = 1e-5  # barycentric distance outside a triangle up to which a pixel belongs to it
_MAX_FOLD = 0.05  # side, as a share of the square's, of the largest hole in a silhouette that is a fold of lids or lips
_STRETCHED, _FULLY_STRETCHED = 0.4, 0.2  # ratio of a texture's steps along and across from which it is smoothed
_STREAK_SIGMA = 1 / 64  # standard deviation of that smoothing, in sides of the texture; detail would be streaks
_MIN_SMOOTHING = 0.05  # largest weight of the smoothed texture under which it is not needed
_SIDE_TO_BLUR = 60  # side of the square over the standard deviation that softens weights
_GAZE_FALLOFF = 1.4  # radii of an iris over which its displacement fades towards the eye's corners


def dense_correspondence(other: np.ndarray, mesh: np.ndarray, size: int, step: int = 1) -> np.ndarray:
    """Map a crop's pixels to positions on another face by piecewise affine warps of the mesh's triangles.

    Triangles that face away from the camera are skipped. Where triangles overlap, the one nearest to the tip of the
    nose is in front.

    Args:
        other: (468 or 478, 2) points of the other face, in any unit, not negative.
        mesh: (478, 2) crop pixels, the points of the crop's face.
        size: S, side of the crop, in pixels.
        step: pixels per position, in both directions.

    Returns:
        (S / step, S / step, 2) float32 in the other face's unit; -1 outside the face.
    """
    side = len(range(0, size, step))
    triangles = _triangles()
    corners = (mesh / step - 0.5)[triangles]
    across, down = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    index, columns, rows = _bounding_pixels(corners, np.flatnonzero(area > 1e-6), side)
    x, y = (np.column_stack([columns, rows]) - corners[index, 0]).T
    first = (x * down[index, 1] - y * down[index, 0]) / area[index]
    second = (y * across[index, 0] - x * across[index, 1]) / area[index]
    inside = (
        (first > -_TRIANGLE_TOLERANCE) & (second > -_TRIANGLE_TOLERANCE) & (first + second < 1 + _TRIANGLE_TOLERANCE)
    )
    index, columns, rows, first, second = (values[inside] for values in (index, columns, rows, first, second))
    a, b, c = other[triangles[index].T]
    positions = np.full((side, side, 2), -1, np.float32)
    # where triangles overlap, the last assignment counts
    positions[rows, columns] = a + first[:, None] * (b - a) + second[:, None] * (c - a)
    return positions


def _bounding_pixels(corners: np.ndarray, visible: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return triangle index, column and row of the pixels in the bounding boxes of the visible triangles."""
    low = np.ceil(corners[visible].min(1)).clip(0, side).astype(int)
    spans = (np.floor(corners[visible].max(1)).clip(-1, side - 1).astype(int) - low + 1).clip(0)
    counts = spans.prod(1)
    owner = np.repeat(np.arange(len(visible)), counts)
    offset = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return (
        visible[owner],
        low[owner, 0] + offset % spans[owner, 0],
        low[owner, 1] + offset // spans[owner, 0],
    )


@cache
def _triangles() -> np.ndarray:
    """Return the mean mesh's (K, 3) triangles, equally oriented, ordered by falling distance to the tip of the nose."""
    from scipy.spatial import Delaunay  # slow to import

    points = mean_mesh(1)[:POINTS].astype(float)
    triangles = Delaunay(points).simplices
    a, b, c = points[triangles].transpose(1, 0, 2)
    flipped = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0] < 0
    triangles[flipped] = triangles[flipped][:, ::-1]
    distance = np.linalg.norm(points[triangles].mean(1) - points[_NOSE_TIP], axis=1)
    return triangles[np.argsort(-distance)]


@cache
def texture_corners() -> tuple[np.ndarray, np.ndarray]:
    """Return the upper left and lower right corner of the texture square, in crop sides of the mean mesh."""
    points = _open_mesh()[:POINTS]
    return points.min(0), points.max(0)


@cache
def _open_mesh() -> np.ndarray:
    """Return the mean mesh with a dropped jaw, (478, 2) in crop sides: between closed lips, teeth would be a line."""
    mean = mean_mesh(1).astype(np.float64)
    half = len(MESH_MOUTH) // 2
    upper, lower = mean[list(MESH_MOUTH[: half + 1])], mean[[*MESH_MOUTH[:half:-1], MESH_MOUTH[half]]]
    lower = np.vstack([upper[:1], lower])
    line = (upper + lower) / 2
    centre, width = (line[0, 0] + line[-1, 0]) / 2, line[-1, 0] - line[0, 0]
    level, chin = mean[list(MESH_MOUTH), 1].mean(), mean[:POINTS, 1].max()
    descent = ((mean[:, 1] - level) / (chin - level)).clip(0, 1)
    reach = width / 2 + descent * (np.ptp(mean[:POINTS, 0]) / 2 - width / 2)
    distance = (np.abs(mean[:, 0] - centre) / reach).clip(0, 1)
    below = mean[:, 1] > np.interp(mean[:, 0], line[:, 0], line[:, 1])
    mean[:, 1] += below * _OPENING * width * (1 - distance**3)
    return mean.astype(np.float32)


@cache
def texture_mesh(size: int) -> np.ndarray:
    """Return the mean mesh with parted lips, (478, 2), in texels of a texture of side `size`."""
    low, high = texture_corners()
    return ((_open_mesh() - low) / (high - low) * (size - 1) + 0.5).astype(np.float32)


@cache
def mirrored_points() -> np.ndarray:
    """Return (478,) the index of the mirrored point for every point of the mesh."""
    mean = mean_mesh(1).copy()
    mirrored = mean.copy()
    mirrored[:, 0] = mean[:, 0].min() + mean[:, 0].max() - mirrored[:, 0]
    return ((mean[:, None] - mirrored[None]) ** 2).sum(-1).argmin(1)


def face_coordinates(mesh: np.ndarray, size: int) -> np.ndarray:
    """Return the positions of a crop's pixels on the mean face.

    Args:
        mesh: (478, 2) crop pixels.
        size: S, side of the crop, in pixels.

    Returns:
        (S, S, 2) float32 in 0..1; -1 outside the silhouette.
    """
    return fill_folds(dense_correspondence(texture_mesh(2) - 0.5, mesh, size))


@cache
def texture_coordinates(size: int) -> np.ndarray:
    """Return the cached, read-only `face_coordinates` of the mean mesh in the texture square."""
    coordinates = face_coordinates(texture_mesh(size), size)
    coordinates.setflags(write=False)
    return coordinates


def unwrap_face(picture: np.ndarray, mesh: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Warp a face to the mean mesh with a straight gaze.

    Args:
        picture: (H, W, C) uint8 or float32.
        mesh: (478, 2) pixels of the picture.
        size: T, side of the texture, in texels.

    Returns:
        (T, T, C) texture, and (T, T) float32 visibility in 0..1: the picture's area per texel relative to the median, 0
        where the face is hidden.
    """
    target = texture_mesh(size)
    positions = dense_correspondence(mesh, target, size)
    coordinates = follow_gaze(positions, mesh, target)
    texture = cv2.remap(picture, *_maps(coordinates), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    dx, dy = np.gradient(positions, axis=1), np.gradient(positions, axis=0)
    area = dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]
    inside = positions[..., 0] >= 0
    median = max(float(np.median(area[inside])), 1e-6)
    visibility = cv2.GaussianBlur((area / median).clip(0, 1).astype(np.float32) * inside, (0, 0), size / _SIDE_TO_BLUR)
    return texture, visibility


def render_texture(texture: np.ndarray, mesh: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Warp a texture to a mesh and its gaze.

    Args:
        texture: (T, T, C) float32.
        mesh: (478, 2) crop pixels.
        size: S, side of the crop, in pixels.

    Returns:
        (S, S, C) float32, extrapolated outside the face; (S, S) bool, the silhouette.
    """
    source = texture_mesh(len(texture))
    positions = fill_folds(dense_correspondence(source, mesh, size))
    inside = positions[..., 0] >= 0
    maps = _maps(follow_gaze(positions, source, mesh))
    face = cv2.remap(texture, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    stretched = _stretch_weights(positions, inside)
    if stretched.any():
        smooth = cv2.GaussianBlur(texture, (0, 0), _STREAK_SIGMA * len(texture))
        smooth = cv2.remap(smooth, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        face = face + stretched[..., None] * (smooth - face)
    return face, inside


def _stretch_weights(positions: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return (S, S) float32 in 0..1 where a texture is stretched along a single direction, as by the ear in profiles.

    Args:
        positions: (S, S, 2) texels; -1 outside.
        inside: (S, S) bool, the silhouette.
    """
    across, down = (np.linalg.norm(np.gradient(positions, axis=axis), axis=2) for axis in (1, 0))
    ratio = np.minimum(across, down) / np.maximum(np.maximum(across, down), 1e-6)
    within = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0  # steps at the edge are jumps
    weights = np.where(within, ((_STRETCHED - ratio) / (_STRETCHED - _FULLY_STRETCHED)).clip(0, 1), 0).astype(
        np.float32
    )
    smoothed = cv2.GaussianBlur(weights, (0, 0), len(positions) / _SIDE_TO_BLUR)
    return smoothed if float(smoothed.max(initial=0)) > _MIN_SMOOTHING else np.zeros_like(smoothed)


def silhouette(mesh: np.ndarray, size: int) -> np.ndarray:
    """Return (size, size) bool, the union of the mesh's triangles; in profiles it is narrower than the convex hull."""
    return face_coordinates(mesh, size)[..., 0] >= 0


def fill_folds(positions: np.ndarray) -> np.ndarray:
    """Fill the silhouette's small holes, where lids or lips fold, by the nearest positions; -1 marks the outside."""
    inside = (positions[..., 0] >= 0).astype(np.uint8)
    reach = max(3, round(_MAX_FOLD * len(positions)) | 1)
    holes = (cv2.morphologyEx(inside, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8)) > inside).nonzero()
    if not len(holes[0]):
        return positions
    from scipy.ndimage import distance_transform_edt  # slow to import

    rows, columns = distance_transform_edt(inside == 0, return_distances=False, return_indices=True)
    filled = positions.copy()
    filled[holes] = positions[rows[holes], columns[holes]]
    return filled


def follow_gaze(positions: np.ndarray, source: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """Shift positions within the eyes so that the source's irises appear where a mesh has them; the lids stay.

    Eyes that face away from the camera are left out.

    Args:
        positions: (S, S, 2) positions on the source, from triangles without irises; -1 outside.
        source: (478, 2) mesh of the source.
        mesh: (478, 2) pixels of the picture that the positions belong to.

    Returns:
        (S, S, 2) positions on the source.
    """
    shifted, size = positions.copy(), len(positions)
    for eye, iris in zip(MESH_EYES, MESH_IRISES, strict=True):
        if _signed_area(mesh[list(eye)]) * _signed_area(source[list(eye)]) <= 0:
            continue
        opening = np.zeros((size, size), np.uint8)
        cv2.fillPoly(opening, [np.round(mesh[list(eye)]).astype(np.int32)], (1,))
        opening[positions[..., 0] < 0] = 0
        centre = mesh[list(iris)].mean(0)
        column, row = np.round(centre - 0.5).astype(int).clip(0, size - 1)
        if not opening.any() or positions[row, column, 0] < 0:
            continue
        radius = float(np.linalg.norm(mesh[list(iris)] - centre, axis=1).mean())
        rows, columns = np.nonzero(opening)
        distance = np.hypot(columns + 0.5 - centre[0], rows + 0.5 - centre[1]) / max(_GAZE_FALLOFF * radius, 1e-3)
        shift = source[list(iris)].mean(0) - positions[row, column]
        shifted[rows, columns] += np.exp(-0.5 * distance**2)[:, None] * shift
    return shifted


def _signed_area(outline: np.ndarray) -> float:
    """Return the area of an outline, (N, 2), by the shoelace formula; its sign is that of the direction."""
    x, y = outline.astype(np.float64).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def nearest_inside(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance of all pixels to the nearest pixel of a mask, and that pixel's index within the mask.

    Args:
        inside: (H, W) bool, at least a pixel of it True.

    Returns:
        (H, W) float32 distances, 0 inside, and (H, W) int64 indices into ``array[inside]``.
    """
    distance, labels = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    index = np.zeros(int(labels.max()) + 1, np.int64)
    index[labels[inside]] = np.arange(int(inside.sum()))
    return distance, index[labels]


def _maps(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the x and y maps for `cv2.remap`."""
    return positions[..., 0] - 0.5, positions[..., 1] - 0.5
