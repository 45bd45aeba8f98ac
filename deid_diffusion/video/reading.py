"""Clips in: what a file says of its pictures, and the pictures one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import VideoError, one_line
from ..files import sha256_of
from ..images import MAX_PIXELS
from .packages import pyav
from .pixels import to_rgb

if TYPE_CHECKING:
    import av

_RATES = (1, 500)  # pictures a second that an encoder is told at least and at most; times are kept whatever it is told


@dataclass(frozen=True)
class Clip:
    """What is known of a clip before its pictures are gone through.

    Attributes:
        path: the file.
        sha256: hex digest of its bytes.
        width: of the stored picture, in pixels.
        height: likewise.
        turns: quarter turns, counter-clockwise, that set the stored picture upright: 0 to 3.
        display: the nine numbers of the display matrix that says so (ISO/IEC 14496-12), or None.
        pixels: FFmpeg's name of the pixel format.
        colour: FFmpeg's numbers of matrix, range, primaries and transfer function.
        aspect: width of a pixel by its height; None if the file does not say.
        rate: pictures a second, on average.
        time_base: unit of the pictures' times, in seconds.
        duration: of all pictures together, in units of the time base; None if the file does not say.
        expected: number of pictures that the file promises; 0 if it does not say.
    """

    path: Path
    sha256: str
    width: int
    height: int
    turns: int
    display: tuple[int, ...] | None
    pixels: str
    colour: tuple[int, int, int, int]
    aspect: Fraction | None
    rate: Fraction
    time_base: Fraction
    duration: int | None
    expected: int

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) of the upright picture."""
        return (self.width, self.height) if self.turns % 2 else (self.height, self.width)


@dataclass(frozen=True, eq=False)
class Picture:
    """One frame of a clip.

    Attributes:
        index: from 0 on.
        stored: as it was decoded.
        time: when it is shown, in units of the clip's time base; None if the file does not say.
        turns: as `Clip.turns`.
    """

    index: int
    stored: av.VideoFrame
    time: int | None
    turns: int

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright."""
        return to_rgb(self.stored, self.turns)


def open_clip(path: str | Path) -> Clip:
    """What a clip is. Its first picture is decoded.

    Raises:
        VideoError: missing, empty, damaged, too large, or without any picture. One line, with the name.
        DeidError: PyAV is missing.
    """
    path = Path(path)
    digest = _digest(path)
    with _reading(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise VideoError(f"{path}: holds no picture: give a clip that shows something")
        if first.width * first.height > MAX_PIXELS:
            raise VideoError(f"{path}: {first.width} x {first.height} pixels are over the limit of {MAX_PIXELS}")
        matrix = _display_matrix(first)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return Clip(
            path,
            digest,
            first.width,
            first.height,
            round(first.rotation / 90) % 4,
            matrix,
            first.format.name,
            (int(first.colorspace), int(first.color_range), int(first.color_primaries), int(first.color_trc)),
            stream.sample_aspect_ratio or None,
            min(max(Fraction(rate), Fraction(_RATES[0])), Fraction(_RATES[1])),
            stream.time_base,
            stream.duration,
            stream.frames,
        )


def pictures(clip: Clip) -> Iterator[Picture]:
    """The frames of a clip in the order in which they are shown, one in memory at a time.

    Raises VideoError where the file is damaged, or its pictures change their size.
    """
    with _reading(clip.path) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            if (frame.width, frame.height) != (clip.width, clip.height):
                sizes = f"{clip.width} x {clip.height} to {frame.width} x {frame.height}"
                raise VideoError(f"{clip.path}: changes its size from {sizes} at frame {index}: cut it there")
            yield Picture(index, frame, frame.pts, clip.turns)


@contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """The open container and its picture stream; FFmpeg's errors become one line."""
    av = pyav()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            moving = [stream for stream in container.streams.video if not _is_still(stream)]
            if not moving:
                raise VideoError(f"{path}: holds no moving picture: give a clip")
            yield container, moving[0]
    except av.error.FFmpegError as error:
        raise VideoError(f"{path}: is no clip, or damaged ({one_line(error.strerror)}): get a complete copy") from error


def _is_still(stream: Any) -> bool:
    """Whether a picture stream is a cover picture or the like; those may show faces and are never copied."""
    return bool(stream.disposition & (stream.disposition.attached_pic | stream.disposition.timed_thumbnails))


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return tuple(int(one) for one in np.frombuffer(bytes(data), np.int32))
    return None


def _digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises VideoError."""
    try:
        if path.is_dir():
            raise VideoError(f"{path}: is a folder where a clip is needed: name a clip in it")
        if path.exists() and not path.is_file():
            raise VideoError(f"{path}: is not a regular file: name a clip")
        if not path.stat().st_size:
            raise VideoError(f"{path}: is empty (0 bytes): get a complete copy")
        return sha256_of(path)
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file: check the name") from error
    except PermissionError as error:
        raise VideoError(f"{path}: reading it is not allowed: change its permissions") from error
    except VideoError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise VideoError(f"{path}: cannot be read ({one_line(error)}): check the name and the disk") from error
