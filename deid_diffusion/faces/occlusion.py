"""Segmentation of hair, hats, hands and objects in front of a face, which stay in the photo."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .alignment import extract, invert, resized, warp
from .compositing import fill_from_surroundings
from .landmarks import MESH_BROWS
from .lighting import LUMA, fit_light, to_log
from .masks import PasteMask
from .mesh_editing import face_axes
from .semantic_map import LABEL, draw_semantic_map
from .texture import face_coordinates, nearest_inside

_SIZE = 192  # side of the analysed crop, in pixels
_DARK, _BRIGHT, _CHROMA = 0.5, 0.6, 0.3  # residuals to the fitted skin, in nats, from which a pixel is not skin
_OBJECT_CHROMA = 0.42  # chroma residual below the brows that neither skin nor beards reach
_MIN_SKIN_SHARE = 0.02  # of the crop
_MIN_WIDTH = 0.02  # of an occluder, in crop sides
_MIN_AREA = 0.004  # of an occluder, as a share of the crop
_FRINGE_WIDTH = 9  # pixels, of an occluder above the brows: thinner strands end as dashes on the forehead
_MAX_COVERED = 0.6  # share of the face above which the result is unreliable
_EDGE_WIDTH = 9  # pixels along the silhouette's edge that an occluder has to reach
_GROWTH_REACH, _MAX_COLOUR_DIFFERENCE = 25, 0.12  # growth past the silhouette: pixels, and colours in 0..1
_CERTAIN_SKIN = 0.6  # residual, relative to the limits above, below which a pixel is skin
_RAGGED_DEPTH = 6.0  # of an occluder's edge from which skin is removed, in pixels
_OUTLINE_SIGMA = 1.5  # standard deviation, in pixels, that smooths the outline
_MASK_OVERLAP, _MASK_FEATHER = 0.006, 0.02  # of the mask on the edge of an occluder, in crop sides


def find_occluders(photo: np.ndarray, mesh: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray | None:
    """Segment the occluders of a face.

    Skin is smooth after division by the fitted light. Large connected regions that differ from it and reach the
    silhouette are hair or hats above the brows, and objects where their chroma is not that of skin. Below the brows
    luminance is ignored, since shadows and beards are not occluders.

    Args:
        photo: (H, W, 3) uint8 RGB.
        mesh: (478, 2) crop pixels.
        matrix: (2, 3) crop matrix, photo to crop.
        size: side of the crop, in pixels.

    Returns:
        (192, 192) bool in the crop resized to that side; None without occluders.
    """
    factor = _SIZE / size
    mesh, crop = mesh * factor, extract(photo, resized(matrix, factor), _SIZE).astype(np.float32) / 255
    uv = face_coordinates(mesh, _SIZE)
    inside = uv[..., 0] >= 0
    skin = np.isin(draw_semantic_map(mesh, _SIZE), (LABEL["skin"], LABEL["nose"])) & inside
    if skin.mean() < _MIN_SKIN_SHARE:
        return None
    brows = mesh[[point for brow in MESH_BROWS for point in brow]]
    down = face_axes(mesh)[1]
    position = np.stack(np.meshgrid(*[np.arange(_SIZE) + 0.5] * 2), -1) @ down
    above = position < float((brows @ down).min())
    residual = _skin_residual(crop, uv, skin, above)
    width = max(3, round(_MIN_WIDTH * _SIZE) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    regions = cv2.morphologyEx(((residual > 1) & skin).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    regions = cv2.morphologyEx(regions, cv2.MORPH_OPEN, kernel)
    occluders = _select_regions(regions > 0, inside, inside & (residual < _CERTAIN_SKIN))
    if occluders is None:
        return None
    wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_FRINGE_WIDTH, _FRINGE_WIDTH))
    occluders &= ~above | (cv2.morphologyEx(occluders.astype(np.uint8), cv2.MORPH_OPEN, wide) > 0)
    return _grow(occluders, inside, crop, above) if occluders.any() else None


def _skin_residual(crop: np.ndarray, uv: np.ndarray, skin: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Return (S, S) residuals to the fitted skin, relative to the limits from which a pixel is not skin.

    Args:
        crop: (S, S, 3) float32 RGB in 0..1.
        uv: (S, S, 2) positions on the mean face; -1 outside.
        skin: (S, S) bool, the pixels to fit.
        above: (S, S) bool, above the brows.
    """
    inside = uv[..., 0] >= 0
    light = fit_light(crop[skin], uv[skin])
    difference = np.zeros_like(crop)
    difference[inside] = to_log(crop[inside]) - light.at(uv[inside])
    luminance = difference @ LUMA
    chroma = np.abs(difference - luminance[..., None]).max(2)
    residual = np.maximum(np.maximum(-luminance / _DARK, luminance / _BRIGHT), chroma / _CHROMA)
    return np.where(above, residual, chroma / _OBJECT_CHROMA)


