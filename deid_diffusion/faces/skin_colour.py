"""The colour of a face's skin: two lines of numbers that a new face takes over, so that it fits the neck beneath it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .labels import LABEL

_SKIN = (LABEL["skin"], LABEL["nose"])
_LEAST = 0.01  # share of the crop that has to be skin for its colour to be known
_MOST = 30.0  # Lab units, largest shift: beyond it, it was no skin that was measured
_GAIN = (0.6, 1.2)  # least and largest change of contrast
_SHADING = 0.04  # standard deviation that parts shading from features, as a share of the crop's side
_GREY = 2.0  # mean difference of a pixel's channels, in levels, up to which a photo has no colours
_SOFT = 0.06  # depth in the mask at which a face has all of its new colour, as a share of the crop's side


@dataclass(frozen=True)
class SkinColour:
    """Colour of a face's skin, in CIE L*a*b*; L* 0 to 100, a* and b* about -128 to 127.

    Attributes:
        middle: median of each channel.
        spread: of each channel, the median distance to that.
    """

    middle: tuple[float, float, float]
    spread: tuple[float, float, float]


def skin_colour(crop: np.ndarray, labels: np.ndarray) -> SkinColour | None:
    """The colour of the skin in a crop.

    Medians, so that glasses, a fringe or a hand in front of a smaller part of the face do not count.

    Args:
        crop: (S, S, 3) RGB, uint8 or float32 in 0..1.
        labels: (S, S) semantic map of the face.

    Returns:
        None if hardly any skin is seen.
    """
    skin = np.isin(labels, _SKIN)
    if skin.mean() < _LEAST:
        return None
    values = _to_lab(crop)[skin]
    middle = np.median(values, axis=0)
    spread = np.median(np.abs(values - middle), axis=0)
    return SkinColour(tuple(middle.tolist()), tuple(spread.tolist()))


def match_skin(crop: np.ndarray, labels: np.ndarray, mask: np.ndarray, wanted: SkinColour) -> np.ndarray:
    """Give a generated face's skin the wanted colour and contrast (colour transfer; Reinhard et al., CG&A 2001).

    Args:
        crop: (S, S, 3) float32 RGB in 0..1, generated.
        labels: (S, S) semantic map that it was generated from.
        mask: (S, S) bool, True where the photo is erased; nothing else is changed.
        wanted: the original's.

    Returns:
        (S, S, 3) float32 RGB in 0..1.
    """
    found = skin_colour(crop, np.where(mask, labels, LABEL["background"]))
    if found is None:
        return crop
    middle = np.array(found.middle, np.float32)
    shift = np.array(wanted.middle, np.float32) - middle
    shift *= min(1.0, _MOST / max(float(np.linalg.norm(shift)), 1e-6))
    gain = (np.array(wanted.spread, np.float32) + 1) / (np.array(found.spread, np.float32) + 1)
    lab = _to_lab(crop)
    inside = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    weight = np.clip(depth / (_SOFT * len(crop)), 0, 1) * mask  # at the rim the new face meets the photo as it is
    shading = cv2.GaussianBlur(lab, (0, 0), _SHADING * len(crop)) - middle
    lab += weight[..., None] * (shading * (gain.clip(*_GAIN) - 1) + shift)
    return np.where(mask[..., None], cv2.cvtColor(lab, cv2.COLOR_LAB2RGB).clip(0, 1), crop)


def keep_grey(crop: np.ndarray, context: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A generated crop without colours where the photo has none, as in black and white photographs.

    Args:
        crop: (S, S, 3) uint8 RGB, generated.
        context: (S, S, 3) uint8 RGB, the photo's crop.
        mask: (S, S) bool, True where the photo is erased and says nothing.
    """
    seen = context[~mask]
    if not len(seen) or np.ptp(seen, axis=1).mean() > _GREY:
        return crop
    return cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _to_lab(crop: np.ndarray) -> np.ndarray:
    values = crop if crop.dtype == np.float32 else crop.astype(np.float32) / 255
    return cv2.cvtColor(values, cv2.COLOR_RGB2LAB)
