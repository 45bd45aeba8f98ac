"""The finished picture: it starts with every face opaque, and replacements are pasted in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import cv2
import numpy as np

from .crop import invert, warp
from .inpainting import fill_from_surroundings
from .mask import PasteMask

FILL = (128, 128, 128)
"""Mid-grey: what the generator sees in a face's place, and what a grey cover looks like."""

CoverColour = Literal["surroundings", "grey"]
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
    def trial(self, index: int, crop: np.ndarray, matrix: np.ndarray) -> Iterator[np.ndarray]:
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


def match_rim(crop: np.ndarray, context: np.ndarray, mask: np.ndarray, reach: float = 0.06) -> np.ndarray:
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
