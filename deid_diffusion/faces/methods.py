"""The simple ways to change a face, for comparison and for users who are told to use them: fill, blur, pixelate."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from .blend import FILL
from .mask import PasteMask

Method = Literal["synth", "fill", "blur", "pixelate"]
"""How a face is replaced: by a generated one, by one colour, or by what is left of it after a filter."""

METHODS: tuple[Method, ...] = get_args(Method)

BLUR = 0.25
"""Standard deviation of the blur, as a share of the face's larger side, so of its width at least."""

BLOCKS = 8
"""Blocks of the pixelation across the larger side of the mask, so across the face's width at most."""

#: One line for each method that leaves a trace of the original face.
WARNINGS: dict[str, str] = {
    "blur": "blur can be undone in effect: who blurs photos of known people alike recognises the blurred face "
    "(Newton et al., 2005; other measurements found 58 to 69 % of 102 people so); use synth or fill to hide who it is",
    "pixelate": "pixelation can be undone in effect: who pixelates photos of known people alike recognises the face "
    "(Newton et al., 2005; other measurements found 21 to 33 % of 102 people so, with 12 blocks a face); use synth or "
    "fill to hide who it is",
}

_SMALLEST_BLOCK = 4  # pixels; a face of eight pixels must not keep each of them
_COARSE = 6.0  # standard deviation, in pixels, of the blur on the shrunk picture: large kernels are slow


def simple_patch(photo: np.ndarray, mask: PasteMask, method: Method) -> np.ndarray:
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
        ValueError: for a photo that the mask is not of, "synth" (generated elsewhere), or an unknown method.
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
    simple = ", ".join(name for name in METHODS if name != "synth")
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
    scale = min(1.0, _COARSE / sigma)
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
