"""Parts of a face that stay original on purpose: a mask with the eyes, the mouth or another region left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from .alignment import invert, transform, warp
from .semantic_map import LABEL, REGIONS
from .texture import silhouette

#: The mask grows past the face's oval by this share of the crop's side; the feather lies in that ring, so that no
#: pixel of the face itself is ever blended with its replacement.
DILATION = 0.03
FEATHER = 0.02
AT_EDGE = 2  # distance to the photo's edge, in pixels, at which a box is cut off by it
_FINER = 2  # pixels of the silhouette to one of the crop, along a line


@dataclass(frozen=True, eq=False)
class PasteMask:
    """How much of each photo pixel a replacement takes, kept only where it is not 0.

    Attributes:
        alpha: (h, w) float32, 0..1: 1 on the face, falling to 0 in a ring around it.
        top: row of the photo at which ``alpha`` begins.
        left: column likewise.
        photo_shape: (height, width) of the photo.
    """

    alpha: np.ndarray
    top: int
    left: int
    photo_shape: tuple[int, int]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the photo that ``alpha`` covers."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def full(self) -> np.ndarray:
        """(height, width) float32 alpha of the whole photo."""
        whole = np.zeros(self.photo_shape, np.float32)
        whole[self.window] = self.alpha
        return whole


def union_mask(photo_shape: tuple[int, int], masks: Sequence[PasteMask]) -> np.ndarray:
    """(height, width) bool: every pixel that any mask touches."""
    gone = np.zeros(photo_shape, bool)
    for mask in masks:
        gone[mask.window] |= mask.alpha > 0
    return gone


def face_outline(mesh: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the outlines, (N, 2) crop pixels each, of a mesh's silhouette.

    Args:
        mesh: (478, 2) crop pixels.
        size: of the crop, in pixels.
    """
    low = np.floor(mesh.min(0)).clip(max=0)
    reach = int(np.ceil(max(size, float((mesh - low).max()) + 2)))  # a face may reach past its crop
    inside = silhouette((mesh - low) * _FINER, reach * _FINER).astype(np.uint8)
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [((outline[:, 0] + 0.5) / _FINER + low).astype(np.float32) for outline in outlines]


