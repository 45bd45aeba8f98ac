"""Between a frame's stored planes and the upright RGB picture that the rest of the package sees.

Only what was changed in RGB is converted back: everywhere else the stored samples stay as they were decoded, so that
pictures are not converted twice and keep their 10 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .packages import pyav

if TYPE_CHECKING:
    import av

_UNSPECIFIED = 2  # FFmpeg's number of an unknown transfer function, and of unknown primaries


def to_rgb(frame: av.VideoFrame, turns: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a frame, turned by so many quarter turns counter-clockwise.

    The frame's own colour matrix and range are used.
    """
    return np.ascontiguousarray(np.rot90(_converted(frame, "rgb24").to_ndarray(), turns))


def changed(frame: av.VideoFrame, pixels: str, before: np.ndarray, after: np.ndarray, turns: int) -> av.VideoFrame:
    """A new frame that shows ``after`` wherever that differs from ``before``, and the old samples elsewhere.

    Where colour is subsampled, all pixels that share a sample with a changed one get their colour from ``after``.
    Nothing that hangs on the old frame (captions, positions, the camera's remarks) hangs on the new one.

    Args:
        frame: as it was decoded.
        pixels: FFmpeg's name of the result's pixel format, planar YUV.
        before: (H, W, 3) uint8, what `to_rgb` made of the frame.
        after: (H, W, 3) uint8, likewise turned.
        turns: as for `to_rgb`.
    """
    base, made = _converted(frame, pixels), None
    different = np.rot90((before != after).any(2), -turns)
    if different.any():
        picture = np.ascontiguousarray(np.rot90(after, -turns))
        rgb = pyav().VideoFrame.from_ndarray(picture, "rgb24")
        rgb.colorspace, rgb.color_range = frame.colorspace, frame.color_range
        made = rgb.reformat(format=pixels)
    result = pyav().VideoFrame(frame.width, frame.height, pixels)
    result.colorspace, result.color_range = base.colorspace, base.color_range
    result.color_primaries, result.color_trc = frame.color_primaries, frame.color_trc
    for number in range(len(result.planes)):
        samples = _samples(base, number)
        if made is not None:
            samples = np.where(_shared(different, samples.shape), _samples(made, number), samples)
        _samples(result, number)[...] = samples
    return result


def _converted(frame: av.VideoFrame, pixels: str) -> av.VideoFrame:
    """A frame in another pixel format, by its own colour matrix and range.

    Transfer function and primaries play no part in that, but PyAV before 18 hands them on, and some are refused.
    """
    told = frame.color_trc, frame.color_primaries
    frame.color_trc = frame.color_primaries = _UNSPECIFIED
    try:
        return frame.reformat(format=pixels)
    finally:
        frame.color_trc, frame.color_primaries = told


def _samples(frame: Any, number: int) -> np.ndarray:
    """(h, w) view of a plane's samples, uint8 or uint16, without the padding at its right."""
    plane = frame.planes[number]
    kind = np.dtype(np.uint8 if frame.format.components[number].bits <= 8 else np.uint16)
    rows = np.frombuffer(plane, kind).reshape(-1, plane.line_size // kind.itemsize)
    return rows[: plane.height, : plane.width]


def _shared(different: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) bool: which samples of a plane any True pixel of an (H, W) mask has a part in."""
    rows, columns = (-(-full // part) for full, part in zip(different.shape, shape, strict=True))
    missing = [
        (0, part * step - full) for full, part, step in zip(different.shape, shape, (rows, columns), strict=True)
    ]
    whole = np.pad(different, missing)
    return whole.reshape(shape[0], rows, shape[1], columns).any((1, 3))
