"""Paste masks: alpha of a face's replacement, from outlines or boxes, without kept regions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from .alignment import invert, transform, warp
from .semantic_map import LABEL, REGIONS
from .texture import silhouette

#: Width of the ring around the face, as a share of the crop's side. The feather lies in it, so that no pixel of the
#: face is blended with the replacement.
DILATION = 0.03
FEATHER = 0.02  # width of the feather, as a share of the crop's side
EDGE_MARGIN = 2  # photo pixels between a box and the photo's edge up to which the edge cuts the face
_SUPERSAMPLING = 2  # silhouette pixels per crop pixel, along a side
_MIN_RING = 1.5  # photo pixels past the feather: the pixel grid's error on small faces
_BOX_GROWTH = 0.2  # of an opaque box on all sides, as a share of its sides
_BROW_GROWTH = 1.5  # growth above the brows over that on the other sides
_KEPT_REGION_GROWTH = 0.008  # unmasked margin around a kept region, as a share of the crop's side
_KEPT_REGION_FEATHER = 0.02  # width of the feather around that margin, likewise

REGION_WARNING = (
    "a kept region shows the person's original pixels and identifies people (eyes alone are a biometric): "
    "do not publish such pictures as de-identified"
)


@dataclass(frozen=True, eq=False)
class PasteMask:
    """Alpha of a face's replacement within a window of the photo.

    Attributes:
        alpha: (h, w) float32, 0..1: 1 on the face, falling to 0 in a ring around it.
        top: first row of the window.
        left: first column of the window.
        photo_shape: (height, width) of the photo.
    """

    alpha: np.ndarray
    top: int
    left: int
    photo_shape: tuple[int, int]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the window."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def full(self) -> np.ndarray:
        """Return the (height, width) float32 alpha of the photo."""
        alpha = np.zeros(self.photo_shape, np.float32)
        alpha[self.window] = self.alpha
        return alpha


def union_mask(photo_shape: tuple[int, int], masks: Sequence[PasteMask]) -> np.ndarray:
    """Return (height, width) bool: the pixels with a positive alpha in any mask."""
    union = np.zeros(photo_shape, bool)
    for mask in masks:
        union[mask.window] |= mask.alpha > 0
    return union


def face_outline(mesh: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the outlines of a mesh's silhouette, (N, 2) crop pixels per outline.

    Args:
        mesh: (478, 2) crop pixels.
        size: side of the crop, in pixels.
    """
    low = np.floor(mesh.min(0)).clip(max=0)
    reach = int(np.ceil(max(size, float((mesh - low).max()) + 2)))  # a face may reach past its crop
    inside = silhouette((mesh - low) * _SUPERSAMPLING, reach * _SUPERSAMPLING).astype(np.uint8)
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [((outline[:, 0] + 0.5) / _SUPERSAMPLING + low).astype(np.float32) for outline in outlines]


