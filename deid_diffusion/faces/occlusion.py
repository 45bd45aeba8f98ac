"""What stands in front of a face: hair, hats, hands and things, which stay as they are."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from .alignment import extract, invert, resized, warp
from .compositing import fill_from_surroundings
from .landmarks import MESH_BROWS
from .lighting import fit_light, to_log
from .masks import PasteMask
from .semantic_map import LABEL, draw_semantic_map
from .texture import face_coordinates

_SIZE = 192  # side of the crop that is searched, in pixels
_GREY = np.array((0.299, 0.587, 0.114), np.float32)
_DARK, _BRIGHT, _HUE = 0.5, 0.6, 0.3  # residuals to smooth skin, in nats, from which a pixel is something else
_THING = 0.42  # of colour, below the brows: no skin and no beard has it
_OPEN = 0.02  # least width of what stands in front, in sides
_LEAST = 0.004  # least area, likewise squared
_MOST = 0.6  # share of the face over which the search has failed
_REACH, _SAME = 25, 0.12  # pixels, and difference of colours in 0..1, that it goes on past the silhouette
_SURELY_SKIN, _RAGGED = 0.6, 6.0  # of the least difference of something else; depth, in pixels, of its edge
_SMOOTH = 1.5  # standard deviation, in pixels, that its outline is smoothed by
_GROWTH, _FEATHER = 0.006, 0.02  # the mask reaches over the edge of what stands in front, then fades out on it


def find_occluders(photo: np.ndarray, mesh: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray | None:
    """Find what hides a part of a face.

    Skin is smooth under the logarithm of light; what differs from it by far, in one piece that reaches the silhouette,
    is hair or a hat above the brows, and a thing where its colour is no skin's. Shadows and beards are neither, so
    below the brows luminance alone says nothing.

    Args:
        photo: (H, W, 3) uint8 RGB.
        mesh: (478, 2) crop pixels.
        matrix: (2, 3) photo to crop.
        size: of the crop, in pixels.

    Returns:
        (192, 192) bool in the crop at that size; None where nothing is in front.
    """
    factor = _SIZE / size
    mesh, crop = mesh * factor, extract(photo, resized(matrix, factor), _SIZE).astype(np.float32) / 255
    uv = face_coordinates(mesh, _SIZE)
    inside = uv[..., 0] >= 0
    skin = np.isin(draw_semantic_map(mesh, _SIZE), (LABEL["skin"], LABEL["nose"])) & inside
    if skin.mean() < 0.02:
        return None
    light = fit_light(crop[skin], uv[skin])
    rest = np.zeros_like(crop)
    rest[inside] = to_log(crop[inside]) - light.at(uv[inside])
    luminance = rest @ _GREY
    hue = np.abs(rest - luminance[..., None]).max(2)
    brows = mesh[[point for brow in MESH_BROWS for point in brow]]
    axis = _down(mesh)
    height = np.stack(np.meshgrid(*[np.arange(_SIZE) + 0.5] * 2), -1) @ axis
    above = height < float((brows @ axis).min())
    unlike = np.maximum(np.maximum(-luminance / _DARK, luminance / _BRIGHT), hue / _HUE)
    unlike = np.where(above, unlike, hue / _THING)
    other = ((unlike > 1) & skin).astype(np.uint8)
    reach = max(3, round(_OPEN * _SIZE) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    pieces = cv2.morphologyEx(cv2.morphologyEx(other, cv2.MORPH_CLOSE, kernel), cv2.MORPH_OPEN, kernel)
    return _reaching(pieces > 0, inside, crop, above, inside & (unlike < _SURELY_SKIN))


def spare_occluders(mask: PasteMask, occluders: np.ndarray, matrix: np.ndarray, size: int) -> PasteMask:
    """Leave what stands in front out of a mask.

    Args:
        mask: of the face.
        occluders: from `find_occluders`.
        matrix: (2, 3) photo to crop.
        size: of the crop, in pixels.

    Returns:
        The mask with an alpha of 0 on occluders, but for a seam at their edge, which hides what of the face shines in.
    """
    if not mask.alpha.size:
        return mask
    inner = cv2.distanceTransform(occluders.astype(np.uint8), cv2.DIST_L2, 5) / _SIZE
    free = ((inner - _GROWTH) / _FEATHER).clip(0, 1).astype(np.float32)
    back = invert(resized(matrix, _SIZE / size))
    back[:, 2] -= (mask.left, mask.top)
    spared = warp(free, back, (mask.alpha.shape[1], mask.alpha.shape[0])).clip(0, 1)
    return replace(mask, alpha=mask.alpha * (1 - spared))


def _down(mesh: np.ndarray) -> np.ndarray:
    """(2,) unit vector from the brows to the chin."""
    eyes = mesh[263] - mesh[33]
    x, y = eyes / max(float(np.linalg.norm(eyes)), 1e-6)
    return np.array([-y, x])


def _reaching(
    other: np.ndarray, inside: np.ndarray, crop: np.ndarray, above: np.ndarray, bare: np.ndarray
) -> np.ndarray | None:
    """Return the pieces, large enough, that touch the silhouette's edge, grown past it; None without any or too many.

    Args:
        other: (S, S) bool, what is not skin, without gaps.
        inside: (S, S) bool, the silhouette.
        crop: (S, S, 3) float32.
        above: (S, S) bool, above the brows.
        bare: (S, S) bool, what is skin for certain: at the edge of a piece it is none of it.
    """
    edge = inside & ~(cv2.erode(inside.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0)
    count, pieces, figures, _ = cv2.connectedComponentsWithStats(other.astype(np.uint8), connectivity=8)
    kept = np.zeros_like(other)
    for piece in range(1, count):
        region = pieces == piece
        if figures[piece, cv2.CC_STAT_AREA] >= _LEAST * other.size and (region & edge).any():
            kept |= region
    if not kept.any() or kept[inside].mean() > _MOST:
        return None
    depth = cv2.distanceTransform(kept.astype(np.uint8), cv2.DIST_L2, 5)
    kept &= ~(bare & (depth < _RAGGED))
    kept = cv2.GaussianBlur(kept.astype(np.float32), (0, 0), _SMOOTH) > 0.5  # no scallops, no holes
    # past the silhouette it goes on as far as it looks the same: what else is there may be the cheek that a mesh
    # missed; above the brows, hair and hats go on whatever they look like
    near = cv2.dilate(kept.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_REACH, _REACH))) > 0
    colours = fill_from_surroundings(crop, ~kept)
    same = np.abs(crop - colours).max(2) < _SAME
    _, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    beside = np.zeros(int(nearest.max()) + 1, bool)
    beside[nearest[inside]] = cv2.dilate(kept.astype(np.uint8), np.ones((3, 3), np.uint8))[inside] > 0
    grown = kept | (near & ~inside & (same | (above & beside[nearest])))
    return cv2.morphologyEx(grown.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
