"""Parts of a face that stay original on purpose: a mask with the eyes, the mouth or another region left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import cv2
import numpy as np

from .crop import invert, warp
from .labels import LABEL, REGIONS
from .mask import PasteMask

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
