"""Compositing: canvas without original faces, covers, filters, and boundary colour matching."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import cv2
import numpy as np

from ..options import CoverColour, Method
from .alignment import invert, warp
from .masks import PasteMask
from .texture import nearest_inside

FILL = (128, 128, 128)  # RGB of erased pixels and of grey covers


METHODS: tuple[Method, ...] = get_args(Method)

BLUR = 0.25  # standard deviation of the blur, as a share of the face's larger side, so at least of its width
BLOCKS = 8  # blocks of the pixelation along the larger side of the mask, so at most along the face's width

#: Method that leaves a trace of the original face -> one-line warning.
WARNINGS: dict[str, str] = {
    "blur": "blur can be undone in effect: an attacker who blurs photos of known people in the same way recognises the "
    "blurred face (Newton et al., 2005; other measurements: 58 to 69 % of 102 people); generate or fill hide identity",
    "pixelate": "pixelation can be undone in effect: an attacker who pixelates photos of known people in the same way "
    "recognises the face (Newton et al., 2005; other measurements: 21 to 33 % of 102 people, with 12 blocks per face); "
    "generate or fill hide identity",
}

_COVER_MARGIN = 0.3  # width around a cover from which its colours come, as a share of its larger side
_MIN_COVER_MARGIN = 8  # pixels
_SKIN_SIGMA = 35.0  # RGB distance, 0..255, at which pixels of the ring around a mask count little as skin
_SHIFT_FADE = 0.03  # share of skin in a neighbourhood below which the colour shift fades out
_MIN_BLOCK = 4  # pixels; otherwise a face of eight pixels would keep all of them
_COARSE_SIGMA = 6.0  # standard deviation, in pixels, above which `_blur` works on a smaller copy, for speed
_MIN_SIGMA = 2.0  # pixels
_SOFTNESS = 0.35  # standard deviation of the blur in a filled hole, as a share of the distance to its edge
_SCALE_SPACE = (1, 2, 4, 8, 16)  # standard deviations, in pixels, between which that blur is interpolated
_REDUCED_SIGMA = 2.0  # standard deviation, in pixels of the smaller copy, of wide blurs


def erase(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a copy of a (H, W, 3) uint8 photo with `FILL` in all pixels of a (H, W) bool mask."""
    erased = photo.copy()
    erased[mask] = FILL
    return erased


