"""Erased regions filled with the colours around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import get_args

import cv2
import numpy as np

from ..options import CoverColour, Method
from .alignment import invert, warp
from .masks import PasteMask

FILL = (128, 128, 128)
"""Mid-grey: what the generator sees in a face's place, and what a grey cover looks like."""

COVER_COLOURS: tuple[CoverColour, ...] = get_args(CoverColour)
"""What covers are made of: the colours around them, which spoil a picture less, or mid-grey, which is seen at once."""

_SKIN_SPREAD = 35.0  # RGB distance, 0..255 scale, over which a rim colour stops being the face's
_DOUBT = 0.03  # share of skin around a point below which its shift fades out
_AROUND = 0.3  # how far around a cover colours are taken from, as a share of its larger side


def erase(photo: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """A copy of a (H, W, 3) uint8 photo in which every pixel of the (H, W) bool mask is ``FILL``."""
    erased = photo.copy()
    erased[gone] = FILL
    return erased


class Canvas:
    """A picture in the making. Whatever happens, no pixel of an original face is on it.

    On construction every face is opaque; ``paste`` puts a replacement over one. The ring around a face, where a
    replacement is feathered into the photo, still shows the photo (it lies outside the face); ``cover`` hides the ring
    too. Pixels that no mask touches stay bit-identical to the photo.
    """

    def __init__(self, photo: np.ndarray, masks: Sequence[PasteMask], colour: CoverColour = "surroundings") -> None:
        """Take a (H, W, 3) uint8 photo, the mask of each face, and what covers are made of, see `COVER_COLOURS`."""
        self.pixels = photo.copy()
        self._masks, self._colour = masks, colour
        self._replaced: dict[int, PasteMask] = {}
        self._original = np.zeros(photo.shape[:2], bool)  # pixels that are, or were, an original face's
        for mask in masks:
            self.pixels[mask.window][mask.alpha >= 1] = FILL
            self._original[mask.window] |= mask.alpha > 0

    def paste(self, index: int, crop: np.ndarray, matrix: np.ndarray) -> None:
        """Put a (S, S, 3) uint8 replacement over face ``index``, by its (2, 3) crop matrix."""
        if self._masks[index].alpha.size:
            self.paste_patch(index, self._in_photo(index, crop, matrix))

    def paste_patch(self, index: int, patch: np.ndarray) -> None:
        """Put a replacement of face ``index``'s whole window, (h, w, 3) uint8, where and as far as its mask says."""
        self._lay(index, patch)
        self._replaced[index] = self._masks[index]

    def _in_photo(self, index: int, crop: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Resample a crop to the window of a face's mask."""
        mask = self._masks[index]
        height, width = mask.alpha.shape
        shifted = invert(matrix)
        shifted[:, 2] -= (mask.left, mask.top)
        return warp(crop, shifted, (width, height))

    def _lay(self, index: int, patch: np.ndarray) -> None:
        mask = self._masks[index]
        weight, under = mask.alpha[..., None], self.pixels[mask.window]
        mixed = np.clip(patch.astype(np.float32) * weight + under * (1 - weight) + 0.5, 0, 255).astype(np.uint8)
        self.pixels[mask.window] = np.where(weight > 0, mixed, under)

    @contextmanager
    def preview(self, index: int, crop: np.ndarray, matrix: np.ndarray) -> Iterator[np.ndarray]:
        """The picture as it would be with a replacement, which is gone again afterwards; do not write to it."""
        window = self._masks[index].window
        before = self.pixels[window].copy()
        try:
            if before.size:
                self._lay(index, self._in_photo(index, crop, matrix))
            yield self.pixels
        finally:
            self.pixels[window] = before

    def cover(self, index: int) -> None:
        """Hide all of face ``index``, its ring included."""
        self.fill(self._masks[index], index)

    def fill(self, mask: PasteMask, index: int | None = None) -> None:
        """Hide every pixel that a mask touches, but for those that show a replacement and nothing else.

        The colours come from around the mask; no pixel of any face is read.

        Args:
            mask: of a face, whether it is one of the canvas's or not.
            index: of that face, if it is one; its own replacement is hidden, too.
        """
        if index is not None:
            self._replaced.pop(index, None)
        hidden = mask.alpha > 0
        for other in self._replaced.values():
            _leave_out(hidden, mask, other)
        self.pixels[mask.window][hidden] = FILL
        self._original[mask.window] |= hidden
        if self._colour == "grey" or not hidden.any():
            return
        height, width = hidden.shape
        reach = max(8, round(_AROUND * max(height, width)))
        rows = slice(max(0, mask.top - reach), mask.top + height + reach)
        columns = slice(max(0, mask.left - reach), mask.left + width + reach)
        window, hole = self.pixels[rows, columns], self._original[rows, columns]
        filled = fill_from_surroundings(window.astype(np.float32), hole)
        inside = np.zeros_like(self._original)
        inside[mask.window] = hidden
        here = inside[rows, columns]
        window[here] = np.clip(filled[here] + 0.5, 0, 255).astype(np.uint8)


def _leave_out(hidden: np.ndarray, mask: PasteMask, other: PasteMask) -> None:
    """Take the pixels on which another mask is 1 out of those that a mask hides, (h, w) bool, in place."""
    (height, width), (rows, columns) = mask.alpha.shape, other.alpha.shape
    top, left = max(mask.top, other.top), max(mask.left, other.left)
    bottom, right = min(mask.top + height, other.top + rows), min(mask.left + width, other.left + columns)
    if top >= bottom or left >= right:
        return
    covered = other.alpha[top - other.top : bottom - other.top, left - other.left : right - other.left] >= 1
    hidden[top - mask.top : bottom - mask.top, left - mask.left : right - mask.left] &= ~covered


def match_boundary_colour(crop: np.ndarray, context: np.ndarray, mask: np.ndarray, reach: float = 0.06) -> np.ndarray:
    """Shift a generated crop's colours so that its skin meets the photo's at the mask's rim.

    The difference on a ring just outside the mask, where both are known, is spread smoothly inwards (a membrane, as in
    Perez et al., "Poisson Image Editing", 2003, solved by blurring the known values). Only ring pixels that were
    generated in a colour like the face's count: what an autoencoder does to a red scarf says nothing of a cheek.

    Args:
        crop: (S, S, 3) uint8, generated everywhere.
        context: (S, S, 3) uint8, the photo's crop, read outside the mask only.
        mask: (S, S) bool, True where the photo is erased.
        reach: width of the ring, as a share of S.
    """
    size = len(crop)
    width = max(2, round(reach * size))
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((2 * width + 1,) * 2, np.uint8)) > 0
    if not (grown & ~mask).any() or not mask.any():
        return crop
    made = crop.astype(np.float32)
    unlike = np.linalg.norm(made - np.median(made[mask], axis=0), axis=2)
    weight = ((grown & ~mask) * np.exp(-0.5 * (unlike / _SKIN_SPREAD) ** 2)).astype(np.float32)[..., None]
    sigma = size / 10
    spread = cv2.GaussianBlur((context.astype(np.float32) - made) * weight, (0, 0), sigma)
    known = cv2.GaussianBlur(weight, (0, 0), sigma)[..., None]
    shift = spread / (known + _DOUBT)
    return np.clip(made + shift + 0.5, 0, 255).astype(np.uint8)


"""How a face is replaced: by a generated one, by one colour, or by what is left of it after a filter."""

METHODS: tuple[Method, ...] = get_args(Method)

BLUR = 0.25
"""Standard deviation of the blur, as a share of the face's larger side, so of its width at least."""

BLOCKS = 8
"""Blocks of the pixelation across the larger side of the mask, so across the face's width at most."""

#: One line for each method that leaves a trace of the original face.
WARNINGS: dict[str, str] = {
    "blur": "blur can be undone in effect: who blurs photos of known people alike recognises the blurred face "
    "(Newton et al., 2005; other measurements found 58 to 69 % of 102 people so); generate or fill hide identity",
    "pixelate": "pixelation can be undone in effect: who pixelates photos of known people alike recognises the face "
    "(Newton et al., 2005; other measurements found 21 to 33 % of 102 people so, with 12 blocks a face); "
    "generate or fill hide identity",
}

_SMALLEST_BLOCK = 4  # pixels; a face of eight pixels must not keep each of them
_COARSE_BLUR = 6.0  # standard deviation, in pixels, of the blur on the shrunk picture: large kernels are slow


def apply_method(photo: np.ndarray, mask: PasteMask, method: Method) -> np.ndarray:
    """What a simple method puts in a face's place: on every pixel where `mask.alpha` is over 0.

    It is computed from the mask's window alone, mirrored at its edges, and in it no pixel is one of the
    photo's: "fill" does not read them, "blur" is a Gaussian of a quarter of the face's larger side or more, "pixelate"
    means of at most 8 x 8 blocks. Of a face that the photo's edge cuts, as much again is assumed to lie outside.

    Blur and pixelation keep what identifies people, see `WARNINGS` (Newton, Sweeney and Malin, "Preserving Privacy by
    De-identifying Face Images", IEEE TKDE 17(2), 2005).

    Args:
        photo: (H, W, 3) uint8 RGB.
        mask: where the face is.
        method: "fill", "blur" or "pixelate".

    Returns:
        (h, w, 3) uint8 of the size of `mask.alpha`.

    Raises:
        ValueError: for a photo that the mask is not of, "generate" (generated elsewhere), or an unknown method.
    """
    if photo.shape[:2] != tuple(mask.photo_shape):
        raise ValueError(f"photo: {photo.shape[:2]}, but the mask is of a photo of {tuple(mask.photo_shape)}")
    window = photo[mask.window]
    if method == "fill" or (method in ("blur", "pixelate") and not window.size):
        return np.full_like(window, FILL)
    if method == "blur":
        return _blur(window, BLUR * _larger_side(mask, mask.alpha >= 1))
    if method == "pixelate":
        return _pixelate(window, int(np.ceil(_larger_side(mask, mask.alpha > 0) / BLOCKS)))
    simple = ", ".join(name for name in METHODS if name != "generate")
    raise ValueError(f"method {method}: not a simple one, expected one of {simple}")


def _larger_side(mask: PasteMask, inside: np.ndarray) -> float:
    """Height or width in photo pixels, whichever is larger, of what is True in an (h, w) bool array of the window."""
    sides = []
    for axis, (start, limit) in enumerate(zip((mask.top, mask.left), mask.photo_shape, strict=True)):
        places = np.flatnonzero(inside.any(1 - axis))
        first, last = (start + int(places[0]), start + int(places[-1])) if places.size else (0, 0)
        cut = first == 0 or last == limit - 1
        sides.append((2 if cut else 1) * float(last - first + 1))
    return max(sides)


def _blur(window: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a (h, w, 3) uint8 picture, on a shrunk copy where `sigma`, in pixels, is large."""
    height, width = window.shape[:2]
    scale = min(1.0, _COARSE_BLUR / sigma)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    coarse = cv2.resize(window.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    sigmas = max(2.0, sigma * small[0] / width), max(2.0, sigma * small[1] / height)
    coarse = cv2.GaussianBlur(coarse, (0, 0), sigmas[0], sigmaY=sigmas[1], borderType=cv2.BORDER_REFLECT)
    wide = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(wide + 0.5, 0, 255).astype(np.uint8)


def _pixelate(window: np.ndarray, block: int) -> np.ndarray:
    """Means of the squares of a (h, w, 3) uint8 picture, each `block` pixels wide or a little more at its far sides."""
    block = max(_SMALLEST_BLOCK, block)
    means = window.astype(np.float64)
    for axis in (0, 1):
        length = means.shape[axis]
        starts = np.arange(0, max(1, length - block + 1), block)  # what is left over joins the last block
        counts = np.diff(np.append(starts, length))
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        means = np.add.reduceat(means, starts, axis) / counts.reshape(shape)
        means = means.repeat(counts, axis)
    return np.clip(means + 0.5, 0, 255).astype(np.uint8)


_SOFT = 0.35  # standard deviation of the blur, as a share of the distance to what is known
_COARSE = 2.0  # standard deviation, in pixels of the smaller copy, that wide blurs have there
_LEVELS = (1, 2, 4, 8, 16)  # standard deviations, in pixels, that are computed


def fill_from_surroundings(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill a hole from its rim; nothing inside it is read.

    Each pixel takes the colour of the nearest known one, the softer the farther away it is.

    Args:
        picture: (H, W, C) float32.
        hole: (H, W) bool.

    Returns:
        (H, W, C) float32, outside the hole as it was; the middle of the range where nothing is known at all.
    """
    if hole.all():
        return np.full_like(picture, 0.5 if picture.max(initial=0) <= 1 else 128)
    if not hole.any():
        return picture.astype(np.float32)
    distance, nearest = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(nearest.max()) + 1, picture.shape[2]), np.float32)
    colours[nearest[~hole]] = picture[~hole]
    filled = colours[nearest]
    soft, before = filled, 0.0
    for sigma in _LEVELS:
        wanted = _SOFT * distance
        if float(wanted.max()) <= before:
            break
        smooth = blur(filled, sigma)
        share = ((wanted - before) / (sigma - before)).clip(0, 1)[..., None]
        soft, before = soft + share * (smooth - soft), sigma
    return np.where(hole[..., None], soft, picture).astype(np.float32)


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blur a (H, W, C) float32 picture by a Gaussian; a wide one on a smaller copy, which is far faster.

    Args:
        picture: to be blurred.
        sigma: standard deviation, in pixels.
    """
    shrink = int(sigma / _COARSE)
    height, width = picture.shape[:2]
    if shrink < 2 or min(height, width) < 4 * shrink:
        return cv2.GaussianBlur(picture, (0, 0), sigma)
    small = cv2.resize(picture, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), sigma / shrink)
    return cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
