"""The pieces of a photo that a detector looks at: scales cut in tiles, the photo turned, framed, or mirrored outwards.

The figures in this file's comments were measured with CenterFace, threshold 0.3, on real faces of known height.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from deid_diffusion.faces.detected_face import DetectedFace

FINEST_SCALE = 1.5  # view pixels per photo pixel: of faces 24 photo pixels high, 93 % are found at 1 and 100 % at 1.5
STEP = 4  # from one scale to the next coarser one
TILE = 1024  # view pixels
OVERLAP = 128  # view pixels: a face up to this size is whole in some tile, a larger one is whole at a coarser scale
COARSE_ENOUGH = 640  # view pixels: faces of 24 to 600 are found, so a photo this small needs no coarser look
WHOLE_SIDE = 1024  # view pixels, longest side of the whole photo, turned or mirrored
FRAMED_SIDE = 96  # view pixels, longest side of the photo in its frame


@dataclass(frozen=True)
class View:
    """A part of a photo, resized, turned, and framed.

    Args:
        x0, y0, x1, y1: the part, in photo pixels.
        width, height: its size after resizing, before turning, in view pixels.
        turns: quarter turns anticlockwise, 0 to 3.
        frame: width of the frame, in view pixels.
        mirror: whether the frame shows the picture mirrored at its edges, rather than black.
    """

    x0: int
    y0: int
    x1: int
    y1: int
    width: int
    height: int
    turns: int = 0
    frame: int = 0
    mirror: bool = False

    def take(self, image: np.ndarray) -> np.ndarray:
        """The picture that the view shows of `image`, (H, W, 3) uint8.

        It has the same layout, and `height` and `width`, swapped by an odd number of turns, plus the frame.
        """
        picture = image[self.y0 : self.y1, self.x0 : self.x1]
        if (self.height, self.width) != picture.shape[:2]:
            shrinks = self.width < picture.shape[1]
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            picture = cv2.resize(picture, (self.width, self.height), interpolation=how)
        picture = np.rot90(picture, self.turns)
        if self.frame == 0:
            return np.ascontiguousarray(picture)
        sides = (self.frame, self.frame)
        return np.pad(picture, (sides, sides, (0, 0)), mode="symmetric" if self.mirror else "constant")

    def back(self, face: DetectedFace) -> DetectedFace:
        """A face of the view's picture in photo pixels, its box clipped to the part of the photo that is shown."""
        corners = self._points_back(np.array(face.box, dtype=np.float64).reshape(2, 2))
        low, high = np.array([self.x0, self.y0]), np.array([self.x1, self.y1])
        x0, y0 = np.clip(corners.min(axis=0), low, high).tolist()
        x1, y1 = np.clip(corners.max(axis=0), low, high).tolist()
        points = None if face.points is None else self._points_back(face.points).astype(np.float32)
        return DetectedFace((x0, y0, x1, y1), face.score, face.detector, points)

    def share_inside(self, face: DetectedFace) -> float:
        """How much of the box of a face of the view's picture lies within the frame, 0 to 1; for views not turned."""
        x0, y0, x1, y1 = (side - self.frame for side in face.box)
        width, height = min(x1, self.width) - max(x0, 0), min(y1, self.height) - max(y0, 0)
        return max(0.0, width) * max(0.0, height) / ((x1 - x0) * (y1 - y0))

    def _points_back(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 2) x, y of the view's picture in photo pixels."""
        x, y = points[:, 0] - self.frame, points[:, 1] - self.frame
        if self.turns == 1:
            x, y = self.width - y, x
        elif self.turns == 2:
            x, y = self.width - x, self.height - y
        elif self.turns == 3:
            x, y = y, self.height - x
        across, down = (self.x1 - self.x0) / self.width, (self.y1 - self.y0) / self.height
        return np.stack([x * across + self.x0, y * down + self.y0], axis=1)


def pyramid(height: int, width: int) -> Iterator[View]:
    """Upright views that together show each face of a photo whole, in a size that detectors know."""
    scale = FINEST_SCALE
    while True:
        for y0, y1 in _spans(height, scale):
            for x0, x1 in _spans(width, scale):
                yield View(x0, y0, x1, y1, _scaled(x1 - x0, scale), _scaled(y1 - y0, scale))
        if max(height, width) * scale <= COARSE_ENOUGH:
            return
        scale /= STEP


def turned(height: int, width: int) -> Iterator[View]:
    """The whole photo on either side and upside down, for heads that lie or hang."""
    scale = min(1.0, WHOLE_SIDE / max(height, width))
    for turns in (1, 2, 3):
        yield View(0, 0, width, height, _scaled(width, scale), _scaled(height, scale), turns)


def mirrored(height: int, width: int) -> View:
    """The whole photo and, around it, what its edges mirror: it completes a face of which the edge cuts off a half."""
    scale = min(1.0, WHOLE_SIDE / max(height, width))
    frame = _scaled(max(height, width), scale / 6)
    return View(0, 0, width, height, _scaled(width, scale), _scaled(height, scale), frame=frame, mirror=True)


def framed(height: int, width: int) -> View:
    """The whole photo, small, in a wide black frame, for a face that fills it to the edges and beyond."""
    scale = FRAMED_SIDE / max(height, width)
    return View(0, 0, width, height, _scaled(width, scale), _scaled(height, scale), frame=FRAMED_SIDE // 3)


def _scaled(length: int, scale: float) -> int:
    """A length in view pixels, at least 1."""
    return max(1, round(length * scale))


def _spans(length: int, scale: float) -> list[tuple[int, int]]:
    """Evenly spaced tiles along one side of a photo: start and end of each, in photo pixels."""
    tile, overlap = round(TILE / scale), round(OVERLAP / scale)
    if length <= tile:
        return [(0, length)]
    count = -(-(length - overlap) // (tile - overlap))
    starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
    return [(start, start + tile) for start in starts]