def paste_mask(
    outlines: Sequence[np.ndarray],
    matrix: np.ndarray,
    photo_shape: tuple[int, int],
    crop_size: int,
    dilation: float = DILATION,
) -> PasteMask:
    """The mask of a face: its outline grown, with a soft ring around it.

    Args:
        outlines: (N, 2) closed outlines, crop pixels, which the face fills together.
        matrix: (2, 3) crop matrix, photo to crop.
        photo_shape: (height, width).
        crop_size: side of the crop, in pixels.
        dilation: reach past the outline, as a share of the crop's side.

    Returns:
        Exactly 1 on the face and, for a face outside the photo, an empty window.
    """
    height, width = photo_shape
    back = invert(matrix)
    polygons = [transform(outline, back) for outline in outlines]
    in_photo = np.concatenate(polygons)
    side = crop_size / float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    feather = max(1.0, FEATHER * side)
    reach = max(feather + 1.5, dilation * side)  # a small face needs a pixel and a half for the grid
    pad = int(np.ceil(reach)) + 2
    x0, y0 = (int(v) for v in np.floor(in_photo.min(0)) - pad)
    x1, y1 = (int(v) for v in np.ceil(in_photo.max(0)) + pad)
    # On a window that may reach past the photo, so that a face cut by the border is not feathered along it.
    window = np.zeros((y1 - y0, x1 - x0), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(window, [np.round((polygon - (x0, y0)) * 16).astype(np.int32)], (1,), shift=4)
    distance = cv2.distanceTransform(1 - window, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring = np.clip((reach - distance) / feather, 0, 1).astype(np.float32)
    ring = ring * ring * (3 - 2 * ring)
    left, top, right, bottom = max(0, x0), max(0, y0), min(width, x1), min(height, y1)
    if left >= right or top >= bottom:
        return empty_mask(photo_shape)
    return PasteMask(ring[top - y0 : bottom - y0, left - x0 : right - x0], top, left, photo_shape)


def empty_mask(photo_shape: tuple[int, int]) -> PasteMask:
    """A mask that touches no pixel."""
    return PasteMask(np.zeros((0, 0), np.float32), 0, 0, photo_shape)


def box_mask(box: tuple[float, float, float, float], photo_shape: tuple[int, int]) -> PasteMask:
    """Return an opaque, rounded box, grown by a fifth and more above the brows, for a face that cannot be measured.

    Args:
        box: x0, y0, x1, y1 in photo pixels.
        photo_shape: (height, width).
    """
    x0, y0, x1, y1 = box
    width, height = 0.2 * (x1 - x0) + 1, 0.2 * (y1 - y0) + 1
    rows, columns = photo_shape
    sides = (x0 - width, y0 - 1.5 * height, x1 + width, y1 + height)
    left, top = (int(min(max(0, v), limit)) for v, limit in zip(sides, (columns, rows), strict=False))
    bottom = int(np.clip(np.ceil(sides[3]), top, rows))
    right = int(np.clip(np.ceil(sides[2]), left, columns))
    across = (2 * np.arange(left, right) + 1 - sides[0] - sides[2]) / (sides[2] - sides[0])
    down = (2 * np.arange(top, bottom) + 1 - sides[1] - sides[3]) / (sides[3] - sides[1])
    rounded = across**4 + down[:, None] ** 4 <= 1  # a superellipse: square corners are seen at once
    return PasteMask(rounded.astype(np.float32), top, left, photo_shape)


def limit_mask(
    mask: PasteMask, box: tuple[float, float, float, float], matrix: np.ndarray, crop_size: int
) -> PasteMask:
    """Keep a mask whose outline was guessed near the detector's box: a rounded rectangle a little larger than it.

    Where the photo's edge cuts the face off, its mirror image completes the box.

    Args:
        mask: of a face.
        box: x0, y0, x1, y1 in photo pixels.
        matrix: (2, 3) crop matrix, photo to crop.
        crop_size: side of the crop, in pixels.
    """
    height, width = mask.photo_shape
    x0, y0, x1, y1 = box
    whole = (
        2 * x0 - x1 if x0 <= AT_EDGE else x0,
        2 * y0 - y1 if y0 <= AT_EDGE else y0,
        2 * x1 - x0 if x1 >= width - AT_EDGE else x1,
        2 * y1 - y0 if y1 >= height - AT_EDGE else y1,
    )
    outlines = [_rounded(shape, matrix) for shape in dict.fromkeys((box, whole))]
    limit = paste_mask(outlines, matrix, mask.photo_shape, crop_size).full()
    return replace(mask, alpha=mask.alpha * limit[mask.window])


def _rounded(box: tuple[float, float, float, float], matrix: np.ndarray) -> np.ndarray:
    """Return a (96, 2) superellipse, crop pixels, that passes near the corners of a box in photo pixels."""
    x0, y0, x1, y1 = box
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    across, down = (np.sign(part) * np.sqrt(np.abs(part)) for part in (np.cos(turn), np.sin(turn)))
    x = (x0 + x1) / 2 + 1.15 * (x1 - x0) / 2 * across
    y = (y0 + y1) / 2 + (1.25 * down - 0.05) * (y1 - y0) / 2
    return transform(np.stack([x, y], 1).astype(np.float32), matrix)


def box_outline(box: tuple[float, float, float, float], matrix: np.ndarray) -> np.ndarray:
    """(48, 2) ellipse, crop pixels, that covers a detector's box in photo pixels and a little more above the brows."""
    x0, y0, x1, y1 = box
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    # An ellipse through the box's corners would be sqrt(2) wider; 1.12 covers all of a face but not its corners.
    x = (x0 + x1) / 2 + 1.12 * (x1 - x0) / 2 * np.cos(turn)
    y = (y0 + y1) / 2 - 0.06 * (y1 - y0) + 1.18 * (y1 - y0) / 2 * np.sin(turn)
    return transform(np.stack([x, y], 1).astype(np.float32), matrix)


REGION_WARNING = (
    "a kept region shows the person's original pixels and identifies people (eyes alone are a biometric): "
    "do not publish such pictures as de-identified"
)

_GROWTH = 0.008  # how far past the region the photo stays as it is, as a share of the crop's side
_FEATHER = 0.02  # width of the way back to the mask, likewise


def keep_regions(
    mask: PasteMask, semantic_map: np.ndarray, matrix: np.ndarray, regions: frozenset[str], crop_size: int
) -> PasteMask:
    """The same mask with regions of the face left out: its alpha is 0 on them, so the photo stays bit-identical there.

    A region is grown a little and its rim feathered back to the mask over a few pixels outside it, but neither reaches
    into another region: whoever keeps the skin does not get the eyes as well. Nothing is ever added to the mask. A face
    without a mesh has a map that is a guess (`FaceAnalysis.mesh` is None): what is
    kept may then be another part of the face, or miss the eye. Whether that is acceptable is the caller's decision.

    Args:
        mask: of the face.
        semantic_map: (crop_size, crop_size) uint8 labels, see `labels.LABELS`.
        matrix: (2, 3) crop matrix, photo to crop.
        regions: names out of `labels.REGIONS`: "eyes" (what the lids leave open, irises included), "brows", "nose",
            "mouth" (both lips and what is between them) and "skin" (all the rest of the face, which is most of what
            there is to recognise). None: the mask comes back as it is.
        crop_size: side of the crop, in pixels.

    Raises:
        ValueError: a name that is no region, all of the regions together (the face would stay as it is), or a map of
            another size.
    """
    if unknown := regions - REGIONS.keys():
        raise ValueError(f"regions {', '.join(sorted(unknown))}: unknown, there are {', '.join(REGIONS)}")
    if regions == REGIONS.keys():
        raise ValueError(f"regions {', '.join(sorted(regions))}: all of them would leave the face as it is")
    if semantic_map.shape != (crop_size, crop_size):
        raise ValueError(f"semantic_map: {semantic_map.shape}, expected {(crop_size, crop_size)}")
    if not mask.alpha.size:
        return mask
    to_window = invert(matrix)
    to_window[:, 2] -= (mask.left, mask.top)

    def in_window(names: Iterable[str]) -> np.ndarray:
        labels = [LABEL[label] for name in names for label in REGIONS[name]]
        inside = np.isin(semantic_map, labels).astype(np.float32)
        inside[[0, -1]] = inside[:, [0, -1]] = 0  # `warp` repeats the border outwards
        return warp(inside, to_window, (mask.alpha.shape[1], mask.alpha.shape[0])) >= 0.5

    there, elsewhere = in_window(regions), in_window(REGIONS.keys() - regions - {"skin"})
    if not there.any():
        return mask
    side = crop_size / float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    growth, feather = max(1.0, _GROWTH * side), max(2.0, _FEATHER * side)
    distance = cv2.distanceTransform((~there).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    back = np.clip((distance - growth) / feather, 0, 1).astype(np.float32)
    back[elsewhere] = 1
    return replace(mask, alpha=mask.alpha * (back * back * (3 - 2 * back)))