def spare_occluders(mask: PasteMask, occluders: np.ndarray, matrix: np.ndarray, size: int) -> PasteMask:
    """Set a mask's alpha to 0 on occluders, except for a seam along their edge, which may show the face.

    Args:
        mask: mask of the face.
        occluders: (192, 192) bool, from `find_occluders`.
        matrix: (2, 3) crop matrix, photo to crop.
        size: side of the crop, in pixels.
    """
    if not mask.alpha.size:
        return mask
    depth = cv2.distanceTransform(occluders.astype(np.uint8), cv2.DIST_L2, 5) / _SIZE
    free = ((depth - _MASK_OVERLAP) / _MASK_FEATHER).clip(0, 1).astype(np.float32)
    to_window = invert(resized(matrix, _SIZE / size))
    to_window[:, 2] -= (mask.left, mask.top)
    spared = warp(free, to_window, (mask.alpha.shape[1], mask.alpha.shape[0])).clip(0, 1)
    return replace(mask, alpha=mask.alpha * (1 - spared))


def _select_regions(regions: np.ndarray, inside: np.ndarray, certain_skin: np.ndarray) -> np.ndarray | None:
    """Return the large regions that reach the silhouette's edge, smoothed; None without any, or if they cover too much.

    Args:
        regions: (S, S) bool, pixels that are not skin.
        inside: (S, S) bool, the silhouette.
        certain_skin: (S, S) bool, to be removed from the ragged edges of the regions.
    """
    edge = inside & ~(cv2.erode(inside.astype(np.uint8), np.ones((_EDGE_WIDTH,) * 2, np.uint8)) > 0)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(regions.astype(np.uint8), connectivity=8)
    selected = np.zeros_like(regions)
    for label in range(1, count):
        region = labels == label
        if statistics[label, cv2.CC_STAT_AREA] >= _MIN_AREA * regions.size and (region & edge).any():
            selected |= region
    if not selected.any() or selected[inside].mean() > _MAX_COVERED:
        return None
    depth = cv2.distanceTransform(selected.astype(np.uint8), cv2.DIST_L2, 5)
    selected &= ~(certain_skin & (depth < _RAGGED_DEPTH))
    return cv2.GaussianBlur(selected.astype(np.float32), (0, 0), _OUTLINE_SIGMA) > 0.5


def _grow(occluders: np.ndarray, inside: np.ndarray, crop: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Grow occluders past the silhouette.

    Growth stops where the colour changes, since the pixels there may be of a cheek that the mesh missed; above the
    brows hair and hats grow regardless of colour.

    Args:
        occluders: (S, S) bool.
        inside: (S, S) bool, the silhouette.
        crop: (S, S, 3) float32 RGB in 0..1.
        above: (S, S) bool, above the brows.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_GROWTH_REACH, _GROWTH_REACH))
    nearby = cv2.dilate(occluders.astype(np.uint8), kernel) > 0
    colours = fill_from_surroundings(crop, ~occluders)
    similar = np.abs(crop - colours).max(2) < _MAX_COLOUR_DIFFERENCE
    touched = cv2.dilate(occluders.astype(np.uint8), np.ones((3, 3), np.uint8))[inside] > 0
    beside = touched[nearest_inside(inside)[1]]
    grown = occluders | (nearby & ~inside & (similar | (above & beside)))
    return cv2.morphologyEx(grown.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