class Canvas:
    """A copy of the photo that never holds a pixel of an original face.

    Faces are opaque from the start; `paste` draws a replacement. The ring around a face, in which the replacement is
    feathered, lies outside the face and shows the photo until `cover` hides it as well. Pixels outside all masks stay
    bit-identical to the photo.

    Args:
        photo: (H, W, 3) uint8 RGB.
        masks: the faces' masks.
        colour: colour of covers, see `Options.fill_colour`.
    """

    def __init__(self, photo: np.ndarray, masks: Sequence[PasteMask], colour: CoverColour = "surroundings") -> None:
        self.pixels = photo.copy()
        self._masks, self._colour = masks, colour
        self._replaced: dict[int, PasteMask] = {}
        self._original = np.zeros(photo.shape[:2], bool)  # pixels that showed, or show, an original face
        for mask in masks:
            self.pixels[mask.window][mask.alpha >= 1] = FILL
            self._original[mask.window] |= mask.alpha > 0

    def paste(self, index: int, crop: np.ndarray, matrix: np.ndarray) -> None:
        """Draw a (S, S, 3) uint8 replacement of face ``index`` by its (2, 3) crop matrix."""
        if self._masks[index].alpha.size:
            self.paste_patch(index, self._to_window(index, crop, matrix))

    def paste_patch(self, index: int, patch: np.ndarray) -> None:
        """Blend a (h, w, 3) uint8 replacement of face ``index``'s window by the face's mask."""
        self._blend(index, patch)
        self._replaced[index] = self._masks[index]

    def _to_window(self, index: int, crop: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Resample a crop to the window of a face's mask."""
        mask = self._masks[index]
        height, width = mask.alpha.shape
        to_window = invert(matrix)
        to_window[:, 2] -= (mask.left, mask.top)
        return warp(crop, to_window, (width, height))

    def _blend(self, index: int, patch: np.ndarray) -> None:
        mask = self._masks[index]
        alpha, background = mask.alpha[..., None], self.pixels[mask.window]
        blended = np.clip(patch.astype(np.float32) * alpha + background * (1 - alpha) + 0.5, 0, 255).astype(np.uint8)
        self.pixels[mask.window] = np.where(alpha > 0, blended, background)

    @contextmanager
    def preview(self, index: int, crop: np.ndarray, matrix: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the pixels with a replacement that is removed on exit; read-only."""
        window = self._masks[index].window
        before = self.pixels[window].copy()
        try:
            if before.size:
                self._blend(index, self._to_window(index, crop, matrix))
            yield self.pixels
        finally:
            self.pixels[window] = before

    def cover(self, index: int) -> None:
        """Hide face ``index`` including its ring."""
        self.fill(self._masks[index], index)

    def fill(self, mask: PasteMask, index: int | None = None) -> None:
        """Hide the pixels of a mask, except for those that show only other faces' replacements.

        The colours come from the surroundings; no pixel of a face is read.

        Args:
            mask: mask of a face, of the canvas or not.
            index: index of that face on the canvas, whose replacement is hidden as well.
        """
        if index is not None:
            self._replaced.pop(index, None)
        hidden = mask.alpha > 0
        for other in self._replaced.values():
            _exclude_opaque(hidden, mask, other)
        self.pixels[mask.window][hidden] = FILL
        self._original[mask.window] |= hidden
        if self._colour == "grey" or not hidden.any():
            return
        height, width = hidden.shape
        margin = max(_MIN_COVER_MARGIN, round(_COVER_MARGIN * max(height, width)))
        rows = slice(max(0, mask.top - margin), mask.top + height + margin)
        columns = slice(max(0, mask.left - margin), mask.left + width + margin)
        window, hole = self.pixels[rows, columns], self._original[rows, columns]
        filled = fill_from_surroundings(window.astype(np.float32), hole)
        inside = np.zeros_like(self._original)
        inside[mask.window] = hidden
        inside = inside[rows, columns]
        window[inside] = np.clip(filled[inside] + 0.5, 0, 255).astype(np.uint8)


def _exclude_opaque(hidden: np.ndarray, mask: PasteMask, other: PasteMask) -> None:
    """Clear a mask's (h, w) bool pixels where another mask is opaque, in place."""
    (height, width), (rows, columns) = mask.alpha.shape, other.alpha.shape
    top, left = max(mask.top, other.top), max(mask.left, other.left)
    bottom, right = min(mask.top + height, other.top + rows), min(mask.left + width, other.left + columns)
    if top >= bottom or left >= right:
        return
    opaque = other.alpha[top - other.top : bottom - other.top, left - other.left : right - other.left] >= 1
    hidden[top - mask.top : bottom - mask.top, left - mask.left : right - mask.left] &= ~opaque


def match_boundary_colour(crop: np.ndarray, context: np.ndarray, mask: np.ndarray, reach: float = 0.06) -> np.ndarray:
    """Shift a generated crop's colours to match the photo's skin at the edge of the mask.

    The difference on a ring outside the mask is spread smoothly inwards, as the membrane of Perez et al., "Poisson
    Image Editing", 2003, but solved by blurring the known values. Ring pixels count if they were generated in a colour
    similar to the face's: an autoencoder's error on a scarf is not its error on skin.

    Args:
        crop: (S, S, 3) uint8, fully generated.
        context: (S, S, 3) uint8 crop of the photo, read outside the mask only.
        mask: (S, S) bool, the erased pixels.
        reach: width of the ring, as a share of S.

    Returns:
        (S, S, 3) uint8.
    """
    size = len(crop)
    width = max(2, round(reach * size))
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((2 * width + 1,) * 2, np.uint8)) > 0
    if not (grown & ~mask).any() or not mask.any():
        return crop
    generated = crop.astype(np.float32)
    difference = np.linalg.norm(generated - np.median(generated[mask], axis=0), axis=2)
    weight = ((grown & ~mask) * np.exp(-0.5 * (difference / _SKIN_SIGMA) ** 2)).astype(np.float32)[..., None]
    sigma = size / 10
    spread = cv2.GaussianBlur((context.astype(np.float32) - generated) * weight, (0, 0), sigma)
    known = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
    shift = spread / (known + _SHIFT_FADE)
    return np.clip(generated + shift + 0.5, 0, 255).astype(np.uint8)


def apply_method(photo: np.ndarray, mask: PasteMask, method: Method) -> np.ndarray:
    """Return a face's replacement by a filter, for all pixels with a positive `mask.alpha`.

    It is computed from the mask's window alone, mirrored at the edges: "fill" reads no pixel, "blur" is a Gaussian of
    at least a quarter of the face's larger side, "pixelate" averages at most 8 x 8 blocks. A face that the photo's edge
    cuts is assumed to extend as far outside.

    Blur and pixelation leave identity cues, see `WARNINGS` (Newton, Sweeney and Malin, "Preserving Privacy by
    De-identifying Face Images", IEEE TKDE 17(2), 2005).

    Args:
        photo: (H, W, 3) uint8 RGB.
        mask: mask of the face.
        method: "fill", "blur" or "pixelate".

    Returns:
        (h, w, 3) uint8 of the size of `mask.alpha`.

    Raises:
        ValueError: a mask of another photo's size, or another method.
    """
    if photo.shape[:2] != tuple(mask.photo_shape):
        raise ValueError(
            f"photo: expected the size of the mask's photo, {tuple(mask.photo_shape)}, got {photo.shape[:2]}"
        )
    window = photo[mask.window]
    if method == "fill" or (method in ("blur", "pixelate") and not window.size):
        return np.full_like(window, FILL)
    if method == "blur":
        return _blur(window, BLUR * _larger_side(mask, mask.alpha >= 1))
    if method == "pixelate":
        return _pixelate(window, int(np.ceil(_larger_side(mask, mask.alpha > 0) / BLOCKS)))
    filters = ", ".join(name for name in METHODS if name != "generate")
    raise ValueError(f"method {method}: not a filter, expected one of {filters}")


def _larger_side(mask: PasteMask, inside: np.ndarray) -> float:
    """Return the larger of height and width, in photo pixels, of a (h, w) bool region of the mask's window."""
    sides = []
    for axis, (start, limit) in enumerate(zip((mask.top, mask.left), mask.photo_shape, strict=True)):
        indices = np.flatnonzero(inside.any(1 - axis))
        first, last = (start + int(indices[0]), start + int(indices[-1])) if indices.size else (0, 0)
        cut = first == 0 or last == limit - 1
        sides.append((2 if cut else 1) * float(last - first + 1))
    return max(sides)


def _blur(window: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a (h, w, 3) uint8 picture by a Gaussian of `sigma` pixels, on a smaller copy if it is wide."""
    height, width = window.shape[:2]
    scale = min(1.0, _COARSE_SIGMA / sigma)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    coarse = cv2.resize(window.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    sigmas = max(_MIN_SIGMA, sigma * small[0] / width), max(_MIN_SIGMA, sigma * small[1] / height)
    coarse = cv2.GaussianBlur(coarse, (0, 0), sigmas[0], sigmaY=sigmas[1], borderType=cv2.BORDER_REFLECT)
    blurred = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(blurred + 0.5, 0, 255).astype(np.uint8)


def _pixelate(window: np.ndarray, block: int) -> np.ndarray:
    """Replace the blocks of a (h, w, 3) uint8 picture, `block` pixels wide, by their means."""
    block = max(_MIN_BLOCK, block)
    means = window.astype(np.float64)
    for axis in (0, 1):
        length = means.shape[axis]
        starts = np.arange(0, max(1, length - block + 1), block)  # the last block takes the remainder
        counts = np.diff(np.append(starts, length))
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        means = np.add.reduceat(means, starts, axis) / counts.reshape(shape)
        means = means.repeat(counts, axis)
    return np.clip(means + 0.5, 0, 255).astype(np.uint8)


def fill_from_surroundings(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill a hole from its edge without reading its pixels.

    Pixels take the colour of the nearest known pixel, blurred in proportion to the distance.

    Args:
        picture: (H, W, C) float32.
        hole: (H, W) bool.

    Returns:
        (H, W, C) float32, unchanged outside the hole; mid-range if the hole is the full picture.
    """
    if hole.all():
        return np.full_like(picture, 0.5 if picture.max(initial=0) <= 1 else 128)
    if not hole.any():
        return picture.astype(np.float32)
    distance, nearest = nearest_inside(~hole)
    filled = picture[~hole].astype(np.float32)[nearest]
    target_sigma = _SOFTNESS * distance
    softened, last_sigma = filled, 0.0
    for sigma in _SCALE_SPACE:
        if float(target_sigma.max()) <= last_sigma:
            break
        share = ((target_sigma - last_sigma) / (sigma - last_sigma)).clip(0, 1)[..., None]
        softened, last_sigma = softened + share * (blur(filled, sigma) - softened), sigma
    return np.where(hole[..., None], softened, picture).astype(np.float32)


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a (H, W, C) float32 picture by a Gaussian of `sigma` pixels, on a smaller copy if it is wide, for speed."""
    shrink = int(sigma / _REDUCED_SIGMA)
    height, width = picture.shape[:2]
    if shrink < 2 or min(height, width) < 4 * shrink:
        return cv2.GaussianBlur(picture, (0, 0), sigma)
    small = cv2.resize(picture, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