def paste_mask(
    outlines: Sequence[np.ndarray],
    matrix: np.ndarray,
    photo_shape: tuple[int, int],
    crop_size: int,
    dilation: float = DILATION,
) -> PasteMask:
    """Return the mask of a face: 1 inside the outlines, with a feathered ring around them.

    Args:
        outlines: (N, 2) closed outlines, crop pixels, whose union is the face.
        matrix: (2, 3) crop matrix, photo to crop.
        photo_shape: (height, width).
        crop_size: side of the crop, in pixels.
        dilation: width of the ring, as a share of the crop's side.

    Returns:
        Mask with an empty window if the face lies outside the photo.
    """
    height, width = photo_shape
    to_photo = invert(matrix)
    polygons = [transform(outline, to_photo) for outline in outlines]
    points = np.concatenate(polygons)
    side = _photo_side(matrix, crop_size)
    feather = max(1.0, FEATHER * side)
    reach = max(feather + _MIN_RING, dilation * side)
    pad = int(np.ceil(reach)) + 2
    x0, y0 = (int(v) for v in np.floor(points.min(0)) - pad)
    x1, y1 = (int(v) for v in np.ceil(points.max(0)) + pad)
    # the window may reach past the photo, so that a face that the edge cuts is not feathered along the edge
    window = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(window, [np.round((polygon - (x0, y0)) * 16).astype(np.int32)], (1,), shift=4)
    distance = cv2.distanceTransform(1 - window, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    alpha = _smoothstep(np.clip((reach - distance) / feather, 0, 1).astype(np.float32))
    left, top, right, bottom = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    if left >= right or top >= bottom:
        return empty_mask(photo_shape)
    return PasteMask(alpha[top - y0 : bottom - y0, left - x0 : right - x0], top, left, photo_shape)


def empty_mask(photo_shape: tuple[int, int]) -> PasteMask:
    """Return a mask that covers no pixel."""
    return PasteMask(np.zeros((0, 0), np.float32), 0, 0, photo_shape)


def box_mask(box: tuple[float, float, float, float], photo_shape: tuple[int, int]) -> PasteMask:
    """Return an opaque, rounded box, grown on all sides, for a face that cannot be analysed.

    Args:
        box: x0, y0, x1, y1 in photo pixels.
        photo_shape: (height, width).
    """
    x0, y0, x1, y1 = box
    width, height = _BOX_GROWTH * (x1 - x0) + 1, _BOX_GROWTH * (y1 - y0) + 1
    rows, columns = photo_shape
    sides = (x0 - width, y0 - _BROW_GROWTH * height, x1 + width, y1 + height)
    left, top = (int(min(max(0, v), limit)) for v, limit in zip(sides, (columns, rows), strict=False))
    bottom = int(np.clip(np.ceil(sides[3]), top, rows))
    right = int(np.clip(np.ceil(sides[2]), left, columns))
    across = (2 * np.arange(left, right) + 1 - sides[0] - sides[2]) / (sides[2] - sides[0])
    down = (2 * np.arange(top, bottom) + 1 - sides[1] - sides[3]) / (sides[3] - sides[1])
    rounded = across**4 + down[:, None] ** 4 <= 1  # a superellipse: square corners are conspicuous
    return PasteMask(rounded.astype(np.float32), top, left, photo_shape)


def limit_mask(
    mask: PasteMask, box: tuple[float, float, float, float], matrix: np.ndarray, crop_size: int
) -> PasteMask:
    """Restrict a mask with an estimated outline to a rounded rectangle around the detector's box.

    A box that the photo's edge cuts is completed by its mirror image.

    Args:
        mask: mask of the face.
        box: x0, y0, x1, y1 in photo pixels.
        matrix: (2, 3) crop matrix, photo to crop.
        crop_size: side of the crop, in pixels.
    """
    height, width = mask.photo_shape
    x0, y0, x1, y1 = box
    completed = (
        2 * x0 - x1 if x0 <= EDGE_MARGIN else x0,
        2 * y0 - y1 if y0 <= EDGE_MARGIN else y0,
        2 * x1 - x0 if x1 >= width - EDGE_MARGIN else x1,
        2 * y1 - y0 if y1 >= height - EDGE_MARGIN else y1,
    )
    outlines = [_rounded_box(corners, matrix) for corners in dict.fromkeys((box, completed))]
    limit = paste_mask(outlines, matrix, mask.photo_shape, crop_size).full()
    return replace(mask, alpha=mask.alpha * limit[mask.window])


def _rounded_box(box: tuple[float, float, float, float], matrix: np.ndarray) -> np.ndarray:
    """Return a (96, 2) superellipse, crop pixels, that passes near the corners of a box in photo pixels."""
    x0, y0, x1, y1 = box
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    across, down = (np.sign(value) * np.sqrt(np.abs(value)) for value in (np.cos(angle), np.sin(angle)))
    x = (x0 + x1) / 2 + 1.15 * (x1 - x0) / 2 * across
    y = (y0 + y1) / 2 + (1.25 * down - 0.05) * (y1 - y0) / 2
    return transform(np.stack([x, y], 1).astype(np.float32), matrix)


def box_outline(box: tuple[float, float, float, float], matrix: np.ndarray) -> np.ndarray:
    """Return a (48, 2) ellipse, crop pixels, around a detector's box in photo pixels, extended above the brows."""
    x0, y0, x1, y1 = box
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    # an ellipse through the corners would be wider by sqrt(2); 1.12 covers the face and leaves out the corners
    x = (x0 + x1) / 2 + 1.12 * (x1 - x0) / 2 * np.cos(angle)
    y = (y0 + y1) / 2 - 0.06 * (y1 - y0) + 1.18 * (y1 - y0) / 2 * np.sin(angle)
    return transform(np.stack([x, y], 1).astype(np.float32), matrix)


def keep_regions(
    mask: PasteMask, semantic_map: np.ndarray, matrix: np.ndarray, regions: frozenset[str], crop_size: int
) -> PasteMask:
    """Set a mask's alpha to 0 on regions of the face, where the photo then stays bit-identical.

    A region is dilated a little and feathered outwards, but not into other regions: keeping the skin does not keep the
    eyes. Alpha is never raised. For a face without a mesh (`FaceAnalysis.mesh` is None) the map is an estimate, and the
    pixels kept may be of another part of the face; the caller decides whether to accept that.

    Args:
        mask: mask of the face.
        semantic_map: (crop_size, crop_size) uint8 labels, see `semantic_map.LABELS`.
        matrix: (2, 3) crop matrix, photo to crop.
        regions: names of `semantic_map.REGIONS`: "eyes" (between the lids, with the irises), "brows", "nose", "mouth"
            (with both lips) and "skin" (the rest of the face, by which most people are recognised). If empty, the mask
            is returned unchanged.
        crop_size: side of the crop, in pixels.

    Raises:
        ValueError: an unknown region, all regions together (the face would be unchanged), or a map of another size.
    """
    if unknown := regions - REGIONS.keys():
        raise ValueError(f"regions {', '.join(sorted(unknown))}: unknown; choose from {', '.join(REGIONS)}")
    if regions == REGIONS.keys():
        raise ValueError(
            f"regions {', '.join(sorted(regions))}: keeping all of them leaves the face unchanged; omit at least one"
        )
    if semantic_map.shape != (crop_size, crop_size):
        raise ValueError(f"semantic_map: expected shape {(crop_size, crop_size)}, got {semantic_map.shape}")
    if not mask.alpha.size:
        return mask
    to_window = invert(matrix)
    to_window[:, 2] -= (mask.left, mask.top)

    def in_window(names: Iterable[str]) -> np.ndarray:
        labels = [LABEL[label] for name in names for label in REGIONS[name]]
        inside = np.isin(semantic_map, labels).astype(np.float32)
        inside[[0, -1]] = inside[:, [0, -1]] = 0  # `warp` replicates the border
        return warp(inside, to_window, (mask.alpha.shape[1], mask.alpha.shape[0])) >= 0.5

    kept, other = in_window(regions), in_window(REGIONS.keys() - regions - {"skin"})
    if not kept.any():
        return mask
    side = _photo_side(matrix, crop_size)
    growth, feather = max(1.0, _KEPT_REGION_GROWTH * side), max(2.0, _KEPT_REGION_FEATHER * side)
    distance = cv2.distanceTransform((~kept).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ramp = np.clip((distance - growth) / feather, 0, 1).astype(np.float32)
    ramp[other] = 1
    return replace(mask, alpha=mask.alpha * _smoothstep(ramp))


def _photo_side(matrix: np.ndarray, crop_size: int) -> float:
    """Return the side of a crop, in photo pixels."""
    return crop_size / float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def _smoothstep(ramp: np.ndarray) -> np.ndarray:
    """Smooth a ramp of 0..1 at both ends."""
    return ramp * ramp * (3 - 2 * ramp)
